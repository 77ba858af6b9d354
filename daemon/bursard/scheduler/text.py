"""Amounts, durations and counts as a person reads them in a reason.

Why     a reason is a sentence with numbers; every sentence must write the same number the same way.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bursar.money import NANOS, format_nanos
from bursard.scheduler.pricing import SECOND_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def money(nanos: int, currency: str) -> str:
    """`3.20 USD`; small amounts keep the digits that matter: `0.000123 USD`."""
    if abs(nanos) >= NANOS // 10 or nanos == 0:
        amount = format_nanos(nanos, 2)
    else:
        amount = format_nanos(nanos).rstrip("0")
    return f"{amount} {currency}".rstrip()


def duration(us: int) -> str:
    """`2h30m`, `12m`, `45s`, rounded down to what is shown, so a limit named can be kept."""
    seconds = max(us, 0) // SECOND_US
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if minutes >= 10 or (minutes and not left):
        return f"{minutes}m"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def instant(at: int) -> str:
    """`2026-10-01 08:00 UTC`."""
    return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d %H:%M} UTC"
