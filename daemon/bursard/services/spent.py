"""What the scopes of budgets have cost: asked of the books when documents open accounts.

Why     the answer takes a moment, in which jobs go on and are charged. Those charges are listened to from the
        instant the books are asked, so that the account opens with what its scope has cost at the instant of
        the commit, to the nano; and what was to be opened is looked at again, since a period may have ended
        or somebody else have applied something meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import BursarError, WrongState
from bursar_policies.periods import find_timezone
from bursar_policies.specs import Document
from bursard.engine import Engine
from bursard.events import Charge
from bursard.ledger import PAID
from bursard.reports.zones import offsets_of
from bursard.state import State
from bursard.state.decide import policies
from bursard.state.decide.opening import Before, Opening, openings, reopened, reopenings
from bursard.store import ChargeFilter, Dim, Unposted, Views
from bursard.store.base import Offsets

log = logging.getLogger(__name__)

TRIES = 3
_LOOK_EVERY_S = 2.0
_MARKS = (Dim.PROJECT, Dim.USER, Dim.EXPERIMENT, Dim.MODEL)


class Spent(NamedTuple):
    """By budget, what its scope has cost in its period, and before."""

    nanos: Mapping[str, int] = MappingProxyType({})
    before: Mapping[str, Before] = MappingProxyType({})


async def spent(engine: Engine, documents: Sequence[Document]) -> Spent:
    """Of budgets whose accounts these documents open, what their scopes have cost: at this instant, so that
    it holds for whoever commits before anything is waited for.

    Raises:
        WrongState: what they would open changes faster than the books are read.
    """
    _, found = await _read(engine, partial(openings, engine.state, documents))
    return found


async def _read(
    engine: Engine, openings_at: Callable[[int], tuple[Opening, ...]]
) -> tuple[tuple[Opening, ...], Spent]:
    state = engine.state
    for _ in range(TRIES):
        if state.due(engine.now()):
            engine.commit(policies.roll_periods(state, engine.now()), "bursard")
        wanted = openings_at(engine.now())
        if not wanted:
            return (), Spent()
        since_then = _Meter(state, wanted)
        engine.meters.append(since_then)
        try:
            # The meter and the open hours begin at one instant: nothing waits in between.
            books = await engine.books()
            found = await engine.aside(partial(cost_of, engine.views, wanted, books))
            before = await engine.aside(partial(_before, engine.views, wanted, books))
            heard_all = since_then in engine.meters
        finally:
            engine.meters = [one for one in engine.meters if one is not since_then]
        if heard_all and openings_at(engine.now()) == wanted:
            nanos = {one.budget: found[one.budget] + since_then.nanos[one.budget] for one in wanted}
            return wanted, Spent(nanos, since_then.added_to(before))
    raise WrongState("budgets changed while their costs were read; apply the documents again")


async def read_accounts(engine: Engine) -> None:
    """Budgets that a wrong clock has taken through their periods have spent what the books say. Raises
    `WrongState` where they change faster.
    """
    wanted, found = await _read(engine, partial(reopenings, engine.state))
    engine.commit(reopened(engine.state, wanted, found.nanos, found.before), "bursard")


async def keep_read(engine: Engine) -> None:
    """Do so for ever, whenever there are some. What goes wrong is left to the next look."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        if engine.state.budgets.unread:
            try:
                await read_accounts(engine)
            except BursarError as error:
                log.warning("accounts of budgets were not read", extra={"why": str(error)})


class _Meter:
    """Adds up what is charged to each scope from now on."""

    def __init__(self, state: State, wanted: Sequence[Opening]) -> None:
        self.nanos: Counter[str] = Counter()
        self._charges: list[tuple[Opening, int, int]] = []
        self._state = state
        self._wanted = wanted
        # Of an hour in which a period began: what is open of it is a row of where it began.
        split = any(one.since % HOUR_US for one in wanted)
        self._open = {
            (attempt.id, member.alloc.rank): member.open.start
            for attempt in (state.live_attempts() if split else ())
            for member in attempt.members
            if member.open is not None
        }

    def __call__(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            if charge.kind not in PAID or not charge.nanos:
                continue
            job = self._state.jobs[charge.job_id]
            spec, labels = job.spec, dict(job.spec.labels)
            for one in self._wanted:
                if not one.scope.covers(spec.project, job.user, spec.experiment, spec.model, labels):
                    continue
                at = self._counts_from(charge)
                self._charges.append((one, at, charge.nanos))
                if one.since <= at and (not one.until or at < one.until):
                    self.nanos[one.budget] += charge.nanos

    def _counts_from(self, charge: Charge) -> int:
        """Where the row of a charge begins, of which it takes its period."""
        begun = self._open.get((charge.attempt_id, charge.rank), charge.start)
        return begun if begun // HOUR_US == charge.start // HOUR_US else charge.start

    def added_to(self, before: Mapping[str, Before]) -> dict[str, Before]:
        """What scopes have cost by day, and what was charged of these days since then."""
        days = {name: Counter(one.days) for name, one in before.items()}
        earlier = {name: Counter(one.earlier) for name, one in before.items()}
        for one, at, nanos in self._charges:
            if at >= one.days_from:
                days[one.budget][at // DAY_US] += nanos
            if one.earlier and max(one.earlier[0], one.counts_from) <= at < one.period_start:
                earlier[one.budget][one.earlier[bisect_right(one.earlier, at) - 1]] += nanos
        return {name: Before(days[name], earlier[name]) for name in before}


def cost_of(views: Views, wanted: Sequence[Opening], books: Unposted) -> Counter[str]:
    """What the scope of each has cost in its time: one question to the books for each stretch of time,
    however many budgets count in it.
    """
    found: Counter[str] = Counter()
    keys = sorted({key for one in wanted for key, _ in one.scope.labels})
    dims = (*_MARKS, *(f"label:{key}" for key in keys))
    for since, until in sorted({(one.since, one.until) for one in wanted}):
        query = ChargeFilter(since=since, until=until, kinds=PAID)
        inside = [one for one in wanted if (one.since, one.until) == (since, until)]
        for part in views.charge_sums(dims, query, books):
            project, user, experiment, model, *values = map(str, part.keys)
            labels = {key: value for key, value in zip(keys, values, strict=True) if value}
            for one in inside:
                if one.scope.covers(project, user, experiment, model, labels):
                    found[one.budget] += part.nanos
    return found


def _before(views: Views, wanted: Sequence[Opening], books: Unposted) -> dict[str, Before]:
    """By day, of each: no more rows are read than there are days and values of its labels."""
    found = {}
    for one in wanted:
        days = _by_used_day(views, one, books)
        earlier = Counter[int]()
        if one.earlier:
            since, until = max(one.earlier[0], one.counts_from), one.period_start
            if since < until:
                offsets = offsets_of(find_timezone(one.timezone), one.earlier[0], until)
                shown = {_shown(start, offsets) // DAY_US: start for start in one.earlier}
                for day, nanos in _by_day(views, one, books, since, until, offsets).items():
                    earlier[shown[day]] += nanos
        found[one.budget] = Before(days, earlier)
    return found


def _shown(at: int, offsets: Offsets) -> int:
    """As the clocks of a place show it."""
    return at + next((ahead for since, ahead in reversed(offsets) if since <= at), 0)


def _by_used_day(views: Views, one: Opening, books: Unposted) -> Counter[int]:
    """What a scope has cost by day of UTC of when it was used, as forecasts know it."""
    found = Counter[int]()
    for part in views.charge_sums([Dim.USED_DAY], _of_scope(one, one.days_from, 0), books):
        if int(part.keys[0]) >= one.days_from:
            found[int(part.keys[0]) // DAY_US] += part.nanos
    return found


def _by_day(
    views: Views, one: Opening, books: Unposted, since: int, until: int, offsets: Offsets
) -> Counter[int]:
    """What a scope has cost, by day as a place's clocks show it, counted from 1970."""
    found = Counter[int]()
    for part in views.charge_sums([Dim.DAY], _of_scope(one, since, until), books, offsets):
        found[int(part.keys[0]) // DAY_US] += part.nanos
    return found


def _of_scope(one: Opening, since: int, until: int) -> ChargeFilter:
    scope = one.scope
    return ChargeFilter(
        since=since,
        until=until,
        kinds=PAID,
        project=scope.project,
        user=scope.user,
        experiment=scope.experiment,
        model=scope.model,
        labels=scope.labels,
    )
