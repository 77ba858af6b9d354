"""What the fleet may rely on in every backend: agents, the one in memory, and one written by the guide."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import pytest

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import NotFound, ServerUnavailable, WrongState
from bursar.model import EndCause, Exit, JobState, ServiceSpec
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent
from bursar_agent.effects import exit_of, started_of, truth_of
from bursar_agent.runner.fake import Behaviour, FakeRunner
from bursar_agent.runner.model import Ended, RunnerEvent, StartRequest, StopRequest
from bursard.fleet import (
    AgentLink,
    Agents,
    Assign,
    Counter,
    Exited,
    Forget,
    Heartbeat,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogAsk,
    LogRange,
    MemberTruth,
    MeterNow,
    Probe,
    Readiness,
    Started,
    Stop,
    Usage,
    UsageAck,
)
from bursard.fleet.backend import Backend
from bursard.fleet.testing import FACTS, World
from bursard.place import verify
from bursard.scheduler import plan
from bursard.state import AttemptRecord, JobRecord
from bursard.state.decide import jobs

LOG = b"hello\nworld\n"
Key = tuple[str, int]


class Rig(Protocol):
    """A backend, a small daemon around it, and hands on what happens on its one node."""

    world: World
    backend: Any

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    async def settle(self) -> None:
        """All that is on its way arrives, on both sides; what is running is metered."""
        ...

    def running(self) -> list[Key]: ...

    def finish(self, attempt_id: str, exit_code: int) -> None: ...

    async def read(self, wanted: LogRange) -> LogAnswer:
        """Through the fleet."""
        ...


class BackendContract:
    """Each promise of `bursard.fleet.backend.Backend`, and that the fleet comes to one truth by them."""

    def rig(self) -> Rig:
        raise NotImplementedError

    def play(self, story: Any) -> None:
        async def run() -> None:
            rig = self.rig()
            rig.connect()
            await story(rig)

        asyncio.run(run())

    async def start(self, rig: Rig) -> tuple[JobRecord, AttemptRecord]:
        job = rig.world.submit()
        rig.world.cycle()
        await rig.settle()
        assert job.attempt is not None
        return job, job.attempt

    def test_a_member_starts_is_metered_ends_and_is_forgotten(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            assert job.state is JobState.RUNNING
            rig.world.clock.advance(90 * SECOND_US)
            await rig.settle()
            assert attempt.members[0].charged_us == 90 * SECOND_US
            rig.world.clock.advance(SECOND_US)
            rig.finish(attempt.id, 3)
            await rig.settle()
            assert (job.state, job.exit_code) == (JobState.FAILED, 3)
            report = attempt.members[0].report
            assert report is not None
            assert report.held_us == 91 * SECOND_US
            await rig.settle()
            rig.disconnect()
            rig.connect()
            assert rig.backend.adopt(rig.world.node().id) == ()
            assert rig.running() == []

        self.play(story)

    def test_an_order_given_twice_starts_once(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            for _ in range(2):
                rig.disconnect()
                rig.connect()
                rig.backend.assign(rig.world.node().id, order(attempt.id))
                await rig.settle()
            assert rig.running() == [(attempt.id, 0)]
            rig.finish(attempt.id, 0)
            await rig.settle()
            rig.backend.assign(rig.world.node().id, order(attempt.id))
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_an_order_for_another_boot_starts_nothing_and_says_so(self) -> None:
        async def story(rig: Rig) -> None:
            job = rig.world.submit()
            for start in _starts(rig.world):
                rig.world.engine.commit(start, "bursard")
            assert job.attempt is not None
            attempt = job.attempt
            attempt.members[0].boot_id = "boot-0"
            rig.world.writer.flush()
            await rig.settle()
            assert rig.running() == []
            assert attempt.cause is EndCause.START_FAILED

        self.play(story)

    def test_stop_ends_a_member_with_the_cause_it_was_given(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            rig.world.stop(attempt, EndCause.PREEMPTED)
            await rig.settle()
            assert attempt.cause is EndCause.PREEMPTED
            assert job.state is JobState.PENDING
            assert rig.running() == []

        self.play(story)

    def test_stop_of_what_never_started_reports_an_end_and_nothing_starts_later(self) -> None:
        async def story(rig: Rig) -> None:
            rig.backend.stop(rig.world.node().id, Stop("att_x", 0, "cancelled", 0))
            await rig.settle()
            rig.backend.assign(rig.world.node().id, order("att_x"))
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_forget_of_a_member_that_runs_is_ignored(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            rig.backend.forget(rig.world.node().id, Forget(attempt.id, 0))
            rig.backend.forget(rig.world.node().id, Forget("att_unknown", 0))
            await rig.settle()
            assert rig.running() == [(attempt.id, 0)]

        self.play(story)

    def test_what_runs_while_out_of_contact_is_adopted_and_its_end_is_told(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            rig.disconnect()
            assert not rig.world.node().connected
            rig.world.clock.advance(600 * SECOND_US)
            rig.finish(attempt.id, 0)
            rig.connect()
            await rig.settle()
            assert job.state is JobState.SUCCEEDED
            report = attempt.members[0].report
            assert report is not None
            assert report.held_us == 600 * SECOND_US

        self.play(story)

    def test_what_nobody_knows_is_stopped(self) -> None:
        async def story(rig: Rig) -> None:
            rig.backend.assign(rig.world.node().id, order("att_stranger"))
            await rig.settle()
            assert rig.running() == [("att_stranger", 0)]
            rig.disconnect()
            rig.connect()
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_an_order_lost_with_the_connection_is_given_again(self) -> None:
        async def story(rig: Rig) -> None:
            rig.disconnect()
            rig.connect()
            job = rig.world.submit()
            for start in _starts(rig.world):
                rig.world.engine.commit(start, "bursard")
            rig.disconnect()
            rig.world.writer.flush()
            rig.connect()
            await rig.settle()
            assert job.state is JobState.RUNNING

        self.play(story)

    def test_a_log_is_read_by_pieces_from_its_end_and_not_at_all(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            piece = await rig.read(LogRange(attempt.id, 0, 0, 5))
            assert (piece.data, piece.offset, piece.next_offset) == (LOG[:5], 0, 5)
            piece = await rig.read(LogRange(attempt.id, 0, 5, 100))
            assert piece.data == LOG[5:]
            piece = await rig.read(LogRange(attempt.id, 0, 0, 100, tail_bytes=6))
            assert (piece.data, piece.offset) == (LOG[-6:], len(LOG) - 6)
            assert (await rig.read(LogRange("att_x", 0, 0, 5))).error
            rig.disconnect()
            with pytest.raises(ServerUnavailable, match="n-1"):
                await rig.read(LogRange(attempt.id, 0, 0, 5))

        self.play(story)

    def test_nodes_that_are_not_there_are_nobodys_fault(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            node_id = rig.world.node().id
            rig.disconnect()
            rig.backend.stop(node_id, Stop(attempt.id, 0, "cancelled", 0))
            rig.backend.forget(node_id, Forget(attempt.id, 0))
            rig.backend.assign(node_id, order("att_y"))
            rig.backend.limit(node_id, Limit(attempt.id, 0, 1, SECOND_US))
            rig.backend.probe(node_id, Probe.of(attempt.id, 0, 8000, ServiceSpec()))

        self.play(story)

    def test_another_limit_is_taken_by_a_live_member_or_refused_before_it_is_asked(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            world, longer_us = rig.world, 2 * attempt.time_limit_us
            if not rig.backend.takes_limits(world.node().id):
                with pytest.raises(WrongState, match="n-1"):
                    world.fleet.refuse_deaf(attempt)
                return
            world.fleet.refuse_deaf(attempt)
            changed = jobs.update(world.state, job, {"time_limit_us": longer_us}, world.engine.now())
            world.engine.commit(changed, "ann")
            await rig.settle()
            assert attempt.unlimited() == []
            assert attempt.time_limit_us == longer_us
            rig.backend.limit(world.node().id, Limit("att_unknown", 0, 1, longer_us))
            rig.finish(attempt.id, 0)
            rig.backend.limit(world.node().id, Limit(attempt.id, 0, 1, longer_us))
            await rig.settle()
            assert job.state is JobState.SUCCEEDED

        self.play(story)

    def test_an_order_that_waits_for_another_s_share_starts_after_it_where_any_is_held(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            node_id = rig.world.node().id
            held = rig.backend.ahead(node_id)
            assert rig.world.fleet.ahead(node_id) == held
            if not held:
                return  # such an order is never given
            rig.backend.assign(node_id, order("att_next", after=attempt.id))
            await rig.settle()
            assert rig.running() == [(attempt.id, 0)]
            rig.finish(attempt.id, 0)
            await rig.settle()
            assert rig.running() == [("att_next", 0)]

        self.play(story)


def _starts(world: World) -> list[list[Any]]:
    shot = world.state.snapshot()
    found = [verify(world.state, world.ids, shot, group) for group in plan(shot, world.engine.now()).groups]
    return [events for events in found if isinstance(events, list)]


def order(attempt_id: str, after: str = "") -> Assign:
    return Assign(
        attempt_id=attempt_id,
        rank=0,
        boot_id="boot-1",
        job_id="job_x",
        time_limit_us=60 * SECOND_US,
        grace_us=0,
        checkpoint_signal="",
        user="",
        memory_bytes=0,
        cpu_milli=0,
        log_cap_bytes=0,
        launch=b"{}",
        after=after,
    )


# --- in memory


class MemoryRig:
    """The backend that ships with the fleet."""

    def __init__(self) -> None:
        self.world = World(ahead=2)
        self.backend = self.world.backend

    def connect(self) -> None:
        self.backend.connect(FACTS)

    def disconnect(self) -> None:
        self.backend.disconnect(FACTS.name)

    async def settle(self) -> None:
        for _ in range(3):
            self.world.writer.flush()
            self.backend.report()
        self.world.writer.flush()

    def running(self) -> list[Key]:
        return self.backend.running(FACTS.name)

    def finish(self, attempt_id: str, exit_code: int) -> None:
        self.backend.finish(attempt_id, 0, exit_code)

    async def read(self, wanted: LogRange) -> LogAnswer:
        return await self.world.fleet.read_log(self.world.node().id, wanted)


class TestMemory(BackendContract):
    def rig(self) -> Rig:
        return MemoryRig()


# --- agents: the hub, its links and an agent's real core, without a socket


class AgentsRig:
    """One agent: its real core, with processes that are pretended."""

    def __init__(self) -> None:
        self.world = World()
        self.backend = Agents(self.world.engine, self.world.fleet)
        self.runner = FakeRunner(self.world.clock, self._heard, lambda request: Behaviour(output=LOG))
        self.core = Agent("boot-1", 0, 0, 0, self.world.clock.boot_us())
        self.link: AgentLink | None = None
        self.seq = 0

    def connect(self) -> None:
        hello: list[Hello] = []
        for instruction in self.core.handle(s.Connected(self.world.clock.boot_us())):
            assert isinstance(instruction, s.SendHello)
            truths = tuple(map(_truth, instruction.truths))
            hello.append(
                Hello(
                    facts=FACTS,
                    boot_id="boot-1",
                    boot_us=instruction.boot_us,
                    truths=truths,
                    instance="agent_1",
                    epoch=instruction.epoch,
                )
            )
        node = done(self.backend.admit(hello[0]))
        self.link = AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")
        self.link.takes_limits, self.link.ahead = True, 2
        self.emit(s.Welcomed(now_boot_us=self.world.clock.boot_us(), epoch=1, meter_interval_us=SECOND_US))
        self.backend.join(self.link, hello[0].truths)

    def disconnect(self) -> None:
        assert self.link is not None
        self.backend.leave(self.link)
        self.emit(s.Disconnected())

    async def settle(self) -> None:
        for _ in range(4):
            self.world.writer.flush()
            self.runner.tick()
            if self.link is not None and not self.link.closed:
                self.link.send(MeterNow())
                for message in await self.link.take():
                    self._told(message)
            await asyncio.sleep(0)
        self.world.writer.flush()

    def running(self) -> list[Key]:
        return [(m.attempt_id, m.rank) for m in done(self.runner.adopt()) if m.exit is None]

    def finish(self, attempt_id: str, exit_code: int) -> None:
        self.runner.finish(attempt_id, 0, exit_code=exit_code)

    async def read(self, wanted: LogRange) -> LogAnswer:
        asked = asyncio.create_task(self.world.fleet.read_log(self.world.node().id, wanted))
        await asyncio.sleep(0)
        await self.settle()
        return await asked

    def emit(self, event: s.Event) -> None:
        for instruction in self.core.handle(event):
            self._carry_out(instruction)

    def _heard(self, event: RunnerEvent) -> None:
        if isinstance(event, Ended):
            report = event.report
            self.emit(s.MemberEnded(report.attempt_id, report.rank, exit_of(report)))
        else:
            self.emit(started_of(event))

    def _say(self, word: Started | Exited | Usage | Heartbeat | LimitTaken) -> None:
        if self.link is not None and not self.link.closed:
            self.backend.take(self.link, word)

    def _carry_out(self, instruction: s.Instruction) -> None:
        match instruction:
            case s.SendStarted():
                self._say(
                    Started(instruction.attempt_id, instruction.rank, instruction.pid, instruction.boot_us)
                )
            case s.SendExited():
                self._say(_exited(instruction.attempt_id, instruction.rank, instruction.exit))
            case s.ReadMeters():
                self.emit(s.MeterRead(self.world.clock.boot_us(), {}))
            case s.SpoolAppend():
                usage = instruction.usage
                counters = tuple(Counter(c.attempt_id, c.rank, c.held_us) for c in usage.counters)
                self._say(Usage(usage.seq, usage.boot_id, usage.at_boot_us, counters))
            case s.StartMembers():
                for one in instruction.assignments:
                    request = StartRequest(one.attempt_id, one.rank, instruction.epoch)
                    done(self.runner.start([request]))
            case s.StopMember():
                with contextlib.suppress(NotFound):
                    stop = StopRequest(instruction.cause, instruction.grace_us, None)
                    done(self.runner.stop(instruction.attempt_id, instruction.rank, stop))
            case s.LimitMember():
                key = (instruction.attempt_id, instruction.rank)
                done(self.runner.limit(*key, instruction.time_limit_us))
                self.emit(s.LimitSet(*key, instruction.order))
            case s.SendLimitTaken():
                key = (instruction.attempt_id, instruction.rank)
                self._say(LimitTaken(*key, instruction.order, instruction.problem))
            case s.ReadTruth():
                found = done(self.runner.adopt())
                self.emit(s.TruthRead(tuple(truth_of(each, "boot-1") for each in found)))
            case _:
                pass

    def _told(self, message: Any) -> None:
        match message:
            case Assign():
                one = s.Assignment(
                    attempt_id=message.attempt_id,
                    rank=message.rank,
                    boot_id=message.boot_id,
                    job_id=message.job_id,
                    time_limit_us=message.time_limit_us,
                    grace_us=message.grace_us,
                    checkpoint_signal=message.checkpoint_signal,
                    launch=message.launch,
                    after=message.after,
                )
                self.emit(s.Assigned(1, (one,)))
            case Stop():
                self.emit(
                    s.StopAsked(
                        epoch=1,
                        attempt_id=message.attempt_id,
                        rank=message.rank,
                        cause=message.cause,
                        grace_us=message.grace_us,
                    )
                )
            case Limit():
                self.emit(s.LimitAsked(epoch=1, **msgspec.structs.asdict(message)))
            case Forget():
                self.emit(s.ForgetReceived(message.attempt_id, message.rank))
            case MeterNow():
                self.emit(s.MeterAsked())
            case LogAsk():
                assert self.link is not None
                self.link.answer_log(message.request_id, self._log(message.wanted))
            case UsageAck():
                pass

    def _log(self, wanted: LogRange) -> LogAnswer:
        offset = len(LOG) - wanted.tail_bytes if wanted.tail_bytes else wanted.offset
        try:
            data, after, _ = self.runner.read_log(wanted.attempt_id, wanted.rank, offset, wanted.limit_bytes)
        except NotFound as problem:
            return LogAnswer(b"", 0, 0, True, 0, problem.message)
        return LogAnswer(data, after - len(data), after, False, 0)


class TestAgents(BackendContract):
    def rig(self) -> Rig:
        return AgentsRig()


def done(work: Any) -> Any:
    """The value of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


def _exited(attempt_id: str, rank: int, exit: Exit) -> Exited:
    return Exited(attempt_id=attempt_id, rank=rank, **msgspec.structs.asdict(exit))


def _truth(truth: s.Truth) -> MemberTruth:
    return MemberTruth(
        attempt_id=truth.attempt_id,
        rank=truth.rank,
        running=truth.running,
        pid=truth.pid,
        started_boot_us=truth.started_boot_us,
        boot_id=truth.boot_id,
        exit=None if truth.exit is None else _exited(truth.attempt_id, truth.rank, truth.exit),
    )


# --- one written by docs/howto-add-a-backend.md, step by step, as a stranger would


class Pocket:
    """Step 1: the nine methods. It keeps members as [boot clock at the start, or None; end, or None]."""

    def __init__(self, fleet: Any, clock: VirtualClock) -> None:
        self.fleet, self.clock = fleet, clock
        self.members: dict[Key, list[Any]] = {}
        self.gone: set[Key] = set()
        self.limits: dict[Key, Limit] = {}
        self.connected = False

    def assign(self, node_id: str, order: Assign) -> None:
        key = (order.attempt_id, order.rank)
        if key in self.members or key in self.gone:
            return
        self.members[key] = [self.clock.boot_us(), None]
        if order.boot_id != "boot-1":
            self.members[key] = [None, None]
            self.end(key, "start_failed")

    def ahead(self, node_id: str) -> int:
        return 0

    def takes_limits(self, node_id: str) -> bool:
        return True

    def limit(self, node_id: str, order: Limit) -> None:
        self.limits[order.attempt_id, order.rank] = order

    def probe(self, node_id: str, order: Probe) -> None:
        key = (order.attempt_id, order.rank)
        if key in self.members:
            self.fleet.readiness(self.fleet.engine.state.nodes[node_id], Readiness(*key, True))

    def stop(self, node_id: str, order: Stop) -> None:
        key = (order.attempt_id, order.rank)
        if key not in self.gone:
            member = self.members.setdefault(key, [None, None])
            self.end(key, order.cause if member[0] is not None else "start_failed")

    def forget(self, node_id: str, order: Forget) -> None:
        key = (order.attempt_id, order.rank)
        if key in self.members and self.members[key][1] is not None:
            del self.members[key]
            self.gone.add(key)

    def adopt(self, node_id: str) -> Sequence[MemberTruth]:
        return tuple(
            MemberTruth(
                attempt_id=key[0],
                rank=key[1],
                running=end is None,
                pid=1,
                started_boot_us=start or 0,
                exit=end,
            )
            for key, (start, end) in self.members.items()
        )

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        if (wanted.attempt_id, wanted.rank) not in self.members:
            return LogAnswer(b"", 0, 0, True, 0, "it is not here")
        start = len(LOG) - wanted.tail_bytes if wanted.tail_bytes else wanted.offset
        data = LOG[start : start + wanted.limit_bytes]
        return LogAnswer(data, start, start + len(data), False, 0)

    def end(self, key: Key, cause: str, exit_code: int | None = None) -> None:
        start, end = self.members[key]
        if end is None:
            held_us = self.clock.boot_us() - start if start is not None else 0
            self.members[key][1] = Exited(
                attempt_id=key[0],
                rank=key[1],
                cause=EndCause(cause),
                exit_code=-1 if exit_code is None else exit_code,
                started=start is not None,
                started_boot_us=start or 0,
                held_us=held_us,
            )

    def report(self) -> None:
        """Step 2: everything learnt is told to the fleet."""
        node = self.fleet.engine.state.node_by_name(FACTS.name)
        now_us, counters = self.clock.boot_us(), []
        for key, (start, end) in list(self.members.items()):
            if end is not None:
                self.fleet.exited(node, end)
            elif start is not None:
                self.fleet.started(node, Started(*key, 1, start))
                counters.append(Counter(*key, now_us - start))
                if (limit := self.limits.pop(key, None)) is not None:
                    self.fleet.limit_taken(node, LimitTaken(*key, limit.order))
        self.fleet.usage(node, Usage(1, "boot-1", now_us, tuple(counters)))


class PocketRig:
    """Step 3: a rig of a few lines."""

    def __init__(self) -> None:
        self.world = World()
        self.backend = Pocket(self.world.fleet, self.world.clock)

    def connect(self) -> None:
        hello = Hello(
            facts=FACTS,
            boot_id="boot-1",
            boot_us=self.world.clock.boot_us(),
            truths=tuple(self.backend.adopt("")),
        )
        self.world.fleet.join(self.world.fleet.hello(hello), self.backend)
        self.backend.connected = True

    def disconnect(self) -> None:
        self.world.fleet.leave(self.world.node(), self.backend)
        self.backend.connected = False

    async def settle(self) -> None:
        for _ in range(3):
            self.world.writer.flush()
            if self.backend.connected:
                self.backend.report()
        self.world.writer.flush()

    def running(self) -> list[Key]:
        return [key for key, (_, end) in self.backend.members.items() if end is None]

    def finish(self, attempt_id: str, exit_code: int) -> None:
        self.backend.end((attempt_id, 0), "failed" if exit_code else "completed", exit_code)

    async def read(self, wanted: LogRange) -> LogAnswer:
        return await self.world.fleet.read_log(self.world.node().id, wanted)


class TestFollowingTheGuide(BackendContract):
    def rig(self) -> Rig:
        return PocketRig()

    def test_each_method_of_the_protocol_is_called_by_this_contract(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        promised = {name for name in vars(Backend) if not name.startswith("_")}
        called: set[str] = set()
        kind = type(self.rig().backend)

        def noting(name: str, plain: Any) -> Any:
            def method(*args: Any, **kwargs: Any) -> Any:
                called.add(name)
                return plain(*args, **kwargs)

            return method

        for name in promised:
            monkeypatch.setattr(kind, name, noting(name, getattr(kind, name)))
        this = "test_each_method_of_the_protocol_is_called_by_this_contract"
        for name in dir(BackendContract):
            if name.startswith("test_") and name != this:
                getattr(self, name)()
        assert called == promised
