"""What keys of services were charged that counts against the budgets they name, hour by hour. PURE.

Why     the bill divides what replicas were charged among keys again whenever it is asked, and late: a gateway
        that was cut off, a correction. A budget is told the difference to what it was told of that hour, so
        that what it has settled of keys is what the bill says of them, to the nano.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bursar.clock import HOUR_US
from bursard.events import KeysCharged

LATE_US: Final = 2 * HOUR_US
"""What was used so long before a period may still be told after it has begun."""

CountedHours = tuple[str, str, list[tuple[int, int]]]
"""Budget, service's job, (hour, nanos) of each, ascending."""


class KeysCounted:
    """By budget, by job, by hour: nanos. Hours before the budget's periods that count now are forgotten."""

    def __init__(self, kept: Iterable[CountedHours] = ()) -> None:
        self._hours = {(budget, job_id): dict(hours) for budget, job_id, hours in kept}

    def image(self) -> list[CountedHours]:
        """All, in one order."""
        return [(*key, sorted(hours.items())) for key, hours in sorted(self._hours.items())]

    def add(self, event: KeysCharged, kept_from: int) -> None:
        """What was told more, or less."""
        key = event.budget, event.job_id
        hours = Counter(self._hours.get(key, {}))
        for one in event.hours:
            hours[one.hour] += one.nanos
        left = {hour: nanos for hour, nanos in hours.items() if nanos and hour >= kept_from - LATE_US}
        if left:
            self._hours[key] = left
        else:
            self._hours.pop(key, None)

    def of(self, budget: str, job_id: str) -> Mapping[int, int]:
        """What a budget was told of one service, by hour."""
        return self._hours.get((budget, job_id), {})

    def jobs(self, budget: str) -> list[str]:
        """Services of which it was told something that still counts."""
        return [job_id for name, job_id in self._hours if name == budget]

    def by_period(self, budget: str, starts: Sequence[int], since: int) -> Counter[int]:
        """All that a budget was told, in the periods that begin there, oldest first, from an instant on."""
        found = Counter[int]()
        for job_id in self.jobs(budget):
            for hour, nanos in self._hours[budget, job_id].items():
                place = bisect_right(starts, hour)
                if place and hour >= since:
                    found[starts[place - 1]] += nanos
        return found
