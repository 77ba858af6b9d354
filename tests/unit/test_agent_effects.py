"""What becomes of each instruction of the agent's core: who is asked, and what is told back."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bursar.errors import BursarError, InvalidRequest, NotFound, ServerUnavailable
from bursar.model import DeviceUse, EndCause, Energy, Exit, Progress
from bursar_agent import effects
from bursar_agent import stimuli as s
from bursar_agent.effects import LOG_REPLY_BYTES_MAX, Members, SpoolWriter, Tasks
from bursar_agent.runner.model import (
    AttemptTruth,
    Ended,
    ExitReport,
    Started,
    StartRequest,
    StartResult,
    StopRequest,
)

REPORT = ExitReport(
    attempt_id="att_1", rank=0, epoch=1, end_cause="failed", exit_code=3, signal=None, message="why",
    phase="run",
    boot_id="boot-1", start_boot_us=1_000, end_boot_us=9_000, held_us=8_000, cpu_user_us=20, cpu_system_us=30,
    max_rss_bytes=40, log_bytes=60, log_dropped_bytes=70, main_end_boot_us=8_500, stopped=True,
)  # fmt: skip


USE = DeviceUse(heard_us=9, idle_us=9, devices=1, unused_devices=1)


class Runner:
    """It starts what it is asked to, or fails as it is told to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.over: dict[str, Any] = {}
        self.problems: list[Any] = []
        self.results: dict[str, StartResult] = {}
        self.truths: list[AttemptTruth] = []
        self.log = b""
        self.marks: list[tuple[int, int]] = []
        self.kept = True
        self.told: bytes | None = None
        self.records: bytes | None = None

    async def start(self, requests: Sequence[Any]) -> list[StartResult]:
        self.asked.append([request.attempt_id for request in requests])
        self.over = {request.attempt_id: request.over for request in requests}
        if self.problems:
            problem = self.problems.pop(0)
            if problem is not None:
                raise problem
        return [
            self.results.get(one.attempt_id, StartResult(one.attempt_id, one.rank, "starting"))
            for one in requests
        ]

    def read_last_progress(self, attempt_id: str, rank: int) -> bytes | None:
        return self.told

    def read_steps(self, attempt_id: str, rank: int) -> bytes | None:
        return self.records

    async def stop(self, attempt_id: str, rank: int, request: StopRequest) -> None:
        self.asked.append((attempt_id, rank, request))
        if self.problems:
            raise self.problems.pop(0)

    async def adopt(self) -> list[AttemptTruth]:
        return self.truths

    def release(self, attempt_id: str, rank: int) -> bool:
        if self.problems:
            raise self.problems.pop(0)
        return self.kept

    def read_log_times(self, attempt_id: str, rank: int) -> list[tuple[int, int]]:
        return self.marks

    def read_log(self, attempt_id: str, rank: int, offset: int, limit: int) -> tuple[bytes, int, int]:
        self.asked.append((offset, limit))
        data = self.log[offset : offset + limit]
        return data, offset + len(data), 7


class Devices:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.held: set[s.Key] = set()

    def assigned(self, key: s.Key, devices: Any) -> None:
        self.said.append(("assigned", key, devices))

    def started(self, key: s.Key) -> None:
        self.said.append(("started", key))

    def holds(self, key: s.Key) -> bool:
        return key in self.held

    def used(self, key: s.Key) -> DeviceUse | None:
        return USE if self.holds(key) else None

    async def ended(self, key: s.Key) -> Energy | None:
        return Energy(millijoules=77, source="measured") if key in self.held else None


class Sharing:
    """Halves of devices are held to their share, unless they cannot be."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.problem = ""

    def wanted(self, shares: Any) -> bool:
        return any(milli < 1000 for _, milli in shares)

    def serves(self, key: s.Key) -> bool:
        return any(said[:2] == ("take", key) for said in self.said)

    async def take(self, key: s.Key, shares: Any, owner: Any) -> dict[str, str]:
        self.said.append(("take", key, shares, tuple(owner)))
        if self.problem:
            raise InvalidRequest(self.problem)
        return {"LIMIT": "half"}

    async def leave(self, key: s.Key, exit: Exit | None = None) -> Exit | None:
        self.said.append(("leave", key))
        return exit


class Bench:
    def __init__(self) -> None:
        self.runner, self.devices, self.sharing = Runner(), Devices(), Sharing()
        self.events: list[Any] = []
        self.signals: list[Any] = []
        self.looks: list[int] = []
        """At our own directories: how much had been told before each."""

        self.known: list[str] = []
        """What each look was given."""

        async def look(known: str) -> None:
            self.looks.append(len(self.events))
            self.known.append(known)

        def remember(*words: Any) -> None:
            if self.problem is not None:
                raise self.problem
            self.signals.append(words)

        self.problem: OSError | None = None
        state = SimpleNamespace(remember_signal=remember, path=Path("/state"))
        self.members = Members(
            self.runner,
            state,
            SimpleNamespace(),
            "boot-1",
            self.events.append,
            self.devices,  # type: ignore[arg-type]
            look,
            self.sharing,  # type: ignore[arg-type]
        )

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def plain_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is its assignment; one of an unknown user cannot be made."""

    def request(assignment: s.Assignment, epoch: int, accounts: Any, state: Any, containers: Any) -> Any:
        if assignment.user == "nobody":
            raise InvalidRequest("no such user")
        return StartRequest(assignment.attempt_id, assignment.rank, epoch, uid=7, gid=8)

    monkeypatch.setattr(effects, "start_request", request)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Bench())

    asyncio.run(whole())


def order(number: int, **changes: Any) -> s.Assignment:
    made = s.Assignment(attempt_id=f"att_{number}", rank=0, boot_id="boot-1")
    return msgspec.structs.replace(made, **changes)


def not_started(number: int, message: str) -> s.MemberEnded:
    return s.MemberEnded(
        f"att_{number}", 0, Exit(cause=EndCause.START_FAILED, message=message, started=False)
    )


def test_starts_of_one_turn_go_to_the_runner_together() -> None:
    async def story(bench: Bench) -> None:
        bench.members.start(s.StartMembers((order(1), order(2)), 3))
        bench.members.start(s.StartMembers((order(3, checkpoint_signal="USR1", grace_us=9),), 3))
        assert bench.runner.asked == []
        await bench.settled()
        assert bench.runner.asked == [["att_1", "att_2", "att_3"]]
        assert bench.signals == [(("att_3", 0), "USR1", 9)]
        assert bench.devices.said == [("assigned", (f"att_{number}", 0), ()) for number in (1, 2, 3)]
        assert bench.events == []
        bench.members.start(s.StartMembers((order(4),), 3))
        await bench.settled()
        assert bench.runner.asked[1:] == [["att_4"]]

    play(story)


@pytest.mark.parametrize(
    ("number", "cause", "known"),
    [
        (errno.ENOSPC, EndCause.NODE_LOST, "a job could not start: /state: No space left on device"),
        (errno.EROFS, EndCause.NODE_LOST, "a job could not start: /state: Read-only file system"),
        (errno.EACCES, EndCause.START_FAILED, ""),
    ],
)
def test_what_the_disk_of_a_node_will_not_take_is_the_nodes_fault_and_told_first(
    number: int, cause: EndCause, known: str
) -> None:
    """A look that finds room for its own few bytes does not make it the job's."""

    async def story(bench: Bench) -> None:
        bench.problem = OSError(number, os.strerror(number))
        bench.members.start(s.StartMembers((order(1, checkpoint_signal="USR1"),), 3))
        await bench.settled()
        (end,) = bench.events
        assert (end.exit.cause, end.exit.started) == (cause, False)
        assert end.exit.message == f"/state: {os.strerror(number)}"
        assert (bench.looks, bench.known) == ([0], [known])

    play(story)


def test_a_start_that_the_launcher_refused_for_the_disk_is_the_nodes_fault() -> None:
    async def story(bench: Bench) -> None:
        bench.runner.results["att_1"] = StartResult("att_1", 0, "refused", "cannot write", disk=True)
        bench.members.start(s.StartMembers((order(1),), 3))
        await bench.settled()
        (end,) = bench.events
        assert (end.exit.cause, end.exit.started) == (EndCause.NODE_LOST, False)
        assert bench.known == ["a job could not start: cannot write"]

    play(story)


def test_an_end_that_was_not_written_down_has_our_directories_looked_at_first() -> None:
    async def story(bench: Bench) -> None:
        bench.members.heard(Ended(REPORT, unwritten=True))
        await bench.settled()
        assert (bench.looks, len(bench.events)) == ([0], 1)

    play(story)


def test_a_supervisor_that_could_not_begin_for_the_disk_ends_its_member_as_lost_by_the_node() -> None:
    async def story(bench: Bench) -> None:
        report = {"end_cause": "start_failed", "unbegun": True, "message": "directory /x: full"}
        bench.members.heard(Ended(msgspec.structs.replace(REPORT, **report)))
        await bench.settled()
        (end,) = bench.events
        assert (end.exit.cause, end.exit.started) == (EndCause.NODE_LOST, False)
        assert bench.known == ["a job could not start: directory /x: full"]

    play(story)


def test_what_this_node_cannot_honour_never_starts_and_keeps_no_other_from_it() -> None:
    async def story(bench: Bench) -> None:
        bench.members.start(s.StartMembers((order(1, user="nobody"), order(2)), 3))
        await bench.settled()
        assert bench.events == [not_started(1, "no such user")]
        assert bench.runner.asked == [["att_2"]]

    play(story)


def test_who_has_a_part_of_a_device_starts_with_what_holds_it_to_that_and_nobody_else_does() -> None:
    async def story(bench: Bench) -> None:
        orders = (order(1, devices=((0, 500),)), order(2, devices=((1, 1000),)), order(3))
        bench.members.start(s.StartMembers(orders, 3))
        await bench.settled()
        assert bench.sharing.said == [("take", ("att_1", 0), ((0, 500),), (7, 8))]
        assert bench.runner.asked == [["att_1", "att_2", "att_3"]]
        assert bench.runner.over == {"att_1": {"LIMIT": "half"}, "att_2": None, "att_3": None}

    play(story)


def test_who_cannot_be_held_to_its_part_never_starts_and_the_others_do() -> None:
    async def story(bench: Bench) -> None:
        bench.sharing.problem = "device 0 cannot be shared"
        bench.members.start(s.StartMembers((order(1, devices=((0, 500),)), order(2)), 3))
        await bench.settled()
        assert bench.events == [not_started(1, "device 0 cannot be shared")]
        assert bench.runner.asked == [["att_2"]]
        assert ("leave", ("att_1", 0)) in bench.sharing.said
        bench.members.start(s.StartMembers((order(3, devices=((0, 500),)),), 3))
        await bench.settled()
        assert bench.runner.asked == [["att_2"]]

    play(story)


def test_what_shared_a_device_is_let_go_though_a_killed_agent_noted_no_device() -> None:
    async def story(bench: Bench) -> None:
        bench.sharing.said.append(("take", ("att_1", 0), ((0, 500),), (7, 8)))
        bench.members.heard(Ended(REPORT))
        assert bench.events == []
        await bench.settled()
        assert bench.sharing.said[1:] == [("leave", ("att_1", 0))]

    play(story)


def test_an_end_is_told_when_what_it_shared_its_device_through_was_let_go() -> None:
    async def story(bench: Bench) -> None:
        bench.devices.held.add(("att_1", 0))
        bench.members.heard(Ended(REPORT))
        assert bench.events == []
        await bench.settled()
        assert bench.sharing.said == [("leave", ("att_1", 0))]
        assert [type(event) for event in bench.events] == [s.MemberEnded]

    play(story)


def test_what_the_launcher_refuses_never_started_and_what_it_knew_is_looked_at() -> None:
    async def story(bench: Bench) -> None:
        bench.runner.results = {"att_2": StartResult("att_2", 0, "refused", "no room")}
        bench.members.start(s.StartMembers((order(1), order(2)), 3))
        await bench.settled()
        assert bench.events == [not_started(2, "no room")]
        bench.runner.results = {"att_3": StartResult("att_3", 0, "already", "before")}
        bench.runner.truths = [AttemptTruth("att_3", 0, 1, "running", 5, 6, None)]
        bench.members.start(s.StartMembers((order(3),), 3))
        await bench.settled()
        truth = s.Truth(
            attempt_id="att_3", rank=0, running=True, boot_id="boot-1", pid=5, started_boot_us=6, exit=None
        )
        assert bench.events[1:] == [s.TruthRead((truth,))]

    play(story)


def test_of_requests_of_which_one_is_wrong_each_is_judged_alone() -> None:
    async def story(bench: Bench) -> None:
        bench.runner.problems = [InvalidRequest("one of them"), None, InvalidRequest("this one")]
        bench.members.start(s.StartMembers((order(1), order(2)), 3))
        await bench.settled()
        assert bench.runner.asked == [["att_1", "att_2"], ["att_1"], ["att_2"]]
        assert bench.events == [not_started(2, "this one")]

    play(story)


@pytest.mark.parametrize("problem", [ServerUnavailable("it is gone"), OSError("it is gone")])
def test_when_the_launcher_fails_what_it_marked_counts_and_the_rest_never_ran(problem: Exception) -> None:
    async def story(bench: Bench) -> None:
        bench.runner.problems = [problem]
        bench.runner.truths = [AttemptTruth("att_1", 0, 1, "running", 5, 6, None)]
        bench.members.start(s.StartMembers((order(1), order(2)), 3))
        await bench.settled()
        assert [type(event) for event in bench.events] == [s.TruthRead, s.MemberEnded]
        assert bench.events[1] == not_started(2, "it is gone")

    play(story)


def test_as_long_as_the_marks_cannot_be_read_nobody_is_said_not_to_have_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(effects, "DOUBT_S", 0)

    async def story(bench: Bench) -> None:
        shut = [NotADirectoryError(20, "Not a directory")] * 3

        async def adopt() -> list[AttemptTruth]:
            if shut:
                raise shut.pop()
            return []

        bench.runner.adopt = adopt  # type: ignore[method-assign]
        bench.runner.problems = [OSError("it is gone")]
        bench.members.start(s.StartMembers((order(1),), 3))
        await bench.settled()
        assert bench.events == [s.TruthRead(()), not_started(1, "it is gone")]
        assert bench.looks == [0, 0, 0, 1], "at each failure, and before the end is told"

    play(story)


@pytest.mark.parametrize(("cause", "looks"), [("start_failed", [0]), ("node_lost", [0]), ("failed", [])])
def test_before_an_end_that_was_no_fault_of_its_job_is_told_the_directories_are_tried(
    cause: str, looks: list[int]
) -> None:
    async def story(bench: Bench) -> None:
        report = msgspec.structs.replace(REPORT, end_cause=cause)
        bench.members.heard(Ended(report))
        await bench.settled()
        assert (bench.events, bench.looks) == ([s.MemberEnded("att_1", 0, effects.exit_of(report))], looks)

    play(story)


def test_a_stop_is_asked_as_it_was_ordered_and_one_that_fails_ends_nothing() -> None:
    async def story(bench: Bench) -> None:
        stop = s.StopMember(attempt_id="att_1", rank=2, cause="cancelled", grace_us=5, signal="USR1")
        bench.members.stop(stop)
        bench.members.stop(msgspec.structs.replace(stop, signal=""))
        await bench.settled()
        assert bench.runner.asked == [
            ("att_1", 2, StopRequest("cancelled", 5, "USR1")),
            ("att_1", 2, StopRequest("cancelled", 5, None)),
        ]
        bench.runner.problems = [BursarError("no")]
        bench.members.stop(stop)
        await bench.settled()
        assert bench.events == []

    play(story)


def test_starts_and_ends_are_told_with_the_energy_of_what_held_devices() -> None:
    async def story(bench: Bench) -> None:
        bench.members.heard(Started("att_1", 0, 7, 1_000, reaped_before_us=12))
        assert bench.events == [
            s.MemberStarted(attempt_id="att_1", rank=0, pid=7, boot_us=1_000, reaped_before_us=12)
        ]
        assert bench.devices.said == [("started", ("att_1", 0))]
        bench.members.heard(Ended(REPORT))
        plain = effects.exit_of(REPORT)
        assert bench.events[1:] == [s.MemberEnded("att_1", 0, plain)]
        assert (plain.gpu_energy_millijoules, plain.gpu_energy_source) == (0, "")
        bench.devices.held.add(("att_1", 0))
        bench.members.heard(Ended(REPORT))
        assert len(bench.events) == 2
        await bench.settled()
        measured = {"gpu_energy_millijoules": 77, "gpu_energy_source": "measured"}
        drawn = msgspec.structs.replace(plain, **measured, device_use=USE)
        assert bench.events[2:] == [s.MemberEnded("att_1", 0, drawn)]
        bench.runner.truths = [
            AttemptTruth("att_1", 0, 1, "ended", 5, 6, REPORT),
            AttemptTruth("att_2", 0, 1, "running", 5, 6, None),
        ]
        ended, running = await bench.members.truths()
        assert (ended.exit, ended.running, running.exit) == (drawn, False, None)
        bench.runner.told = b'{"step": 5}'
        told = msgspec.structs.replace(drawn, progress=Progress(step=5))
        bench.members.heard(Ended(REPORT))
        await bench.settled()
        assert bench.events[3:] == [s.MemberEnded("att_1", 0, told)]
        assert [one.exit for one in await bench.members.truths()] == [told, None]

    play(story)


def test_an_end_says_what_its_supervisor_wrote() -> None:
    found = effects.exit_of(REPORT)
    assert (found.cause, found.exit_code, found.signal, found.message) == (EndCause.FAILED, 3, 0, "why")
    assert (found.started_boot_us, found.held_us, found.cpu_us, found.ran_us) == (1_000, 8_000, 50, 7_500)
    assert (found.max_rss_bytes, found.log_bytes, found.started, found.stopped) == (40, 60, True, True)
    unknown = effects.exit_of(
        msgspec.structs.replace(REPORT, end_cause="of a later release", main_end_boot_us=None)
    )
    assert (unknown.cause, unknown.ran_us) == (EndCause.FAILED, 0)


def test_what_is_forgotten_is_released_unless_its_log_is_kept() -> None:
    members = Bench()
    assert members.members.release(("att_1", 0)) is True
    members.runner.kept = False
    assert members.members.release(("att_1", 0)) is False
    members.runner.problems = [NotFound("gone"), OSError("full")]
    assert members.members.release(("att_1", 0)) is True
    assert members.members.release(("att_1", 0)) is False


def wanted(**changes: Any) -> s.LogRange:
    made = s.LogRange(
        request_id=1,
        attempt_id="att_1",
        rank=0,
        offset=0,
        limit_bytes=0,
        tail_bytes=0,
        since_us=0,
        times=False,
    )
    return msgspec.structs.replace(made, **changes)


LOG = b"0123456789"
MARKS = [(0, 0), (4, 1_000), (8, 2_000)]


@pytest.mark.parametrize(
    ("asked", "live", "found"),
    [
        ({}, True, (LOG, 0, 10, 7, False, [])),
        ({}, False, (LOG, 0, 10, 7, True, [])),
        ({"limit_bytes": 4}, False, (b"0123", 0, 4, 7, False, [])),
        ({"offset": 8, "limit_bytes": 4}, False, (b"89", 8, 10, 7, True, [])),
        ({"tail_bytes": 3}, True, (b"789", 7, 10, 7, False, [])),
        ({"tail_bytes": 30}, True, (LOG, 0, 10, 7, False, [])),
        ({"since_us": 1_000}, True, (b"456789", 4, 10, 7, False, [])),
        ({"since_us": 1_000, "offset": 6}, True, (b"6789", 6, 10, 7, False, [])),
        ({"since_us": 9_000}, True, (b"", 10, 10, 7, False, [])),
        (
            {"times": True, "offset": 5, "limit_bytes": 4},
            True,
            (b"5678", 5, 9, 7, False, [(4, 1_000), (8, 2_000)]),
        ),
    ],
)
def test_a_log_is_read_from_where_it_is_asked_for(asked: dict[str, Any], live: bool, found: Any) -> None:
    async def story(bench: Bench) -> None:
        bench.runner.log, bench.runner.marks = LOG, MARKS
        assert await bench.members.read_log(s.ReadLog(wanted(**asked), live)) == found

    play(story)


def test_no_more_of_a_log_is_read_at_once_than_a_message_holds() -> None:
    async def story(bench: Bench) -> None:
        for limit in (0, 10**9, LOG_REPLY_BYTES_MAX):
            await bench.members.read_log(s.ReadLog(wanted(limit_bytes=limit), True))
        assert bench.runner.asked == [(0, LOG_REPLY_BYTES_MAX)] * 3

    play(story)


# --- the spool


class Spool:
    def __init__(self) -> None:
        self.done: list[Any] = []
        self.problem: OSError | None = None
        self.left: list[Any] = []

    def append(self, usages: Sequence[Any]) -> None:
        if self.problem is not None:
            raise self.problem
        self.done.append([usage.seq for usage in usages])

    def trim(self, seq: int) -> None:
        self.done.append(seq)

    def unacknowledged(self, after_seq: int) -> list[Any]:
        self.done.append(("after", after_seq))
        return self.left

    def close(self) -> None:
        self.done.append("closed")


async def arrived(found: list[Any], count: int) -> None:
    """Work in a thread is done when the kernel likes."""
    async with asyncio.timeout(120):
        while len(found) < count:  # noqa: ASYNC110  what is waited for tells nobody
            await asyncio.sleep(0)


def usage(seq: int) -> s.Usage:
    return s.Usage(seq=seq, boot_id="boot-1", at_boot_us=seq, counters=())


def test_the_spool_works_in_order_and_neighbours_go_together() -> None:
    async def story() -> None:
        spool, told, sent = Spool(), list[Any](), list[Any]()
        writer = SpoolWriter(spool, told.append, sent.append)  # type: ignore[arg-type]
        for instruction in (
            s.SpoolAppend(usage(1)),
            s.SpoolAppend(usage(2)),
            s.SpoolTrim(1),
            s.SpoolAppend(usage(3)),
            s.ResendUsage(2),
        ):
            writer.put(instruction)
        spool.left = [usage(3), usage(4)]
        work = asyncio.create_task(writer.run())
        await arrived(sent, 2)
        assert spool.done == [[1, 2], 1, [3], ("after", 2)]
        assert told == [s.Spooled(usage(1)), s.Spooled(usage(2)), s.Spooled(usage(3))]
        assert sent == [usage(3), usage(4)]
        spool.problem = OSError(28, "No space left on device")
        writer.put(s.SpoolAppend(usage(5)))
        await arrived(told, 4)
        assert told[3:] == [s.SpoolFailed(usage(5), "No space left on device")]
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        writer.close()
        assert spool.done[-1] == "closed"

    asyncio.run(story())


def test_work_in_the_background_is_ended_together_and_its_failure_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def story() -> None:
        tasks = Tasks()
        tasks.spawn(fail(), "failing")
        tasks.spawn(asyncio.Event().wait(), "waiting")  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert {task.get_name() for task in tasks._tasks} == {"waiting"}
        await tasks.close()
        assert tasks._tasks == set()

    asyncio.run(story())
    assert [(record.getMessage(), record.task) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("background work failed", "failing")
    ]


@pytest.mark.parametrize(
    ("log", "offset", "wrote", "found"),
    [
        (b"", 0, 90, (b"", 90, 90, 97, True, [])),
        (b"abc", 0, 90, (b"abc", 0, 3, 7, False, [])),
        (b"abc", 3, 90, (b"", 90, 90, 94, True, [])),
        (b"abc", 3, 3, (b"", 3, 3, 7, True, [])),
        (b"abc", 90, 90, (b"", 90, 90, 7, True, [])),
    ],
)
def test_a_log_of_which_the_disk_took_nothing_says_how_much_is_missing(
    log: bytes, offset: int, wrote: int, found: Any
) -> None:
    """What was there has been read before: a hole at the end is told once, by who asks for what is behind."""

    async def story(bench: Bench) -> None:
        bench.runner.log = log
        asked = s.LogRange(
            request_id=1, attempt_id="att_1", rank=0, offset=offset, limit_bytes=50, tail_bytes=0
        )
        exit = Exit(cause=EndCause.COMPLETED, exit_code=0, log_bytes=wrote)
        read = await bench.members.read_log(s.ReadLog(asked, False, exit))
        assert read[:4] == found[:4]

    play(story)
