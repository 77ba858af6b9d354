"""What the fleet may rely on in every backend: agents, the one in memory, and one written by the guide."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backend_contract import LOG, BackendContract, Key, Rig

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import NotFound
from bursar.model import EndCause, Exit
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

GUIDE = Path(__file__).parents[2] / "docs/howto-add-a-backend.md"

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
    """Step 1: the methods. It keeps members as [boot clock at the start, or None; end, or None]."""

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
                log_bytes=len(LOG) if start is not None else 0,
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

    def test_the_guide_names_each_method_of_the_protocol(self) -> None:
        rows = re.findall(r"^\| `(\w+)\(", GUIDE.read_text(), re.M)
        assert sorted(rows) == sorted(name for name in vars(Backend) if not name.startswith("_"))

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
