"""The agent's side of its stream: what waits for company, what is dropped, and how it dials again."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from bursar.clock import VirtualClock
from bursar.errors import ServerUnavailable, Unauthenticated
from bursar.model import EndCause, Exit
from bursar.v1 import agents_pb2 as pb
from bursar_agent import stimuli as s
from bursar_agent.link import connection as room
from bursar_agent.link.connection import Link, RefusedByDaemon
from bursar_agent.link.wire import Frame


class Bench:
    """A link whose random pauses are the largest there may be, and what it said to the core."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.welcomes: list[Any] = []
        self.log_ends: list[tuple[int, bytes]] = []
        self.steps: list[Frame] = []
        self.pauses: list[tuple[float, float]] = []
        self.link = Link(
            SimpleNamespace(),  # type: ignore[arg-type]
            VirtualClock(),
            self.events.append,
            self.welcomes.append,
            self._uniform,
            lambda seq, digest: self.log_ends.append((seq, digest)),
            self.steps.append,
        )

    def _uniform(self, low: float, high: float) -> float:
        self.pauses.append((low, high))
        return 0.0

    def opened(self, welcomed: bool = True) -> Link:
        self.link._open, self.link._welcomed = True, welcomed
        return self.link

    def queued(self) -> list[Any]:
        """What waits to leave, as (kind, ids)."""
        return [
            (kind := message.WhichOneof("body"), *_ids(getattr(message, kind)))
            for message in self.link._queue
        ]


FIRST_S, SECOND_S = 9.3, 9.32
"""What the clock of the loop says: chosen, since sums of a machine's own round one way or another."""
FRAME = Frame(
    attempt_id="att_1", from_rank=0, to_rank=1, channel=2, kind="data", data=b"abc", to_client=False
)


def _ids(body: Any) -> list[str]:
    return [one.attempt_id for one in body.members] if hasattr(body, "members") else [body.attempt_id]


def start(number: int) -> s.SendStarted:
    return s.SendStarted(attempt_id=f"att_{number}", rank=0, pid=7, boot_us=5)


def end(number: int, line: int = 0) -> s.SendExited:
    return s.SendExited(f"att_{number}", 0, Exit(cause=EndCause.COMPLETED, exit_code=0), line=line)


def heart() -> pb.AgentMessage:
    return pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=1))


def test_without_a_stream_nothing_is_kept_for_later() -> None:
    bench = Bench()
    bench.link.send(heart())
    bench.link.send_started(start(1))
    bench.link.send_exited(end(1))
    bench.link.send_step(FRAME)
    bench.link.send_telemetry(heart())
    bench.link.flush_starts()
    assert (bench.queued(), bench.link.step_bytes, bench.link.telemetry_dropped) == ([], 0, 1)


def test_a_start_that_has_ended_before_it_is_told_is_told_as_an_end_alone() -> None:
    async def story() -> None:
        bench = Bench()
        link = bench.opened()
        link.send_started(start(1))
        link.send_started(start(2))
        link.send_exited(end(1))
        assert bench.queued() == []
        link.flush_starts()
        assert bench.queued() == [("exited", "att_1"), ("started", "att_2")]
        link.flush_starts()
        assert len(bench.queued()) == 2

    asyncio.run(story())


def test_starts_wait_a_moment_each_and_ends_go_before_them() -> None:
    async def story() -> None:
        with pytest.MonkeyPatch.context() as patch:
            told(patch)

    def told(patch: pytest.MonkeyPatch) -> None:
        bench = Bench()
        link = bench.opened()
        now_s = FIRST_S
        patch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
        link.send_started(start(1))
        timer = link._start_timer
        assert timer is not None
        assert timer.when() == FIRST_S + room.START_DELAY_S
        now_s = SECOND_S
        link.send_started(start(2))
        assert link._start_timer is timer
        link.send_exited(end(9), gather=True)
        now_s = timer.when()
        timer.cancel()
        link._send_due_starts()
        assert bench.queued() == [("exited", "att_9"), ("started", "att_1")]
        again = link._start_timer
        assert again is not None
        assert again is not timer
        assert again.when() == SECOND_S + room.START_DELAY_S
        now_s = again.when()
        again.cancel()
        link._send_due_starts()
        assert bench.queued()[2:] == [("started", "att_2")]
        assert link._start_timer is None

    asyncio.run(story())


@pytest.mark.parametrize("gather", [False, True])
def test_ends_leave_together_after_a_moment_or_at_once_when_they_are_many(gather: bool) -> None:
    async def story() -> None:
        with pytest.MonkeyPatch.context() as patch:
            told(patch)

    def told(patch: pytest.MonkeyPatch) -> None:
        bench = Bench()
        link = bench.opened()
        patch.setattr(asyncio.get_running_loop(), "time", lambda: FIRST_S)
        link.send_exited(end(1), gather=gather)
        link.send_exited(end(2), gather=gather)
        timer = link._end_timer
        assert timer is not None
        assert timer.when() == FIRST_S + (room.END_GATHER_S if gather else 0.0)
        link.flush_ends()  # as the timer does
        assert timer.cancelled()
        assert bench.queued() == [("exits", "att_1", "att_2")]
        for number in range(room.ENDS_MAX):
            link.send_exited(end(number))
        assert len(bench.queued()[1]) == room.ENDS_MAX + 1
        assert link._end_timer is None
        link.flush_ends()
        assert len(bench.queued()) == 2

    asyncio.run(story())


@pytest.mark.parametrize("answer", ["work", "connection"])
def test_ends_of_a_line_wait_while_what_was_told_before_is_unanswered(answer: str) -> None:
    async def story() -> None:
        bench = Bench()
        link = bench.opened()
        link.send_exited(end(1, line=1))
        told(link, FIRST_S)
        assert bench.queued() == [("exited", "att_1")], "there are as many as wait"
        link.send_exited(end(2, line=3))
        link.send_exited(end(3, line=2))
        link.send_exited(end(4, line=1))
        timer = link._end_timer
        assert timer is not None
        assert timer.when() == FIRST_S + room.LINE_GATHER_S, "more work may be on its way"
        link.send_exited(end(5))
        told(link, FIRST_S)
        assert bench.queued()[1:] == [("exits", "att_2", "att_3", "att_4", "att_5")], "a share is free"
        if answer == "work":
            link._take(pb.DaemonMessage(assign=pb.AssignBatch(epoch=1)))
        else:
            link._closed()
            bench.opened()
        bench.link._queue.clear()
        link.send_exited(end(6, line=1))
        told(link, FIRST_S)
        assert bench.queued() == [("exited", "att_6")]

    def told(link: Link, at_s: float) -> None:
        assert link._end_timer is not None
        assert link._end_timer.when() == at_s
        link.flush_ends()  # as the timer does

    with pytest.MonkeyPatch.context() as patch:
        loop = asyncio.new_event_loop()
        patch.setattr(loop, "time", lambda: FIRST_S)
        loop.run_until_complete(story())
        loop.close()


def test_live_readings_do_not_wait_behind_a_long_queue() -> None:
    bench = Bench()
    link = bench.opened(welcomed=False)
    link.send_telemetry(heart())
    assert (len(link._queue), link.telemetry_dropped) == (0, 1)
    link = bench.opened()
    for _ in range(room.TELEMETRY_QUEUE_MAX + 2):
        link.send_telemetry(heart())
    assert (len(link._queue), link.telemetry_dropped) == (room.TELEMETRY_QUEUE_MAX + 1, 2)


class Call:
    """A stream of the daemon's words, and what was written into it."""

    def __init__(self, *messages: Any, code: Any = grpc.StatusCode.OK, details: str = "") -> None:
        self.messages, self.written = list(messages), list[Any]()
        self._code, self._details = code, details

    async def read(self) -> Any:
        return self.messages.pop(0) if self.messages else room._EOF

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def code(self) -> Any:
        return self._code

    async def details(self) -> str:
        return self._details


WELCOME = pb.DaemonMessage(
    welcome=pb.Welcome(node_id="node_1", epoch=4, cluster_id="c1", log_seq=12, log_hash=b"h")
)


def test_what_the_daemon_says_goes_to_whom_it_concerns_in_order() -> None:
    bench = Bench()
    step = pb.DaemonMessage(
        step=pb.StepFrame(attempt_id="att_1", to_rank=1, channel=3, kind="data", data=b"x")
    )
    link = bench.opened(welcomed=False)
    link._problem, link._problem_count = "before", 7
    grew = pb.DaemonMessage(forget=pb.ForgetBatch(log_seq=15, log_hash=b"i"))
    older = pb.DaemonMessage(forget=pb.ForgetBatch(members=[pb.Forget(attempt_id="att_2")]))
    asyncio.run(link._read(Call(WELCOME, step, pb.DaemonMessage(meter_now=pb.MeterNow()), grew, older)))
    assert [type(event).__name__ for event in bench.events] == ["Welcomed", "MeterAsked", "ForgetReceived"]
    assert [welcome.cluster_id for welcome in bench.welcomes] == ["c1"]
    assert bench.log_ends == [(12, b"h"), (15, b"i")], "an older daemon does not tell it with ends"
    assert [(frame.attempt_id, frame.to_rank, frame.channel, frame.data) for frame in bench.steps] == [
        ("att_1", 1, 3, b"x")
    ]
    assert (link._welcomed, link._problem, link._problem_count) == (True, "", 0)


def test_a_daemon_that_will_not_have_this_agent_is_not_asked_again() -> None:
    bench = Bench()
    no = pb.DaemonMessage(refused=pb.Refused(reason="PROTOCOL", message="too old"))
    with pytest.raises(RefusedByDaemon, match=r"too old \(PROTOCOL\)") as caught:
        asyncio.run(bench.opened()._read(Call(no)))
    assert caught.value.exit_code == 2
    denied = Call(code=grpc.StatusCode.PERMISSION_DENIED, details="no token")
    with pytest.raises(RefusedByDaemon, match=r"no token \(Forbidden\)"):
        asyncio.run(bench.opened()._read(denied))
    with pytest.raises(ConnectionError, match="ABORTED: bye"):
        asyncio.run(bench.opened()._read(Call(code=grpc.StatusCode.ABORTED, details="bye")))


def test_a_daemon_that_does_not_read_is_left() -> None:
    bench = Bench()
    link = bench.opened()
    for _ in range(room.QUEUE_MAX):
        link.send(heart())
    assert not link._overflow
    link.send(heart())
    assert link._overflow
    with pytest.raises(ConnectionError, match="the daemon does not read; dropping the connection"):
        asyncio.run(link._write(Call()))


def test_what_is_written_counts_no_more_and_a_closed_stream_ends_the_writing() -> None:
    async def story() -> None:
        bench = Bench()
        link = bench.opened()
        link.send_step(FRAME)
        link.send(heart())
        assert link.step_bytes == room.STEP_BYTES_MIN
        call = Call()
        writing = asyncio.create_task(link._write(call))
        await asyncio.sleep(0)
        assert (len(call.written), link.step_bytes, len(link._queue)) == (2, 0, 0)
        link.send(heart())
        await asyncio.sleep(0)
        assert len(call.written) == 3

        async def over(message: Any) -> None:
            raise asyncio.InvalidStateError

        call.write = over  # type: ignore[method-assign]
        link.send(heart())
        await writing

    asyncio.run(story())


def test_with_the_connection_all_that_waited_is_forgotten_and_the_core_hears_it() -> None:
    async def story() -> None:
        bench = Bench()
        link = bench.opened()
        link.send(heart())
        link.send_step(FRAME)
        link.send_started(start(1))
        link.send_exited(end(2))
        link._overflow = True
        assert link._closed() is True
        assert (len(link._queue), link.step_bytes, link._starts, link._ends) == (0, 0, {}, [])
        assert not link._overflow
        assert [type(event) for event in bench.events] == [s.Disconnected]
        assert link._closed() is False

    asyncio.run(story())


def test_it_dials_again_ever_more_slowly_and_at_once_after_it_was_welcome() -> None:
    bench = Bench()
    outcomes: list[Any] = [
        ConnectionError("refused"), TimeoutError(), ServerUnavailable("gone"), *[ConnectionError("x")] * 6,
        "welcomed", ConnectionError("x"), Unauthenticated("who"),
    ]  # fmt: skip

    async def once() -> None:
        outcome = outcomes.pop(0)
        if outcome != "welcomed":
            raise outcome
        bench.link._welcomed = True

    bench.link._once = once  # type: ignore[method-assign]
    with pytest.raises(Unauthenticated):
        asyncio.run(bench.link.run())
    assert {low for low, _ in bench.pauses} == {0.2}
    assert [high for _, high in bench.pauses] == pytest.approx(
        [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0, 0.2, 0.4]
    )
    assert len(bench.events) == 12


def test_the_same_problem_is_told_once_and_then_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    link = Bench().link
    for _ in range(41):
        link._tell("refused", False)
    link._tell("other", False)
    link._tell("other", True)
    assert [record.getMessage() for record in caplog.records] == ["no daemon yet"] * 4 + ["lost the daemon"]
    assert [getattr(record, "attempts", 0) for record in caplog.records] == [1, 20, 40, 42, 0]
