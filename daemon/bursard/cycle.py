"""The cycle: one scheduling pass after another, each on a frozen snapshot, each verified before it is true.

Owns    when to plan and where (in the loop, or in a thread when the plan is large), and the newest plan.
Why     an event only says "look again". The cycle looks at its own pace: many events cost one pass, and a
        plan made on a moment ago is checked against now, group by group (`bursard.place`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from bursar.clock import SECOND_US, format_duration, format_instant
from bursar.errors import NotApplied
from bursar.model import JobState, Reason, ReasonCode
from bursar.model.ranges import contains
from bursar.words import plural
from bursar_policies.decision import UNCOMPUTABLE, Plan, QueueKey, Snapshot, Start
from bursard.ahead import Ahead, Hands
from bursard.engine import Engine
from bursard.events import Event
from bursard.housekeeping import Housekeeping
from bursard.machines.renting import Renting
from bursard.place import LastPlan, Outcome, carry_out
from bursard.promising import Promising
from bursard.scheduler import PlanCache, plan
from bursard.scheduler.saved import Saved
from bursard.state import JobRecord, State, idling, requeues, trouble
from bursard.state.fold.jobs import first_pending
from bursard.state.pending import Turn
from bursard.state.records import ArrayRecord

log = logging.getLogger(__name__)

MIN_DELAY_S = 0.001
"""Between two passes, so that calls get their turn of the loop."""
BUSY_DELAY_S = 0.001
BUSY_ATTEMPTS = 8
BUSY_ATTEMPTS_MAX = 16
"""With so many attempts live, a pass waits for more ends to come in, a moment for each of them: one commit
and one message to an agent then serve several jobs. A first job on an idle cluster never waits, since no
pass came before it."""
IDLE_S = 1.0
"""Without any event, time is looked at this often (`bursard.housekeeping`)."""
THREAD_WORK = 100_000
"""Nodes times queues from which a plan is made in a thread: some ten milliseconds of work. Below it the
hand-over costs more than it gives, and a first job must start within milliseconds."""

Answer = TypeVar("Answer")
Planner = Callable[[Snapshot, int, PlanCache], Plan]

CRASH_LOOP = 5
"""Ends of a replica in a row that are called so."""
LEFT_ALONE_US = 60_000_000
"""How long a change that could not be applied is not tried again."""


TOOK_US = (
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
)
"""Bounds by which passes are counted."""


class CycleStats(msgspec.Struct):
    """What planning has cost. `turns` counts looks at the queue, `cycles` those that planned, `ahead` jobs
    placed ahead of need; `took` passes by how long they took, at most each of `TOOK_US`, then longer ones.
    """

    turns: int = 0
    cycles: int = 0
    placed: int = 0
    ahead: int = 0
    dropped: int = 0
    last_us: int = 0
    longest_us: int = 0
    total_us: int = 0
    took: list[int] = msgspec.field(default_factory=lambda: [0] * (len(TOOK_US) + 1))


async def aside(
    snapshot: Snapshot,
    work: Callable[[], Answer],
    thread_work: int = THREAD_WORK,
    thread: Callable[[Callable[[], Answer]], Awaitable[Answer]] = asyncio.to_thread,
) -> Answer:
    """Work on a frozen snapshot: here when it is small, in a thread when it is large.

    The state may have changed by the time of the answer; rows are those of the snapshot.

    Args:
        thread: what does work in one; the cycle's own plans wait for nobody's.
    """
    if len(snapshot.nodes.ids) * len(snapshot.queues) < thread_work:
        return work()
    return await thread(work)


class _Seen(NamedTuple):
    """What a pass looks at."""

    snapshot: Snapshot
    now: int
    began_ns: int


class Cycle:
    """Plans while there is something to plan.

    Attributes:
        failing: what the newest plan failed with; "" when it did not.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner = plan,
        thread_work: int = THREAD_WORK,
        hands: Hands | None = None,
    ) -> None:
        self.engine = engine
        self.stats = CycleStats()
        self.last: LastPlan | None = None
        self.failing = ""
        self.rents: Renting | None = None
        """Who rents machines for what this finds no place for; None: nobody does."""
        self._planner = planner
        self._thread_work = thread_work
        self._cache = PlanCache()
        self._wake = asyncio.Event()
        self._left_alone: dict[str, int] = {}
        self._left_over = False
        """Housekeeping has not done all that is due: the next turn follows at once."""
        self._ahead = Ahead(engine.state, engine.ids, hands)
        if hands is not None:
            engine.listeners.append(self._ahead.on_event)
        self._housekeeping = Housekeeping(engine.state, lambda: engine.prices, self._commit)
        engine.on_dirty = self._wake.set

    @property
    def promising(self) -> Promising:
        """Who promises deadlines."""
        return self._housekeeping.promising

    @property
    def allocator_wrong(self) -> str:
        """What is wrong with the allocator in force; "" when nothing is."""
        return self._housekeeping.allocator_wrong

    async def run(self) -> None:
        """Plan for ever."""
        ticking = asyncio.create_task(self._tick())
        try:
            await self._run()
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        """One timer for all passes: one of its own would cost each of them as much as a small plan."""
        while True:
            self._wake.set()
            await asyncio.sleep(IDLE_S)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.stats.turns += 1
            more = await self.turn()
            if self.engine.snapshot_due():
                await self.engine.save_snapshot()
            await asyncio.sleep(_pause_s(len(self.engine.state.attempts)))
            if more:
                self._wake.set()

    def once(self) -> bool:
        """One pass, here. True when another should follow at once, because something was dropped."""
        seen = self._look()
        return (seen is not None and self._do(seen, self._plan(seen))) or self._left_over

    async def turn(self) -> bool:
        """One pass, planned in a thread when it is large. Nothing in a snapshot moves, so calls may change
        the state meanwhile; what they took away from the plan is dropped from it.
        """
        seen = self._look()
        if seen is None:
            return self._left_over
        made = await aside(seen.snapshot, lambda: self._plan(seen), self._thread_work)
        return self._do(seen, made) or self._left_over

    def saved(self) -> Saved:
        """The newest plan and what it was made of; without one, what it would be made of now."""
        if self.last is not None:
            return Saved(self.last.plan.at, self.last.snapshot, self.last.plan)
        return Saved(self.engine.now(), self.engine.state.snapshot())

    def left_out(self) -> list[str]:
        """First jobs of the queues that the newest plan could not compute."""
        if self.last is None:
            return []
        queues, verdicts = self.last.snapshot.queues, self.last.plan.verdicts
        found = ((index, one) for index, one in verdicts.items() if one.blocked_by == UNCOMPUTABLE)
        return [queues[index].jobs[one.position][1] for index, one in found]

    def _look(self) -> _Seen | None:
        """Do what time brings, and freeze the world; None when nobody waits."""
        began, now = time.perf_counter_ns(), self.engine.now()
        self._left_over = self._housekeeping.turn(now)
        self._ahead.take_back(now)
        if not self.engine.state.pending and not self.engine.state.allotments.moves:
            self.last, self.failing = None, ""
            return None
        return _Seen(self.engine.state.snapshot(), now, began)

    def _plan(self, seen: _Seen) -> Plan | None:
        """In any thread."""
        try:
            made = self._planner(seen.snapshot, seen.now, self._cache)
        except Exception as error:
            # A plan changes nothing: keep serving, say it loudly, and look again at the next turn.
            log.exception("planning failed", extra={"version": seen.snapshot.version})
            self._cache = PlanCache()
            self.failing = f"{type(error).__name__} in the scheduler"
            return None
        self.failing = ""
        return made

    def _do(self, seen: _Seen, wanted: Plan | None) -> bool:
        if wanted is None:
            return False
        engine, woken = self.engine, self._wake.is_set()
        outcome = carry_out(engine.state, engine.ids, seen.snapshot, wanted, self._commit)
        self.stats.ahead += self._ahead.turn(seen.snapshot, wanted, engine.now(), self._commit)
        self.last = LastPlan(seen.snapshot, wanted)
        self._count(outcome, (time.perf_counter_ns() - seen.began_ns) // 1000)
        if not (woken or self.engine.state.doomed or _brings_more(wanted)):
            # What woke the cycle now was its own doing, and the same plan would follow from it.
            self._wake.clear()
        return outcome.stale

    def _commit(self, what: str, events: Sequence[Event]) -> bool:
        """Make events true. What cannot be applied is left alone for a while: a defect met in every pass
        would keep the daemon from everything else.
        """
        now = self.engine.clock.boot_us()
        if now < self._left_alone.get(what, 0):
            return False
        known = self._ahead.placing(events)
        try:
            self.engine.commit(events, "bursard")
            self._ahead.placed(known)
        except NotApplied:
            self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
            self._left_alone[what] = now + LEFT_ALONE_US
            return False
        return True

    def _count(self, outcome: Outcome, took_us: int) -> None:
        stats = self.stats
        stats.cycles += 1
        stats.placed += outcome.done
        stats.dropped += len(outcome.dropped)
        stats.last_us = took_us
        stats.longest_us = max(stats.longest_us, took_us)
        stats.total_us += took_us
        stats.took[bisect_left(TOOK_US, took_us)] += 1
        for one in outcome.dropped:
            log.debug("dropped from a plan", extra={"why": one.reason.message, "cycle": stats.cycles})


def _pause_s(live: int) -> float:
    """Until the next pass, with so many attempts live."""
    return BUSY_DELAY_S * min(live, BUSY_ATTEMPTS_MAX) if live >= BUSY_ATTEMPTS else MIN_DELAY_S


def _brings_more(done: Plan) -> bool:
    """Could jobs start because of what a plan did? Starts only take: room, money, slots of arrays. But a
    queue that started as a whole may go on, with the next tasks of an array.
    """
    return any(
        not isinstance(action, Start) or action.queue not in done.verdicts
        for group in done.groups
        for action in group
    )


def reason_of(state: State, cycle: Cycle | None, job: JobRecord, now: int) -> Reason | None:
    """Why a pending job waits: one dominant code, from faults to routine. None when it does not wait; of a
    live one, what is the matter with a node of it.
    """
    if job.state is not JobState.PENDING:
        return trouble.reason(state, job, now)
    parent = state.jobs.get(job.parent_id) if job.parent_id else None
    if parent is not None and not job.held and (parent.held or parent.waiting_on):
        job = parent
    if job.held:
        return _held(state, job, now)
    if job.waiting_on:
        return depends(state, job.waiting_on.items())
    if job.retry_at > max(now, job.spec.begin_after) and job.spec.service is not None:
        return restarts(job, now)
    if job.retry_at > max(now, job.spec.begin_after) and not job.free_retries:
        return _requeued(job, now)
    if job.retry_at > max(now, job.spec.begin_after):
        return Reason(
            ReasonCode.WAITING_FOR_RESOURCES,
            f"lost its node or was preempted {plural(job.free_retries, 'time')} in a row:"
            f" it is tried again in {(job.retry_at - now) // 1_000_000} s",
            "it starts by itself then; `bursar nodes` says whether a node is in trouble",
            (("retry_at", str(job.retry_at)), ("free_retries", str(job.free_retries))),
        )
    if job.spec.begin_after > now:
        return begins(job.spec.begin_after, now)
    if job.array is not None:
        return _array_reason(state, cycle, job, now)
    array = parent.array if parent is not None else None
    if array is not None and (others := _followed(state, array, job)):
        return depends(state, others)
    if parent is not None and job.spec.service is not None and not job.has_slot:
        return _not_wanted(parent)
    if array is not None and not job.has_slot and array.open_slots <= 0:
        parallel = array.max_parallel
        return Reason(
            ReasonCode.WAITING_FOR_QUOTA,
            f"its array runs at most {plural(parallel, 'task')} at once",
            "the next one starts when one of them ends; a larger N in `--array RANGE%N` runs more at once",
            (("max_parallel", str(parallel)),),
        )
    if job.id in state.pending.aside:
        return its_turn(state, now)
    key = state.pending.key_of(job.id)
    if array is not None and not job.has_slot:
        # It waits behind the tasks of its array that are in the queue, for the same as they do.
        key = QueueKey(state.class_of(job).without_limit(), job.spec.priority)
    last = cycle.last if cycle is not None else None
    reason = last.reason(key, job.id) if last is not None and key is not None else None
    if reason is None and (turn := state.pending.turn_of(job.id)) is not None:
        return in_turn(job.user, turn)
    if cycle is not None and cycle.rents is not None:
        reason = cycle.rents.reason(job.id, reason)
    return reason or Reason(
        ReasonCode.WAITING_FOR_RESOURCES, "is about to be looked at by the scheduler", "wait a moment"
    )


def _not_wanted(service: JobRecord) -> Reason:
    """A place of a service beyond those that it fills now."""
    assert service.array is not None
    wanted, name = service.array.max_parallel, service.spec.name
    return Reason(
        ReasonCode.NO_REQUESTS,
        f"service {name} wants {plural(wanted, 'replica')} now, and this place is beyond them",
        f"it is taken when more is asked of the service; `bursar service scale {name} N..M` says how many it"
        " has at least and at most",
        (("wanted", str(wanted)),),
    )


def restarts(job: JobRecord, now: int) -> Reason:
    """A replica waits, since it ended some times in a row."""
    last = next((one for one in reversed(job.attempts) if one.cause is not None), None)
    cause = last.cause.value if last is not None and last.cause is not None else "unknown"
    code = f" with exit code {last.exit_code}" if last is not None and last.exit_code > 0 else ""
    name = "crash loop: " if job.free_retries >= CRASH_LOOP else ""
    return Reason(
        ReasonCode.WAITING_FOR_RESOURCES,
        f"{name}its replica ended {plural(job.free_retries, 'time')} in a row, last as {cause}{code};"
        f" it starts again in {max(job.retry_at - now, 0) // 1_000_000 + 1} s",
        f"`bursar service logs {job.spec.name}` says why; `bursar service rollback {job.spec.name}` goes"
        " back to the revision before, `bursar service update` on to another",
        (("retry_at", str(job.retry_at)), ("ends_in_a_row", str(job.free_retries))),
    )


def in_turn(user: str, turn: Turn) -> Reason:
    """The newest plan did not look at a job, because its user has so many kinds of them."""
    when = f"within {plural(turn.plans + 1, 'plan')}" if turn.plans else "by the next plan"
    return Reason(
        ReasonCode.BEHIND_OWN_JOBS,
        f"{user} has {plural(turn.kinds, 'kind')} of jobs waiting, more than every plan looks at:"
        f" this one is looked at {when}",
        "wait, a plan is made at least every second; or let jobs ask for the same resources, constraints and"
        " priority: those are one kind, whatever their time limits",
        (("kinds", str(turn.kinds)), ("plans", str(turn.plans))),
    )


def its_turn(state: State, now: int) -> Reason:
    """An allocator has given it nothing until its next round."""
    name = state.allocator.name if state.allocator is not None else ""
    next_at = state.allotments.next_at
    left_s = max(next_at - now, 0) // 1_000_000
    return Reason(
        ReasonCode.WAITING_FOR_RESOURCES,
        f"waits for its turn: allocator {name} shares the GPUs out anew in {left_s} s",
        "it starts by itself in a round that gives it some, or as soon as some are free for it",
        (("allocator", name), ("next_round_at", str(next_at))),
    )


def _followed(state: State, array: ArrayRecord, task: JobRecord) -> list[tuple[str, str]]:
    """The tasks of other arrays that a task waits for; of one that has none of its index, all of it."""
    found = []
    for other_id, waits in array.follows.items():
        index = task.array_index
        if contains(waits, index):
            other = state.jobs[other_id].spec.array
            there = other is not None and contains(other.ranges, index)
            found.append((f"{other_id}.{index}" if there else other_id, "succeeded"))
    return found


def depends(state: State, waiting_on: Iterable[tuple[str, str]]) -> Reason:
    """A job waits for others, given as (id, when)."""
    facts = tuple(sorted(waiting_on))
    known = [(_called(state, other), when) for other, when in facts]
    others = ", ".join(f"{other} ({when})" for other, when in known)
    return Reason(
        ReasonCode.DEPENDENCY, f"waits for job {others}", "it starts by itself once they have ended", facts
    )


def _called(state: State, job_id: str) -> str:
    """One that has ended may be known to those alone who are not told of it yet."""
    job = state.job(job_id)
    if job is not None:
        return job.display
    met = state.just_met(job_id)
    return met.display if met is not None else job_id


def _held(state: State, job: JobRecord, now: int) -> Reason:
    remedy = f"release it with `bursar release {job.display}`"
    times = requeues.in_a_row(job)
    last = idling.held_by_policy(state, job)
    if last is not None and times < requeues.ROW_MAX:
        ago = format_duration(max(now - last.finished_at, 0) // SECOND_US * SECOND_US)
        return Reason(
            ReasonCode.HELD,
            f"an idle policy put the job on hold {ago} ago: {last.message}",
            f"{remedy}; once it runs, `bursar snooze {job.display} 2h` puts the policy off",
            (("held_at", str(last.finished_at)), ("held_by", "idle policy")),
        )
    if many := requeues.of_very_many(job):
        said = f"the job is on hold: it ran {many} times, and asked to run again"
        mend = f"see that it comes to an end; {remedy} for as many times more"
        return Reason(ReasonCode.HELD, said, mend, (("requeues", str(many)),))
    if times < requeues.ROW_MAX:
        return Reason(ReasonCode.HELD, "the job is on hold", remedy)
    said = f"the job is on hold: it was requeued {times} times in a row, each soon after its start"
    mend = f"see that it asks for that once, as by SLURM_RESTART_COUNT, and {remedy}"
    return Reason(ReasonCode.HELD, said, mend, (("requeues", str(times)),))


def _requeued(job: JobRecord, now: int) -> Reason:
    """It was requeued soon after its start, not for the first time."""
    times = requeues.in_a_row(job)
    return Reason(
        ReasonCode.BEGIN_TIME,
        f"was requeued {plural(times, 'time')} in a row, each soon after its start: it is tried again in"
        f" {(job.retry_at - now) // 1_000_000} s",
        f"it starts by itself then; after {requeues.ROW_MAX} times it is put on hold",
        (("retry_at", str(job.retry_at)), ("requeues", str(times))),
    )


def begins(begin_after: int, now: int) -> Reason:
    """A job may not start yet."""
    return Reason(
        ReasonCode.BEGIN_TIME,
        f"may not start before its begin time, {format_instant(begin_after // SECOND_US * SECOND_US)},"
        f" in {(begin_after - now) // SECOND_US} s",
        "it starts by itself then",
        (("begin_after", str(begin_after)),),
    )


def _array_reason(state: State, cycle: Cycle | None, job: JobRecord, now: int) -> Reason | None:
    if job.spec.service is not None and job.array is not None and not job.array.max_parallel:
        return Reason(
            ReasonCode.NO_REQUESTS,
            "nobody asks, and it may have no replica then",
            f"it starts with the first request; `bursar service scale {job.spec.name} 1..N` keeps one",
        )
    task = first_pending(state, job)
    return reason_of(state, cycle, task, now) if task is not None else None
