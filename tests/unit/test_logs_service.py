"""What of a log is sent: whole lines from its end, or from a time on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, NotFound, ServerUnavailable, WrongState
from bursar.model import ArraySpec, JobSpec
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2 as types
from bursar_agent.runner.removed import MESSAGE
from bursard.fleet import LogAnswer, LogRange, door
from bursard.services import logs

STARTED = 1_000 * SECOND_US


class Node:
    """A node with one log. `marks`: (offset, microseconds after its start); `gap`: bytes not kept."""

    def __init__(
        self, text: bytes, marks: tuple[tuple[int, int], ...] = ((0, 0),), gap: range = range(0)
    ) -> None:
        self.text, self.marks, self.gap = text, marks, gap
        self.asked: list[LogRange] = []

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        self.asked.append(wanted)
        start = max(len(self.text) - wanted.tail_bytes, 0) if wanted.tail_bytes else wanted.offset
        if wanted.since_us:
            later = [at for at, after in self.marks if after >= wanted.since_us]
            start = max(start, later[0] if later else len(self.text))
        end = min(start + wanted.limit_bytes, len(self.text))
        dropped = self.gap.stop - start if start in self.gap else 0
        start, end = start + dropped, min(end + dropped, len(self.text))
        if start < self.gap.start < end:
            end = self.gap.start
        marks = self.marks if wanted.times else ()
        return LogAnswer(self.text[start:end], start, end, end >= len(self.text), dropped, marks=marks)


def sent(node: Node, report: Any = None, **asked: Any) -> list[pb.LogChunk]:
    report = report or SimpleNamespace(log_bytes=1, message="")
    member: Any = SimpleNamespace(
        alloc=SimpleNamespace(rank=0, node_id="n"), report=report, started_at=STARTED
    )
    attempt = SimpleNamespace(id="att_1", number=1, members=[member])
    job: Any = SimpleNamespace(id="job_1", display="1", number=1, array=None, attempts=[attempt])
    hub: Any = SimpleNamespace(add=lambda _: SimpleNamespace(ready=asyncio.Event()), remove=lambda *_: None)

    async def main() -> list[pb.LogChunk]:
        fleet: Any = node
        return [chunk async for chunk in logs.stream(fleet, hub, job, pb.LogsRequest(job="1", **asked))]

    return asyncio.run(main())


def text(node: Node, **asked: Any) -> bytes:
    return b"".join(chunk.data for chunk in sent(node, **asked))


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("piece", [3, 10, 1 << 18])
def test_the_last_lines_are_whole_lines(end: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PIECE_BYTES", piece)
    lines = [f"zeile {i} ü€😀".encode() for i in range(9)]
    node = Node(b"\n".join(lines) + end)
    for number in (1, 2, 8):
        assert text(node, tail_lines=number) == b"\n".join(lines[-number:]) + end
    for number in (9, 10, 2**32 - 1):
        assert text(node, tail_lines=number) == node.text


def test_empty_lines_count_and_an_empty_log_has_none() -> None:
    assert text(Node(b"a\n\n\n"), tail_lines=2) == b"\n\n"
    assert text(Node(b""), tail_lines=2) == b""


@pytest.mark.parametrize("piece", [3, 4, 5, 6, 7, 9, 11, 13, 40])
def test_the_last_lines_of_a_log_with_a_gap_begin_behind_it(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PIECE_BYTES", piece)
    node = Node(b"one\ntwo\nxxx\nfour\nfive\n", gap=range(8, 12))
    assert text(node, tail_lines=4) == b"four\nfive\n"
    assert text(node, tail_lines=1) == b"five\n"
    assert text(node) == b"one\ntwo\nfour\nfive\n"


MARKED = Node(b"one\ntwo\nthree\nfour\n", ((0, 0), (4, SECOND_US), (10, 2 * SECOND_US), (14, 3 * SECOND_US)))


@pytest.mark.parametrize(
    ("after_us", "shown"),
    [
        (-SECOND_US, b"one\ntwo\nthree\nfour\n"),
        (1, b"two\nthree\nfour\n"),
        (SECOND_US, b"two\nthree\nfour\n"),
        (2 * SECOND_US, b"four\n"),  # the mark is amid a line that began before
        (3 * SECOND_US, b"four\n"),
        (4 * SECOND_US, b""),
    ],
)
def test_since_a_time_there_are_the_lines_that_began_then_or_later(after_us: int, shown: bytes) -> None:
    assert text(MARKED, since=STARTED + after_us) == shown


@pytest.mark.parametrize("field", ["offset", "tail_bytes"])
def test_a_place_that_no_log_has_is_refused_by_its_name_and_asked_of_no_node(field: str) -> None:
    node = Node(b"one\n")
    for value in (2**60 + 1, 2**62, 2**63 - 1):
        with pytest.raises(InvalidRequest, match=f"^{field}: is {value}; at most {2**60}$") as refused:
            text(node, **{field: value})
        assert refused.value.facts == {"field": field}
    assert node.asked == []


def test_past_the_end_of_a_log_there_is_nothing() -> None:
    for offset in (4, 5, 100, 2**60):
        assert sent(Node(b"one\n"), offset=offset) == []
    assert text(Node(b"one\n"), tail_bytes=2**60) == b"one\n"


def test_a_time_after_every_other_is_asked_for_as_the_last_that_a_machine_can_tell() -> None:
    node = Node(b"one\n")
    assert text(node, since=2**63 - 1) == b""
    assert node.asked[0].since_us == door.BOOT_US_MAX


def test_the_last_lines_and_since_hold_together() -> None:
    assert text(MARKED, tail_lines=3, since=STARTED + 3 * SECOND_US) == b"four\n"
    assert text(MARKED, tail_lines=1, since=STARTED + 1) == b"four\n"


def test_times_are_told_on_the_daemon_s_axis_when_they_are_asked_for() -> None:
    [chunk] = sent(MARKED, timestamps=True)
    assert [(mark.offset, mark.at - STARTED) for mark in chunk.times] == list(MARKED.marks)
    [chunk] = sent(MARKED)
    assert not chunk.times


def test_an_array_is_asked_for_by_task_or_with_all_of_them() -> None:
    spec = JobSpec(array=ArraySpec(((4, 9, 1),)))
    job: Any = SimpleNamespace(display="3", number=3, array=object(), spec=spec)
    nobody: Any = None

    async def first() -> None:
        await anext(logs.stream(nobody, nobody, job, pb.LogsRequest(job="3")))

    with pytest.raises(WrongState, match=r"such as 3\[4\].*`bursar logs '3\[\*\]'`"):
        asyncio.run(first())


def test_who_follows_waits_for_a_node_that_does_not_answer_and_hears_why_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "FOLLOW_S", 0)
    node = Node(b"a\nb\n")
    member: Any = SimpleNamespace(alloc=SimpleNamespace(rank=0, node_id="n"), report=None, started_at=STARTED)
    attempt = SimpleNamespace(id="att_1", number=1, members=[member])
    job: Any = SimpleNamespace(id="job_1", display="1", number=1, array=None, attempts=[attempt])
    hub: Any = SimpleNamespace(add=lambda _: SimpleNamespace(ready=asyncio.Event()), remove=lambda *_: None)
    silent = [types.Reason(code="NodeSilent", message=f"for {s}s", facts={"node": "n"}) for s in (10, 11)]
    troubles = iter([None, *silent, None])

    class Away:
        """It answers again at its fourth reading, and its job ends with its last."""

        turns = 0

        async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
            self.turns += 1
            if self.turns < 4:
                raise ServerUnavailable("n is out of contact")
            member.report = SimpleNamespace(log_bytes=4, message="")
            return await node.read_log(node_id, wanted)

    async def main(**asked: Any) -> list[pb.LogChunk]:
        fleet: Any = Away()
        request = pb.LogsRequest(job="1", tail_lines=1, **asked)
        found = logs.stream(fleet, hub, job, request, lambda: next(troubles, None))
        return [chunk async for chunk in found]

    chunks = asyncio.run(main(follow=True))
    told = [(chunk.trouble.message, chunk.data) for chunk in chunks]
    assert told == [("for 10s", b""), ("", b""), ("", b"b\n")]
    assert [chunk.HasField("trouble") for chunk in chunks] == [True, True, False]
    member.report = None
    with pytest.raises(ServerUnavailable):
        asyncio.run(main())


def test_a_log_that_was_removed_with_the_records_is_told_gone_and_one_that_never_was_is_empty() -> None:
    class Without(Node):
        async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
            return LogAnswer(b"", 0, 0, False, 0, error="attempt att_1 rank 0 left no log on this machine")

    removed = SimpleNamespace(log_bytes=0, message=MESSAGE)
    for asked in ({}, {"tail_lines": 3}, {"follow": True}):
        with pytest.raises(NotFound, match="the log of job 1 is gone: it was removed on its node while"):
            sent(Without(b""), removed, **asked)
        with pytest.raises(NotFound, match="is gone"):
            sent(Node(b""), removed, **asked)  # its directory was made anew
        assert sent(Node(b"hi"), removed, **asked)
        assert sent(Without(b""), SimpleNamespace(log_bytes=0, message="start failed"), **asked) == []
