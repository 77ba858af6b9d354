"""What bills of providers said that were kept: estimate and final apart, by machine, and what only one knew.

Why     a month after the bill somebody asks what it differed in, and what was never found on the other side.
        Of each source and period the newest bill counts that was kept whole; older ones stay in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bursar.clock import Instant, format_instant
from bursar.words import plural
from bursard.events import BillKept, BillLine, decode
from bursard.reports.kept import Kept, Whole
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period, read_period
from bursard.store import Views

_COLUMNS: Final = (
    Column("bill", drop=2),
    Column("resource", wrap=True),
    Column("state"),
    Column("hours", "count"),
    Column("from", drop=1),
    Column("estimate", "money", absent="-"),
    Column("final", "money", absent="-"),
    Column("variance", "money"),
)
STATES: Final = ("matched", "books-only", "provider-only")


class _Sum(msgspec.Struct):
    """Of a machine, in one state."""

    hours: int
    first: int
    estimate: int = 0
    final: int = 0


def bills(views: Views, period: Period, currency: str, upto: int) -> Page:
    """All that was kept for a period, up to an event."""
    rows: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for whole in _within(views, period, upto):
        head, sums = whole.head, _summed(_lines(views, whole))
        rows += _rows(head.source, sums)
        alone = {
            state: sum(one.hours for (_, known), one in sums.items() if known == state) for state in STATES
        }
        notes.append(
            f"{head.source}: {head.cost}, kept by {head.by};"
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


def _within(views: Views, period: Period, upto: int) -> Iterator[Whole]:
    """By source and period the bill that counts."""
    kept = Kept()
    kept.read(views, upto)
    for (_, text), whole in sorted(kept.counting.items()):
        own = read_period(text)
        if period.since <= own.since and own.until <= period.until:
            yield whole


def _lines(views: Views, whole: Whole) -> Iterator[BillLine]:
    """Part after part: only one of them is in memory."""
    for seq in whole.seqs:
        for row in views.events(seq - 1, 1):
            event = decode(row.payload)
            if row.seq == seq and isinstance(event, BillKept):
                yield from event.lines


def _state(line: BillLine) -> str:
    if line.final is None:
        return "books-only"
    return "provider-only" if line.estimate is None else "matched"


def _summed(lines: Iterable[BillLine]) -> dict[tuple[str, str], _Sum]:
    """By machine and state."""
    found: dict[tuple[str, str], _Sum] = {}
    for line in lines:
        one = found.setdefault((line.resource, _state(line)), _Sum(0, line.hour))
        one.hours += line.hours
        one.first = min(one.first, line.hour)
        one.estimate += line.estimate or 0
        one.final += line.final or 0
    return found


def _rows(source: str, sums: dict[tuple[str, str], _Sum]) -> Iterator[tuple[Cell, ...]]:
    for (resource, state), one in sorted(sums.items()):
        first = format_instant(Instant(one.first))
        estimate = one.estimate if state != "provider-only" else None
        final = one.final if state != "books-only" else None
        yield source, resource, state, one.hours, first, estimate, final, (final or 0) - (estimate or 0)


def _sums(rows: list[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    hours, estimate, final, variance = (sum(int(row[at] or 0) for row in rows) for at in (3, 5, 6, 7))
    return hours, "", estimate, final, variance
