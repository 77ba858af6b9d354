"""Money, instants, durations and counts, as they are shown."""

from __future__ import annotations

from typing import Any, Final

from bursar.clock import SECOND_US, format_instant
from bursar.money import format_nanos
from bursar.resources import MILLI

View = dict[str, Any]
"""One JSON object."""

DEFAULT_CURRENCY: Final = "USD"
"""Shown where the server named none: nothing has been priced yet, so every amount is zero."""


def money(nanos: int, currency: str) -> View:
    """`{"amount": "12.345678900", "currency": "USD"}`."""
    return {"amount": format_nanos(nanos), "currency": currency or DEFAULT_CURRENCY}


def rate(nanos_per_hour: int, currency: str) -> View | None:
    """Money per hour; None when the price is unknown (-1), which is never shown as 0."""
    return None if nanos_per_hour < 0 else money(nanos_per_hour, currency)


def instant(at: int) -> str | None:
    """RFC 3339 with `Z`; None for "not yet" or "never"."""
    return format_instant(at) if at else None


def seconds(us: int) -> int | float:
    """Seconds, whole when they are."""
    whole, rest = divmod(us, SECOND_US)
    return us / SECOND_US if rest else whole


def count(milli: int) -> int | float:
    """CPUs or GPUs, whole when they are."""
    whole, rest = divmod(milli, MILLI)
    return milli / MILLI if rest else whole
