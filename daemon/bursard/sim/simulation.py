"""One simulation: what happens, in order of time, decided and remembered by the daemon's own code.

Owns    the event heap, the virtual clock and how long a job runs once it was placed. Everything else is
        `bursard.state`, its decisions, `plan` and the ledger, called as the daemon calls them.
Why     agents report when something depends on it, not every minute: a bill is the difference of two
        counters, so it is the same to the nano. Around the end of a period or a price they report as the
        daemon hears them, one interval before and one after: what is held of the minute between is moved
        and settled late, as it will be.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial

import msgspec

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import BursarError
from bursar.ids import SequentialIds
from bursar.model import CheckpointSpec, Device, EndCause, JobSpec, JobState, NodeFacts, ReasonCode
from bursar.resources import MICRO, sizes_of
from bursar_policies import allocators
from bursar_policies.decision import JobClass, NodeColumns, QueueKey, Stop
from bursar_policies.idleness import NOTIFY, Sight, Spell, look
from bursar_policies.specs import Document, ReservationSpec
from bursard.events import (
    AttemptPlaced,
    Charge,
    ClusterCreated,
    DeadlinePromised,
    Event,
    ExitReport,
    JobSubmitted,
    LimitChanged,
    NodePriced,
    NodeRemoved,
    PolicyApplied,
    StopRequested,
)
from bursard.housekeeping import Housekeeping
from bursard.place import LastPlan, one_pass
from bursard.scheduler import PlanCache
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.sim.checks import Checks
from bursard.sim.offers import OfferRow
from bursard.sim.prices import RowPrices
from bursard.sim.rented import NOTICE_US, Made, Rented
from bursard.sim.rows import JobRow, NodeRow
from bursard.sim.runs import IdleCourse, JobRun, Running, Totals
from bursard.state import Applied, AttemptRecord, JobRecord, MachineState, NodeRecord, State
from bursard.state.decide import attempts, conduct, idle, jobs, limits, machines, nodes, policies
from bursard.state.idling import rules_of

START_AT = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z: second 0 of every simulation; budget periods are cut from here."""
BOOT_US = 1_000_000_000
"""Boot clock of every node at second 0."""
NO_LIMIT_US = 100 * 365 * DAY_US
"""Time limit of a job that never ends."""

# What happens at one instant happens in this order.
_KINDS = range(17)
(
    _END, _LEAVE, _TAKE, _REPORT, _ROLL, _PRICE, _JOIN, _ARRIVE, _RESERVE, _OPEN, _SUBMIT, _RETRY, _OVERDUE,
    _LEASE, _IDLE, _ROUND, _LOOK,
) = _KINDS  # fmt: skip
_MONEY = (ReasonCode.BUDGET_EXHAUSTED, ReasonCode.BUDGET_COMMITTED)


class Simulation:
    """Build it, `run()` it, read `runs`, `totals`, `checks` and `state`."""

    def __init__(
        self,
        job_rows: Sequence[JobRow],
        node_rows: Sequence[NodeRow],
        documents: Sequence[Document] = (),
        *,
        currency: str = "USD",
        until_us: int | None = None,
        drop_unplaced: bool = False,
        offer_rows: Sequence[OfferRow] = (),
    ) -> None:
        self.state = State()
        self.runs = [JobRun(row) for row in job_rows]
        self.totals = Totals()
        self.checks = Checks(self.state)
        self.cycle_ns: list[int] = []
        self.end_us = 0
        self._until_us = until_us
        self._drop = drop_unplaced
        self._ids = SequentialIds()
        self._cache = PlanCache()
        self._now_us = 0
        self._heap: list[tuple[int, int, int, object]] = []
        self._pushed = 0
        self._waiting = [0] * len(_KINDS)
        self._by_id: dict[str, JobRun] = {}
        self._live: dict[str, Running] = {}
        self._ends: set[str] = set()
        """Attempts of which it is known when they end; those that are gone leave their instants behind."""
        self._capacity = self._allocated = 0
        self._blocked: Mapping[QueueKey, str] = {}
        """What stopped the queues that the newest plan could not start as a whole."""
        self._for_money = False
        self._rolled: set[str] = set()
        self._late_reports = 0
        self._repriced: set[str] = set()
        self._node_rows = node_rows
        self._rented: Rented | None = None
        self._look_at: int | None = None
        self._last: LastPlan | None = None
        self._commit([ClusterCreated("sim", currency)])
        reserved = [one for one in documents if isinstance(one.spec, ReservationSpec)]
        others = [one for one in documents if not isinstance(one.spec, ReservationSpec)]
        self._commit(policies.apply_documents(self.state, others, START_AT))
        self._prices = RowPrices(node_rows, self.state)
        self._rented = self._renting(offer_rows) if offer_rows else None
        self._housekeeping = Housekeeping(self.state, lambda: self._prices, self._carry_out, allocators.find)
        self._schedule(node_rows)
        if reserved:  # of nodes that are there when the first job comes
            self._push(0, _RESERVE, reserved)

    def _schedule(self, node_rows: Sequence[NodeRow]) -> None:
        for row in node_rows:
            self._push(row.from_us, _JOIN, row)
        for run in self.runs:
            self._push(run.row.submit_us, _SUBMIT, run)
        for at in sorted({one.effective_from for one in self.state.priced if one.effective_from > START_AT}):
            self._push_boundary(at - START_AT, _PRICE, None)
        for record in self.state.budgets.records.values():
            if record.period_end:
                self._push_boundary(record.period_end - START_AT, _ROLL, record.name)

    def _push_boundary(self, at_us: int, kind: int, what: object) -> None:
        """Something after which time is paid for otherwise, with the reports around it."""
        interval_us = self.state.limits.meter_interval_us
        self._push(max(at_us - interval_us, self._now_us), _REPORT, False)
        self._push(at_us, kind, what)
        self._push(at_us + interval_us, _REPORT, True)

    def _push(self, at_us: int, kind: int, what: object) -> None:
        self._pushed += 1
        self._waiting[kind] += 1
        heapq.heappush(self._heap, (at_us, kind, self._pushed, what))

    # --- time

    def run(self) -> None:
        """Let everything happen, then settle what still runs."""
        heap = self._heap
        while heap and self._goes_on():
            at_us = heap[0][0]
            if self._until_us is not None and at_us > self._until_us:
                break
            self._advance(at_us)
            must_plan = False
            while heap and heap[0][0] == at_us:
                _, kind, _, what = heapq.heappop(heap)
                self._waiting[kind] -= 1
                must_plan |= self._happen(kind, what)
            if must_plan:
                self._plan()
            if self._rented is not None and self._look(self._rented):
                self._plan()  # what a look stopped waits, and what it gave back is held no more
        if self._until_us is not None and (self._by_id or self._waiting[_SUBMIT]):
            self._advance(self._until_us)
        self._finish()

    def _goes_on(self) -> bool:
        """Is anything left that could change what becomes of a job?"""
        waiting = self._waiting
        if (
            waiting[_SUBMIT]
            or not self._ends.isdisjoint(self._live)
            or waiting[_RETRY]
            or (self._by_id and self._until_us is not None)
        ):
            return True
        if waiting[_ROUND] and self._housekeeping.allocator_wrong:
            return True  # until it answers, or is set aside
        others = (_IDLE, _LEAVE, _JOIN, _PRICE, _OVERDUE, _RESERVE, _OPEN, _ARRIVE)
        if self._by_id and any(waiting[kind] for kind in others):
            return True
        if self._rented is not None and self._look_at is not None and self._awaits(self._rented):
            return True
        # Periods renew for ever: worth waiting for until each has, and no job could start.
        return self._for_money and (len(self._rolled) < waiting[_ROLL] or self._late_reports > 0)

    def _advance(self, to_us: int) -> None:
        passed = to_us - self._now_us
        self.totals.capacity_milli_us += self._capacity * passed
        self.totals.allocated_milli_us += self._allocated * passed
        self._now_us = to_us

    @property
    def _now(self) -> int:
        return START_AT + self._now_us

    @property
    def _boot_us(self) -> int:
        return BOOT_US + self._now_us

    def _happen(self, kind: int, what: object) -> bool:
        """One thing. True when a plan should follow."""
        if kind == _SUBMIT:
            assert isinstance(what, JobRun)
            return self._submit(what)
        if kind == _END:
            assert isinstance(what, str)
            return self._end(what)
        if kind == _LOOK:
            return False
        if kind == _LEASE:
            assert isinstance(what, str)
            self._lease(what)
        elif kind == _IDLE:
            assert isinstance(what, IdleCourse)
            return self._idle(what)
        elif kind == _ARRIVE:
            assert isinstance(what, str)
            self._arrive(what)
        elif kind == _TAKE:
            assert isinstance(what, Made)
            self._take_back(what)
        elif kind == _JOIN:
            assert isinstance(what, NodeRow)
            self._join(what)
        elif kind == _RESERVE:
            assert isinstance(what, list)
            self._reserve(what)
        elif kind == _LEAVE:
            assert isinstance(what, NodeRecord)
            self._leave(what)
        elif kind == _ROLL:
            assert isinstance(what, str)
            self._roll(what)
        elif kind == _OVERDUE:
            assert isinstance(what, str)
            return what in self.state.pending
        elif kind == _REPORT:
            assert isinstance(what, bool)
            self._meter_all()
            # What a period still held of its last minute is given back only now.
            self._late_reports = 0 if what else self._late_reports
            return what
        else:
            self._keep_house()
        return True

    def _commit(self, events: Sequence[Event]) -> None:
        """As the engine does, but for the disk."""
        state, queue = self.state, deque(events)
        applied = Applied()
        gone: list[str] = []
        while queue or state.doomed:
            if not queue:
                queue.extend(jobs.doomed(state, 1))
            event = queue.popleft()
            if isinstance(event, NodePriced) and state.nodes[event.node_id].axis_start:
                self._repriced.add(event.node_id)
            if isinstance(event, NodeRemoved):
                self._settled(state.nodes[event.node_id])
            state.apply(event, self._now, applied)
            if isinstance(event, PolicyApplied):
                self._prices = RowPrices(self._node_rows, state)
            if isinstance(event, DeadlinePromised):
                self._push(max(event.start - START_AT, self._now_us), _OPEN, None)
            if isinstance(event, LimitChanged):
                queue.extend(self._taken(event))
            self.checks.after(event, applied.charges)
            for item in applied.charges:
                if self._rented is not None:
                    self._note_market(item)
                if item.kind == "usage":
                    self.totals.used_nanos += item.nanos
                elif item.kind == "startup":
                    self.totals.startup_nanos += item.nanos
                elif item.kind in ("variance", "absorption"):
                    self.totals.absorbed_nanos -= item.nanos
                else:
                    self.totals.idle_nanos += item.nanos
            applied.charges.clear()
            applied.closed.clear()
            applied.transactions.clear()
            for job in applied.finished:
                self._ended(job)
                self.checks.ended(job.id, self._now)
                gone.append(job.id)
            applied.finished.clear()
        for job_id in gone:
            state.evict(job_id)

    def _reserve(self, documents: list[Document]) -> None:
        """Of what time brings to them, only their ends let anything start."""
        self._commit(policies.apply_documents(self.state, documents, self._now))
        for spec in self.state.reservations.specs.values():
            self._push(spec.ends_at - START_AT, _OPEN, None)

    # --- jobs

    def _submit(self, run: JobRun) -> bool:
        try:
            spec = self._spec(run.row)
            events = jobs.submit(self.state, self._ids, user=run.row.user, spec=spec)
            assert isinstance(events[0], JobSubmitted)
            events += self._housekeeping.promising.for_new(run.row.user, spec, events[0].job_id, self._now)
        except BursarError:
            run.state, run.end_us = "REFUSED", self._now_us
            return False
        assert isinstance(events[0], JobSubmitted)
        job_id = events[0].job_id
        self._by_id[job_id] = run
        self._commit(events)
        rules = self.state.priority
        if rules is not None and rules.kept_ppm:
            # From then on it need not leave the room that is kept: it may start though nothing else happens.
            self._push(self._now_us + rules.max_wait_us, _OVERDUE, job_id)
        if self._drop:
            self._plan()
            if job_id in self.state.pending or job_id in self.state.pending.aside:
                self._commit(jobs.cancel(self.state, self.state.jobs[job_id], None, "could not start"))
                run.state = "DROPPED"
            return False
        # What asks for the same as a job that lacked room since anything changed lacks it too. Money and a
        # claim may stop the one and let the other pass, that ends sooner or comes first by its rank.
        key = self.state.pending.key_of(job_id)
        blocked = key is not None and self._blocked.get(key) in ("room", "fault")
        # One more may be what another machine is rented for.
        return not blocked or self._rented is not None

    def _spec(self, row: JobRow) -> JobSpec:
        return JobSpec(
            project=row.project,
            experiment=row.experiment,
            priority=row.priority,
            preemptible=row.preemptible,
            nodes=row.nodes,
            max_nodes=row.max_nodes,
            throughput=tuple(
                sorted((kind, n, max(round(speed * MICRO), 1)) for (kind, n), speed in row.throughput.items())
            ),
            options=sizes_of(row.request, row.least_gpus) if row.least_gpus else (row.request,),
            ordered=bool(row.least_gpus),
            time_limit_us=row.time_limit_us or limit_for(row, self.state.limits.default_time_limit_us),
            deadline_at=START_AT + row.deadline_us if row.deadline_us is not None else 0,
            deadline_policy=row.deadline_policy if row.deadline_us is not None else "promise",
            checkpoint=CheckpointSpec(signal="USR1") if row.saves else CheckpointSpec(),
            max_cost_nanos=row.max_cost_nanos,
            currency=self.state.currency if row.max_cost_nanos else "",
        )

    def _started(self, attempt: AttemptRecord) -> None:
        """Its processes exist at once; when they end is known now."""
        run = self._by_id[attempt.job_id]
        gpus = sum(len(member.alloc.devices) for member in attempt.members)
        kinds = set()
        for member in attempt.members:
            node = self.state.nodes[member.alloc.node_id]
            rank = member.alloc.rank
            self._commit(attempts.started(self.state, node, attempt.id, rank, self._boot_us, 1))
            kind = node.facts.devices[0].type if member.alloc.devices else ""
            kinds.add(kind)
            self._allocated += sum(share.milli for share in member.alloc.devices)
        self._note_peak()
        run.attempts += 1
        run.nodes = tuple(self.state.nodes[m.alloc.node_id].facts.name for m in attempt.members)
        if run.start_us < 0:
            run.start_us = self._now_us
        restart_us = run.row.restart_us if run.attempts > 1 else run.row.first_us
        slowest = min(sorted(kinds), key=lambda kind: run.row.speed_on(kind, gpus))
        pace = run.row.pace_on(slowest, gpus)
        running = self._live[attempt.id] = Running(run, self._now_us, pace, restart_us)
        self._expect_idleness(attempt, run)
        held_us = attempt.time_limit_us
        if run.row.duration_us is not None:
            held_us = min(held_us, running.needs_us(run.row.duration_us))
        elif attempt.time_limit_us == NO_LIMIT_US:
            return
        self._push(self._now_us + held_us, _END, attempt.id)
        self._ends.add(attempt.id)
        if attempt.time_limit_us < attempt.full_limit_us:
            self._push(
                self._now_us + max(attempt.time_limit_us - attempt.lease_us // 2, 0), _LEASE, attempt.id
            )

    def _expect_idleness(self, attempt: AttemptRecord, run: JobRun) -> None:
        """Of its first attempt, from when on it does nothing: when an idle policy would tell it."""
        idle_after_us = run.row.idle_after_us
        if idle_after_us is None or run.attempts > 1:
            return
        job = self.state.jobs[attempt.job_id]
        gpus = any(member.alloc.devices for member in attempt.members)
        for rule in rules_of(self.state, job.user, job.spec, gpus):
            course = IdleCourse(attempt.id, rule, Spell())
            self._push(self._now_us + idle_after_us + rule.warn_after_us, _IDLE, course)

    def _idle(self, course: IdleCourse) -> bool:
        """So long as a rule waits, its attempt did nothing: it is judged as the daemon's watch does."""
        attempt, rule = self.state.attempts.get(course.attempt_id), course.rule
        if attempt is None or course.attempt_id not in self._live:
            return False
        passed_us = rule.warn_after_us if not course.spell.idle_us else rule.window_us - rule.warn_after_us
        sight = Sight(0.0, "cpu" if rule.ground == "cpu" else "sm")
        spell, said = look(rule, course.spell, sight, passed_us)
        if said == "warn":
            self.totals.idle_told += 1
            self._commit([idle.warned(attempt, rule, spell, sight)])
            if rule.action != NOTIFY:
                self._push(
                    self._now_us + rule.window_us - rule.warn_after_us,
                    _IDLE,
                    IdleCourse(attempt.id, rule, spell),
                )
        elif said == "act":
            self.totals.idle_acted += 1
            self._keep_work(attempt, asked=True, stopped=False)
            return self._carry_out("idle", idle.acted(self.state, attempt, rule, spell, sight))
        return False

    def _taken(self, order: LimitChanged) -> list[Event]:
        """Its members live by another limit at once."""
        attempt = self.state.attempts[order.attempt_id]
        running = self._live[attempt.id]
        ran_us = self._now_us - running.since_us
        return [
            event
            for member in attempt.unlimited()
            for event in limits.taken(attempt, member.alloc.rank, order.order, ran_us)
        ]

    def _lease(self, attempt_id: str) -> None:
        """An attempt has used up half of its lease: it may have another one, or be looked at again soon."""
        attempt = self.state.attempts.get(attempt_id)
        if attempt is None or attempt.time_limit_us >= attempt.full_limit_us:
            return
        before_us = attempt.time_limit_us
        self._keep_house()
        wait_us = attempt.lease_us // 2 if attempt.time_limit_us > before_us else attempt.lease_us // 8
        self._push(self._now_us + wait_us, _LEASE, attempt_id)

    def _end(self, attempt_id: str) -> bool:
        """An attempt has run its time, unless something ended it before."""
        running = self._live.get(attempt_id)
        if running is None:
            return False
        run, held_us = running.run, self._now_us - running.since_us
        duration_us = run.row.duration_us
        done = duration_us is not None and held_us >= running.needs_us(duration_us)
        if not done and (left_us := self.state.attempts[attempt_id].time_limit_us - held_us) > 0:
            # It has had another lease since.
            if duration_us is not None:
                left_us = min(left_us, running.needs_us(duration_us) - held_us)
            self._push(self._now_us + left_us, _END, attempt_id)
            return False
        cause = EndCause.COMPLETED if done else EndCause.TIME_LIMIT
        self._exit(attempt_id, cause, 0 if done else -1)
        return True

    def _exit(self, attempt_id: str, cause: EndCause, exit_code: int) -> None:
        """Every member that lives is gone now."""
        running = self._live.pop(attempt_id)
        self._ends.discard(attempt_id)
        self._count_idleness(self.state.attempts[attempt_id], running)
        report = ExitReport(cause=cause, exit_code=exit_code, held_us=self._now_us - running.since_us)
        for member in self.state.attempts[attempt_id].live():
            node = self.state.nodes[member.alloc.node_id]
            self._allocated -= sum(share.milli for share in member.alloc.devices)
            self._commit(attempts.exited(self.state, node, attempt_id, member.alloc.rank, report, 0))

    def _count_idleness(self, attempt: AttemptRecord, running: Running) -> None:
        run, idle_after_us = running.run, running.run.row.idle_after_us
        if idle_after_us is not None and run.attempts == 1:
            idle_us = max(self._now_us - running.since_us - idle_after_us, 0)
            run.held_idle_nanos += attempt.rate * idle_us // HOUR_US

    def _ended(self, job: JobRecord) -> None:
        run = self._by_id.pop(job.id)
        run.state, run.end_us = job.state.value, self._now_us
        run.cost_nanos, run.priced = job.settled_nanos, not job.unpriced

    # --- nodes, prices, periods

    def _join(self, row: NodeRow) -> None:
        devices = tuple(
            Device(index, f"{row.node_id}-{index}", row.gpu_type, row.gpu_memory_bytes, simulated=True)
            for index in range(row.gpus)
        )
        facts = NodeFacts(
            name=row.node_id,
            cpu_milli=row.cpu_milli,
            memory_bytes=row.memory_bytes,
            devices=devices,
            pool=row.pool,
            rack=row.rack,
        )
        self._hello(facts)
        if row.until_us is not None:
            node = self.state.node_by_name(row.node_id)
            self._push(row.until_us, _LEAVE, node)

    def _hello(self, facts: NodeFacts) -> None:
        self._commit(
            nodes.hello(
                self.state,
                self._ids,
                self._prices,
                facts=facts,
                boot_id="boot",
                boot_us=self._boot_us,
                now=self._now,
            )
        )
        self._capacity += 1000 * len(facts.devices)
        self._note_peak()

    def _leave(self, node: NodeRecord) -> None:
        """A node is gone for good, and with it what ran there: those jobs wait again."""
        self._meter(node)
        struck = [self.state.attempts[attempt_id] for attempt_id in node.live]
        self._note_node(node)
        self._commit(nodes.silent(self.state, node))
        for attempt in struck:
            self._lose(attempt)
            self._allocated -= sum(
                share.milli
                for member in attempt.live()
                if member.alloc.node_id == node.id
                for share in member.alloc.devices
            )
        self._commit(nodes.confirm_dead(self.state, node))
        for attempt in struck:
            if attempt.id in self.state.attempts:
                self._exit(attempt.id, EndCause.NODE_LOST, -1)
            self._retry(attempt.job_id)
            self._live.pop(attempt.id, None)
        self._capacity -= 1000 * len(node.facts.devices)
        self._note_peak()

    def _retry(self, job_id: str) -> None:
        """What ended through no fault of its own may wait before it comes back."""
        job = self.state.jobs.get(job_id)
        if job is not None and job.retry_at > self._now:
            self._push(job.retry_at - START_AT, _RETRY, job_id)

    def _lose(self, attempt: AttemptRecord, asked: bool = False) -> None:
        """It was stopped from outside. `asked`: to end."""
        self.totals.preemptions += 1
        self._keep_work(attempt, asked)

    def _keep_work(self, attempt: AttemptRecord, asked: bool = False, stopped: bool = True) -> None:
        """Work since the last checkpoint is lost. `asked`: to end. `stopped`: for others or with a node; what
        the lost work cost is wasted then.
        """
        run, since_us, pace, restart_us = self._live[attempt.id]
        held_us = self._now_us - since_us
        checkpoint_us, worked_us = run.row.checkpoint_us, max(held_us - restart_us, 0)
        if run.row.idle_after_us is not None and run.attempts == 1:
            worked_us = min(worked_us, run.row.idle_after_us)
        kept_us = worked_us // checkpoint_us * checkpoint_us if checkpoint_us else 0
        kept_us = worked_us if asked and run.row.saves else kept_us
        run.work_us = pace.reaches_us(run.work_us, kept_us)
        # What its other members cost is not charged yet, but known: rate times time.
        cost = attempt.rate * held_us // 3_600_000_000
        run.wasted_nanos += cost * (worked_us - kept_us) // held_us if held_us and stopped else 0

    def _meter(self, node: NodeRecord) -> None:
        """Charge everything up to now. Nodes without a price cost nothing that could be charged."""
        counters = [
            (attempt_id, rank, self._now_us - self._live[attempt_id].since_us)
            for attempt_id, rank in node.live.items()
        ]
        if not node.price_id and not counters:
            return
        self._commit(
            nodes.usage(self.state, node, boot_id=node.boot_id, at_boot_us=self._boot_us, counters=counters)
        )

    def _meter_all(self) -> None:
        for node in self.state.nodes.values():
            if node.connected:
                self._meter(node)

    def _roll(self, name: str) -> None:
        """A budget's period has ended; housekeeping rolls it before the plan that follows."""
        self._keep_house()
        record = self.state.budgets.records[name]
        self._rolled.add(name)
        self._late_reports += 1
        self._push_boundary(record.period_end - START_AT, _ROLL, name)

    def _keep_house(self) -> None:
        """All that is due: no other caller waits for a turn here."""
        while self._housekeeping.turn(self._now):
            pass

    # --- rented machines

    def _renting(self, rows: Sequence[OfferRow]) -> Rented:
        return Rented(
            self.state,
            self._ids,
            rows,
            begin=START_AT,
            now=lambda: self._now,
            prices=lambda: self._prices,
            carry_out=partial(self._carry_out, "rented"),
            last=lambda: self._last,
            cut=self._cut,
        )

    def _awaits(self, rented: Rented) -> bool:
        """May a look let a job start, or give back what nobody needs?"""
        return rented.wished or (rented.any_there and not self._live)

    def _look(self, rented: Rented) -> bool:
        """Rent and give back, and expect the next look. True when anything became of it."""
        changed = rented.look()
        for machine, made in rented.arriving():
            self._push(self._now_us + made.row.provision_us, _ARRIVE, machine.id)
            until_us = made.row.times.until(self._now_us)
            if until_us is not None:
                self._push(until_us, _TAKE, made)
        before, self._look_at = self._look_at, rented.next_at(changed)
        if self._look_at is not None and self._look_at != before:
            self._push(self._look_at - START_AT, _LOOK, None)
        return changed

    def _arrive(self, machine_id: str) -> None:
        """The agent of a machine says hello, if that is there yet and wanted."""
        machine = self.state.machines.get(machine_id)
        if machine is None or machine.facts is None or machine.state is MachineState.ENDING:
            return
        facts = msgspec.structs.replace(
            machine.facts,
            devices=tuple(
                msgspec.structs.replace(one, uuid=f"{machine.name}-{one.index}", simulated=True)
                for one in machine.facts.devices
            ),
        )
        self._commit(machines.welcome(self.state, self._prices, machine.name, self._now))
        self._hello(facts)

    def _take_back(self, made: Made) -> None:
        """A provider takes a machine back: what runs there is stopped by then, as on a notice."""
        assert self._rented is not None
        if made.gone_at:
            return
        node = self.state.node_by_name(made.order.join.name)
        if node is not None and node.connected:
            self._meter(node)
            self._carry_out("", conduct.noticed(self.state, node, "taken back", NOTICE_US, advice=False))
        self._rented.taken(made)

    def _cut(self, node_id: str) -> None:
        """The agent of a machine that is gone says no more."""
        node = self.state.nodes[node_id]
        if node.connected:
            self._note_node(node)
            self._commit(nodes.silent(self.state, node))
            self._capacity -= 1000 * len(node.facts.devices)
            self._note_peak()

    def _note_market(self, item: Charge) -> None:
        node = self.state.nodes.get(item.node_id)
        if node is None or not node.facts.instance_type:  # an owned one
            return
        if node.facts.market == "spot":
            self.totals.spot_nanos += item.nanos
        else:
            self.totals.on_demand_nanos += item.nanos

    # --- planning

    def _plan(self) -> None:
        """Start what can start, as the cycle does."""
        idle, again = 0, True
        self._keep_house()
        while again and (len(self.state.pending) or self.state.allotments.moves):
            began = time.perf_counter_ns()
            snapshot, answer, outcome = one_pass(
                self.state, self._ids, self._now, self._carry_out, self._cache
            )
            self._last = LastPlan(snapshot, answer)
            self.totals.cycles += 1
            self.totals.decisions += answer.considered
            self.cycle_ns.append(time.perf_counter_ns() - began)
            if answer.groups:
                self._rolled.clear()
            self._blocked = {
                snapshot.queues[index].key: verdict.blocked_by for index, verdict in answer.verdicts.items()
            }
            self._for_money = any(one.code in _MONEY for one in answer.verdicts.values())
            # Of a user with very many kinds of jobs each plan looks at others: no instant ends before all had
            # their turn.
            idle = 0 if answer.groups else idle + 1
            stopped = any(isinstance(action, Stop) for group in answer.groups[-1:] for action in group)
            # What is stopped for another is gone at once, and that one starts.
            again = outcome.stale or stopped or idle < self.state.pending.plans_for_all
        self._expect_round()

    def _expect_round(self) -> None:
        """An allocator is asked again while anything contends."""
        allotments, waiting = self.state.allotments, self._waiting[_ROUND]
        if allotments.absent:
            return
        if not waiting and (allotments.given or self.state.pending.aside) and allotments.next_at:
            self._push(allotments.next_at - START_AT, _ROUND, None)

    def _carry_out(self, what: str, events: Sequence[Event]) -> bool:
        self._commit(events)
        for event in events:
            if isinstance(event, AttemptPlaced):
                self._started(self.state.attempts[event.attempt_id])
            elif isinstance(event, StopRequested) and event.attempt_id in self._live:
                # What a budget stops ends at once here: what it does with its grace is not known.
                attempt = self.state.attempts[event.attempt_id]
                if event.cause is EndCause.PREEMPTED:
                    self._lose(attempt, asked=True)
                self._exit(attempt.id, event.cause, -1)
                self._retry(attempt.job_id)
        return True

    def _note_peak(self) -> None:
        totals = self.totals
        if self._allocated * totals.peak_capacity > totals.peak_allocated * max(self._capacity, 1):
            totals.peak_allocated, totals.peak_capacity = self._allocated, max(self._capacity, 1)

    # --- the end

    def _finish(self) -> None:
        self.end_us = self._now_us
        self._meter_all()
        for node in self.state.nodes.values():
            if node.connected:
                self._note_node(node)
            self._settled(node)
        self.checks.ledger()
        columns = self.state.cluster.columns()
        fits: dict[JobClass, bool] = {}
        for job_id, run in self._by_id.items():
            job = self.state.jobs[job_id]
            run.state, run.cost_nanos, run.priced = job.state.value, job.settled_nanos, not job.unpriced
            if job.state is JobState.PENDING:
                job_class = self.state.class_of(job)
                if job_class not in fits:
                    rentable = self._rented is not None and self._rented.could_hold(job_class)
                    fits[job_class] = rentable or can_ever_fit(columns, job_class)
                run.never_fits = not fits[job_class]

    def _settled(self, node: NodeRecord) -> None:
        """Nothing more is charged for a node."""
        self.checks.node_hours(node, node.id not in self._repriced)

    def _note_node(self, node: NodeRecord) -> None:
        there_us = self._now - node.axis_start
        self.totals.node_us += there_us
        if node.price_id:
            self.totals.priced_node_us += there_us


def limit_for(row: JobRow, default_us: int) -> int:
    """The time limit of a job that names none: the daemon's default, doubled until it does not cut the job.

    Few different limits keep the queue in few classes, and tell the scheduler no more than users would.
    """
    if row.duration_us is None:
        return NO_LIMIT_US
    longest_us = row.restart_us + row.duration_us / min([Fraction(1), *row.throughput.values()])
    limit_us = default_us
    while limit_us < longest_us:
        limit_us *= 2
    return limit_us


def can_ever_fit(columns: NodeColumns, job_class: JobClass) -> bool:
    """Would the gang fit if nothing else ran?"""
    return any(Candidates(ask, columns).capable_count >= job_class.nodes for ask in asks_of(job_class))
