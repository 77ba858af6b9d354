"""What a reader is told where a period's ends lie within an hour of the books.

Why     what an owner is charged in an hour of UTC is one row, and counts where that begins: in a zone of
        half or quarter hours the days of a place begin within one. Server and command line say the same.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import HOUR_US, SECOND_US

_MINUTE_US: Final = 60 * SECOND_US


def within_hours(since: int, until: int, timezone: str) -> tuple[str, ...]:
    """A note on `[since, until)`, instants; none where both are full hours of UTC."""
    first, last = -since % HOUR_US // _MINUTE_US, -until % HOUR_US // _MINUTE_US
    if not (first or last):
        return ()
    return (
        f"Rows are of whole hours of UTC, and days of {timezone} begin within one: up to {first} min of this"
        f" period are counted in the one before, and up to {last} min of the next one in this; none where a"
        " budget's period ends there too.",
    )
