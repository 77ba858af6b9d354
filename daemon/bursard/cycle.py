"""The cycle: one scheduling pass after another, each on a frozen snapshot, each verified before it is true.

Owns    when to plan, and the newest reasons why the rest waits.
Why     an event only says "look again". The cycle looks at its own pace: many events cost one pass, and a
        plan made on a moment ago is checked against now, action by action.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from bursar.errors import NotApplied
from bursar.model import JobState, Reason, ReasonCode
from bursar_policies.decision import JobClass
from bursard.engine import Engine
from bursard.events import Event
from bursard.scheduler import PlanCache, plan
from bursard.state import JobRecord, State
from bursard.state.decide import attempts, jobs, policies
from bursard.state.decide.nodes import reprice

log = logging.getLogger(__name__)

MIN_DELAY_S = 0.001
"""Between two passes, so that calls get their turn of the loop."""
BUSY_DELAY_S = 0.008
BUSY_ATTEMPTS = 8
"""With so many attempts live, a pass waits for more ends to come in: one commit and one message to an agent
then serve several jobs. A first job on an idle cluster never waits, since no pass came before it."""
HOUSEKEEPING_S = 1.0
"""Periods, begin times, prices and thresholds are looked at this often without any event."""

LEFT_ALONE_US = 60_000_000
"""How long a change that could not be applied is not tried again."""


class CycleStats(msgspec.Struct):
    """What planning has cost. `turns` counts looks at the queue, `cycles` those that planned."""

    turns: int = 0
    cycles: int = 0
    placed: int = 0
    dropped: int = 0
    last_us: int = 0
    longest_us: int = 0


class Cycle:
    """Plans while there is something to plan."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stats = CycleStats()
        self.reasons: dict[tuple[JobClass, int], Reason] = {}
        self._cache = PlanCache()
        self._wake = asyncio.Event()
        self._housekept_at = 0.0
        self._left_alone: dict[str, int] = {}
        engine.on_dirty = self._wake.set

    async def run(self) -> None:
        """Plan for ever."""
        self._wake.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOUSEKEEPING_S):
                    await self._wake.wait()
            self._wake.clear()
            self.stats.turns += 1
            more = self.once()
            if self.engine.snapshot_due():
                await self.engine.save_snapshot()
            busy = len(self.engine.state.attempts) >= BUSY_ATTEMPTS
            await asyncio.sleep(BUSY_DELAY_S if busy else MIN_DELAY_S)
            if more:
                self._wake.set()

    def once(self) -> bool:
        """One pass. True when another should follow at once (the window was cut, or an action dropped)."""
        engine, state = self.engine, self.engine.state
        started = time.perf_counter_ns()
        self._housekeeping(started / 1e9)
        if not state.pending:
            self.reasons = {}
            return False
        snapshot = state.snapshot()
        try:
            answer = plan(snapshot, engine.now(), self._cache)
        except Exception:
            # A plan changes nothing: keep serving, say it loudly, and look again at the next turn.
            log.exception("planning failed", extra={"version": snapshot.version})
            self._cache = PlanCache()
            return False
        placed = dropped = 0
        for start in answer.starts:
            if self._commit(start.job_id, lambda start=start: attempts.place(state, engine.ids, start)):  # type: ignore[misc]
                placed += 1
            else:
                dropped += 1
        self.reasons = {
            (snapshot.queues[index].job_class, snapshot.queues[index].priority): reason
            for index, reason in answer.class_reasons.items()
        }
        stats = self.stats
        stats.cycles += 1
        stats.placed += placed
        stats.dropped += dropped
        stats.last_us = (time.perf_counter_ns() - started) // 1000
        stats.longest_us = max(stats.longest_us, stats.last_us)
        if placed or dropped:
            log.debug("plan committed", extra={"cycle": stats.cycles, "placed": placed, "dropped": dropped})
        # A pass that dirties the state wakes itself through `on_dirty`; only drops need saying.
        return dropped > 0

    def _housekeeping(self, now_s: float) -> None:
        engine, state = self.engine, self.engine.state
        now = engine.now()
        state.wake(now)
        if state.doomed:
            self._commit("ends of dependants", lambda: jobs.doomed(state, jobs.EVENTS_MAX))
        if state.budgets.due(now):
            self._commit("periods", lambda: policies.roll_periods(state, now))
        if now_s - self._housekept_at >= HOUSEKEEPING_S:
            self._housekept_at = now_s
            self._commit("prices", lambda: reprice(state, engine.prices, now))
            self._commit("thresholds", lambda: policies.thresholds(state))

    def _commit(self, what: str, decide: Callable[[], Sequence[Event]]) -> bool:
        """Make true what follows now, if anything does. What cannot be applied is left alone for a while:
        a defect met in every pass would keep the daemon from everything else.
        """
        now = self.engine.clock.boot_us()
        if now < self._left_alone.get(what, 0):
            return False
        before = self.engine.state.version
        try:
            return self.engine.commit_each([decide], "bursard") > before
        except NotApplied:
            self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
            self._left_alone[what] = now + LEFT_ALONE_US
            return False


def reason_of(state: State, cycle: Cycle | None, job: JobRecord, now: int) -> Reason | None:
    """Why a pending job waits: one dominant code, from faults to routine. None when it does not wait."""
    if job.state is not JobState.PENDING:
        return None
    if job.held:
        remedy = f"release it with `bursar release {job.display}`"
        return Reason(ReasonCode.HELD, "the job is on hold", remedy)
    if job.waiting_on:
        others = ", ".join(f"{other} ({when})" for other, when in sorted(job.waiting_on.items()))
        return Reason(
            ReasonCode.DEPENDENCY,
            f"waits for {others}",
            "it starts by itself once they have ended",
            tuple(sorted(job.waiting_on.items())),
        )
    if job.spec.begin_after > now:
        return Reason(
            ReasonCode.BEGIN_TIME,
            f"may not start before its begin time, in {(job.spec.begin_after - now) // 1_000_000} s",
            "it starts by itself then",
            (("begin_after", str(job.spec.begin_after)),),
        )
    if job.array is not None:
        return _array_reason(state, cycle, job, now)
    if job.parent_id and not job.has_slot:
        parent = state.jobs.get(job.parent_id)
        parallel = parent.array.max_parallel if parent is not None and parent.array is not None else 0
        return Reason(
            ReasonCode.WAITING_FOR_QUOTA,
            f"its array runs at most {parallel} tasks at once",
            "raise max_parallel to run more at once",
            (("max_parallel", str(parallel)),),
        )
    key = state.pending.key_of(job.id)
    reason = cycle.reasons.get(key) if cycle is not None and key is not None else None
    return reason or Reason(
        ReasonCode.WAITING_FOR_RESOURCES, "is about to be looked at by the scheduler", "wait a moment"
    )


def _array_reason(state: State, cycle: Cycle | None, job: JobRecord, now: int) -> Reason | None:
    array = job.array
    assert array is not None
    for index in array.indices:
        task = state.jobs.get(f"{job.id}.{index}")
        if task is not None and task.state is JobState.PENDING:
            return reason_of(state, cycle, task, now)
    return None
