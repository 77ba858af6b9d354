"""Every field of what an agent says and hears, from values in which each is its own.

Why     a conversion is a hundred lines that each look right. What every field becomes stands in
        tests/golden/agent_wire.json; daemons and agents of two releases read it of each other.
        Written anew by `BURSAR_GOLDEN=write pytest tests/unit/test_agent_wire.py`.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import types as kinds
import typing
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from wire_values import filled

from bursar.model import EndCause, Exit, NodeFacts, Step, Steps
from bursar.v1 import agents_pb2 as pb
from bursar_agent import stimuli as s
from bursar_agent.link import wire
from bursar_agent.probes.readings import Reading
from bursar_agent.statedir import LogEnd
from bursard.fleet import Condition, LimitTaken, LogAnswer, LogRange, door

GOLDEN = Path(__file__).parents[1] / "golden/agent_wire.json"
BODIES = [field.name for field in pb.DaemonMessage.DESCRIPTOR.oneofs_by_name["body"].fields]


def own(kind: Any, path: str) -> Any:
    """A value of this type that only this path has."""
    number = 1 + zlib.crc32(path.encode()) % 10_000
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (kinds.UnionType, typing.Union):
        return own(next(each for each in arguments if each is not type(None)), path)
    if origin is typing.Literal:
        return arguments[number % len(arguments)]
    if origin is tuple and arguments[1:] != (...,):
        return tuple(own(each, f"{path}.{at}") for at, each in enumerate(arguments))
    if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return tuple(own(arguments[0], f"{path}{at}") for at in range(2))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {own(arguments[0], f"{path}.key{at}"): own(arguments[1], f"{path}{at}") for at in range(2)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{name: own(hints[name], f"{path}.{name}") for name in kind.__struct_fields__})
    if isinstance(kind, type) and hasattr(kind, "_fields"):  # a named tuple
        hints = typing.get_type_hints(kind)
        return kind(*(own(hints[name], f"{path}.{name}") for name in kind._fields))
    if isinstance(kind, type) and issubclass(kind, str) and kind is not str:
        return list(kind)[number % len(list(kind))]  # type: ignore[call-overload]
    return {bool: number % 3 > 0, int: number, float: number + 0.25, bytes: path.encode(), str: path}[kind]


def plain(value: Any) -> Any:
    """As JSON, the types of values named."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def heard(name: str, path: str) -> Any:
    message = pb.DaemonMessage()
    body = getattr(message, name)
    body.SetInParent()
    if path:
        filled(body, path)
    return [wire.event(message, 77), wire.log_end(message)]


SAID: dict[str, Callable[[str], Any]] = {
    "hello": lambda path: wire.hello(
        own(s.SendHello, path), own(NodeFacts, path + ".facts"), "boot", "1.2", "one", own(LogEnd, path)
    ),
    "hello without an end": lambda path: wire.hello(s.SendHello(0, (), 0), own(NodeFacts, path), "b", "v"),
    "started": lambda path: wire.started(own(s.SendStarted, path)),
    "limit_taken": lambda path: wire.limit_taken(own(s.SendLimitTaken, path)),
    "readiness": lambda path: wire.readiness("att_1", own(int, path), True, "why"),
    "notice": lambda path: wire.notice(own(s.SendNotice, path), 0),
    "condition": lambda path: wire.condition(own(s.SendCondition, path)),
    "exited": lambda path: wire.exited(own(s.SendExited, path)),
    "one end": lambda path: wire.exits([wire.exited(own(s.SendExited, path))]),
    "two ends": lambda path: wire.exits([wire.exited(own(s.SendExited, path + at)) for at in "ab"]),
    "usage": lambda path: wire.usage(own(s.Usage, path)),
    "heartbeat": lambda path: wire.heartbeat(own(int, path), own(int, path)),
    "log": lambda path: wire.log_reply(
        own(int, path), data=b"d", offset=3, next_offset=4, ended=True, error="e", dropped_bytes=5,
        marks=[(6, 7), (8, 9)],
    ),
    "log of nothing": lambda path: wire.log_reply(own(int, path)),
    "telemetry": lambda path: wire.telemetry_message(wire.telemetry("cl", "n", [own(Reading, path)])),
    "step": lambda path: wire.step(own(wire.Frame, path)),
    "step at least": lambda path: wire.step(
        wire.Frame(attempt_id=path, from_rank=1, to_rank=2, channel=3, kind="open")
    ),
}  # fmt: skip
"""Every message of an agent, from a path that its values are made of."""


NAMES = [*(f"says {name}" for name in SAID), *(f"hears {name}" for name in BODIES)]


def found(name: str) -> Any:
    way, _, what = name.partition(" ")
    if way == "says":
        return plain([SAID[what](path) for path in ("full", "other")])
    return plain([heard(what, path) for path in ("full", "other", "")])


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_what_it_was(name: str) -> None:
    now = json.loads(json.dumps(found(name)))
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(
            json.dumps(dict(sorted({**kept, name: now}.items())), indent=1, sort_keys=True) + "\n"
        )
    assert now == json.loads(GOLDEN.read_text())[name], "see the head of this file"


def test_a_piece_of_a_step_and_a_welcome_come_as_they_were_sent() -> None:
    sent = filled(pb.StepFrame(), "full")
    assert wire.step(wire.step_frame(sent)).step == sent
    welcomed = wire.welcome(pb.DaemonMessage(welcome=filled(pb.Welcome(), "full")))
    body = filled(pb.Welcome(), "full")
    assert welcomed == wire.Welcome(node_id=body.node_id, cluster_id=body.cluster_id, mqtt_url=body.mqtt_url)


def test_every_message_that_an_agent_can_say_is_tried_here() -> None:
    functions = {
        name
        for name, each in inspect.getmembers(wire, inspect.isfunction)
        if each.__module__ == wire.__name__
    }
    said = {name for name in functions if not name.startswith("_")} - {
        "event",
        "welcome",
        "probe",
        "step_frame",
        "leave_out_steps",
        "log_end",
    }
    assert said == {
        "condition", "exited", "exits", "heartbeat", "hello", "limit_taken", "log_reply", "notice",
        "readiness", "started", "step", "telemetry", "telemetry_message", "usage",
    }  # fmt: skip


@pytest.mark.parametrize(("fits", "pages"), [(3, [3]), (2, [2, 1]), (1, [1, 1, 1]), (0, [1, 1, 1])])
def test_a_hello_that_is_too_long_for_one_message_is_told_in_pages(
    fits: int, pages: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Each page holds as many as fit, one at least. 2. The first says how many follow, and needs a daemon
    that knows of pages.
    """
    truths = tuple(s.Truth(attempt_id=f"att_{at}", rank=0, running=True, boot_id="b") for at in range(3))
    size = wire._truth(truths[0]).ByteSize()
    monkeypatch.setattr(wire, "PAGE_BYTES", fits * (size + 8) if fits != 1 else size + 8)
    first, *others = wire.hello(s.SendHello(1, truths, 2), own(NodeFacts, "x"), "b", "v")
    sizes = [len(first.hello.attempts), *(len(each.truths.attempts) for each in others)]
    assert sizes == pages
    assert first.hello.attempts_follow == 3 - sizes[0]
    assert first.hello.protocol == (2 if fits == 3 else 3)


def test_long_words_of_a_system_are_cut_to_what_a_daemon_takes() -> None:
    """A stream does not end for what a file system or a runner has to say."""
    long = "x" * (door.MESSAGE_CHARS_MAX + 1)
    answer = wire.log_reply(1, error=long).log.error
    door.log_answer(LogRange("att_1", 0, 0, 10), LogAnswer(b"", 0, 0, True, 0, answer))
    trouble = wire.condition(s.SendCondition(trouble=long)).condition.trouble
    assert door.condition(Condition(trouble)) == "x" * door.MESSAGE_CHARS_KEPT
    problem = wire.limit_taken(s.SendLimitTaken("att_1", 0, 1, long)).limit_taken.problem
    assert door.limit_taken(LimitTaken("att_1", 0, 1, problem)) == "x" * door.MESSAGE_CHARS_KEPT


def test_of_very_many_ends_the_steps_are_counted_and_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(total=3, failed=1, told=(Step(number=1, state="failed", exit_code=3),))
    end = Exit(cause=EndCause.COMPLETED, exit_code=0, steps=steps)
    truths = [
        s.Truth(attempt_id=f"att_{at}", rank=0, running=at == 3, boot_id="b", exit=end if at < 3 else None)
        for at in range(4)
    ]
    for most, named in ((4, 1), (3, 0)):
        monkeypatch.setattr(wire, "STEPS_NAMED_MAX", most)
        ((*ended, live),) = wire._pages(truths)
        assert [(one.exited.steps.total, len(one.exited.steps.told)) for one in ended] == [(3, named)] * 3
        assert live.running
