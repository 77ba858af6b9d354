"""Leases: what runs by one is given the next while its nodes are in contact and its budgets allow. PURE.

Owns    when a lease is renewed and how far, and what is told of a job whose lease was not.
Why     a lease is the attempt's time limit (docs/adr/0028): its supervisors end it there with its checkpoint
        signal and grace, which its hold has paid for, whether or not anybody here is alive. So to stop a job
        at the end of its money takes no order; to let it go on takes one, which is held for before it is
        given.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import SECOND_US, format_duration
from bursard.events import Event, LimitChanged
from bursard.scheduler.pricing import longest_hold_us
from bursard.state.core import State
from bursard.state.decide.limits import overhead_us, payers, worst
from bursard.state.records import AttemptRecord, JobRecord

RENEWED_MAX: Final = 1_000
"""Leases that one turn renews."""
LEAST: Final = 4
"""Of what is left, at least a quarter of a lease is given: what is less waits for more to come back."""


def renewals(state: State, now: int, most: int = RENEWED_MAX) -> list[Event]:
    """The next lease of every attempt that has used up half of its own, oldest first, so many at once."""
    events: list[Event] = []
    promised: dict[str, int] = {}
    for attempt_id in state.leased:
        attempt = state.attempts[attempt_id]
        if not _due(state, attempt, now):
            continue
        event = _next(state, attempt, now, promised)
        if event is not None:
            events.append(event)
            if len(events) == most:
                break
    return events


def _due(state: State, attempt: AttemptRecord, now: int) -> bool:
    if attempt.time_limit_us >= attempt.full_limit_us or not attempt.started_at:
        return False
    if attempt.stop_cause is not None or attempt.overdue or attempt.unlimited():
        return False
    warned_us = state.jobs[attempt.job_id].spec.checkpoint.before_us
    if attempt.time_limit_us - _ran_us(attempt, now) > (attempt.lease_us + warned_us) // 2:
        return False
    return all(state.nodes[member.alloc.node_id].connected for member in attempt.live())


def _ran_us(attempt: AttemptRecord, now: int) -> int:
    """How long it has run: by the clock here, and no less than was reported."""
    return max(now - attempt.started_at, *(member.charged_us for member in attempt.members))


def _next(state: State, attempt: AttemptRecord, now: int, promised: dict[str, int]) -> LimitChanged | None:
    """As far as its budgets pay for, less what others were given in the same turn; None: not far enough."""
    job, held = state.jobs[attempt.job_id], worst(attempt, attempt.time_limit_us)
    goal_us = min(attempt.full_limit_us, _ran_us(attempt, now) + attempt.lease_us)
    rooms = payers(state, job, attempt, worst(attempt, goal_us) - held)
    room = min((max(nanos - promised.get(name, 0), 0) for name, nanos in rooms), default=None)
    limit_us = goal_us
    if room is not None and attempt.rate:
        limit_us = min(goal_us, longest_hold_us(attempt.rate, held + room) - overhead_us(attempt))
    if limit_us < goal_us and limit_us - attempt.time_limit_us < _least_us(state, attempt):
        return None
    if limit_us <= attempt.time_limit_us:
        return None
    hold = worst(attempt, limit_us)
    for name, _ in rooms:
        promised[name] = promised.get(name, 0) + hold - held
    cut = limit_us < state.time_limit_of(job.spec)
    return LimitChanged(attempt.id, attempt.limit_order + 1, limit_us, hold, cut)


def _least_us(state: State, attempt: AttemptRecord) -> int:
    lease_us = attempt.lease_us - state.jobs[attempt.job_id].spec.checkpoint.before_us
    return max(lease_us // LEAST, SECOND_US)


def over(state: State, job: JobRecord, attempt: AttemptRecord) -> str:
    """Why what ran by a lease had to end with it. It names no budget, as its owner may not see them all."""
    lease, after = f"its budgets pay by leases of {format_duration(attempt.lease_us)}", attempt.time_limit_us
    least_us = attempt.time_limit_us + _least_us(state, attempt)
    more = worst(attempt, min(least_us, attempt.full_limit_us)) - worst(attempt, attempt.time_limit_us)
    if any(room < more for _, room in payers(state, job, attempt, more)):
        return f"{lease}, and had no room for another one after {format_duration(after)}"
    return (
        f"{lease}, and the one that ended after {format_duration(after)} could not be renewed: its node or"
        " the daemon was not in contact"
    )
