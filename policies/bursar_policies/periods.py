"""Budget periods: which stretch of time an instant belongs to, in a place's own calendar.

Owns    `period_bounds`, and the windows of rolling periods: `rolling-30d` has a period of its own each day,
        of which the last thirty count together. Pure: the instant is an argument, the time zone a name.
Why     a "day" in Berlin has 23 or 25 hours twice a year, and somewhere midnight does not exist;
        periods must still follow each other without gap or overlap, or money is counted twice.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from bursar.clock import SECOND_US, Instant
from bursar.errors import InvalidRequest
from bursar.yamlfile import nearest

PERIODS: Final = ("day", "week", "month", "quarter", "year", "one-time")
"""Budget periods; weeks start on Monday, `one-time` never renews."""

ROLLING_MAX: Final = 366
"""Days of the longest rolling period."""
ROLLING_EXAMPLE: Final = "rolling-30d"

_ROLLING = re.compile(r"rolling-([1-9][0-9]{0,2})d", re.ASCII)
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_MIN, _YEAR_MAX = 1900, 9900


def find_timezone(name: str) -> ZoneInfo:
    """The zone of an IANA name such as `Europe/Berlin`. Raises `InvalidRequest`."""
    try:
        # `right/` zones count leap seconds, `localtime` differs by machine: neither is a place.
        usable = _ZONE_NAME.fullmatch(name) and not name.startswith(("right/", "posix/", "local"))
        if usable:
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    # A slip is rarely in the first letter, and comparing with all 600 names is slow.
    alike = [zone for zone in _zone_names() if zone[:1].lower() == name[:1].lower()]
    near = nearest(name[:60], alike)
    hint = f"; did you mean {near!r}?" if near else "; write it as Europe/Berlin or UTC"
    raise InvalidRequest(f"{name[:60]!r} is not a time zone{hint}")


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def rolling_days(period: str) -> int:
    """Of how many days a rolling period is; 0 for any other word."""
    found = _ROLLING.fullmatch(period)
    days = int(found[1]) if found else 0
    return days if days <= ROLLING_MAX else 0


def is_period(word: str) -> bool:
    """Is there such a period?"""
    return word in PERIODS or rolling_days(word) > 0


@lru_cache(maxsize=4_096)
def window(period: str, timezone: str, start: int) -> tuple[int, ...]:
    """Where the periods begin that count together while the one of `start` does, oldest first, that one last:
    each day of a rolling window; of any other period, itself.
    """
    found = [start]
    for _ in range(rolling_days(period) - 1):
        try:
            before, _ = period_bounds("day", timezone, Instant(found[-1] - 1))
        except InvalidRequest:  # before 1900
            break
        found.append(before)
    return tuple(reversed(found))


def period_bounds(period: str, timezone: str, at: Instant) -> tuple[Instant, Instant | None]:
    """The period that holds `at`: `[start, end)`, with no end for `one-time`.

    Args:
        period: one of `PERIODS`, or a rolling one: the bounds are those of its day.
        timezone: IANA name.
        at: between the years 1900 and 9900.

    Returns:
        start <= at < end, and end is the start of the next period, whatever clocks do.

    Raises:
        InvalidRequest: for an unknown period or zone, or an instant out of range.
    """
    if not is_period(period):
        known = ", ".join((*PERIODS, ROLLING_EXAMPLE))
        raise InvalidRequest(f"{period[:60]!r} is not a period; known: {known}")
    if rolling_days(period):
        period = "day"
    if period == "one-time":
        return Instant(0), None
    zone = find_timezone(timezone)
    try:
        day = (_EPOCH + timedelta(microseconds=at)).astimezone(zone).date()
    except OverflowError:
        day = date.min
    if not _YEAR_MIN <= day.year <= _YEAR_MAX:
        raise InvalidRequest(f"the instant {at} is not between {_YEAR_MIN} and {_YEAR_MAX}")
    first = _first_day(period, day)
    # A clock set back across midnight shows the old date again: step until `at` is inside.
    while at < _midnight(first, zone):
        first = _first_day(period, first - timedelta(days=1))
    following = _next_first_day(period, first)
    while at >= _midnight(following, zone):
        first, following = following, _next_first_day(period, following)
    return _midnight(first, zone), _midnight(following, zone)


def _first_day(period: str, day: date) -> date:
    if period == "day":
        return day
    if period == "week":
        return day - timedelta(days=day.weekday())
    if period == "month":
        return day.replace(day=1)
    if period == "quarter":
        return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
    return day.replace(month=1, day=1)


def _next_first_day(period: str, first: date) -> date:
    # Any day this far on lies in the next period, and none lies beyond it.
    days = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}[period]
    return _first_day(period, first + timedelta(days=days))


def _midnight(day: date, zone: ZoneInfo) -> Instant:
    """When the clock there first shows the day's 00:00, or would have, were it not skipped."""
    moment = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) - _EPOCH
    return Instant((moment.days * 86_400 + moment.seconds) * SECOND_US + moment.microseconds)
