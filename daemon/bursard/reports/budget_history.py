"""What became of a budget in each of its periods.

Why     finance asks about the months before: what the limit was, what was given to it, what was settled. The
        amounts are those of the accounts of each period, which nothing forgets; the limit is that of the
        document that was in force when the period ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from bursar.clock import Instant
from bursar_policies.periods import is_period, period_bounds, window
from bursar_policies.specs import BudgetSpec
from bursard.reports.budgets import BudgetView, budget_views
from bursard.state import State
from bursard.state.given import CARRY_OVER

PERIODS_MAX: Final = 400
"""The newest are told: more than a year of days."""


class Version(NamedTuple):
    """A document of the budget, and since when it was in force."""

    at: int
    version: int
    spec: BudgetSpec


def budget_history(
    state: State, name: str, versions: Sequence[Version], crossed: Mapping[int, set[tuple[int, str]]]
) -> list[BudgetView]:
    """The periods of a budget in force that have an account, the newest first; the current one always.

    Args:
        versions: oldest first. crossed: by period, thresholds that were passed in it: parts per million, on
            what.
    """
    [now] = budget_views(state, name)
    current = state.budgets.records[name].period_start
    starts = sorted({*state.ledger.periods_of(name), current}, reverse=True)
    found: list[BudgetView] = []
    following = 0
    for start in starts[:PERIODS_MAX]:
        if start == current:
            found.append(now)
        elif start < current:
            spec = state.budgets.records[name].spec
            end = _end(spec, start) or following
            found.append(_past(state, now, start, end, in_force(versions, end), crossed.get(start, set())))
        following = start
    return found


def _end(spec: BudgetSpec, start: int) -> int:
    """Where a period ends that begins there; 0 when it was of another kind than now."""
    if not is_period(spec.period):
        return 0
    first, end = period_bounds(spec.period, spec.timezone, Instant(start))
    return (end or 0) if first == start else 0


def in_force(versions: Sequence[Version], end: int) -> Version | None:
    """The document that a period ended with; of what is older than all, the oldest."""
    before = [one for one in versions if one.at < end]
    return before[-1] if before else next(iter(versions), None)


def _past(
    state: State,
    now: BudgetView,
    start: int,
    end: int,
    document: Version | None,
    crossed: set[tuple[int, str]],
) -> BudgetView:
    ledger, sums = state.ledger, Counter[str]()
    spec = document.spec if document is not None else state.budgets.records[now.name].spec
    starts = window(spec.period, spec.timezone, start)
    postings = tuple(one for each in starts for one in state.budgets.postings.of(now.name, each))
    for one in postings:
        sums[one.kind] += one.nanos
    return replace(
        now,
        scope=str(spec.scope),
        period=spec.period,
        enforcement=spec.enforcement,
        hold=spec.hold,
        limit_nanos=spec.limit.nanos + sum(ledger.given(now.name, each) for each in starts),
        base_limit_nanos=spec.limit.nanos,
        settled_nanos=sum(ledger.settled(now.name, each) for each in starts),
        held_nanos=ledger.held(now.name, start),
        period_start=starts[0],
        period_end=end,
        version=document.version if document is not None else now.version,
        crossed=tuple(sorted(crossed)),
        live_jobs=(),
        granted_nanos=sums["grant"],
        transferred_nanos=sums["transfer"],
        carried_nanos=sums[CARRY_OVER],
        carry_over=str(spec.carry_over) if spec.carry_over is not None else "",
        postings=postings,
        stages=(),
        approval=None,
    )
