"""What bills of providers said that were kept: estimate and final apart, by machine, and what only one knew.

Why     a month after the bill somebody asks what it differed in, and what was never found on the other side.
        Of each source and period the newest bill counts that was kept whole; older ones stay in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bursar.clock import Instant, format_instant
from bursar.words import plural
from bursard.events import BillKept, BillLine, decode
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period, read_period
from bursard.store import EventFilter, Views

_AT_ONCE: Final = 200
_KEPT: Final = EventFilter(kinds=("bill-kept",))
_COLUMNS: Final = (
    Column("bill", drop=2),
    Column("resource"),
    Column("state"),
    Column("hours", "count"),
    Column("from", drop=1),
    Column("estimate", "money", absent="-"),
    Column("final", "money", absent="-"),
    Column("variance", "money"),
)
STATES: Final = ("matched", "books-only", "provider-only")


def bills(views: Views, period: Period, currency: str, upto: int) -> Page:
    """All that was kept for a period, up to an event."""
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for parts in _newest(views, period, upto):
        lines = [line for part in parts for line in part.lines]
        rows += _rows(parts[0].source, lines)
        alone = {state: sum(one.hours for one in lines if _state(one) == state) for state in STATES}
        notes.append(
            f"{parts[0].source}: {parts[0].cost}, kept by {parts[0].by};"
            f" {plural(alone['matched'], 'hour')} on both sides, {alone['books-only']} in the books alone,"
            f" {alone['provider-only']} of the provider alone."
        )
    return Page(
        kind="bills",
        period=period,
        currency=currency,
        columns=_COLUMNS,
        rows=tuple(rows),
        total=("", "total", "", *_sums(rows)) if rows else (),
        notes=(*notes, "Estimates are the books' of the day of keeping; variance is final less estimate."),
    )


def _newest(views: Views, period: Period, upto: int) -> list[list[BillKept]]:
    """By source and period the parts of the bill that was kept last of those that are whole."""
    found: dict[tuple[str, str], list[BillKept]] = {}
    parts: dict[str, dict[int, BillKept]] = {}
    for event in _kept(views, upto):
        own = read_period(event.period)
        if not (period.since <= own.since and own.until <= period.until):
            continue
        have = parts.setdefault(event.name, {})
        have.setdefault(event.part, event)
        if len(have) == event.parts:
            found[event.source, event.period] = [have[part] for part in sorted(have)]
    return [parts for _, parts in sorted(found.items())]


def _kept(views: Views, upto: int) -> Iterator[BillKept]:
    after = 0
    while rows := views.events(after, _AT_ONCE, _KEPT):
        for row in rows:
            event = decode(row.payload)
            if row.seq <= upto and isinstance(event, BillKept):
                yield event
        after = rows[-1].seq


def _state(line: BillLine) -> str:
    if line.final is None:
        return "books-only"
    return "provider-only" if line.estimate is None else "matched"


def _rows(source: str, lines: list[BillLine]) -> Iterator[tuple[Cell, ...]]:
    """By machine and state."""
    groups: dict[tuple[str, str], list[BillLine]] = {}
    for line in lines:
        groups.setdefault((line.resource, _state(line)), []).append(line)
    for (resource, state), ones in sorted(groups.items()):
        estimate = sum(one.estimate or 0 for one in ones) if state != "provider-only" else None
        final = sum(one.final or 0 for one in ones) if state != "books-only" else None
        first = format_instant(Instant(min(one.hour for one in ones)))
        hours = sum(one.hours for one in ones)
        yield source, resource, state, hours, first, estimate, final, (final or 0) - (estimate or 0)


def _sums(rows: list[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    hours, estimate, final, variance = (sum(int(row[at] or 0) for row in rows) for at in (3, 5, 6, 7))
    return hours, "", estimate, final, variance
