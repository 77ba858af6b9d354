"""What a daemon with something of everything answers to everybody: each method, each filter, each wrong word.

Why     most lines of an answer are one case of a condition, and most refusals are one comparison: more than
        tests name one by one. What is answered stands in tests/golden/answers.txt; a change of it is one that
        people see. Written anew by `BURSAR_GOLDEN=write pytest tests/contract/test_answers_as_they_were.py`,
        and read before it is kept.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inhabited import POLICIES, inhabit
from whole_site import METHODS, Site, play

from bursar.v1 import money_pb2
from bursard.services import ends, failures

GOLDEN = Path(__file__).parents[1] / "golden/answers.txt"
QUESTIONS = Path(__file__).parents[1] / "fixtures/questions.txt"
"""A method and its request on each line, in their order: what only reads, and what changes something."""
LONG = 1_500
RANDOM = re.compile(r'\b(token|secret|hash): "[^"]*"|\b(id): "[0-9a-f]{12}"')
SPEC = (
    'project: "nlp" nodes: 1 options { cpu_milli: 1000 } time_limit_us: 3600000000'
    ' command: "true" priority: 50'
)
CALLERS = {
    "admin": ("ann", "admin", ""),
    "viewer": ("vic", "viewer", "nlp/a"),
    "submitter": ("bob", "submitter", "nlp"),
}
CONVERSATIONS = [
    ("admin", "reads"), ("viewer", "reads"), ("submitter", "reads"),
    ("admin", "writes"), ("submitter", "writes"),
]  # fmt: skip


def questions(kind: str) -> list[str]:
    return QUESTIONS.read_text().partition(f"=== {kind}\n")[2].partition("===")[0].splitlines()


def told(verdict: tuple[str, str], answers: list[Message], whole: bool) -> str:
    """What an administrator is answered; of what is long, and of the same to others, its length."""
    said = [text_format.MessageToString(each, as_one_line=True) for each in answers[:40]]
    said = [RANDOM.sub(r"\1\2: ...", text) for text in said]
    shown = [text if len(text) < LONG else text[:LONG] for text in said] if whole else [""] * len(said)
    lines = [
        each if each == text else f"{each} {len(text)} characters"
        for each, text in zip(shown, said, strict=True)
    ]
    return "\n".join([f"{verdict[0]} {verdict[1]}".strip(), *lines]) + "\n"


async def conversation(site: Site, who: str, kind: str) -> list[str]:
    token, found = site.token(*CALLERS[who]), []
    for question in questions(kind):
        method, _, words = question.partition(" ")
        request = GetMessageClass(METHODS[method].input_type)()
        text_format.Merge(words.replace("SPEC", SPEC), request)
        verdict, answers = await site.ask(method, request, token=token)
        found.append(f"--- {question}\n{told(verdict, answers, who == 'admin')}")
    return found


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("who", "kind"), CONVERSATIONS)
def test_a_daemon_answers_as_it_did(who: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (ends, failures):
        monkeypatch.setattr(room, "TASKS_SHOWN", 4)
    said: list[str] = []

    async def story(site: Site) -> None:
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="all.yaml", text=POLICIES)])
        assert await site.call("Policies.Apply", request, token=site.token(*CALLERS["admin"])) == ("OK", "")
        inhabit(site)
        said.extend(await conversation(site, who, kind))

    play(story)
    name, found = f"{who} {kind}", "".join(said)
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[name], "see the head of this file"
