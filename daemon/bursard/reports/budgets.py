"""Where every budget stands in its current period.

Why     the numbers are the ledger's own balances, the ones admission decides on: what `budget ls` shows
        is what the next placement will be measured against.
"""

from __future__ import annotations

import msgspec

from bursard.state import State
from bursard.state.budgets import BudgetRecord

LIVE_JOBS_MAX = 100


class BudgetView(msgspec.Struct, frozen=True):
    """One budget now.

    Attributes:
        crossed_percent: thresholds announced in this period, in percent of the limit in force, ascending.
        live_jobs: ids of jobs that hold money of it, at most `LIVE_JOBS_MAX`, oldest first.
    """

    name: str
    scope: str
    period: str
    enforcement: str
    hold: str
    limit_nanos: int
    settled_nanos: int
    held_nanos: int
    currency: str
    period_start: int
    period_end: int
    version: int
    crossed_percent: tuple[int, ...] = ()
    live_jobs: tuple[str, ...] = ()


def budget_views(state: State, name: str = "") -> list[BudgetView]:
    """One budget by name, with its live jobs, or all without; empty when there is none."""
    records = state.budgets.records
    if name:
        return [_view(state, records[name], jobs=True)] if name in records else []
    return [_view(state, record, jobs=False) for _, record in sorted(records.items())]


def _view(state: State, record: BudgetRecord, *, jobs: bool) -> BudgetView:
    spec = record.spec
    return BudgetView(
        name=record.name,
        scope=str(spec.scope),
        period=spec.period,
        enforcement=spec.enforcement,
        hold=spec.hold,
        limit_nanos=spec.limit.nanos,
        settled_nanos=state.ledger.settled(record.name, record.period_start),
        held_nanos=state.ledger.held(record.name, record.period_start),
        currency=spec.limit.currency,
        period_start=record.period_start,
        period_end=record.period_end,
        version=record.version,
        crossed_percent=tuple(sorted({at_ppm // 10_000 for _, at_ppm in state.budgets.crossed(record)})),
        live_jobs=_live_jobs(state, record.name) if jobs else (),
    )


def _live_jobs(state: State, budget: str) -> tuple[str, ...]:
    found: list[str] = []
    for attempt in state.live_attempts():
        if any(hold.budget == budget for hold in attempt.holds):
            found.append(attempt.job_id)
            if len(found) == LIVE_JOBS_MAX:
                break
    return tuple(found)
