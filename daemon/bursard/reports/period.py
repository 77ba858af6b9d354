"""The stretch of time a report is about: a day, month, quarter or year in the calendar of some place.

Why     the same period text and zone name the same charges for every report, so their totals can be compared.
        The books themselves, what is late in them and what is closed, go by months of UTC (`month_of`).
Limits  what an owner is charged in an hour of UTC is one row, and counts where that begins: in a zone of half
        hours, midnight is the full hour after it, unless a budget's period ends there: then rows do too.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from bursar.clock import SECOND_US, Instant
from bursar.errors import InvalidRequest
from bursar_policies.periods import find_timezone, period_bounds

_PERIOD = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?", re.ASCII)
_EPOCH = date(1970, 1, 1)
YEAR_FIRST, YEAR_LAST = 1971, 9900
"""Instants of other years are of no ledger, and the last ones cannot be computed with."""


class Period(msgspec.Struct, frozen=True):
    """`[since, until)`, instants; `text` in its shortest form; `timezone`: whose midnights these are."""

    text: str
    since: int
    until: int
    timezone: str = "UTC"

    @property
    def before(self) -> Period:
        """The one of the same kind that ends where this begins."""
        return _around(_kind_of(self.text), self.timezone, self.since - 1)


_FORMS: Final = {
    "day": re.compile(r"(\d{4})-(\d{2})-(\d{2})", re.ASCII),
    "month": re.compile(r"(\d{4})-(\d{2})", re.ASCII),
    "quarter": re.compile(r"(\d{4})-[Qq]([1-4])", re.ASCII),
    "year": re.compile(r"(\d{4})", re.ASCII),
}
_WORDS: Final = {
    **{f"this-{kind}": (kind, False) for kind in ("month", "quarter", "year")},
    **{f"last-{kind}": (kind, True) for kind in ("month", "quarter", "year")},
    "today": ("day", False),
    "yesterday": ("day", True),
}
KNOWN_PERIODS: Final = "2026-11, 2026-11-21, 2026-Q4, 2026, " + ", ".join(_WORDS)


def find_period(text: str, now: int, timezone: str = "") -> Period:
    """A period by its name, such as `2026-11` or `last-month`, in a zone (UTC without).

    Raises:
        InvalidRequest: it is none, or no such day is in that zone.
    """
    zone = find_zone(timezone).key
    if text in _WORDS:
        kind, last = _WORDS[text]
        found = _around(kind, zone, now)
        return found.before if last else found
    kind = _kind_of(text)
    if kind:
        named = _named(kind, text, zone)
        if named is not None:
            return named
    raise InvalidRequest(f"period: {text[:40]!r} is no period; known: {KNOWN_PERIODS}")


def find_zone(name: str) -> ZoneInfo:
    """A time zone by name, UTC without. Raises `InvalidRequest`."""
    try:
        return find_timezone(name or "UTC")
    except InvalidRequest as error:
        raise InvalidRequest(f"timezone: {error}") from None


def _kind_of(text: str) -> str:
    return next((kind for kind, form in _FORMS.items() if form.fullmatch(text)), "")


def _named(kind: str, text: str, zone: str) -> Period | None:
    first = _first_day(kind, text)
    if first is None or not YEAR_FIRST <= first.year <= YEAR_LAST:
        return None
    noon = datetime(first.year, first.month, first.day, 12, tzinfo=ZoneInfo(zone))
    found = _around(kind, zone, int(noon.timestamp()) * SECOND_US)
    # Of a day that a place left out, noon is on another one.
    return found if found.text == text.upper() else None


def _first_day(kind: str, text: str) -> date | None:
    match = _FORMS[kind].fullmatch(text)
    assert match is not None
    year, *rest = (int(part) for part in match.groups())
    month = rest[0] if rest else 1
    try:
        return date(year, 3 * month - 2 if kind == "quarter" else month, rest[1] if kind == "day" else 1)
    except ValueError:
        return None


def _around(kind: str, zone: str, at: int) -> Period:
    since, until = period_bounds(kind, zone, Instant(at))
    assert until is not None
    first = datetime.fromtimestamp(since // SECOND_US, ZoneInfo(zone)).date()
    text = {
        "day": first.isoformat(),
        "month": f"{first:%Y-%m}",
        "quarter": f"{first.year}-Q{(first.month + 2) // 3}",
        "year": f"{first.year}",
    }[kind]
    return Period(text, since, until, zone)


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
