"""Every kind of event as a sentence, with all that it may say and with nothing but what it must.

`BURSAR_GOLDEN=write pytest tests/unit/test_sentences_of_events.py` writes tests/golden/sentences.txt anew, or
adds a new kind to it; it is read before it is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.happenings import SENTENCES, sentence

GOLDEN = Path(__file__).parents[1] / "golden/sentences.txt"
FIELDS = sorted({name for text in SENTENCES.values() for name in re.findall(r"{(\w+)}", text)})
WHOLE: dict[str, Any] = {
    **{name: f"<{name}>" for name in FIELDS}, "spec": {"name": "train", "project": "nlp"},
    "facts": {"name": "n1"}, "members": [{"node_id": f"node_{at}"} for at in (3, 1, 2, 5, 4, 5)],
    "documents": [{"kind": "Budget", "name": f"b{at}"} for at in range(7)], "cause": "failed", "exit_code": 7,
    "message": "<message>", "refused": 9, "job_id": "<job_id>", "reason": "<reason>", "why": "<why>",
    "number": 4, "rank": 2, "pid": 33, "requeue": True, "price_id": "<price>", "at_ppm": 805_000,
    "settled_nanos": 1_000_000_000, "held_nanos": 500_000_000, "project": "<project>",
    "report": {"cause": "failed", "exit_code": 3, "signal": 0, "message": "<end>"},
}  # fmt: skip
FEW = {**WHOLE, "members": WHOLE["members"][:4], "documents": WHOLE["documents"][:5], "cause": "completed"}
REPORTS: tuple[dict[str, Any], ...] = (
    {}, {"cause": "completed"}, {"cause": "completed", "signal": 15}, {"cause": "failed", "signal": 9},
    {"cause": "failed", "exit_code": 1}, {"cause": "cancelled", "message": "m", "held_us": 1_500_000},
)  # fmt: skip


def lines() -> Iterator[str]:
    for kind in SENTENCES:
        for name, data in (("whole", WHOLE), ("few", FEW), ("bare", {})):
            actor = "" if name == "bare" else "ann"
            told = sentence({"kind": kind, "actor": actor, "subject": "s", "names": {}, "data": data})
            yield f"{kind} ({name}): {told}|"
    for report in REPORTS:
        event = {"kind": "member-ended", "actor": "", "subject": "", "names": {}, "data": {"report": report}}
        yield f"{report}: {sentence(event)}|"
    for data in ("text", {"a": 1}, "", None):
        event = {"kind": "of-tomorrow", "actor": "", "subject": "s", "names": {}, "data": data}
        yield f"{data!r}: {sentence(event)}|"


def test_every_event_is_told_as_it_was() -> None:
    found = list(lines())
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text("\n".join(found) + "\n")
    now, before = (
        dict(line.split("): ", 1) if "): " in line else ("", line) for line in each)
        for each in (found, GOLDEN.read_text().splitlines())
    )
    assert {name: now.get(name) for name in before} == before, "see the head of this file"
    others = [line for line in found if "): " not in line]
    assert others == [line for line in GOLDEN.read_text().splitlines() if "): " not in line]


def test_a_user_without_an_account_is_told_as_such() -> None:
    data = {"node_id": "n-1", "how": "could not start", "job_id": "user:ann"}
    event = {"kind": "node-misbehaved", "actor": "", "subject": "", "names": {}, "data": data}
    assert sentence(event) == "node n-1 misbehaved with jobs of ann: could not start"


def test_a_changed_job_says_what_was_there_and_what_is() -> None:
    """Of what is not everybody's to see, that it was; an older log does not say."""
    changed = [
        ["time limit", "1h00m", "2h00m"],
        ["name", "", "b"],
        ["labels", "a=1", ""],
        ["comment", "", ""],
    ]
    for data, told in (
        (
            {"changed": changed},
            ": time limit from 1h00m to 2h00m, name from none to b, labels from a=1 to none, comment",
        ),
        ({}, ""),
    ):
        event = {"kind": "job-updated", "actor": "ann", "names": {}, "data": {"job_id": "12", **data}}
        assert sentence(event) == f"ann changed job 12{told}"


def test_amounts_say_what_they_are_in_where_the_server_does() -> None:
    data = {"budget": "b", "settled_nanos": 1_500_000_000, "holds": []}
    for currency, told in (("EUR", "1.500000000 EUR"), (None, "1.500000000")):
        event = {"kind": "budget-opened", "names": {}, "currency": currency, "actor": "", "data": data}
        assert sentence(event) == f"the account of budget b opened with {told} spent, and 0 attempts running"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, " (exit code 0)"),
        ({"exit_code": 3}, " (exit code 3)"),
        ({"exit_code": -1}, " (its exit code is not known)"),
    ],
)
def test_an_end_of_which_nobody_knows_the_exit_code_says_so(data: dict[str, int], told: str) -> None:
    ended = {"attempt_id": "att_1", "cause": "failed", **data}
    event = {"kind": "attempt-ended", "actor": "", "subject": "", "names": {}, "data": ended}
    assert sentence(event) == f"attempt att_1 ended: failed{told}"
