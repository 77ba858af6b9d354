"""What every command that shows something prints, from answers in which each value is its own.

Why     a column that shows its neighbour, a line of `show` that is missing, a currency that is not the job's:
        each looks like a table. What is printed stands in tests/golden/commands.txt; a change of it is one
        that people see. Written anew by `BURSAR_GOLDEN=write pytest tests/unit/test_cli_golden.py`, and read
        before it is kept.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from wire_values import filled

from bursar.cli import backup, output, texts
from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import SystemClock
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

GOLDEN = Path(__file__).parents[1] / "golden/commands.txt"
NOW_US = 20_000_000_000
JOBS = [
    filled(types_pb2.Job(), "one"),
    filled(types_pb2.Job(), "two"),
    types_pb2.Job(id="empty", state="PENDING"),
]
NODES = [filled(types_pb2.Node(), "one"), types_pb2.Node(state="up")]
BUDGETS = [filled(money_pb2.Budget(), "one"), money_pb2.Budget(name="empty")]
PRICES = [filled(money_pb2.Price(), "one"), money_pb2.Price(price_id="empty")]
POLICIES = [filled(money_pb2.Policy(), "one"), money_pb2.Policy(name="empty")]

M = TypeVar("M", bound=Message)


def and_empty(message: M, rows: str) -> M:
    """One more row that says nothing: what is shorter shows on which side a column is aligned."""
    getattr(message, rows).add()
    return message


def and_empties(message: M) -> M:
    """The same in every list of the message: a job's attempts, their members, a node's devices."""
    for field in message.DESCRIPTOR.fields:
        held = getattr(message, field.name)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in held if field.is_repeated else [held] if message.HasField(field.name) else ():
            and_empties(each)
        if field.is_repeated:
            held.add()
    return message


ANSWERS: dict[str, Any] = {
    "Jobs/List": jobs_pb2.ListJobsResponse(jobs=JOBS),
    "Jobs/Get": and_empties(filled(types_pb2.Job(), "one")),
    "Jobs/Explain": and_empties(filled(jobs_pb2.ExplainResponse(), "one")),
    "Jobs/Plan": and_empties(filled(jobs_pb2.PlanResponse(), "one")),
    "Jobs/Hold": jobs_pb2.JobsResponse(jobs=JOBS),
    "Nodes/List": nodes_pb2.ListNodesResponse(nodes=NODES),
    "Nodes/Get": and_empties(filled(types_pb2.Node(), "one")),
    "Nodes/Tokens": and_empty(filled(nodes_pb2.TokensResponse(), "one"), "tokens"),
    "Nodes/Top": [and_empty(filled(nodes_pb2.TopResponse(), "one"), "nodes")],
    "Money/Budgets": money_pb2.BudgetsResponse(budgets=BUDGETS),
    "Money/Prices": money_pb2.PricesResponse(prices=PRICES),
    "Money/ExplainPrice": and_empty(filled(money_pb2.ExplainPriceResponse(), "one"), "explanations"),
    "Money/Cost": and_empty(filled(money_pb2.CostResponse(), "one"), "rows"),
    "Policies/List": money_pb2.ListPoliciesResponse(policies=POLICIES),
    "Policies/Get": POLICIES[0],
    "Events/List": [filled(events_pb2.Event(), "one"), events_pb2.Event(seq=1)],
    "Events/Server": filled(events_pb2.ServerResponse(), "one"),
    "Events/Doctor": and_empty(filled(events_pb2.DoctorResponse(), "one"), "findings"),
    "Access/Grants": and_empty(filled(access_pb2.GrantsResponse(), "one"), "grants"),
    "Access/Secrets": and_empty(filled(access_pb2.SecretsResponse(), "one"), "secrets"),
}
OTHERS: dict[str, Any] = {
    "Jobs/Get": filled(types_pb2.Job(), "other"),
    "Jobs/Explain": filled(jobs_pb2.ExplainResponse(), "other"),
    "Jobs/Plan": filled(jobs_pb2.PlanResponse(), "other"),
    "Nodes/Get": filled(types_pb2.Node(), "third"),
    "Nodes/Top": [filled(nodes_pb2.TopResponse(), "other")],
    "Money/Budgets": money_pb2.BudgetsResponse(budgets=[filled(money_pb2.Budget(), "two")]),
    "Money/ExplainPrice": filled(money_pb2.ExplainPriceResponse(), "other"),
    "Money/Cost": filled(money_pb2.CostResponse(), "other"),
    "Policies/Get": filled(money_pb2.Policy(), "two"),
    "Events/Server": filled(events_pb2.ServerResponse(), "other"),
    "Events/Doctor": filled(events_pb2.DoctorResponse(), "other"),
}
"""Answers whose flags are other ones, for the lines that only they have."""
LEAST: dict[str, Any] = {
    "Jobs/Get": types_pb2.Job(id="job_1", state="RUNNING"),
    "Jobs/Explain": jobs_pb2.ExplainResponse(),
    "Jobs/Plan": jobs_pb2.PlanResponse(),
    "Nodes/Get": types_pb2.Node(state="up"),
    "Money/Budgets": money_pb2.BudgetsResponse(budgets=[money_pb2.Budget(name="b")]),
    "Money/ExplainPrice": money_pb2.ExplainPriceResponse(),
    "Money/Cost": money_pb2.CostResponse(),
    "Policies/Get": money_pb2.Policy(name="p"),
    "Events/Doctor": events_pb2.DoctorResponse(),
}
"""Answers that say as little as they can."""
SHOWN = (
    "ls", "show 1", "explain 1", "hold 1", "run --dry-run -- true", "nodes", "node show n",
    "node token n --list", "top", "offers", "prices ls", "prices explain n", "events", "doctor", "cost",
    "cost --by project,user", "budget ls", "budget show b", "policy ls", "policy show p", "grant ls",
    "secret ls",
)  # fmt: skip
LISTS = (
    "ls",
    "nodes",
    "offers",
    "prices explain n",
    "cost",
    "cost --by project,user",
    "budget ls",
    "policy ls",
    "grant ls",
    "secret ls",
)
FORMS = [(words, form) for words in SHOWN for form in ("table", "csv") if form == "table" or words in LISTS]
FORMS += [
    (words, form)
    for words in (
        "show 1", "explain 1", "run --dry-run -- true", "node show n", "top", "prices explain n", "cost",
        "budget show b", "policy show p", "doctor",
    )
    for form in ("other", "least")
    if (words, form) != ("top", "least")
]  # fmt: skip
NARROW = ("100", "60", "30")
FORMS += [(words, width) for words in (*LISTS, "prices ls", "events", "doctor") for width in NARROW]
FORMS += [("status", "table"), ("status", "yaml")]
"""One object is a table here; as JSON it stands in views.json, but for `status`, which is no view."""


MANIFEST = SimpleNamespace(
    cluster_id="c1", seq=12_345, hash="abc", created_at="2026-11-27T12:00:00Z", epoch=3, tables_schema=4,
    event_schema=2, database_bytes=77_777, database_sha256="def",
)  # fmt: skip
REPORT = SimpleNamespace(
    cluster_id="c1", seq=12_345, hash="abc", epoch=3, jobs_live=21, attempts_live=22, budgets=23, accounts=24,
    problems=(), findings=("a job has two ends",),
)  # fmt: skip
WRONG = SimpleNamespace(**{**vars(REPORT), "problems": ("a gap", "a hole"), "cluster_id": ""})
MOVED = SimpleNamespace(
    cluster_id="c1", before=SimpleNamespace(seq=4, hash="aa"), last_seq=123_456, last_hash="bb"
)
BOOKS = SimpleNamespace(
    take=lambda directory, out, clock, version: (MANIFEST, REPORT),
    drill=lambda file: (MANIFEST, REPORT),
    restore=lambda file, directory: (MANIFEST, directory, None),
    archive_months=lambda directory, before, out, clock: MOVED,
    audit=lambda place: WRONG if place.name == "wrong" else REPORT,
    accept_loss=lambda directory, cluster_id: (SimpleNamespace(seq=99), SimpleNamespace(seq=88)),
    goes_on_as=lambda directory: MANIFEST.cluster_id,
)
"""What the daemon's part of the verbs of files answers."""
OF_FILES = (
    "backup --out new.tar --state-dir .", "backup --out old --state-dir .", "backup drill old",
    "restore old --state-dir s", "archive --before 2026-10 --out f --state-dir .", "audit verify old",
    "audit verify wrong", "audit accept-loss --yes --state-dir .",
)  # fmt: skip
FORMS += [(words, form) for words in OF_FILES for form in ("table", "csv", "json")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name, value in (("TZ", "UTC"), ("COLUMNS", "200"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    time.tzset()
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW_US)
    monkeypatch.setattr(backup, "_room", lambda: BOOKS)
    for name in ("old", "wrong"):
        (tmp_path / name).touch()
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers.update(ANSWERS)
        yield server


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text(), flags=re.MULTILINE) if GOLDEN.exists() else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("words", "form"), FORMS)
def test_what_a_command_shows_is_what_it_showed(
    words: str,
    form: str,
    fake: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, dashes, tail = words.partition(" -- ")
    if form in NARROW:
        monkeypatch.setattr(output, "terminal_columns", lambda: int(form))
        monkeypatch.setattr(texts, "terminal_columns", lambda: int(form))
    fake.answers.update({"other": OTHERS, "least": LEAST}.get(form, {}))
    shown_as = "table" if form in (*NARROW, "other", "least") else form
    code = run([*head.split(), "-o", shown_as, *((dashes + tail).split())])
    said = capsys.readouterr()
    found = f"exit code {code}\n{said.out}{said.err}".replace(fake.url, "SERVER").replace(
        str(Path.cwd()), "HERE"
    )
    name = f"{words} -o {form}"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[name], "see the head of this file"
