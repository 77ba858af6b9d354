"""A whole cluster without its shells: engine, state, decisions and scheduler over a memory store, with
modelled agents that obey their limits but report late, go silent and reboot. Its rules are `cluster_rules`.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
)

from bursar.clock import HOUR_US, SECOND_US, VirtualClock
from bursar.ids import SequentialIds
from bursar.model import (
    Device,
    EndCause,
    NodeFacts,
    ShareRates,
)
from bursar_policies.document import parse_documents
from bursar_policies.specs import Scope
from bursard.engine import Engine, unposted
from bursard.events import (
    AttemptEnded,
    ClusterCreated,
    Event,
    ExitReport,
    NodeBooted,
    NodeMetered,
    NodePriced,
)
from bursard.state import HOLD_MARGIN_US, JobRecord, Limits, NodeRecord, State
from bursard.state.decide import attempts, nodes, policies
from bursard.state.decide.opening import openings
from bursard.store import Batch, ChargeRow, ScratchStore

GIB = 1 << 30
LIMITS = Limits(default_time_limit_us=2 * HOUR_US)
NODES = ("a", "b", "c")
PROJECTS = ("research", "research/vision", "ops")
USERS = ("ann", "bob")
BUDGETS = ("all", "vision", "ann", "team")
SCOPES = (
    "{project: research}",
    "{project: research/vision}",
    "{user: ann}",
    "{label: {team: x}}",
    "{project: research, user: bob}",
)
# 23:17 UTC on a Sunday that ends a month in Europe/Berlin: days, weeks and months roll early.
EPOCH = 1_761_520_620 * SECOND_US


class InstantWriter:
    """Everything is durable at once."""

    def __init__(self, store: ScratchStore) -> None:
        self.store = store
        self.after_commit: list[Callable[[int], None]] = []
        self.ended: Counter[str] = Counter()
        self.billed: Counter[tuple[str, int]] = Counter()
        self.cost: Counter[str] = Counter()
        self.hours: dict[str, Counter[int]] = defaultdict(Counter)

    def enqueue(self, batch: Batch) -> None:
        self.store.append(batch)
        self.ended.update(job.id for job in batch.jobs)
        self.take(batch.charges)
        for heard in self.after_commit:
            heard(batch.events[-1].seq)

    def take(self, rows: Iterable[ChargeRow]) -> None:
        for row in rows:
            self.hours[row.node_id][row.start_at - row.start_at % HOUR_US] += row.nanos
            if row.kind == "usage":
                self.billed[row.attempt_id, row.rank] += row.held_us
                self.cost[row.job_id] += row.nanos
                assert row.price_id or row.corrects or not row.nanos, "L9"

    def with_open(self, state: State) -> InstantWriter:
        """What has been posted, and what the open hours add to it."""
        books = copy.copy(self)
        books.billed, books.cost = self.billed.copy(), self.cost.copy()
        books.hours = defaultdict(Counter, {node: hours.copy() for node, hours in self.hours.items()})
        books.take(unposted(state).rows)
        return books


class Run(msgspec.Struct):
    """One member as its node knows it; held times are of its boot clock."""

    attempt_id: str
    job_id: str
    rank: int
    started_us: int
    limit_us: int
    started_reported: bool = False
    ended_us: int = 0
    cause: EndCause = EndCause.COMPLETED
    stopping: bool = False


class Machine(msgspec.Struct):
    """One node: its boot and what runs there. `late`: its usage was once reported out of order."""

    name: str
    facts: NodeFacts
    boot: int = 1
    boot_offset_us: int = 0
    connected: bool = True
    late: bool = False
    runs: dict[str, Run] = {}


def facts(name: str, gpus: int) -> NodeFacts:
    devices = tuple(Device(i, f"{name}-{i}", "H100", 80 * GIB, simulated=True) for i in range(gpus))
    return NodeFacts(name=name, cpu_milli=4_000, memory_bytes=16 * GIB, devices=devices, pool="p")


def cost_model(capex: int) -> str:
    return (
        f"kind: CostModel\nname: p\nspec:\n  pool: p\n  node_capex: {capex} USD\n"
        "  useful_life: 5y\n  practical_capacity: 70%\n"
        "  component_weights: {gpu: 0.7, cpu: 0.2, memory: 0.1}\n"
    )


class ClusterModel(RuleBasedStateMachine):
    """bursard and its agents: what the rules act on and the promises are held against."""

    engine: Engine

    @initialize(capex=st.sampled_from([100_003, 77_777]))
    def start(self, capex: int) -> None:
        self.clock = VirtualClock(EPOCH)
        self.store = ScratchStore()
        self.writer = InstantWriter(self.store)
        self.ids = SequentialIds()
        self.engine = self.new_engine(State(LIMITS))
        self.machines: dict[str, Machine] = {}
        self.jumped = False
        """The wall clock was set: what is dated by it may lie in another period than it was told in."""
        self.attempts_ended: Counter[str] = Counter()
        self.prices: defaultdict[str, list[tuple[int, ShareRates | None]]] = defaultdict(list)
        self.owned_until: Counter[str] = Counter()
        self.key = self.latest = self.steps = 0
        self.commit([ClusterCreated("c", "USD")])
        self.apply(cost_model(capex))
        for name, gpus in zip(NODES, (2, 2, 0), strict=True):
            self.machines[name] = Machine(name, facts(name, gpus))
            self.hello(self.machines[name])

    # --- tools

    def new_engine(self, state: State) -> Engine:
        self.writer.after_commit.clear()
        engine = Engine(state, self.store, self.writer, self.clock, self.ids)  # type: ignore[arg-type]
        engine.listeners.append(self.heard)
        return engine

    def heard(self, seq: int, event: Event, at: int, actor: str) -> None:
        if isinstance(event, AttemptEnded):
            self.attempts_ended[event.attempt_id] += 1
        if isinstance(event, NodePriced):
            since = max(event.since, self.owned_until[event.node_id])
            cost = event.rates if event.cost is None else event.cost
            self.prices[event.node_id].append((since, cost if event.price_id else None))
        if isinstance(event, NodeMetered | NodeBooted):
            until = event.through if isinstance(event, NodeMetered) else event.anchor_at
            self.owned_until[event.node_id] = max(self.owned_until[event.node_id], until)

    @property
    def state(self) -> State:
        return self.engine.state

    def commit(self, events: list[Event]) -> None:
        self.engine.commit(events, "test")

    def make_true(self, _what: str, events: Sequence[Event]) -> bool:
        self.commit(list(events))
        return True

    def apply(self, text: str) -> None:
        documents = parse_documents(text, "test")
        now = self.engine.now()
        if openings(self.state, documents, now):
            self.roll()
        wanted = openings(self.state, documents, now)
        rows = self.usage_rows() if wanted else []
        spent = {one.budget: self.cost_of(rows, one.scope, one.since, one.until) for one in wanted}
        self.commit(policies.apply_documents(self.state, documents, now, spent))
        self.commit(nodes.reprice(self.state, self.engine.prices, now))

    def roll(self) -> None:
        """As the fleet does before anything is charged, and the service before anything is applied."""
        if self.state.budgets.due(self.engine.now()):
            self.commit(policies.roll_periods(self.state, self.engine.now()))

    def usage_rows(self) -> list[ChargeRow]:
        """All that jobs were charged, posted or not."""
        return [row for row in self.store.charges(unposted=unposted(self.state)) if row.kind == "usage"]

    @staticmethod
    def cost_of(rows: Iterable[ChargeRow], scope: Scope, since: int, until: int) -> int:
        """What rows say of a scope, added up one by one."""
        return sum(
            row.nanos
            for row in rows
            if since <= row.start_at < (until or 1 << 62)
            and scope.covers(row.project, row.user, row.experiment, row.model, json.loads(row.labels))
        )

    def boot_us(self, machine: Machine) -> int:
        return self.clock.boot_us() - machine.boot_offset_us

    def record(self, machine: Machine) -> NodeRecord:
        node = self.state.node_by_name(machine.name)
        assert node is not None
        return node

    def hello(self, machine: Machine) -> None:
        self.commit(
            nodes.hello(
                self.state,
                self.engine.ids,
                self.engine.prices,
                facts=machine.facts,
                boot_id=f"boot-{machine.boot}",
                boot_us=self.boot_us(machine),
                now=self.engine.now(),
            )
        )
        self.assign(machine)

    def assign(self, machine: Machine) -> None:
        """The node learns what it should run: new attempts start, stops are obeyed in time."""
        if not machine.connected:
            return
        node = self.record(machine)
        now_us = self.boot_us(machine)
        for attempt_id, rank in node.live.items():
            attempt = self.state.attempts[attempt_id]
            run = machine.runs.get(attempt_id)
            if run is None:
                assert attempt.members[rank].report is None
                assert not attempt.members[rank].started_at, f"J3: {attempt_id} would start again"
                limit = attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
                run = machine.runs[attempt_id] = Run(attempt_id, attempt.job_id, rank, now_us, limit)
            if attempt.stop_cause is not None and not run.stopping:
                run.stopping = True
                run.limit_us = min(run.limit_us, now_us - run.started_us + attempt.stop_grace_us)
                run.cause = attempt.stop_cause

    def enforce(self) -> None:
        """Supervisors end what has run out, in contact or not."""
        for machine in self.machines.values():
            for run in machine.runs.values():
                if not run.ended_us and self.boot_us(machine) - run.started_us >= run.limit_us:
                    run.ended_us = run.started_us + run.limit_us
                    run.cause = run.cause if run.stopping else EndCause.TIME_LIMIT

    def report_starts(self, machine: Machine) -> None:
        for run in machine.runs.values():
            if not run.started_reported:
                run.started_reported = True
                node = self.record(machine)
                self.commit(attempts.started(self.state, node, run.attempt_id, run.rank, run.started_us, 1))

    def report_exits(self, machine: Machine) -> None:
        for run in list(machine.runs.values()):
            if run.ended_us:
                report = ExitReport(
                    cause=run.cause,
                    exit_code=0 if run.cause is EndCause.COMPLETED else 1,
                    held_us=run.ended_us - run.started_us,
                )
                node = self.record(machine)
                self.roll()
                del machine.runs[run.attempt_id]
                self.commit(
                    attempts.exited(self.state, node, run.attempt_id, run.rank, report, run.started_us)
                )
        self.everybody_hears()

    def everybody_hears(self) -> None:
        for machine in self.machines.values():
            self.assign(machine)

    def send_usage(self, machine: Machine) -> None:
        now_us = self.boot_us(machine)
        counters = [
            (run.attempt_id, run.rank, (run.ended_us or now_us) - run.started_us)
            for run in machine.runs.values()
        ]
        node = self.record(machine)
        self.roll()
        self.commit(
            nodes.usage(
                self.state, node, boot_id=f"boot-{machine.boot}", at_boot_us=now_us, counters=counters
            )
        )

    def job_of(self, pick: int) -> JobRecord | None:
        alive = [job for job in self.state.jobs.values() if not job.state.terminal]
        return alive[pick % len(alive)] if alive else None
