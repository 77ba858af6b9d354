"""Closed months of the books: since when, and what they are.

Why     closed months follow each other without gap, so one instant says what is closed; what is told later of
        a time before it enters the books as of the moment when it is booked.
"""

from __future__ import annotations

import msgspec


class ClosedPeriod(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A month that was closed; see `PeriodClosed` and `PeriodSigned`.

    Attributes:
        seq: of the event that closed it. hash: empty until it is signed.
    """

    name: str
    since: int
    until: int
    seq: int
    closed_at: int
    by: str
    missing: tuple[str, ...] = ()
    hash: str = ""
    totals: tuple[tuple[str, int], ...] = ()
    charges: int = 0


class ClosedPeriods:
    """All of them, oldest first. `until`: before this instant nothing is posted any more; 0: all is open."""

    def __init__(self) -> None:
        self.all: list[ClosedPeriod] = []
        self.until = 0

    def add(self, period: ClosedPeriod) -> None:
        """One more, the newest."""
        self.all.append(period)
        self.until = period.until

    def named(self, name: str) -> ClosedPeriod | None:
        """The month of this name, if it is closed."""
        return next((one for one in self.all if one.name == name), None)

    def closing(self, at: int) -> ClosedPeriod | None:
        """The close by which an instant is in no open month; None where it is in one."""
        return next((one for one in self.all if at < one.until), None)

    def open_at(self, now: int) -> int:
        """The instant that the books are at: now, unless a clock that was ahead had months closed that have
        not ended.
        """
        return max(now, self.until)

    def booked_at(self, start: int, now: int) -> int:
        """The instant that time which began at `start` counts in when it is told now; 0: its own."""
        return self.open_at(now) if start < self.until else 0
