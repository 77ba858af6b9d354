"""Time, from outside. The core takes instants as arguments; only shells hold a `Clock`.

Instants are integer microseconds since 1970-01-01 UTC (`Instant`), durations integer microseconds
(`*_us`). Wall time dates things; boot time (CLOCK_BOOTTIME, counts suspend, never steps) measures them.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import NewType, Protocol

from bursar.errors import InvalidRequest

Instant = NewType("Instant", int)
"""Microseconds since the epoch, UTC."""

SECOND_US = 1_000_000
INSTANT_MIN = -62_135_596_800 * SECOND_US
INSTANT_MAX = 253_402_300_800 * SECOND_US - 1
"""The first and the last instant that a calendar of four-digit years has."""
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US

DURATION_US_MAX = 2**63 - 1
DURATION_CHARS_MAX = 100

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)", re.ASCII)
_OF_A_CLOCK = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d)", re.ASCII)
_IN_WORDS = re.compile(r"(\d{1,9}) ?(sec|min|hour|hr|day|week)(?:ond|ute)?s?", re.ASCII | re.IGNORECASE)
_UNIT_US = {
    "us": 1,
    "ms": 1000,
    "s": SECOND_US,
    "m": 60 * SECOND_US,
    "h": HOUR_US,
    "d": DAY_US,
    "w": 7 * DAY_US,
}


class Clock(Protocol):
    """What a shell asks for the time."""

    def now(self) -> Instant:
        """Wall time, UTC microseconds. May jump."""
        ...

    def boot_us(self) -> int:
        """Microseconds since boot, suspend included. Never steps, never falls within one boot."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Instant:
        """Wall time."""
        return Instant(time.time_ns() // 1000)

    def boot_us(self) -> int:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class VirtualClock:
    """A clock that moves only when told; both readings advance together unless the wall is stepped."""

    def __init__(self, now: int = 1_767_225_600 * SECOND_US) -> None:
        self._now = now
        self._boot = 1_000 * SECOND_US

    def now(self) -> Instant:
        """The virtual wall time."""
        return Instant(self._now)

    def boot_us(self) -> int:
        """The virtual boot time."""
        return self._boot

    def advance(self, us: int) -> None:
        """Let `us` >= 0 microseconds pass."""
        if us < 0:
            raise ValueError("time does not run backwards; step the wall instead")
        self._now += us
        self._boot += us

    def step_wall(self, us: int) -> None:
        """Jump the wall clock alone, either way, as an operator or NTP would."""
        self._now += us


def format_instant(at: int) -> str:
    """RFC 3339 UTC with `Z`, to the microsecond when there is one; what no calendar has, as its nearest."""
    at = min(max(at, INSTANT_MIN), INSTANT_MAX)
    moment = datetime.fromtimestamp(at // SECOND_US, UTC)
    micros = at % SECOND_US
    tail = f".{micros:06d}" if micros else ""
    return moment.replace(tzinfo=None).isoformat() + tail + "Z"


def parse_instant(text: str) -> Instant:
    """Read RFC 3339 (`2026-10-01T08:00:00Z`, offsets allowed) or a bare date. Raises `InvalidRequest`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a time; write it as 2026-10-01T08:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Instant((delta.days * 86400 + delta.seconds) * SECOND_US + delta.microseconds)


_MOMENT = re.compile(r"(now|today|midnight|yesterday|tomorrow)(?:\s*([+-])\s*(.+))?", re.IGNORECASE)
_DAYS_FROM_NOW = {"yesterday": -1, "today": 0, "midnight": 0, "tomorrow": 1}


def parse_moment(text: str, now: int, *, ahead: bool) -> Instant:
    """Read a moment as people say it: RFC 3339 or a date, a duration from now, `now`, or a day by its name.

    Days begin at midnight UTC, and a time without a zone is UTC. Each word may have `+2h` or `-2h` behind it.

    Args:
        now: microseconds since 1970. ahead: a bare duration is meant from now on, else back.

    Raises `InvalidRequest`.
    """
    found = _MOMENT.fullmatch(text.strip()[:DURATION_CHARS_MAX])
    if found is not None:
        word, sign, by = found[1].lower(), found[2], found[3]
        at = now if word == "now" else now // DAY_US * DAY_US + _DAYS_FROM_NOW[word] * DAY_US
        try:
            moved_us = parse_duration(_IN_WORDS.sub(_compact, by)) if by else 0
        except InvalidRequest as error:
            raise InvalidRequest(f"{text.strip()[:DURATION_CHARS_MAX]!r}: {error.message}") from None
        return Instant(at - moved_us if sign == "-" else at + moved_us)
    try:
        duration_us = parse_duration(text)
    except InvalidRequest as error:
        if "duration: at most" in error.message:
            raise
    else:
        return Instant(now + duration_us if ahead else now - duration_us)
    try:
        return parse_instant(text)
    except InvalidRequest:
        words = "now+3h, tomorrow+8h" if ahead else "today, yesterday, now-1h"
        raise InvalidRequest(
            f"{text[:DURATION_CHARS_MAX]!r} is neither a time, such as 2026-11-01 or 2026-11-01T08:00:00Z, "
            f"nor a duration, such as 90m or 7d, nor {words}"
        ) from None


def assumed_utc(text: str, at: int) -> str:
    """A sentence where `text`, which was read as `at`, names no zone and so is of UTC; else nothing."""
    said, by_name = text.strip()[:DURATION_CHARS_MAX], _MOMENT.fullmatch(text.strip()[:DURATION_CHARS_MAX])
    if by_name is not None:
        if by_name[1].lower() == "now":
            return ""
    else:
        try:
            if datetime.fromisoformat(said).tzinfo is not None:
                return ""
        except ValueError:
            return ""  # a duration from now on
    read = format_instant(at)
    return f"{said!r} names no zone and is taken as UTC, {read}; write {read[:16]}+02:00, say, for another"


def _compact(match: re.Match[str]) -> str:
    """`2hours`, as Slurm has it, as `2h`."""
    return f"{match[1]}{match[2][0].lower()}"


def parse_duration(text: str) -> int:
    """Read `90s`, `15m`, `24h`, `7d`, `1h30m` into microseconds. Raises `InvalidRequest`."""
    compact = text.strip().replace(" ", "")
    if len(compact) > DURATION_CHARS_MAX:  # before it is searched, which takes the square of its length
        raise InvalidRequest(f"a duration: at most {DURATION_CHARS_MAX} characters, this has {len(compact)}")
    parts = _DURATION.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise InvalidRequest(f"{text!r} is not a duration; write it as {_meant(text.strip())}")
    total = 0
    for number, unit in parts:
        whole, _, fraction = number.partition(".")
        total += int(whole) * _UNIT_US[unit]
        if fraction:
            total += int(fraction) * _UNIT_US[unit] // 10 ** len(fraction)
    if total > DURATION_US_MAX:
        raise InvalidRequest(f"{text!r} is longer than any duration: at most {DURATION_US_MAX // DAY_US}d")
    return total


def _meant(text: str) -> str:
    """How to write what `02:00:00` or `2 hours` says, else examples."""
    if (clock := _OF_A_CLOCK.fullmatch(text)) is not None:
        parts = zip(map(int, clock.groups()), "hms", strict=True)
        return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
    if (words := _IN_WORDS.fullmatch(text)) is not None:
        return f"{words[1]}{words[2][0].lower()}"
    return "90s, 15m, 24h or 7d"


def format_duration(us: int) -> str:
    """A short human form: `850ms`, `12s`, `3m04s`, `2h15m`, `4d03h`."""
    seconds = us // SECOND_US
    if us < SECOND_US:
        return f"{us // 1000}ms"
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"
