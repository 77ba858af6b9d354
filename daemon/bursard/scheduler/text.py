"""Amounts, durations and counts as a person reads them in a reason.

Why     a reason is a sentence with numbers; every sentence must write the same number the same way. Who does
        what a remedy says must not find that a fraction of a cent was missing: what must be reached is
        rounded up (`at_least`), what can be had is rounded down (`at_most`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from bursar.money import NANOS, format_nanos
from bursard.scheduler.pricing import SECOND_US

CENT_NANOS: Final = NANOS // 100
EXACT_BELOW_NANOS: Final = NANOS // 10
"""Smaller amounts are written with every digit they have."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def money(nanos: int, currency: str) -> str:
    """`3.20 USD`; small amounts keep the digits that matter: `0.000123 USD`."""
    if abs(nanos) >= EXACT_BELOW_NANOS or nanos == 0:
        amount = format_nanos(nanos, 2)
    else:
        amount = format_nanos(nanos).rstrip("0")
    return f"{amount} {currency}".rstrip()


def at_least(nanos: int, currency: str) -> str:
    """An amount that must be reached: what is written is enough."""
    return money(-_down_to_shown(-nanos), currency)


def at_most(nanos: int, currency: str) -> str:
    """An amount that can be had: what is written is there."""
    return money(_down_to_shown(nanos), currency)


def _down_to_shown(nanos: int) -> int:
    return nanos if abs(nanos) < EXACT_BELOW_NANOS else nanos // CENT_NANOS * CENT_NANOS


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
