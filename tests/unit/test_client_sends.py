"""What each method of the client with all its arguments asks the server for, and makes of the answer.

Why     an argument that is taken and not sent, or an amount that becomes its neighbour's, is seen by nobody
        who does not look at that very one. What is sent and made stands in tests/golden/calls.txt. Written
        anew by `BURSAR_GOLDEN=write pytest tests/unit/test_client_sends.py`, and read before it is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import GeneratorType
from typing import Any

import pytest
from google.protobuf import message_factory, text_format
from wire_values import filled

import bursar
from bursar.client.fake import FakeServer
from bursar.money import Money
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2

GOLDEN = Path(__file__).parents[1] / "golden/calls.txt"
AT, LATER = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, 3, tzinfo=UTC)
LONG = 1_500
WHOLE = ("get(", "node(", "explain(", "plan(", "top(")
"""Calls whose answers are shown in full, however long."""
WORDS = {
    ("Job", "state"): "RUNNING",
    ("Attempt", "state"): "ENDED",
    ("Node", "state"): "up",
    ("", "enforcement"): "soft",
    ("", "end_cause"): "failed",
    ("", "cause"): "failed",
    ("", "stop_cause"): "preempted",
}
CALLS = Path(__file__).parents[1].joinpath("fixtures/calls.txt").read_text().splitlines()
"""Of every method, as a program writes them."""


def known(message: Any) -> None:
    """Words of which there are few become one of these."""
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                known(each)
        word = WORDS.get((message.DESCRIPTOR.name, field.name), WORDS.get(("", field.name)))
        if word is not None and isinstance(value, str):
            setattr(message, field.name, word)
        if field.name == "counts":
            value.clear()
            value.update({"PENDING": 3, "FAILED": 2})


def answers() -> Iterator[tuple[str, Any]]:
    """Each method's answer, in which every value is its own."""
    for file in (access_pb2, jobs_pb2, nodes_pb2, money_pb2, events_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                answer: Any = filled(message_factory.GetMessageClass(method.output_type)(), "one")
                if "next_page_token" in answer.DESCRIPTOR.fields_by_name:
                    answer.ClearField("next_page_token")
                known(answer)
                yield f"{service.name}/{method.name}", [answer] if method.server_streaming else answer


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    with FakeServer(tmp_path_factory.mktemp("calls") / "run") as server:
        server.answers = dict(answers())
        server.answers["Jobs/Logs"][0].ClearField("trouble")
        del server.answers["Money/Budgets"].budgets[1:]
        yield server


@pytest.fixture(scope="module")
def client(fake: FakeServer) -> Iterator[bursar.Client]:
    with bursar.Client(fake.url) as made:
        yield made


def outcome(client: bursar.Client, call: str) -> str:
    known = {"client": client, "AT": AT, "LATER": LATER, "Money": Money}
    try:
        found = eval(f"client.{call}", known)
        text = repr(list(found) if isinstance(found, GeneratorType) else found)
        # Maps of the wire have no order.
        return re.sub(r"\{([^{}]*)\}", lambda match: f"{{{', '.join(sorted(match[1].split(', ')))}}}", text)
    except (bursar.BursarError, TypeError) as error:
        return f"! {type(error).__name__}: {error}"


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text(), flags=re.MULTILINE) if GOLDEN.exists() else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_a_call_asks_for_what_it_asked_for_and_makes_the_same_of_the_answer(
    call: str, fake: FakeServer, client: bursar.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake.requests.clear()
    made = outcome(client, call)
    asked = [f"{name} {text_format.MessageToString(each, as_one_line=True)}" for name, each in fake.requests]
    if len(made) > LONG and not call.startswith(WHOLE):
        made = f"{made[:LONG]} {len(made)} characters"
    found = "\n".join([*asked, made]).replace(str(tmp_path), "HERE") + "\n"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {call: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[call], "see the head of this file"
