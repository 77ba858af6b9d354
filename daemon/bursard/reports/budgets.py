"""Where every budget stands in its current period.

Why     the numbers are the ledger's own balances, the ones admission decides on: what `budget ls` shows
        is what the next placement will be measured against.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from bursard.scheduler import stages
from bursard.state import State
from bursard.state.budgets import BudgetRecord, limit_of, settled_of
from bursard.state.given import CARRY_OVER, Approval, Posting

LIVE_JOBS_MAX = 100


class StageView(msgspec.Struct, frozen=True):
    """Something that a threshold does now.

    Attributes:
        since: the threshold, with the numbers of now. remedy: what ends it. Both for people.
    """

    action: str
    on: str
    at_ppm: int
    since: str
    remedy: str


class BudgetView(msgspec.Struct, frozen=True):
    """One budget now.

    Attributes:
        period_start: of a rolling one, that of its window.
        limit_nanos: in force: `base_limit_nanos` of its document, and what it was granted, what was
            transferred to it or away, and what was carried over.
        carry_over: the rule of its document, for people. postings: of those, each; of one budget alone.
        crossed: thresholds announced in this period, (parts per million of the limit in force, on what),
            ascending.
        stages: in force, by threshold. approval: in force; None: nothing is approved.
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
    crossed: tuple[tuple[int, str], ...] = ()
    live_jobs: tuple[str, ...] = ()
    base_limit_nanos: int = 0
    granted_nanos: int = 0
    transferred_nanos: int = 0
    carried_nanos: int = 0
    carry_over: str = ""
    postings: tuple[Posting, ...] = ()
    stages: tuple[StageView, ...] = ()
    approval: Approval | None = None

    @property
    def crossed_percent(self) -> tuple[int, ...]:
        """Shares of `crossed`, each once."""
        return tuple(sorted({at_ppm // 10_000 for at_ppm, _ in self.crossed}))


def budget_views(state: State, name: str = "") -> list[BudgetView]:
    """One budget by name, with its live jobs and postings, or all without; empty when there is none."""
    records = state.budgets.records
    if name:
        return [_view(state, records[name], whole=True)] if name in records else []
    return [_view(state, record, whole=False) for _, record in sorted(records.items())]


def _view(state: State, record: BudgetRecord, *, whole: bool) -> BudgetView:
    spec, limit = record.spec, limit_of(record, state.ledger)
    crossed = state.budgets.crossed(record, limit)
    sums, room = Counter[str](), state.budgets.room(record, state.ledger)
    starts = record.window()
    postings = tuple(one for start in starts for one in state.budgets.postings.of(record.name, start))
    for one in postings:
        sums[one.kind] += one.nanos
    return BudgetView(
        name=record.name,
        scope=str(spec.scope),
        period=spec.period,
        enforcement=spec.enforcement,
        hold=spec.hold,
        limit_nanos=limit,
        settled_nanos=settled_of(record, state.ledger),
        held_nanos=state.budgets.held(record, state.ledger),
        currency=spec.limit.currency,
        period_start=starts[0],
        period_end=record.period_end,
        version=record.version,
        crossed=tuple(sorted((at_ppm, on) for on, at_ppm in crossed)),
        live_jobs=_live_jobs(state, record.name) if whole else (),
        base_limit_nanos=spec.limit.nanos,
        granted_nanos=sums["grant"],
        transferred_nanos=sums["transfer"],
        carried_nanos=sums[CARRY_OVER],
        carry_over=str(spec.carry_over) if spec.carry_over is not None else "",
        postings=postings if whole else (),
        stages=tuple(
            StageView(one.action, one.on, one.at_ppm, stages.since(room, one), stages.remedy(room, one))
            for one in room.stages
        ),
        approval=state.budgets.approval(record, limit),
    )


def _live_jobs(state: State, budget: str) -> tuple[str, ...]:
    found: list[str] = []
    for attempt in state.live_attempts():
        if any(hold.budget == budget for hold in attempt.holds):
            found.append(attempt.job_id)
            if len(found) == LIVE_JOBS_MAX:
                break
    return tuple(found)
