"""When what the log holds was done, as its clock has been put right since.

Why     which months were published, and since when a table or a commitment holds, is read from the dates of
        events. What was done while the clock was ahead is dated behind what follows it: it would freeze
        months that have not ended, and hold from a day on that has not come. So its dates follow the steps
        that put the clock right, as nodes and periods do.
Rule    a date moves back by what the clock was set back since, less what it was set forward; never on, since
        rows that were charged by a clock behind keep their dates too. Where time passed there was no step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from bursar.clock import HOUR_US
from bursard.events import ClockStepped, decode
from bursard.steady import TOLERANCE_US
from bursard.store import EventFilter, EventRow, Views

_STEPS = EventFilter(kinds=("clock-stepped",))


class Dates:
    """The steps of a log's clock, by which its dates are read."""

    def __init__(self, steps: Iterable[tuple[int, int]] = ()) -> None:
        """`steps`: (event, by how many microseconds the clock was set on, below zero: back), oldest first."""
        found = list(steps)
        self._seqs = [seq for seq, _ in found]
        sums = list(accumulate((us for _, us in found), initial=0))
        self._since = [sums[-1] - before for before in sums]

    def moved_us(self, seq: int) -> int:
        """By how much what an event says of its time is to be moved; 0 or less."""
        us = self._since[bisect_right(self._seqs, seq)]
        return us if us < -TOLERANCE_US else 0

    def of(self, row: EventRow) -> int:
        """When an event was recorded."""
        return row.at + self.moved_us(row.seq)

    def since(self, row: EventRow, effective_at: int) -> int:
        """Since when a document holds that an event applied: what says a date means it, whatever the clock
        said. Such dates are full hours.
        """
        by_clock = effective_at == row.at or (effective_at < row.at and effective_at % HOUR_US > 0)
        return effective_at + (self.moved_us(row.seq) if by_clock else 0)


def dates_of(views: Views) -> Dates:
    """As the log tells. Steps over time that passed move nothing."""
    found: list[tuple[int, int]] = []
    after = 0
    while rows := views.events(after, 1000, _STEPS):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, ClockStepped) and event.redates:
                found.append((row.seq, event.became - event.was))
        after = rows[-1].seq
    return Dates(found)
