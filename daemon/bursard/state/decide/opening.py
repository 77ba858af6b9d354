"""How the account of a budget begins: with what its scope has cost, and with what runs under it. PURE.

Owns    which documents open an account, and the event that does.
Why     `budget ls` and `cost` must say the same of a scope and a period, whenever the budget was applied,
        changed, removed and applied again (B5). What the past has cost is in the books alone, so the caller
        reads it there; what still runs is in the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from bursar.clock import DAY_US, HOUR_US, Instant
from bursar.errors import BudgetExceeded
from bursar.money import cumulative, format_nanos
from bursar_policies.periods import period_bounds, window
from bursar_policies.specs import FORECAST, BudgetSpec, Document, Scope
from bursard.events import BudgetOpened, Event, NodeMetered, OpeningHold, Used
from bursard.scheduler.text import at_least, money
from bursard.state.budgets import same_money, same_periods, settled_of
from bursard.state.core import State
from bursard.state.decide import launches
from bursard.state.records import AttemptRecord
from bursard.state.tables import still_to_cost, worst_case


class Opening(msgspec.Struct, frozen=True):
    """An account of a budget that documents would open.

    Attributes:
        period_start: of its current period. since, until: what its scope has cost from here to there is its
            own; 0: there is no end.
        earlier: of a rolling one, where the days of its window begin that come before, oldest first, and end
            with the next, the last one with its period's start. What they cost is its own too.
        timezone: whose days those are. counts_from: of its document. days_from: what its scope has cost by
            day of UTC is wanted from here on, for forecasts.
    """

    budget: str
    scope: Scope
    period_start: int
    since: int
    until: int
    earlier: tuple[int, ...] = ()
    timezone: str = "UTC"
    days_from: int = 0
    counts_from: int = 0


class Before(NamedTuple):
    """What the scope of a budget has cost before: nanos by day of UTC counted from 1970, and by where the
    earlier days of its window begin.
    """

    days: Mapping[int, int]
    earlier: Mapping[int, int]


NOTHING: Final = Before(MappingProxyType({}), MappingProxyType({}))
DAYS_BACK: Final = 91
"""Whole days before this one that a forecast learns from."""


def openings(state: State, documents: Sequence[Document], now: int) -> tuple[Opening, ...]:
    """The accounts that these documents would open: of budgets that are new, or are to count something else.
    What their scopes have cost is in the books alone, and `apply_documents` wants to know it.
    """
    found = []
    for document in documents:
        if isinstance(document.spec, BudgetSpec) and not in_force(state, document):
            opening = _opening(state, document.name, document.spec, now)
            if opening is not None:
                found.append(opening)
    return tuple(found)


def _opening(state: State, name: str, spec: BudgetSpec, now: int) -> Opening | None:
    record = state.budgets.records.get(name)
    if record is not None and record.opened and same_money(record.spec, spec):
        learns = _by_forecast(spec) and not _by_forecast(record.spec)
        if not learns:  # one that is to go by its forecast from now on is to know its days
            return None
    if record is not None and same_periods(record.spec, spec):
        start, end = record.period_start, record.period_end
    else:
        start, until = period_bounds(spec.period, spec.timezone, Instant(state.closed.open_at(now)))
        end = until or 0
    return _of_period(name, spec, start, end, now)


def _of_period(name: str, spec: BudgetSpec, start: int, end: int, now: int) -> Opening:
    return Opening(
        name,
        spec.scope,
        start,
        max(start, spec.counts_from),
        end,
        window(spec.period, spec.timezone, start)[:-1],
        spec.timezone,
        now // DAY_US * DAY_US - DAYS_BACK * DAY_US,
        spec.counts_from,
    )


def reopenings(state: State, now: int) -> tuple[Opening, ...]:
    """The accounts of budgets that a wrong clock has taken through their periods, and that the books were not
    asked for yet.
    """
    records = (state.budgets.records[name] for name in sorted(state.budgets.unread))
    return tuple(_of_period(one.name, one.spec, one.period_start, one.period_end, now) for one in records)


def reopened(
    state: State, wanted: Sequence[Opening], spent: Mapping[str, int], before: Mapping[str, Before]
) -> list[Event]:
    """Their accounts begin with what their scopes have cost, also beyond their limits: it is so."""
    live = by_marks(state)
    opened: list[Event] = [
        _account(state, one, live, spent.get(one.budget, 0), before.get(one.budget, NOTHING))[0]
        for one in wanted
    ]
    return [*opened, *posted(state, opened)]


def _by_forecast(spec: BudgetSpec) -> bool:
    return any(one.on == FORECAST for one in spec.thresholds)


def in_force(state: State, document: Document) -> bool:
    """Is it exactly what is in force already?"""
    current = state.policies.get((document.kind, document.name))
    return current is not None and current.spec is not None and current.text == document.text


Marks = tuple[str, str, str, str, tuple[tuple[str, str], ...]]
"""What scopes go by: project, user, experiment, model, labels."""


def by_marks(state: State) -> dict[Marks, list[AttemptRecord]]:
    """Live attempts, oldest first, of the same marks together."""
    found: dict[Marks, list[AttemptRecord]] = {}
    for attempt in state.live_attempts():
        job = state.jobs[attempt.job_id]
        spec = job.spec
        marks = (spec.project, job.user, spec.experiment, spec.model, spec.labels)
        found.setdefault(marks, []).append(attempt)
    return found


def open_account(
    state: State,
    document: Document,
    spec: BudgetSpec,
    live: Mapping[Marks, list[AttemptRecord]],
    now: int,
    spent: int,
    before: Before = NOTHING,
) -> list[Event]:
    """The opening of a budget's account, if its document opens it. Raises `BudgetExceeded` when its limit is
    too low.
    """
    opening = _opening(state, document.name, spec, now)
    if opening is None:
        record = state.budgets.records[document.name]
        settled, held = settled_of(record, state.ledger), state.budgets.held(record, state.ledger)
        _check_limit(state, document, spec, record.period_start, settled, held)
        return []
    account, whole = _account(state, opening, live, spent, before)
    _check_limit(
        state, document, spec, opening.period_start, whole, sum(hold.nanos for hold in account.holds)
    )
    return [account]


def _account(
    state: State, opening: Opening, live: Mapping[Marks, list[AttemptRecord]], spent: int, before: Before
) -> tuple[BudgetOpened, int]:
    """An account, and what was spent in all of its window."""
    holds = [
        _opening_hold(state, attempt, opening)
        for (project, user, experiment, model, labels), attempts in live.items()
        if opening.scope.covers(project, user, experiment, model, dict(labels))
        for attempt in attempts
    ]
    holds += _launch_holds(state, opening.scope, opening)
    earlier = tuple((start, before.earlier.get(start, 0)) for start in opening.earlier)
    starts = (*opening.earlier, opening.period_start)
    keys = state.keys_charged.by_period(opening.budget, starts, opening.counts_from)
    whole = spent + sum(nanos for _, nanos in earlier) + keys.total()
    since = max(earlier[0][0], opening.counts_from) if earlier else opening.since
    days = tuple(sorted((day, nanos) for day, nanos in before.days.items() if nanos))
    account = (opening.budget, opening.period_start, spent, since, tuple(holds))
    return BudgetOpened(*account, days, earlier), whole


def posted(state: State, opened: Sequence[Event]) -> list[Event]:
    """What is open of an hour in which the period of an account began that opens is a row of the period
    before, as it was when the books were asked: what is charged from now on is another one.
    """
    found: dict[str, dict[tuple[str, int], Used]] = {}
    for event in opened:
        if not isinstance(event, BudgetOpened) or not event.period_start % HOUR_US:
            continue
        for hold in event.holds:
            attempt = state.attempts.get(hold.attempt_id)
            for member in attempt.members if attempt is not None else ():
                hour = member.open
                if hour is not None and hour.start < event.period_start < hour.hour + HOUR_US:
                    key = hold.attempt_id, member.alloc.rank
                    found.setdefault(member.alloc.node_id, {})[key] = Used(*key, member.charged_us, 0, 0, 0)
    return [
        NodeMetered(node_id, state.nodes[node_id].through, used=tuple(used.values()), posted=True)
        for node_id, used in sorted(found.items())
    ]


def _opening_hold(state: State, attempt: AttemptRecord, opening: Opening) -> OpeningHold:
    """What it holds of it already, or the rest of its worst case."""
    here = (opening.budget, opening.period_start)
    rest = next(
        (h.nanos for h in state.ledger.open_holds(attempt.id) if (h.budget, h.period_start) == here),
        still_to_cost(attempt),
    )
    whole = attempt.holds[0].nanos if attempt.holds else worst_case(attempt)
    return OpeningHold(attempt.id, rest, whole)


def _launch_holds(state: State, scope: Scope, opening: Opening) -> list[OpeningHold]:
    """Of machines that come up for jobs of its scope: their launches are theirs to pay for."""
    found = []
    for machine in state.machines.values():
        job = state.jobs.get(machine.job_id) if machine.holding else None
        if job is None:
            continue
        spec = job.spec
        if scope.covers(spec.project, job.user, spec.experiment, spec.model, dict(spec.labels)):
            holds = state.ledger.open_holds(machine.payer)
            here = [hold.nanos for hold in holds if hold.budget == opening.budget]
            most = cumulative(machine.rate, machine.lease_until - machine.intended_at)
            if machine.node_id and not machine.waits:
                most = launches.cost(machine)
            nanos = (here or [hold.nanos for hold in holds] or [most])[0]
            found.append(OpeningHold(machine.payer, nanos, nanos))
    return found


def _check_limit(
    state: State, document: Document, spec: BudgetSpec, period_start: int, settled: int, held: int
) -> None:
    """With what was given to it in this period, or taken, its limit is no less than what is committed."""
    starts = window(spec.period, spec.timezone, period_start)
    given = state.ledger.over(document.name, starts)[1]
    hard = spec.enforcement == "hard"
    needed = (settled + held if hard else 0) - given
    if spec.limit.nanos >= needed:
        return
    currency = state.currency
    what = f" with {money(given, currency)} granted or transferred" if given > 0 else ""
    what = f" less the {money(-given, currency)} transferred away" if given < 0 else what
    below = f"the {money(settled, currency)} settled and {money(held, currency)} held in this period"
    raise BudgetExceeded(
        f"{document.source}:{document.line}: {document.kind} {document.name}: a limit of"
        f" {money(spec.limit.nanos, currency)}{what} is below {below if hard else 'nothing'}; set"
        f" {at_least(needed, currency)} or more{', or cancel jobs first' if hard else ''}",
        {"settled": format_nanos(settled), "held": format_nanos(held), "given": format_nanos(given)},
    )
