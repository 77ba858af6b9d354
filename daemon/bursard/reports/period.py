"""The stretch of time a report is about: a UTC month or day.

Why     the same period text names the same charges for every report, so their totals can be compared.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import msgspec

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest

_PERIOD = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?", re.ASCII)
_EPOCH = date(1970, 1, 1)
YEAR_FIRST, YEAR_LAST = 1971, 9900
"""Instants of other years are of no ledger, and the last ones cannot be computed with."""


class Period(msgspec.Struct, frozen=True):
    """`[since, until)`, instants; `text` as it was asked for."""

    text: str
    since: int
    until: int


def read_period(text: str) -> Period:
    """A month `2026-11` or a day `2026-11-21`, UTC. Raises `InvalidRequest`."""
    match = _PERIOD.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month = int(match[1]), int(match[2])
        if not YEAR_FIRST <= year <= YEAR_LAST:
            raise ValueError
        first = date(year, month, int(match[3] or 1))
        following = first + timedelta(days=1) if match[3] else next_month(first)
    except ValueError:
        raise InvalidRequest(
            f"period: {text[:40]!r} is not a month, such as 2026-11, or a day, such as 2026-11-21"
        ) from None
    return Period(text, _instant(first), _instant(following))


def month_of(at: int) -> tuple[int, int]:
    """The UTC month around an instant: the billing period of a charge."""
    day = datetime.fromtimestamp(at // SECOND_US, UTC).date().replace(day=1)
    return _instant(day), _instant(next_month(day))


def month_text(at: int) -> str:
    """The UTC month around an instant, as `2026-11`."""
    return datetime.fromtimestamp(at // SECOND_US, UTC).strftime("%Y-%m")


def next_month(day: date) -> date:
    """The first day of the month after."""
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


def _instant(day: date) -> int:
    return (day - _EPOCH).days * 86_400 * SECOND_US
