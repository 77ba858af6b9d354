"""Slurm's ways to write a time: how long (`1-02:30:00`), and from when (`now+1hour`, `16:00`, `tomorrow`).

Input   text, and the moment and time zone of the machine it is written on. Output: seconds, or an instant.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

_DAYS = re.compile(r"(\d{1,5})-(\d{1,4})(?::(\d{1,4})(?::(\d{1,4}))?)?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,7})(?::(\d{1,4})(?::(\d{1,4}))?)?", re.ASCII)
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_NOW = re.compile(r"now(?:\s*\+\s*(\d{1,8})\s*([a-z]*))?", re.ASCII | re.IGNORECASE)
_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(am|pm)?", re.ASCII | re.IGNORECASE)
_NAMED: Final = {
    "midnight": (0, 0),
    "noon": (12, 0),
    "teatime": (16, 0),
    "fika": (15, 0),
    "elevenses": (11, 0),
}
_DATES: Final = ("%Y-%m-%d", "%m/%d/%y", "%m/%d/%Y", "%m%d%y")


def parse_slurm_time(text: str) -> int | None:
    """Seconds of a Slurm time (`MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM[:SS]`); None if it is none."""
    match = _DAYS.fullmatch(text)
    if match is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    first, second, third = match.groups()
    if third is not None:
        return (int(first) * 60 + int(second)) * 60 + int(third)
    return int(first) * 60 + int(second or 0)


def parse_begin(text: str, now: datetime) -> datetime | None:
    """The moment that `--begin` names; None if it names none. A time of day that is past is tomorrow's.

    Args:
        now: with the time zone in which times without one are meant.
    """
    word = " ".join(text.split())
    if word.lower() in ("today", "tomorrow"):
        return now if word.lower() == "today" else now + timedelta(days=1)
    match = _NOW.fullmatch(word)
    if match is not None:
        factor = _factor(match.group(2) or "")
        return None if factor is None else now + timedelta(seconds=int(match.group(1) or 0) * factor)
    if re.match(r"\d{4}-\d\d-\d\d(?:T|$)", word):
        return _iso(word, now)
    of_day = _time_of_day(word)
    if of_day is not None:
        at = now.replace(hour=of_day[0], minute=of_day[1], second=of_day[2], microsecond=0)
        return at if at > now else at + timedelta(days=1)
    return _date_and_time(word, now)


def _factor(unit: str) -> int | None:
    """Seconds of `hour`, `hours`, or a beginning of it; of nothing 1."""
    if not unit:
        return 1
    found = [size for name, size in _UNITS.items() if f"{name}s".startswith(unit.lower())]
    return found[0] if found else None


def _iso(word: str, now: datetime) -> datetime | None:
    try:
        at = datetime.fromisoformat(word)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=now.tzinfo)


def _time_of_day(word: str) -> tuple[int, int, int] | None:
    if word.lower() in _NAMED:
        return (*_NAMED[word.lower()], 0)
    match = _OF_DAY.fullmatch(word)
    if match is None:
        return None
    hour, minute, second = int(match.group(1)), int(match.group(2)), int(match.group(3) or 0)
    half = (match.group(4) or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def _date_and_time(word: str, now: datetime) -> datetime | None:
    """`MM/DD/YY`, with or without a time of day behind it."""
    date, _, rest = word.partition("-") if "-" in word else word.partition(" ")
    of_day = (0, 0, 0) if not rest else _time_of_day(rest)
    for form in _DATES:
        try:
            day = datetime.strptime(date, form)  # noqa: DTZ007  the zone follows
        except ValueError:
            continue
        if of_day is not None:
            hour, minute, second = of_day
            return day.replace(hour=hour, minute=minute, second=second, tzinfo=now.tzinfo)
    return None
