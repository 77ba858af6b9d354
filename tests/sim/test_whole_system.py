"""The whole system under one virtual clock: no socket, no process, no disk, every fault from one seed.

Real: state, decisions, scheduler, ledger, engine, fleet, the agent's core. Modelled here: what lies
between them (streams that break with everything in flight, a writer whose last commits are lost in a crash,
spools and epochs on disk) and below them (`FakeRunner`: processes that outlive their agent and die with
their machine).
Faults: agent restart, bursard crash, broken and half-open streams, reboot, and bursard's wall clock jumping
by ten years either way. After every step the promises J3 J4 J5 L5 R1 B1 are held against the processes that
really ran; at the end faults stop: all jobs must end (J7), all nodes be paid for (L8), both sides agree (R3).

`BURSAR_SIM_SEEDS=100-300 pytest tests/sim/test_whole_system.py` plays more; a failure names its seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import BursarError, Forbidden, NotFound, RateLimited
from bursar.ids import SequentialIds
from bursar.model import (
    ArraySpec,
    CheckpointSpec,
    Device,
    DeviceShare,
    EndCause,
    Exit,
    JobSpec,
    NodeFacts,
    ReasonCode,
    RetrySpec,
)
from bursar.resources import GpuRequest, ResourceRequest
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent
from bursar_agent.effects import exit_of, started_of, truth_of
from bursar_agent.runner.fake import Behaviour, FakeRunner
from bursar_agent.runner.model import Ended, RunnerEvent, StartRequest, StopRequest
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import parse_documents
from bursard.engine import Engine
from bursard.events import AttemptEnded, AttemptPlaced, ClusterCreated, Event, MemberEnded
from bursard.fleet import (
    Agents,
    Assign,
    Exited,
    Fleet,
    Forget,
    Hello,
    LimitTaken,
    MemberTruth,
    Started,
    Stop,
    Usage,
    UsageAck,
)
from bursard.fleet import (
    Counter as HeldCounter,
)
from bursard.fleet.words import Limit
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.replay import restore
from bursard.scheduler import plan
from bursard.sim.checks import node_cost
from bursard.state import JobRecord, Limits, NodeRecord, State
from bursard.state.decide import jobs, nodes, policies
from bursard.store import Batch, ScratchStore

MINUTE_US = 60 * SECOND_US
TEN_YEARS_US = 3653 * 24 * 60 * MINUTE_US
GIB = 1 << 30
STEPS = 250
LIMITS = Limits(default_time_limit_us=20 * MINUTE_US, meter_interval_us=30 * SECOND_US)
COST_MODEL = """\
kind: CostModel
name: rack
spec: {pool: p, node_capex: 400003 USD, useful_life: 5y}
"""
POLICIES = """\
kind: Budget
name: research
spec: {scope: {project: research}, limit: 9 USD, period: day}
---
kind: Budget
name: vision
spec: {scope: {project: research/vision}, limit: 4 USD, period: month, timezone: Europe/Berlin}
"""
CATALOG = (PriceDocument(parse_documents(COST_MODEL, "test")[0]),)
"""In force since ever, as the shipped catalogue: a clock that is set back finds a price too."""


def now_done(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a fake waited")


class Session:
    """One stream. Each side notices its end by itself; what is in flight then is lost."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.up: deque[Any] = deque()
        self.down: deque[tuple[int, Any]] = deque()
        self.agent_open = self.daemon_open = True
        self.broken = False

    def break_off(self) -> None:
        self.broken = True
        self.up.clear()
        self.down.clear()


class Welcome:
    """The daemon took a Hello."""


class Link:
    """The daemon's end of a session, as the fleet uses it."""

    def __init__(self, session: Session, node_id: str, name: str, boot_id: str, epoch: int) -> None:
        self.session, self.node_id, self.name, self.boot_id = session, node_id, name, boot_id
        self.instance = session.instance
        self.last_seen_at = 0
        self.epoch = epoch
        self.closed = self.joined = False
        self.takes_limits = True
        self.parked = ""

    def send(self, message: Any) -> None:
        if not self.closed and not self.session.broken:
            self.session.down.append((self.epoch, message))

    def close(self) -> None:
        self.closed = True


class LateWriter:
    """Commits become durable when told; a crash loses the others."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = ScratchStore()
        self.after_commit: list[Any] = []
        self.waiting: list[Batch] = []
        self.durable_seq = 0
        self.digest = hashlib.sha256()
        self.ended_jobs: Counter[str] = Counter()
        self.ended_attempts: Counter[str] = Counter()
        self.billed: Counter[tuple[str, int]] = Counter()
        self.paid: Counter[str] = Counter()

    def enqueue(self, batch: Batch) -> None:
        self.waiting.append(batch)
        self.world.check_budgets()

    def flush(self) -> None:
        while self.waiting:
            batch = self.waiting.pop(0)
            self.store.append(batch)
            for row in batch.events:
                self.digest.update(row.payload + b"%d\n" % row.at)
            self.ended_jobs.update(job.id for job in batch.jobs)
            for charge in batch.charges:
                self.paid[charge.node_id] += charge.nanos
                if charge.kind == "usage":
                    self.billed[charge.attempt_id, charge.rank] += charge.held_us
            self.durable_seq = batch.events[-1].seq
            for heard in list(self.after_commit):
                heard(self.durable_seq)


class Host:
    """One machine: its boot, its processes, its disk, and perhaps an agent."""

    def __init__(self, world: World, name: str, gpus: int) -> None:
        devices = tuple(Device(i, f"{name}-{i}", "H100", 80 * GIB, simulated=True) for i in range(gpus))
        self.facts = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=64 * GIB, devices=devices, pool="p")
        self.world, self.name = world, name
        self.boot = self.instances = 0
        self.epoch = self.seq = 0
        self.spool: list[s.Usage] = []
        self.signals: dict[s.Key, tuple[str, int]] = {}
        self.forgotten: set[s.Key] = set()
        self.old: dict[s.Key, s.Truth] = {}
        self.assigned: dict[s.Key, s.Assignment] = {}
        self.core: Agent | None = None
        self.session: Session | None = None
        self.power_on()

    # --- machine and agent

    def power_on(self) -> None:
        self.boot += 1
        self.boot_id = f"{self.name}-boot-{self.boot}"
        self.clock = VirtualClock()
        self.clock.advance(self.boot * 7_777)
        self.runner = FakeRunner(self.clock, self.heard, self.behave)
        self.start_agent()

    def reboot(self) -> None:
        """Processes die unseen; their files stay."""
        for found in now_done(self.runner.adopt()):
            truth = truth_of(found, self.boot_id)
            key = (truth.attempt_id, truth.rank)
            self.old[key] = truth
            self.world.held.setdefault(key, self.clock.boot_us() - truth.started_boot_us)
        self.stop_agent(clean=False)
        self.power_on()

    def start_agent(self) -> None:
        self.instances += 1
        self.core = Agent(self.boot_id, self.epoch, self.seq, 0, self.clock.boot_us())
        found = [truth_of(each, self.boot_id) for each in now_done(self.runner.adopt())]
        truths = [t for t in (*self.old.values(), *found) if (t.attempt_id, t.rank) not in self.forgotten]
        last = self.spool[-1].counters if self.spool else ()
        self.emit(s.Adopted(tuple(truths), last, dict(self.signals)))

    def stop_agent(self, clean: bool = True) -> None:
        self.core = None
        if self.session is not None:
            self.session.agent_open = False
            self.session.break_off()
            if clean:  # the kernel closes its socket; a machine that is gone closes nothing
                self.world.daemon_notices(self)
            self.session = None

    def connect(self) -> None:
        if self.core is not None and self.session is None:
            self.session = Session(f"{self.name}-{self.instances}")
            self.world.sessions.append((self, self.session))
            self.emit(s.Connected(self.clock.boot_us()))

    def disconnected(self) -> None:
        self.session = None
        self.emit(s.Disconnected())

    def behave(self, request: StartRequest) -> Behaviour:
        key = (request.attempt_id, request.rank)
        assert key not in self.world.started, f"J3: {key} starts twice"
        self.world.started[key] = self.name
        draw = Random(f"{self.world.seed}/{request.attempt_id}")
        duration_us = draw.choice([3, 40, 200, 600]) * SECOND_US
        return Behaviour(
            duration_us=draw.choice([duration_us, duration_us, None]),
            exit_code=draw.choice([0, 0, 0, 1]),
            checkpoint_us=draw.choice([None, 5 * SECOND_US]),
            ignores_term=draw.random() < 0.3,
        )

    # --- the agent's shell

    def heard(self, event: RunnerEvent) -> None:
        if isinstance(event, Ended):
            report = event.report
            self.world.held[report.attempt_id, report.rank] = report.held_us or 0
            self.emit(s.MemberEnded(report.attempt_id, report.rank, exit_of(report)))
        else:
            self.emit(started_of(event))

    def emit(self, event: s.Event) -> None:
        if self.core is not None:
            for instruction in self.core.handle(event):
                self.carry_out(instruction)

    def carry_out(self, instruction: s.Instruction) -> None:
        match instruction:
            case (
                s.SendHello()
                | s.SendStarted()
                | s.SendExited()
                | s.SendUsage()
                | s.SendHeartbeat()
                | s.SendLimitTaken()
            ):
                if self.session is not None and not self.session.broken:
                    self.session.up.append(instruction)
            case s.PersistEpoch():
                self.epoch = instruction.epoch
            case s.StartMembers():
                self.start(instruction)
            case s.StopMember():
                request = StopRequest(instruction.cause, instruction.grace_us, instruction.signal or None)
                with contextlib.suppress(NotFound):
                    now_done(self.runner.stop(instruction.attempt_id, instruction.rank, request))
            case s.LimitMember(attempt_id, rank, order, limit_us):
                with contextlib.suppress(NotFound):
                    now_done(self.runner.limit(attempt_id, rank, limit_us))
                self.emit(s.LimitSet(attempt_id, rank, order))
            case s.ReadMeters():
                self.emit(s.MeterRead(self.clock.boot_us(), {}))
            case s.SpoolAppend():
                self.spool.append(instruction.usage)
                self.seq = instruction.usage.seq
                self.emit(s.Spooled(instruction.usage))
            case s.ResendUsage():
                for usage in [u for u in self.spool if u.seq > instruction.after_seq]:
                    self.carry_out(s.SendUsage(usage))
            case s.SpoolTrim():
                self.spool = [u for u in self.spool if u.seq > instruction.seq]
            case s.ForgetMember():
                self.forgotten.add((instruction.attempt_id, instruction.rank))
            case s.ReadTruth():
                self.read_truth()
            case _:
                pass

    def start(self, instruction: s.StartMembers) -> None:
        for assignment in instruction.assignments:
            self.assigned[assignment.key] = assignment
            if assignment.checkpoint_signal:
                self.signals[assignment.key] = (assignment.checkpoint_signal, assignment.grace_us)
            request = StartRequest(
                assignment.attempt_id,
                assignment.rank,
                instruction.epoch,
                time_limit_us=assignment.time_limit_us,
                grace_us=assignment.grace_us,
                checkpoint_signal=assignment.checkpoint_signal or None,
            )
            if any(result.state == "already" for result in now_done(self.runner.start([request]))):
                self.read_truth()

    def read_truth(self) -> None:
        found = now_done(self.runner.adopt())
        self.emit(s.TruthRead(tuple(truth_of(each, self.boot_id) for each in found)))

    def told(self, epoch: int, message: Any) -> None:
        now = self.clock.boot_us()
        match message:
            case Welcome():
                interval = LIMITS.meter_interval_us
                self.emit(s.Welcomed(now_boot_us=now, epoch=epoch, meter_interval_us=interval))
            case Assign():
                self.emit(s.Assigned(epoch, (assignment_of(message),)))
            case Stop():
                self.emit(
                    s.StopAsked(
                        epoch=epoch,
                        attempt_id=message.attempt_id,
                        rank=message.rank,
                        cause=message.cause,
                        grace_us=message.grace_us,
                    )
                )
            case Limit():
                self.emit(
                    s.LimitAsked(
                        epoch=epoch,
                        attempt_id=message.attempt_id,
                        rank=message.rank,
                        order=message.order,
                        time_limit_us=message.time_limit_us,
                    )
                )
            case Forget():
                self.emit(s.ForgetReceived(message.attempt_id, message.rank))
            case UsageAck():
                self.emit(s.AckReceived(now, message.usage_seq))
            case _:
                raise AssertionError(message)

    def running(self) -> list[s.Key]:
        found = now_done(self.runner.adopt())
        return [(each.attempt_id, each.rank) for each in found if each.exit is None]


def assignment_of(message: Assign) -> s.Assignment:
    return s.Assignment(
        attempt_id=message.attempt_id,
        rank=message.rank,
        boot_id=message.boot_id,
        job_id=message.job_id,
        time_limit_us=message.time_limit_us,
        grace_us=message.grace_us,
        checkpoint_signal=message.checkpoint_signal,
        launch=message.launch,
    )


def end_of(attempt_id: str, rank: int, exit: Exit) -> Exited:
    return Exited(attempt_id=attempt_id, rank=rank, **msgspec.structs.asdict(exit))


class World:
    """bursard, three hosts and their users."""

    documents = POLICIES
    meddling = 0.06
    jumps_us = (-TEN_YEARS_US, TEN_YEARS_US, -90 * SECOND_US, 3 * MINUTE_US)

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.right_at = self.clock.now()
        self.ids = SequentialIds()
        self.writer = LateWriter(self)
        self.sessions: list[tuple[Host, Session]] = []
        self.started: dict[s.Key, str] = {}
        self.placed: dict[s.Key, tuple[DeviceShare, ...]] = {}
        self.held: dict[s.Key, int] = {}
        self.reported: dict[s.Key, int] = {}
        self.acks: list[tuple[int, Link, int]] = []
        self.submitted: list[tuple[int, str]] = []
        self.epoch = 0
        self.faults: Counter[str] = Counter()
        self.state = State(LIMITS)
        self.open(self.state)
        self.engine.commit([ClusterCreated("c", "USD")], "test")
        now = self.engine.now()
        self.engine.commit(
            policies.apply_documents(self.state, parse_documents(self.documents, "test"), now), "test"
        )
        self.writer.flush()
        self.hosts = self.new_hosts()
        for host in self.hosts:
            host.connect()

    def new_hosts(self) -> list[Host]:
        return [Host(self, "a", 4), Host(self, "b", 2), Host(self, "c", 0)]

    # --- bursard

    def open(self, state: State) -> None:
        self.epoch += 1
        self.state = state
        self.writer.after_commit.clear()
        writer: Any = self.writer
        self.engine = Engine(state, writer.store, writer, self.clock, self.ids, CATALOG)
        self.fleet = Fleet(self.engine, log_cap_bytes=0, run_as_submitter=False)
        self.hub = Agents(self.engine, self.fleet)
        self.engine.listeners.append(self.durable)
        self.writer.after_commit.append(self.acknowledge)

    def durable(self, seq: int, event: Event, at: int, actor: str) -> None:
        if isinstance(event, AttemptPlaced):
            self.placed |= {(event.attempt_id, m.rank): m.devices for m in event.members}
        if isinstance(event, MemberEnded) and event.report.cause is not EndCause.NODE_LOST:
            key = (event.attempt_id, event.rank)
            self.reported |= {key: event.report.held_us} if key in self.held else {}
        if isinstance(event, AttemptEnded):
            self.writer.ended_attempts[event.attempt_id] += 1

    def acknowledge(self, seq: int) -> None:
        for wanted, link, usage_seq in [ack for ack in self.acks if ack[0] <= seq]:
            link.send(UsageAck(usage_seq))
            self.acks.remove((wanted, link, usage_seq))

    def crash(self) -> None:
        """kill -9: what was not durable never was; every stream ends."""
        for host, session in list(self.sessions):
            session.daemon_open = False
            session.break_off()
            if host.session is session:
                host.disconnected()
        self.sessions.clear()
        self.acks.clear()
        durable = {job for seq, job in self.submitted if seq <= self.writer.durable_seq}
        self.submitted = [(0, job) for job in sorted(durable)]
        self.writer.waiting.clear()
        self.open(restore(self.writer.store, LIMITS))
        for node in list(self.state.nodes.values()):
            self.engine.commit(nodes.silent(self.state, node), "bursard")
        for job in durable:
            assert job in self.state.jobs or self.writer.ended_jobs[job], f"J1: {job} is forgotten"

    def cycle(self) -> None:
        now = self.engine.now()

        def commit(_what: str, events: Sequence[Event]) -> bool:
            return bool(self.engine.commit(events, "bursard"))

        Housekeeping(self.state, lambda: self.engine.prices, commit).turn(now)
        one_pass(self.state, self.engine.ids, now, commit)

    def daemon_notices(self, host: Host) -> None:
        """A stream of this host is gone: its node is silent until it comes back."""
        for owner, session in list(self.sessions):
            if owner is host and session.broken:
                session.daemon_open = False
                self.sessions.remove((owner, session))
                node = self.state.node_by_name(host.name)
                link = self.hub.links.get(node.id) if node is not None else None
                if link is not None and link.session is session:  # type: ignore[attr-defined]
                    self.hub.leave(link)

    def hear(self, host: Host, session: Session, message: Any) -> None:
        """One message of an agent, as the service takes it."""
        if isinstance(message, s.SendHello):
            self.hello(host, session, message)
            return
        node = self.state.node_by_name(host.name)
        link = self.hub.links.get(node.id) if node is not None else None
        if node is None or link is None or link.session is not session:  # type: ignore[attr-defined]
            return
        match message:
            case s.SendStarted():
                word = Started(message.attempt_id, message.rank, message.pid, message.boot_us)
                self.fleet.started(node, word)
            case s.SendExited():
                self.fleet.exited(node, end_of(message.attempt_id, message.rank, message.exit))
            case s.SendLimitTaken():
                word = LimitTaken(message.attempt_id, message.rank, message.order, message.problem)
                self.fleet.limit_taken(node, word)
            case s.SendUsage():
                self.take_usage(node, link, message.usage)
            case s.SendHeartbeat():
                self.fleet.heartbeat(node, message.boot_us)
        self.trust(node)

    def take_usage(self, node: NodeRecord, link: Any, usage: s.Usage) -> None:
        counters = tuple(HeldCounter(c.attempt_id, c.rank, c.held_us) for c in usage.counters)
        seq = self.fleet.usage(node, Usage(usage.seq, usage.boot_id, usage.at_boot_us, counters))
        self.acks.append((seq, link, usage.seq))
        self.acknowledge(self.writer.durable_seq)

    def hello(self, host: Host, session: Session, message: s.SendHello) -> None:
        truths = tuple(member_truth(truth) for truth in message.truths)
        word = Hello(
            facts=host.facts,
            boot_id=host.boot_id,
            boot_us=message.boot_us,
            truths=truths,
            instance=session.instance,
        )
        try:
            node = now_done(self.hub.admit(word))
        except (Forbidden, RateLimited):
            session.break_off()  # the old stream of this name is not known to be gone, or too many
            self.sessions.remove((host, session))
            host.disconnected()
            return
        self.trust(node)
        self.writer.flush()
        link: Any = Link(session, node.id, host.name, host.boot_id, self.epoch)
        link.send(Welcome())
        self.hub.join(link, truths)

    def trust(self, node: NodeRecord) -> None:
        assert node.mode == "open", f"an honest node is called a liar: {node.reason}"

    # --- time and messages

    def pass_time(self, us: int) -> None:
        self.clock.advance(us)
        self.right_at += us
        for host in self.hosts:
            host.clock.advance(us)
            host.runner.tick()
            host.emit(s.Tick(host.clock.boot_us()))
        self.fleet.look()

    def deliver(self, most: int) -> None:
        """Some of what is in flight arrives, in order within each stream."""
        for host, session in list(self.sessions):
            for _ in range(self.random.randint(0, most)):
                if session.up and session.daemon_open:
                    self.hear(host, session, session.up.popleft())
                if session.down and host.session is session:
                    epoch, message = session.down.popleft()
                    host.told(epoch, message)

    # --- what must hold

    def check_budgets(self) -> None:
        """B1, at every commit."""
        ledger = self.state.ledger
        for record in self.state.budgets.records.values():
            committed = -ledger.available(record.name, record.period_start)
            assert committed <= record.spec.limit.nanos, f"B1: {record.name}: {committed}"

    def check(self) -> None:
        per_job: dict[str, set[str]] = defaultdict(set)
        for host in self.hosts:
            used: Counter[int] = Counter()
            for key in host.running():
                per_job[host.assigned[key].job_id].add(key[0])
                for share in self.placed[key]:
                    used[share.index] += share.milli
            assert max(used.values(), default=0) <= 1000, f"R1: {host.name}: {used}"
        assert not [job for job, live in per_job.items() if len(live) > 1], f"J4: {per_job}"
        writer = self.writer
        assert not [a for a, times in writer.ended_attempts.items() if times > 1], "J5"
        assert not [j for j, times in writer.ended_jobs.items() if times > 1], "a job ended twice"
        for key, us in writer.billed.items():
            held = self.held.get(key)
            assert held is None or us <= held, f"L5: {key} was billed {us} us and held {held}"
        assert self.state.ledger.violations() == [], "L1"
        for attempt in self.state.attempts.values():
            for member in attempt.live():
                key = (attempt.id, member.alloc.rank)
                assert not any(key in h.forgotten for h in self.hosts), f"{key}: its end was told and is lost"

    # --- people

    def submit(self) -> None:
        draw = self.random
        gpus = draw.choice([0, 300, 500, 1000, 2000])
        request = GpuRequest(max(gpus // 1000, 1), milli=min(gpus, 1000)) if gpus else None
        capped = draw.random() < 0.2
        spec = JobSpec(
            name="j",
            project=draw.choice(["research", "research/vision", "ops"]),
            nodes=draw.choice([1, 1, 1, 2]),
            options=(ResourceRequest(request, draw.choice([500, 2_000]), GIB),),
            time_limit_us=draw.choice([0, 90 * SECOND_US, 8 * MINUTE_US]),
            max_cost_nanos=300_000_003 if capped else 0,
            currency="USD" if capped else "",
            retry=RetrySpec(on=("failed",), max=1) if draw.random() < 0.3 else RetrySpec(),
            array=draw.choice([None, None, None, ArraySpec((0, 1, 2, 3), 2)]),
            checkpoint=draw.choice([CheckpointSpec(), CheckpointSpec("USR1", 20 * SECOND_US)]),
            command=("true",),
        )
        try:
            events = jobs.submit(self.state, self.ids, user=draw.choice(["ann", "bob"]), spec=spec)
        except BursarError:
            return
        seq = self.engine.commit(events, "ann")
        self.submitted.append((seq, events[0].job_id))  # type: ignore[union-attr]

    def pick(self) -> JobRecord | None:
        alive = [job for job in self.state.jobs.values() if not job.state.terminal]
        return self.random.choice(alive) if alive else None

    def meddle(self) -> None:
        job = self.pick()
        if job is None:
            return
        verb = self.random.choice([jobs.requeue, lambda st, j: jobs.cancel(st, j, None)])
        try:
            self.engine.commit(verb(self.state, job), "ann")
        except BursarError:
            return

    def fault(self) -> None:
        draw = self.random
        host = draw.choice(self.hosts)
        kind = draw.choice(["agent", "agent", "crash", "crash", "cut", "cut", "cut", "reboot", "clock"])
        self.faults[kind] += 1
        if kind == "agent":
            host.stop_agent()
        elif kind == "crash":
            self.crash()
        elif kind == "cut" and host.session is not None:
            host.session.break_off()
        elif kind == "reboot":
            host.reboot()
        elif kind == "clock":
            self.clock.step_wall(draw.choice(self.jumps_us))

    def recover(self, odds: float) -> None:
        """Whoever is gone comes back, whoever waits in vain finds out."""
        for host in self.hosts:
            if host.core is None and self.random.random() < odds:
                host.start_agent()
            if host.session is not None and host.session.broken and self.random.random() < odds:
                host.disconnected()
            if self.random.random() < odds:
                self.daemon_notices(host)
            if host.session is None and self.random.random() < odds:
                host.connect()

    # --- one life

    def play(self) -> None:
        draw = self.random
        for _ in range(STEPS):
            self.pass_time(draw.choice([1, 40_000, SECOND_US, 5 * SECOND_US, 31 * SECOND_US]))
            if draw.random() < 0.25:
                self.submit()
            if draw.random() < self.meddling:
                self.meddle()
            if draw.random() < 0.12:
                self.fault()
            self.recover(0.4)
            self.deliver(6)
            if draw.random() < 0.6:
                self.cycle()
            if draw.random() < 0.2:
                self.writer.flush()
            self.check()

    def settle(self) -> None:
        """No more faults: the clock is set right, money is there, everything ends and both sides agree."""
        self.clock.step_wall(self.right_at - self.clock.now())
        self.cycle()
        rich = self.documents.replace("limit: ", "limit: 10000")
        now = self.engine.now()
        self.engine.commit(policies.apply_documents(self.state, parse_documents(rich, "test"), now), "test")
        for _ in range(4_000):
            self.pass_time(10 * SECOND_US)
            self.recover(1.0)
            self.cycle()
            self.writer.flush()
            self.deliver(20)
            self.writer.flush()
            for job in self.spent():  # their own cap is used up: they can only be given up
                self.engine.commit(jobs.cancel(self.state, job, None), "ann")
            if not any(not job.state.terminal for job in self.state.jobs.values()):
                break
        self.check()
        stuck = [job.display for job in self.state.jobs.values() if not job.state.terminal]
        assert not stuck, f"J7: {stuck} never ended"
        for _ in range(30):  # the last Forget and the last counters
            self.pass_time(5 * SECOND_US)
            self.deliver(20)
            self.writer.flush()
        for key, us in self.reported.items():
            assert self.writer.billed[key] == us == self.held[key], f"L5: {key}"
        for host in self.hosts:
            assert not host.running(), f"R3: {host.name} runs what nobody knows"
            assert host.core is not None
            assert not host.core.truths(), f"R3: {host.name} was never told to forget"
            assert not host.spool, f"{host.name} keeps usage that is in the ledger"
            self.pay(host)

    def spent(self) -> list[JobRecord]:
        """Jobs whose `max_cost` does not pay for another second: the plan says so."""
        shot = self.state.snapshot()
        verdicts = plan(shot, self.engine.now()).verdicts
        return [
            self.state.jobs[job_id]
            for index, verdict in verdicts.items()
            if verdict.code is ReasonCode.BUDGET_EXHAUSTED and shot.queues[index].job_class.max_cost_nanos
            for _, job_id in shot.queues[index].jobs
        ]

    def pay(self, host: Host) -> None:
        """L8: all time of a node belongs to somebody, to the nano."""
        node = self.state.node_by_name(host.name)
        assert node is not None
        usage = s.Usage(0, host.boot_id, host.clock.boot_us())
        self.take_usage(node, self.hub.links[node.id], usage)
        self.writer.flush()
        assert node.through >= node.axis_start
        open_nanos = sum(hour.nanos for hour in node.open.values())
        assert self.writer.paid[node.id] + open_nanos == node_cost(
            node.cost_rates, node.axis_start, node.through
        ), "L8"


def member_truth(truth: s.Truth) -> MemberTruth:
    return MemberTruth(
        attempt_id=truth.attempt_id,
        rank=truth.rank,
        running=truth.running,
        pid=truth.pid,
        started_boot_us=truth.started_boot_us or (truth.exit.started_boot_us if truth.exit else 0),
        boot_id=truth.boot_id,
        exit=None
        if truth.running or truth.exit is None
        else end_of(truth.attempt_id, truth.rank, truth.exit),
    )


def play(seed: int) -> World:
    world = World(seed)
    try:
        world.play()
        world.settle()
    except BaseException as problem:
        problem.add_note(f"seed {seed}, faults {dict(world.faults)}")
        raise
    return world


def seeds() -> list[int]:
    first, _, last = os.environ.get("BURSAR_SIM_SEEDS", "1-8").partition("-")
    return list(range(int(first), int(last or first) + 1))


@pytest.mark.parametrize("seed", seeds())
def test_every_promise_holds_under_every_fault(seed: int) -> None:
    world = play(seed)
    assert world.writer.ended_jobs
    again = restore(world.writer.store, LIMITS)
    assert again.ledger.image() == world.state.ledger.image(), "L10"


def test_the_same_seed_gives_the_same_events_to_the_byte() -> None:
    one, two = play(1), play(1)
    assert one.writer.digest.hexdigest() == two.writer.digest.hexdigest()
    assert one.writer.durable_seq > 300
