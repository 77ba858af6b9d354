"""What a budget has counted of one job: of what its attempts cost, the part that the budget's account has.

Why     a job may have cost something before a budget was applied, in a period that the budget was not there
        for, or before the instant that it counts from. An account that opens counts the past of its scope
        (`BudgetOpened`), so which attempts held money of the budget does not tell.
"""

from __future__ import annotations

from bursard.ledger.metering import held_nanos
from bursard.state.records import AttemptRecord, JobRecord


def counted_nanos(job: JobRecord, budget: str) -> int:
    """Of what a job has cost, without later corrections; of an array, of its tasks that have ended."""
    if job.array is not None:
        return job.settled_nanos - job.uncounted.get(budget, 0)
    return sum(_of_attempt(attempt, budget, job.counted_from.get(budget)) for attempt in job.attempts)


def _of_attempt(attempt: AttemptRecord, budget: str, opened: tuple[int, int] | None) -> int:
    hold = next((hold for hold in attempt.holds if hold.budget == budget), None)
    if opened is None:
        return attempt.settled_nanos if hold is not None else 0
    period_start, since = opened
    nanos = attempt.settled_nanos - _before(attempt, since)
    if hold is not None and hold.period_start < period_start:  # what an earlier period counted stays there
        nanos += _before(attempt, period_start)
    return nanos


def _before(attempt: AttemptRecord, at: int) -> int:
    """What it was charged of the time before an instant: its rates are those of its placement."""
    return sum(
        held_nanos(member.alloc.rates, min(max(at - member.started_at, 0), member.charged_us))
        for member in attempt.members
    )
