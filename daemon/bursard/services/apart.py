"""Do budgets say what `cost` says of their scopes and periods? Each is read another way (B5).

Why     a budget's account moves with every charge, and `cost` adds up rows: where they are ever apart, a hard
        limit is passed by what finance reads, or jobs wait for money that is there.
Limits  periods that begin within an hour cannot be asked for, since rows are of whole hours; long ones are
        read when all is. A job that began in a period on a node whose clock was corrected may have its first
        moments in a row of the hour before.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgspec

from bursar.clock import DAY_US, HOUR_US, format_instant
from bursar.money import format_nanos
from bursar.words import plural
from bursard.doctor import Finding, finding
from bursard.engine import Engine
from bursard.services.spent import cost_of
from bursard.state import State
from bursard.state.decide.opening import Opening

CHECK = "budgets and cost (B5)"
LONG_US = 35 * DAY_US
"""What a shorter question costs nobody much."""


async def budgets_and_cost(engine: Engine, full: bool) -> Finding:
    """As of now. `full`: of periods that began long ago too."""
    state = engine.state
    asked = list(_asked(state, engine.now(), full))
    settled = {one.budget: _of_scope(state, one) for one in asked}
    # Accounts and open hours are of one instant: nothing waits in between.
    books = await engine.books()
    found = await engine.aside(partial(cost_of, engine.views, asked, books))
    apart = [one for one in asked if settled[one.budget] != found[one.budget]]
    before = [
        msgspec.structs.replace(one, since=one.since - HOUR_US, until=one.since)
        for one in apart
        if settled[one.budget] > found[one.budget]
    ]
    first = await engine.aside(partial(cost_of, engine.views, before, books))
    problems = [
        f"{one.budget} has spent {format_nanos(settled[one.budget])} {state.currency} in the period from"
        f" {format_instant(one.period_start)}, and its scope cost {format_nanos(found[one.budget])}"
        for one in apart
        if not 0 < settled[one.budget] - found[one.budget] <= first[one.budget]
    ]
    left = len(state.budgets.records) - len(asked)
    fine = f"{plural(len(asked), 'budget')} {'says' if len(asked) == 1 else 'say'} what `cost` says"
    if left:
        fine += f"; {left} more {'was' if left == 1 else 'were'} not compared"
    remedy = (
        "`bursar policy rm Budget/NAME`, and apply it again: its account then opens with what its scope has"
        " cost; and report this as a defect"
    )
    return finding(CHECK, problems, fine, remedy)


def _of_scope(state: State, one: Opening) -> int:
    """What it has settled of its scope: what keys that name it were charged of others' services beside."""
    keys = state.keys_charged.by_period(one.budget, (one.period_start,), one.since)
    return state.ledger.settled(one.budget, one.period_start) - keys.total()


def _asked(state: State, now: int, full: bool) -> Iterable[Opening]:
    """Budgets whose accounts began with what their scopes had cost, in periods of whole hours."""
    for name, record in sorted(state.budgets.records.items()):
        since = max(record.period_start, record.spec.counts_from)
        whole = not since % HOUR_US and not record.period_end % HOUR_US
        if record.opened and name not in state.budgets.unread and whole and (full or now - since <= LONG_US):
            yield Opening(name, record.spec.scope, record.period_start, since, record.period_end)
