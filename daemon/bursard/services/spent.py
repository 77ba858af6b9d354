"""What the scopes of budgets have cost: asked of the books when documents open accounts.

Why     the answer takes a moment, in which jobs go on and are charged. Those charges are listened to from the
        instant the books are asked, so that the account opens with what its scope has cost at the instant of
        the commit, to the nano; and what was to be opened is looked at again, since a period may have ended
        or somebody else have applied something meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from bursar.errors import WrongState
from bursar_policies.specs import Document
from bursard.engine import Engine
from bursard.events import Charge
from bursard.ledger import PAID
from bursard.state import State
from bursard.state.decide import policies
from bursard.state.decide.opening import Opening, openings
from bursard.store import ChargeFilter, Dim, Unposted, Views

TRIES = 3
_MARKS = (Dim.PROJECT, Dim.USER, Dim.EXPERIMENT, Dim.MODEL)


async def spent(engine: Engine, documents: Sequence[Document]) -> dict[str, int]:
    """By budget whose account these documents open, what its scope has cost: at this instant, so that it
    holds for whoever commits before anything is waited for.

    Raises:
        WrongState: what they would open changes faster than the books are read.
    """
    state = engine.state
    for _ in range(TRIES):
        if state.budgets.due(engine.now()):
            engine.commit(policies.roll_periods(state, engine.now()), "bursard")
        wanted = openings(state, documents, engine.now())
        if not wanted:
            return {}
        since_then = _Meter(state, wanted)
        engine.meters.append(since_then)
        try:
            # The meter and the open hours begin at one instant: nothing waits in between.
            found = await asyncio.to_thread(_cost, engine.views, wanted, await engine.books())
            heard_all = since_then in engine.meters
        finally:
            engine.meters = [one for one in engine.meters if one is not since_then]
        if heard_all and openings(state, documents, engine.now()) == wanted:
            return {one.budget: found[one.budget] + since_then.nanos[one.budget] for one in wanted}
    raise WrongState("budgets changed while their costs were read; apply the documents again")


class _Meter:
    """Adds up what is charged to each scope from now on."""

    def __init__(self, state: State, wanted: Sequence[Opening]) -> None:
        self.nanos: Counter[str] = Counter()
        self._state = state
        self._wanted = wanted

    def __call__(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            if charge.kind not in PAID or not charge.nanos:
                continue
            job = self._state.jobs[charge.job_id]
            spec, labels = job.spec, dict(job.spec.labels)
            for one in self._wanted:
                inside = one.since <= charge.start and (not one.until or charge.start < one.until)
                if inside and one.scope.covers(spec.project, job.user, spec.experiment, spec.model, labels):
                    self.nanos[one.budget] += charge.nanos


def _cost(views: Views, wanted: Sequence[Opening], books: Unposted) -> Counter[str]:
    """One question to the books for each stretch of time, however many budgets count in it."""
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
