"""What goes on from one period of a budget into the next. PURE.

Why     a month that was thrifty helps the next one, if the budget says so. What is carried leaves out what
        jobs hold at that moment: they take it along, and what they used before it is told later settles in
        the old period, which has that much left for it. So nothing that comes late passes a limit, and
        nothing that was carried is ever changed by it.
        Jobs may hold more than a new period has, where the old one was granted more: their money goes on
        with them.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import Instant
from bursar_policies.periods import period_bounds
from bursard.events import RestCarried
from bursard.state.budgets import BudgetRecord, limit_of, settled_of
from bursard.state.core import State
from bursard.state.given import BROUGHT_BACK

PERIODS_MAX: Final = 400
"""Periods that passed unseen through which a rest is followed: more than a year of days."""


def carried_over(state: State, record: BudgetRecord, start: int) -> list[RestCarried]:
    """What goes on when a budget enters the period that begins at `start`, through all that passed unseen."""
    if record.rolling:
        return _made_up(state, record, start)
    ledger, name, limit = state.ledger, record.name, record.spec.limit.nanos
    held = ledger.held(name, record.period_start)
    events: list[RestCarried] = []
    before, coming = record.period_start, 0
    for following in entered(record, start):
        committed = ledger.settled(name, before) + held
        rule = record.spec.carry_over
        rest = limit + ledger.given(name, before) + coming - committed
        coming = rule.of(rest) if rule is not None else 0
        reason = str(rule)
        has = limit + ledger.given(name, following) + coming
        missing = ledger.settled(name, following) + ledger.held(name, following) + held - has
        if record.hard and following == start and missing > 0:
            coming += missing
            reason = "what running jobs hold" + (f", and {rule}" if rule is not None else "")
        if coming:
            events.append(RestCarried(name, before, following, coming, reason))
        before = following
    return events


def _made_up(state: State, record: BudgetRecord, start: int) -> list[RestCarried]:
    """What leaves the window of a hard rolling budget with a day that had been granted more, and is settled
    or held in the days that stay: else the limit would be passed by nothing but time.
    """
    ledger, name = state.ledger, record.name
    committed = settled_of(record, ledger, start) + ledger.held(name, record.period_start)
    missing = committed + ledger.held(name, start) - limit_of(record, ledger, start)
    if not record.hard or missing <= 0:
        return []
    reason = "what was granted before and is settled or held still"
    return [RestCarried(name, record.window()[0], start, missing, reason)]


def entered(record: BudgetRecord, start: int) -> list[int]:
    """Where the periods after its own begin, up to that which begins at `start`."""
    found: list[int] = []
    at = record.period_end
    while at < start and len(found) < PERIODS_MAX:
        found.append(at)
        _, end = period_bounds(record.spec.period, record.spec.timezone, Instant(at))
        at = end or start
    return [*found, start]


def taken_back(state: State, record: BudgetRecord, start: int) -> list[RestCarried]:
    """What comes back when a budget returns to an earlier period, out of one that a clock ahead led to; and
    what jobs hold beyond what is left there.
    """
    ledger, name = state.ledger, record.name
    events = [
        RestCarried(name, before, after, -nanos, "its period had not ended")
        for before, after, nanos in state.budgets.postings.carried(name, start)
        if before >= start or record.rolling
    ]
    limit = limit_of(record, ledger, start)
    limit -= sum(one.nanos for one in events if one.from_period in record.window(start))
    held = ledger.held(name, record.period_start)
    missing = min(settled_of(record, ledger, start) + ledger.held(name, start) + held - limit, held)
    if record.hard and missing > 0:
        events.append(RestCarried(name, record.period_start, start, missing, BROUGHT_BACK))
    return events
