"""Any history of a whole cluster keeps its budgets, its books and its promises to jobs.

The machine is the daemon without its shells: engine, state, decisions and scheduler over a memory store,
with modelled agents that obey their limits but report late, go silent and reboot. After every step the
state is held against the model and against itself; at the end the log is replayed and must give the same.
It is longer than 800 lines because the model, the rules and the invariants are one machine.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from second_book import DIMS, SecondBook

from bursar.clock import HOUR_US, SECOND_US, Instant, VirtualClock
from bursar.errors import BursarError
from bursar.ids import SequentialIds
from bursar.model import (
    ArraySpec,
    Dependency,
    Device,
    EndCause,
    JobSpec,
    JobState,
    NodeFacts,
    RetrySpec,
    ShareRates,
)
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.document import parse_documents
from bursar_policies.periods import period_bounds
from bursar_policies.specs import BudgetSpec
from bursard import engine
from bursard.doctor import check_state
from bursard.engine import Engine, charge_row, unposted
from bursard.events import (
    AttemptEnded,
    Charge,
    ClusterCreated,
    Event,
    ExitReport,
    NodeBooted,
    NodeMetered,
    NodePriced,
    StopRequested,
)
from bursard.housekeeping import Housekeeping
from bursard.ledger import HourCharge, PriceInForce, Span, spans
from bursard.ledger import ownership as ledger_ownership
from bursard.place import one_pass
from bursard.replay import restore
from bursard.scheduler import plan
from bursard.state import HOLD_MARGIN_US, Applied, JobRecord, Limits, NodeRecord, State, core, records
from bursard.state import image as state_image
from bursard.state.budgets import BudgetRecord, BudgetTable
from bursard.state.decide import attempts, jobs, nodes, ownership, policies
from bursard.state.fold import attempts as attempts_fold
from bursard.state.fold import nodes as nodes_fold
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
                assert row.price_id or not row.nanos, "L9"

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


class ClusterMachine(RuleBasedStateMachine):
    """bursard, its agents and its users."""

    engine: Engine

    @initialize(capex=st.sampled_from([100_003, 77_777]))
    def start(self, capex: int) -> None:
        self.clock = VirtualClock(EPOCH)
        self.store = ScratchStore()
        self.writer = InstantWriter(self.store)
        self.ids = SequentialIds()
        self.engine = self.new_engine(State(LIMITS))
        self.machines: dict[str, Machine] = {}
        self.lost_budgets: set[tuple[str, str]] = set()
        self.attempts_ended: Counter[str] = Counter()
        self.prices: defaultdict[str, list[tuple[int, ShareRates | None]]] = defaultdict(list)
        self.owned_until: Counter[str] = Counter()
        self.key = self.latest = 0
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
        self.commit(policies.apply_documents(self.state, documents, now))
        self.commit(nodes.reprice(self.state, self.engine.prices, now))

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
        self.commit(
            nodes.usage(
                self.state, node, boot_id=f"boot-{machine.boot}", at_boot_us=now_us, counters=counters
            )
        )

    def job_of(self, pick: int) -> JobRecord | None:
        alive = [job for job in self.state.jobs.values() if not job.state.terminal]
        return alive[pick % len(alive)] if alive else None

    # --- time and the scheduler

    @rule(
        us=st.sampled_from(
            [1, 999_983, 37 * SECOND_US, 601 * SECOND_US + 123_457, HOUR_US - 1, HOUR_US, 25 * HOUR_US]
        ),
        report=st.sampled_from([True, True, False]),
        then_plan=st.booleans(),
    )
    def advance(self, us: int, report: bool, then_plan: bool) -> None:
        self.clock.advance(us)
        self.enforce()
        for machine in self.machines.values() if report else ():
            self.meter_in_order(machine)
        if then_plan:
            self.cycle()

    @rule(us=st.sampled_from([-40 * SECOND_US, SECOND_US, 3 * HOUR_US]))
    def wall_clock_jumps(self, us: int) -> None:
        self.latest = max(self.latest, self.engine.now())
        self.clock.step_wall(us)

    @rule()
    def cycle(self) -> None:
        now = self.engine.now()
        Housekeeping(self.state, lambda: self.engine.prices, self.make_true).turn(now)
        one_pass(self.state, self.engine.ids, now, self.make_true)
        self.everybody_hears()

    # --- users

    @rule(
        user=st.sampled_from(USERS),
        project=st.sampled_from(PROJECTS),
        labels=st.sampled_from([(), (("team", "x"),)]),
        gpus=st.sampled_from([0, 300, 500, 1000, 2000]),
        gang=st.sampled_from([1, 1, 1, 2]),
        limit_us=st.sampled_from([0, 90 * SECOND_US, HOUR_US + 1, 30 * HOUR_US]),
        max_cost=st.sampled_from([0, 0, 200_000_003]),
        retry=st.sampled_from([RetrySpec(), RetrySpec(on=("failed", "time_limit"), max=2)]),
        array=st.sampled_from(
            [None, None, None, ArraySpec((0, 1, 2, 3), 2), ArraySpec((0, 1, 2)), ArraySpec((1, 5), 1)]
        ),
        after=st.none() | st.tuples(st.integers(0, 9), st.sampled_from(["succeeded", "failed", "finished"])),
        held=st.sampled_from([False, False, False, True]),
        begin_in_us=st.sampled_from([0, 0, 0, 2 * HOUR_US]),
        then_plan=st.sampled_from([True, True, True, False]),
    )
    def submit(
        self,
        user: str,
        project: str,
        labels: tuple[tuple[str, str], ...],
        gpus: int,
        gang: int,
        limit_us: int,
        max_cost: int,
        retry: RetrySpec,
        array: ArraySpec | None,
        after: tuple[int, str] | None,
        held: bool,
        begin_in_us: int,
        then_plan: bool,
    ) -> None:
        depends: tuple[Dependency, ...] = ()
        if after is not None and (other := self.job_of(after[0])) is not None and not other.parent_id:
            depends = (Dependency(other.id, after[1]),)
        request = GpuRequest(max(gpus // 1000, 1), milli=min(gpus, 1000)) if gpus else None
        spec = JobSpec(
            name="j",
            project=project,
            labels=labels,
            nodes=gang,
            options=(ResourceRequest(request, 700, GIB),),
            time_limit_us=limit_us,
            max_cost_nanos=max_cost,
            currency="USD" if max_cost else "",
            retry=retry,
            array=array,
            depends_on=depends,
            held=held,
            begin_after=self.engine.now() + begin_in_us if begin_in_us else 0,
        )
        self.key += 1
        try:
            events = jobs.submit(self.state, self.engine.ids, user=user, spec=spec, key=f"k{self.key}")
        except BursarError:
            return
        self.commit(events)
        if then_plan:
            self.cycle()

    @rule(pick=st.integers(0, 30), grace_us=st.sampled_from([None, 0, SECOND_US]))
    def cancel(self, pick: int, grace_us: int | None) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        before = job.state
        self.commit(jobs.cancel(self.state, job, grace_us))
        self.everybody_hears()
        self.enforce()
        if job.array is None:
            assert job.state.terminal or job.attempt is not None
            stop = job.attempt.stop_cause if job.attempt else EndCause.CANCELLED
            assert stop is EndCause.CANCELLED, f"cancel of a {before} job was lost to {stop}"

    @rule(pick=st.integers(0, 30), verb=st.sampled_from([jobs.hold, jobs.release, jobs.requeue]))
    def act(self, pick: int, verb: Callable[[State, JobRecord], list[Event]]) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        try:
            events = verb(self.state, job)
        except BursarError:
            return
        self.commit(events)
        self.everybody_hears()

    @rule(
        pick=st.integers(0, 30),
        changes=st.sampled_from(
            [
                {"project": "ops"},
                {"project": "research/vision"},
                {"time_limit_us": 20 * HOUR_US},
                {"labels": (("team", "x"),)},
                {"priority": 90, "name": "k"},
            ]
        ),
    )
    def update(self, pick: int, changes: dict[str, object]) -> None:
        job = self.job_of(pick)
        if job is None:
            return
        try:
            events = jobs.update(self.state, job, changes)
        except BursarError:
            return
        self.commit(events)

    # --- operators

    @rule(
        name=st.sampled_from(BUDGETS),
        scope=st.sampled_from(SCOPES),
        cents=st.sampled_from([50, 400, 1_500, 9_000]),
        period=st.sampled_from(["day", "day", "week", "month", "one-time"]),
        zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
        enforcement=st.sampled_from(["hard", "hard", "soft"]),
    )
    def apply_budget(
        self, name: str, scope: str, cents: int, period: str, zone: str, enforcement: str
    ) -> None:
        limit = f"{cents // 100}.{cents % 100:02d} USD"
        self.try_apply(
            f"kind: Budget\nname: {name}\nspec:\n  scope: {scope}\n  limit: {limit}\n  period: {period}\n"
            f"  timezone: {zone}\n  enforcement: {enforcement}\n"
            "  thresholds: [{at: 50%, do: [notify]}, {at: 100%, do: [notify]}]\n"
        )

    def try_apply(self, text: str) -> None:
        try:
            self.apply(text)
        except BursarError:
            return

    @rule(
        name=st.sampled_from(BUDGETS),
        cents=st.sampled_from([50, 400, 1_500, 9_000]),
        wait_us=st.sampled_from([0, 0, 11 * HOUR_US]),
    )
    def change_limit(self, name: str, cents: int, wait_us: int) -> None:
        self.clock.advance(wait_us)  # perhaps into the next period, which nobody has rolled to
        self.enforce()
        document = self.state.policies.get(("Budget", name))
        if document is None:
            return
        lines = document.text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("  limit:"))
        lines[at] = f"  limit: {cents // 100}.{cents % 100:02d} USD"
        self.try_apply("\n".join(lines) + "\n")

    @rule(name=st.sampled_from(BUDGETS))
    def remove_budget(self, name: str) -> None:
        if ("Budget", name) not in self.state.policies:
            return
        for attempt_id in self.state.attempts:
            self.lost_budgets.add((attempt_id, name))
        self.commit(policies.remove(self.state, "Budget", name))

    @rule(capex=st.sampled_from([100_003, 250_001, 60_000, None]))
    def change_price(self, capex: int | None) -> None:
        if capex:
            self.apply(cost_model(capex))
        elif ("CostModel", "p") in self.state.policies:
            self.commit(policies.remove(self.state, "CostModel", "p"))
            self.commit(nodes.reprice(self.state, self.engine.prices, self.engine.now()))
        self.nodes_have_the_price_in_force()

    def nodes_have_the_price_in_force(self) -> None:
        in_force = self.state.policies.get(("CostModel", "p"))
        if in_force and in_force.effective_at > self.engine.now():
            return  # the wall clock was set back to before it was applied
        for node in self.state.nodes.values():
            version = f"costmodel/p@{in_force.version}" if in_force else ""
            assert node.price_id == version, f"{node.price_id!r} instead of {version!r}"

    @rule(strategy=st.sampled_from(["pack", "spread", None]), name=st.sampled_from(["x", "y"]))
    def change_strategy(self, strategy: str | None, name: str) -> None:
        if strategy:
            self.apply(f"kind: PlacementPolicy\nname: {name}\nspec:\n  strategy: {strategy}\n")
        elif ("PlacementPolicy", name) in self.state.policies:
            self.commit(policies.remove(self.state, "PlacementPolicy", name))

    @rule(name=st.sampled_from(NODES), mode=st.sampled_from(["open", "open", "cordon", "drain"]))
    def schedule_node(self, name: str, mode: str) -> None:
        self.commit(nodes.scheduling(self.record(self.machines[name]), mode, ""))

    @rule()
    def restart_from_a_snapshot(self) -> None:
        """bursard stops and starts again on what it kept."""
        data = state_image.encode(self.state, self.engine.now())
        live = self.state
        again = state_image.decode(data, LIMITS)
        self.engine = self.new_engine(again)
        self.compare(live, again)

    # --- agents

    def meter_in_order(self, machine: Machine) -> None:
        if machine.connected:
            self.report_starts(machine)
            self.report_exits(machine)
            self.send_usage(machine)

    @rule(name=st.sampled_from(NODES))
    def meter_out_of_order(self, name: str) -> None:
        """Usage arrives before what began or ended in its time."""
        machine = self.machines[name]
        if machine.connected:
            machine.late |= any(not run.started_reported or run.ended_us for run in machine.runs.values())
            self.send_usage(machine)

    @rule(name=st.sampled_from(NODES))
    def repeat_a_report(self, name: str) -> None:
        """An old report comes again: it changes nothing."""
        machine = self.machines[name]
        node = self.record(machine)
        stale = [(attempt_id, rank, 1) for attempt_id, rank in node.live.items()]
        boot_us = node.through - node.anchor_at + node.anchor_boot_us
        assert nodes.usage(self.state, node, boot_id=node.boot_id, at_boot_us=boot_us, counters=stale) == []

    @rule(
        pick=st.integers(0, 9),
        cause=st.sampled_from([EndCause.COMPLETED, EndCause.COMPLETED, EndCause.FAILED]),
        tell=st.booleans(),
    )
    def member_exits(self, pick: int, cause: EndCause, tell: bool) -> None:
        found = [
            (machine, run)
            for machine in self.machines.values()
            for run in machine.runs.values()
            if not run.ended_us
        ]
        if not found:
            return
        machine, run = found[pick % len(found)]
        run.ended_us = max(self.boot_us(machine), run.started_us + 1)
        run.cause = run.cause if run.stopping else cause
        if tell and machine.connected and run.ended_us <= self.boot_us(machine):
            self.report_exits(machine)

    @rule(name=st.sampled_from(NODES))
    def contact_is_lost_or_found(self, name: str) -> None:
        machine = self.machines[name]
        machine.connected = not machine.connected
        if machine.connected:
            self.hello(machine)
        else:
            self.commit(nodes.silent(self.state, self.record(machine)))

    @rule(name=st.sampled_from(NODES), tell=st.booleans())
    def reboot(self, name: str, tell: bool) -> None:
        machine = self.machines[name]
        if tell and machine.connected:
            self.report_starts(machine)
            self.report_exits(machine)
        machine.boot += 1
        machine.boot_offset_us = self.clock.boot_us() - 17 * SECOND_US
        machine.runs = {}
        machine.connected = True
        self.hello(machine)
        self.everybody_hears()

    @rule(name=st.sampled_from(NODES))
    def confirm_dead(self, name: str) -> None:
        machine = self.machines[name]
        if machine.connected:
            return
        machine.runs = {}
        self.commit(nodes.confirm_dead(self.state, self.record(machine)))
        self.everybody_hears()

    # --- what must hold

    @invariant()
    def books_are_sound(self) -> None:
        assert self.state.ledger.violations() == []

    @invariant()
    def b1_no_hard_budget_is_passed(self) -> None:
        ledger = self.state.ledger
        for record in self.state.budgets.records.values():
            spent = ledger.settled(record.name, record.period_start)
            held = ledger.held(record.name, record.period_start)
            if record.hard:
                assert spent + held <= record.spec.limit.nanos, f"B1: {record.name}: {spent} + {held}"
        for attempt in self.state.attempts.values():
            assert ledger.overrun(attempt.id) == 0, f"B2: {attempt.id} passed its hold"
            for hold in ledger.open_holds(attempt.id):
                now = self.state.budgets.records.get(hold.budget)
                if now is not None and hold.nanos and (attempt.id, hold.budget) not in self.lost_budgets:
                    assert hold.period_start == now.period_start, f"B1: {hold} is out of its period"

    @invariant()
    def b3_only_live_attempts_hold_money(self) -> None:
        for job in self.state.jobs.values():
            for attempt in job.attempts:
                assert self.state.ledger.is_live(attempt.id) == (attempt.state != "ENDED")

    @invariant()
    def attempts_and_jobs_end_once(self) -> None:
        assert not [a for a, times in self.attempts_ended.items() if times > 1], "J5"
        assert not [j for j, times in self.writer.ended.items() if times > 1], "a job ended twice"

    @invariant()
    def j4_one_attempt_of_a_job_at_a_time(self) -> None:
        live = Counter(attempt.job_id for attempt in self.state.attempts.values())
        assert not [job for job, count in live.items() if count > 1], "J4"
        running = defaultdict(set)
        for machine in self.machines.values():
            for run in machine.runs.values():
                if not run.ended_us:
                    running[run.job_id].add(run.attempt_id)
        assert not [job for job, found in running.items() if len(found) > 1], "J4 on the nodes"

    @invariant()
    def r1_free_is_what_nobody_holds(self) -> None:
        held: dict[str, Counter[object]] = defaultdict(Counter)
        for attempt in self.state.attempts.values():
            for member in attempt.live():
                alloc = member.alloc
                held[alloc.node_id]["cpu"] += alloc.cpu_milli
                held[alloc.node_id]["memory"] += alloc.memory_bytes
                for share in alloc.devices:
                    held[alloc.node_id][share.index] += share.milli
        cluster = self.state.cluster
        for node in self.state.nodes.values():
            used = held[node.id]
            assert cluster.cpu_free[node.row] == node.facts.cpu_milli - used["cpu"] >= 0, "R1"
            assert cluster.memory_free[node.row] == node.facts.memory_bytes - used["memory"] >= 0, "R1"
            for device in node.facts.devices:
                assert cluster.gpu_free[node.row, device.index] == 1000 - used[device.index] >= 0, "R1"

    @invariant()
    def counts_and_slots_are_true(self) -> None:
        state = self.state
        single = [job for job in state.jobs.values() if job.array is None and not job.parent_id]
        tasks_by_array = {
            job.id: [task for i in job.spec.array.indices if (task := state.job(f"{job.id}.{i}")) is not None]
            for job in state.jobs.values()
            if job.array is not None and job.spec.array is not None
        }
        for job_id, tasks in tasks_by_array.items():
            array = state.jobs[job_id].array
            assert array is not None
            live = Counter(task.state for task in tasks if not task.state.terminal)
            assert {k: v for k, v in array.counts.items() if v and not JobState(k).terminal} == dict(live)
            assert array.queued == sum(t.has_slot and t.state is JobState.PENDING for t in tasks)
            used = sum(t.has_slot and not t.state.terminal for t in tasks)
            assert array.open_slots + used == array.max_parallel or not array.max_parallel, "slots"
        (jobs_tie,) = [one for one in check_state(state) if one.check == "jobs"]
        assert jobs_tie.ok, jobs_tie.message
        every = [*single, *(task for tasks in tasks_by_array.values() for task in tasks)]
        counts = Counter(job.state for job in every if not job.state.terminal)
        assert {k: v for k, v in self.state.counts.items() if v} == dict(counts)
        for job in self.state.jobs.values():
            if job.array is not None and job.array.max_parallel:
                tasks = [t for t in self.state.jobs.values() if t.parent_id == job.id]
                out = [t for t in tasks if t.id in self.state.pending or t.attempt is not None]
                assert len(out) <= job.array.max_parallel, "more tasks than parallel slots"

    @invariant()
    def usage_is_what_was_held(self) -> None:
        books = self.writer.with_open(self.state)
        billed, cost = books.billed, books.cost
        for job in self.state.jobs.values():
            if job.array is None:
                assert job.settled_nanos == cost[job.id] == self.state.ledger.job_settled(job.id)
            for attempt in job.attempts:
                for member in attempt.members:
                    key = (attempt.id, member.alloc.rank)
                    assert billed[key] == member.charged_us, f"L5: {key}"
        for machine in self.machines.values():
            for run in machine.runs.values():
                held = (run.ended_us or self.boot_us(machine)) - run.started_us
                assert billed[run.attempt_id, run.rank] <= held, "L5: billed more than was held"

    def owed(self, node_id: str, start: int, end: int) -> int | None:
        """What a node costs in a time: what it cost in each part of it when that part was (L11).

        None when one of the prices is unknown: then it cost what was paid.
        """
        prices = self.prices[node_id]
        total = 0
        for position, (since, rates) in enumerate(prices):
            a = max(start, since) if position else start
            b = min([end, *(later for later, _ in prices[position + 1 :])])
            first = a - a % HOUR_US
            if a < b and rates is None:
                return None
            if a < b and rates is not None:
                for rate in (rates.gpu, rates.cpu, rates.memory):
                    total += rate * (b - first) // HOUR_US - rate * (a - first) // HOUR_US
        return total

    @invariant()
    def every_hour_costs_its_rate(self) -> None:
        sums = self.writer.with_open(self.state).hours
        for machine in self.machines.values():
            node = self.record(machine)
            first = -(-node.axis_start // HOUR_US) * HOUR_US
            last = node.through - node.through % HOUR_US
            if not machine.late:
                for hour in range(first, last, HOUR_US):
                    got, owed = sums[node.id][hour], self.owed(node.id, hour, hour + HOUR_US)
                    assert owed in (got, None), f"L8: {machine.name} {hour}: {got} of {owed}"

    @invariant()
    def balances_are_sums_of_entries(self) -> None:
        """L3: what is posted and what is open make every balance, to the nano."""
        sums = Counter(self.store.balances())
        for hour in self.state.open_hours():
            assert sum(hour.entries.values()) == 0, "L1"
            sums.update(hour.entries)
        for account, nanos in self.state.ledger.balances.items():
            assert sums[account] == nanos, f"L3: {account}: {sums[account]} of {nanos}"

    def teardown(self) -> None:
        if not hasattr(self, "engine") or not hasattr(self, "machines"):
            return
        for machine in self.machines.values():
            if not machine.connected:
                machine.connected = True
                self.hello(machine)
        self.clock.advance(90 * SECOND_US)
        self.enforce()
        for machine in self.machines.values():
            self.report_starts(machine)
            self.report_exits(machine)
        # Twice: what was reported late is made up for in the interval after.
        for _ in range(2):
            self.clock.advance(3 * HOUR_US)
            self.enforce()
            for machine in self.machines.values():
                self.report_exits(machine)
                self.send_usage(machine)
        self.nodes_cost_what_they_cost()
        self.a_second_book_says_the_same()
        self.compare(self.state, restore(self.store, LIMITS))
        assert self.store.verify() == []

    def nodes_cost_what_they_cost(self) -> None:
        """Σ shares + idle + down + overhead + variance = the node's cost, over its whole life."""
        sums = Counter[str]()
        for row in self.store.charges(unposted=unposted(self.state)):
            sums[row.node_id] += row.nanos
        totals = self.store.charge_sums([], None, unposted(self.state))
        assert [total.nanos for total in totals] == [sums.total()], "cost and the rows disagree"
        for machine in self.machines.values():
            node = self.record(machine)
            owed = self.owed(node.id, node.axis_start, node.through)
            assert owed in (sums[node.id], None), f"L8: {machine.name} cost {owed}, charged {sums[node.id]}"

    def a_second_book_says_the_same(self) -> None:
        """Rows, budgets, arrays and jobs against what the payloads of the log add up to."""
        book, state = SecondBook(self.store.events(limit=1 << 30)), self.state
        shown = {
            one.keys: (one.nanos, one.gpu, one.cpu, one.memory, one.held_us)
            for one in self.store.charge_sums(DIMS, None, unposted(state))
        }
        assert shown == book.sums(), "second book: cost"
        held = book.held()
        for budget, period in {*book.settled, *held}:
            found = (state.ledger.settled(budget, period), state.ledger.held(budget, period))
            owed = (book.settled[budget, period], held[budget, period])
            assert found == owed, f"B4: {budget} in {period}: settled and held {found}, by the log {owed}"
        for array_id, money in state.array_money.items():
            assert money.settled_nanos == book.of_array[array_id], f"second book: {array_id}"
        with self.store.picture() as picture:
            for row in picture.jobs():
                of = book.of_job if row.parent_id else book.of_array
                assert row.settled_nanos == of[row.id], f"second book: {row.id}"

    def compare(self, live: State, again: State) -> None:
        """L10: the log, or an image of it, gives the same state, ledger and plan."""
        now = self.engine.now()
        for state in (live, again):
            # A job whose time had come stays in the queue when the wall clock is set back.
            state.wake(max(now, self.latest))
        assert again.ledger.image() == live.ledger.image(), "L10: the ledger"
        # Read back: msgspec leaves out a default by identity, so equal states may differ in spelling.
        images = [
            msgspec.json.decode(state_image.encode(state, now), type=state_image.StateImage)
            for state in (live, again)
        ]
        assert images[0] == images[1], "L10: the state"
        assert again.strategy == live.strategy, "L10: the strategy"
        waiting = [{q: s.pending.key_of(q) for q in s.jobs if q in s.pending} for s in (live, again)]
        assert waiting[0] == waiting[1], "L10: the queue"
        ready = [job.state for job in again.jobs.values() if job.state is JobState.PENDING]
        assert len(ready) >= len(waiting[1])
        assert plan(again.snapshot(), now).starts == plan(live.snapshot(), now).starts, "L10: the plan"


# ------------------------------------------------------------------ long walks

STEPS: dict[str, tuple[int, dict[str, list[Any]]]] = {
    "submit": (
        14,
        {
            "user": list(USERS),
            "project": list(PROJECTS),
            "labels": [(), (("team", "x"),)],
            "gpus": [0, 0, 300, 500, 1000, 2000],
            "gang": [1, 1, 1, 2],
            "limit_us": [0, 90 * SECOND_US, HOUR_US + 1, 30 * HOUR_US],
            "max_cost": [0, 0, 0, 200_000_003],
            "retry": [RetrySpec(), RetrySpec(on=("failed", "time_limit"), max=2)],
            "array": [None, None, None, ArraySpec((0, 1, 2, 3), 2), ArraySpec((1, 5), 1)],
            "after": [None, None, (0, "finished"), (5, "succeeded"), (2, "failed")],
            "held": [False, False, False, True],
            "begin_in_us": [0, 0, 0, 2 * HOUR_US],
            "then_plan": [True, True, False],
        },
    ),
    "advance": (
        16,
        {
            "us": [1, 999_983, 37 * SECOND_US, 601 * SECOND_US + 123_457, HOUR_US - 1, HOUR_US, 25 * HOUR_US],
            "report": [True, False],
            "then_plan": [True, False],
        },
    ),
    "wall_clock_jumps": (1, {"us": [-40 * SECOND_US, SECOND_US, 3 * HOUR_US]}),
    "cycle": (4, {}),
    "cancel": (3, {"pick": list(range(12)), "grace_us": [None, 0, SECOND_US]}),
    "act": (6, {"pick": list(range(12)), "verb": [jobs.hold, jobs.release, jobs.requeue, jobs.requeue]}),
    "update": (1, {"pick": list(range(12)), "changes": [{"project": "ops"}, {"time_limit_us": HOUR_US}]}),
    "apply_budget": (
        3,
        {
            "name": list(BUDGETS),
            "scope": list(SCOPES),
            "cents": [400, 1_500, 9_000],
            "period": ["day", "day", "week", "month", "one-time"],
            "zone": ["UTC", "Europe/Berlin", "Asia/Kathmandu"],
            "enforcement": ["hard", "hard", "soft"],
        },
    ),
    "change_limit": (
        5,
        {"name": list(BUDGETS), "cents": [400, 1_500, 9_000], "wait_us": [0, 11 * HOUR_US]},
    ),
    "remove_budget": (1, {"name": list(BUDGETS)}),
    "change_price": (1, {"capex": [100_003, 250_001, 60_000, None]}),
    "change_strategy": (1, {"strategy": ["pack", "spread", "spread", None], "name": ["x", "y"]}),
    "schedule_node": (2, {"name": list(NODES), "mode": ["open", "open", "cordon", "drain"]}),
    "restart_from_a_snapshot": (3, {}),
    "meter_out_of_order": (1, {"name": list(NODES)}),
    "repeat_a_report": (1, {"name": list(NODES)}),
    "member_exits": (
        10,
        {
            "pick": list(range(9)),
            "cause": [EndCause.COMPLETED, EndCause.COMPLETED, EndCause.FAILED],
            "tell": [True, False],
        },
    ),
    "contact_is_lost_or_found": (3, {"name": list(NODES)}),
    "reboot": (2, {"name": list(NODES), "tell": [True, False]}),
    "confirm_dead": (1, {"name": list(NODES)}),
}
"""Weights and choices: hypothesis finds the shortest story, these walk far enough to meet a long one."""


def walk(seed: int, steps: int) -> ClusterMachine:
    """One random history. A failure is told again by its seed."""
    random = Random(seed)
    machine = ClusterMachine()
    machine.start(capex=100_003)
    names, weights = list(STEPS), [weight for weight, _ in STEPS.values()]
    checks = [getattr(machine, name) for name in CHECKS]
    # Prices that change and reports out of order excuse the checks of hours: not in every history.
    left_out = {name for name in ("change_price", "meter_out_of_order") if random.random() < 0.6}
    for _ in range(steps):
        name = random.choices(names, weights)[0]
        if name not in left_out:
            choices = {key: random.choice(values) for key, values in STEPS[name][1].items()}
            getattr(machine, name)(**choices)
            for check in checks:
                check()
    machine.teardown()
    return machine


def walks(count: int) -> None:
    """The first so many histories."""
    for seed in range(count):
        walk(seed, 120)


CHECKS = (
    "books_are_sound",
    "b1_no_hard_budget_is_passed",
    "b3_only_live_attempts_hold_money",
    "attempts_and_jobs_end_once",
    "j4_one_attempt_of_a_job_at_a_time",
    "r1_free_is_what_nobody_holds",
    "counts_and_slots_are_true",
    "usage_is_what_was_held",
    "every_hour_costs_its_rate",
)


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_long_histories_keep_every_promise(seed: int) -> None:
    for one in range(seed, seed + 10):
        try:
            walk(one, 120)
        except BaseException as fault:
            fault.add_note(f"walk({one}, 120)")
            raise


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


# ------------------------------------------------------------------ the machine can fail


def put_moves_the_period(self: BudgetTable, name: str, spec: BudgetSpec, version: int, now: int) -> None:
    start, end = period_bounds(spec.period, spec.timezone, Instant(now))
    self.records[name] = BudgetRecord(name, spec, version, start, end or 0, set())


def first_stop_stands(state: State, event: StopRequested, at: int, applied: Applied) -> None:
    attempt = state.attempts[event.attempt_id]
    if attempt.stop_cause is None:
        attempts_fold.stop_requested(state, event, at, applied)


def the_newest_price(prices: Sequence[PriceInForce], from_at: int, to_at: int) -> list[Span]:
    return spans(prices[-1:], from_at, to_at)


def no_step_of(left_out: str) -> Callable[..., Iterator[Charge]]:
    step = ledger_ownership._step
    return lambda kind, *rest: iter(()) if kind == left_out else step(kind, *rest)


def of_nobody(state: State, seq: int, hour: HourCharge, node: NodeRecord, *posted_at: int) -> ChargeRow:
    return charge_row(state, seq, hour, node, *posted_at)._replace(project="")


FAULTS = [
    pytest.param(BudgetTable, "put", put_moves_the_period, "B1", id="a document leaves holds behind"),
    pytest.param(engine, "charge_row", of_nobody, "second book", id="a row forgets whose it is"),
    pytest.param(core, "_APPLY", {**core._APPLY, StopRequested: first_stop_stands}, "lost", id="no cancel"),
    pytest.param(ownership, "_ended", lambda node, to_at: [], "L8", id="what ended is idle as well"),
    pytest.param(records, "spans", the_newest_price, "L8", id="the past is valued by the price of now"),
    pytest.param(ledger_ownership, "_step", no_step_of("variance"), "L8", id="a frozen price leaves a gap"),
    pytest.param(ledger_ownership, "_step", no_step_of("absorption"), "L8", id="jobs pay what nodes cost"),
    pytest.param(nodes_fold, "_unmetered", lambda node: [], "L8", id="a cut forgets what ended"),
    pytest.param(state_image, "strategy_in_force", lambda state: "pack", "L10", id="no strategy"),
    pytest.param(policies, "_last_priced_version", lambda *_: 0, "instead of", id="a price id comes back"),
]


@pytest.mark.parametrize(("where", "name", "fault", "complaint"), FAULTS)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, fault: object, complaint: str
) -> None:
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError, match=complaint):
        walks(300)
