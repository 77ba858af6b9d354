"""The report on budgets: the limit of each against what was settled in its period.

Why     the amounts are the ledger's own balances, which admission goes by, so the report and the next
        placement cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from bursar.clock import SECOND_US, Instant, format_instant
from bursar_policies.periods import is_period, period_bounds
from bursard.reports.budget_history import Version, in_force
from bursard.reports.budgets import BudgetView, budget_views
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state import State
from bursard.state.budgets import limit_of, settled_of

_COLUMNS: Final = (
    Column("budget", wrap=True), Column("scope", wrap=True, drop=3), Column("every", drop=4),
    Column("since", drop=5), Column("limit", "money"),
    Column("settled", "money"), Column("held", "money", drop=2), Column("available", "money", drop=1),
    Column("used", "percent"),
)  # fmt: skip


Limits = Mapping[str, Sequence[Version]]
"""By budget, its documents, oldest first."""


def budget_page(
    state: State, period: Period, now: int, project: str = "", limits: Limits | None = None
) -> Page:
    """Each budget in the period of its own that holds the end of a period, by the clocks of its own place, or
    now.

    Args:
        project: only budgets of it and of what is below. limits: what a period that has ended had as limit;
            of a budget that is not among them it is that of now.
    """
    rows = [
        _row(state, view, _at(state, view, period, now), (limits or {}).get(view.name, ()))
        for view in budget_views(state)
        if not project
        or f"{state.budgets.records[view.name].spec.scope.project}/".startswith(f"{project.lower()}/")
    ]
    return Page(
        kind="budgets",
        period=period,
        currency=state.currency,
        project=project,
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=(
            "Each budget is shown in the period of its own that holds the end, by the clocks of its place,"
            " with the limit it ended with.",
        ),
    )


def _at(state: State, view: BudgetView, period: Period, now: int) -> int:
    """The instant whose period is shown: October ends in India before it does in UTC, and is October."""
    last = datetime.fromtimestamp(period.until // SECOND_US, ZoneInfo(period.timezone))
    zone = ZoneInfo(state.budgets.records[view.name].spec.timezone)
    ends = int(datetime(last.year, last.month, last.day, tzinfo=zone).timestamp()) * SECOND_US
    return min(ends - 1, max(now, period.since))


def _row(state: State, view: BudgetView, at: int, versions: Sequence[Version]) -> tuple[Cell, ...]:
    record = state.budgets.records[view.name]
    spec, start, end = record.spec, record.period_start, None
    if is_period(spec.period) and not (start <= at and (not view.period_end or at < view.period_end)):
        start, end = period_bounds(spec.period, spec.timezone, Instant(at))
    limit, ledger = view.limit_nanos, state.ledger
    if start != record.period_start and (then := in_force(versions, end or 0)) is not None:
        limit = then.spec.limit.nanos + limit_of(record, ledger, start) - spec.limit.nanos
    current = start == record.period_start
    settled = settled_of(record, ledger, start)
    held = state.budgets.held(record, ledger) if current else ledger.held(view.name, start)
    since = record.window(start)[0]
    named = (view.name, view.scope, view.period, format_instant(since) if since else "always")
    if start != record.period_start and not settled and not held:
        return (*named, limit, None, None, None, None)  # it may not have been there then
    return (*named, limit, settled, held, limit - settled - held, ppm(settled, limit))
