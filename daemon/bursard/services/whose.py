"""Whose costs are when: the tables of teams and cost centres as the log has them.

Why     a table that is in force no more still tells the hours that it told, so the log is asked, and nothing
        of it is kept beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bursar.clock import HOUR_US
from bursar_policies.attribution import Attributions, Change
from bursar_policies.specs import AttributionSpec, Document
from bursard.events import PolicyApplied, PolicyRemoved, decode
from bursard.reports.period import month_of, month_text
from bursard.services.dated import Dates, dates_of
from bursard.state import State
from bursard.state.periods import ClosedPeriod
from bursard.store import LATE_AFTER_US, EventFilter, EventRow, Views

_ASKED = EventFilter(kinds=("policy-applied", "policy-removed"))


def open_since(months: Sequence[ClosedPeriod], at: int) -> int:
    """The first instant of what was not published at an instant. `months`: those that were closed then."""
    closed = max((one.until for one in months), default=0)
    return max(closed, month_of(max(at - LATE_AFTER_US, 0))[0])


def moves_told(state: State, documents: Iterable[Document], now: int) -> list[str]:
    """What a table that reaches back says otherwise, and where that counts."""
    opened = open_since(state.closed.all, now)
    return [
        f"months before {month_text(opened)} were published, and stay as they were told: what {one.name} says"
        f" otherwise of them is booked in {month_text(max(now, opened))} as reattributed"
        for one in documents
        if isinstance(one.spec, AttributionSpec)
        and one.effective_at is not None
        and one.effective_at < opened
    ]


def past_attributions(months: Sequence[ClosedPeriod], views: Views) -> Attributions:
    """All tables that there ever were. `months`: all that are closed."""
    changes: list[Change] = []
    after, dates = 0, dates_of(views)
    while rows := views.events(after, 1000, _ASKED):
        for row in rows:
            changes += _changes(row, dates, [one for one in months if one.seq < row.seq])
        after = rows[-1].seq
    return Attributions(changes)


def _changes(row: EventRow, dates: Dates, months: Sequence[ClosedPeriod]) -> list[Change]:
    event, at = decode(row.payload), dates.of(row)
    opened = open_since(months, at)
    if isinstance(event, PolicyRemoved) and event.kind == "Attribution":
        return [Change(event.name, 0, at, row.actor, at - at % HOUR_US, opened, None)]
    if not isinstance(event, PolicyApplied):
        return []
    found = []
    for one in event.documents:
        if isinstance(one.spec, AttributionSpec):
            since = dates.since(row, one.effective_at)
            found.append(
                Change(one.name, one.version, at, row.actor, since - since % HOUR_US, opened, one.spec)
            )
    return found
