"""Projects: what those that wait are of, as numbers, and what each has cost of late.

Owns    `ProjectNumbers` (columns of jobs name a project by its number) and `ProjectCosts` (nanos by day).
Why     fair share compares what projects have cost in the last weeks. By day it is exact, small, and the same
        after a replay; days that no policy can look back on are forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from bursar.clock import DAY_US

DAYS_MAX = 365
"""How far a policy may look back."""


class ProjectNumbers:
    """A number for each project that somebody waits in; users are counted by it as well. One is given again
    when nobody waits there any more, so that names that come and go do not pile up.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._jobs: list[int] = []
        self._free: list[int] = []
        self._frozen: tuple[str, ...] | None = ()

    def join(self, project: str) -> int:
        """Another job waits there; its number."""
        number = self._numbers.get(project)
        if number is None:
            number = self._number(project)
        self._jobs[number] += 1
        return number

    def _number(self, project: str) -> int:
        self._frozen = None
        if self._free:
            number = self._free.pop()
            self._names[number] = project
        else:
            number = len(self._names)
            self._names.append(project)
            self._jobs.append(0)
        self._numbers[project] = number
        return number

    def leave(self, number: int) -> None:
        """One of its jobs waits no more."""
        self._jobs[number] -= 1
        if not self._jobs[number]:
            del self._numbers[self._names[number]]
            self._free.append(number)

    def names(self) -> tuple[str, ...]:
        """By number; those that nobody waits in are the last that had it."""
        if self._frozen is None:
            self._frozen = tuple(self._names)
        return self._frozen


class DayCosts(msgspec.Struct, frozen=True):
    """What projects were charged on one day, counted from 1970."""

    day: int
    nanos: dict[str, int]


class ProjectCosts:
    """What projects were charged, by day and project.

    Attributes:
        whole: it has counted since the cluster began; not so after an image of before it was kept.
    """

    def __init__(
        self, days: Mapping[int, Mapping[str, int]] = MappingProxyType({}), whole: bool = True
    ) -> None:
        self.whole = whole
        self._days = {day: dict(costs) for day, costs in days.items()}
        self._newest = max(self._days, default=0)
        self._sums: tuple[int, Mapping[str, int]] = (0, MappingProxyType({}))

    def add(self, at: int, project: str, nanos: int) -> None:
        """Charged for time that ended at an instant."""
        if not nanos:
            return
        day = at // DAY_US
        if day <= self._newest - DAYS_MAX:
            return
        if day > self._newest:
            self._newest = day
            for old in [one for one in self._days if one <= day - DAYS_MAX]:
                del self._days[old]
        costs = self._days.setdefault(day, {})
        costs[project] = costs.get(project, 0) + nanos
        self._sums = (0, self._sums[1])

    def of_last(self, days: int) -> Mapping[str, int]:
        """By project, over so many days up to the newest that anything was charged on."""
        if self._sums[0] != days:
            self._sums = (days, MappingProxyType(self._sum(days)))
        return self._sums[1]

    def charged_from(self, at: int) -> bool:
        """Was anything charged for a day that began at that instant, or later?"""
        return self._newest * DAY_US >= at

    def names(self) -> set[str]:
        """All that anything was charged to, as far as days are remembered."""
        return {project for costs in self._days.values() for project in costs}

    def _sum(self, days: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for day in sorted(self._days):
            if day > self._newest - days:
                for project, nanos in self._days[day].items():
                    found[project] = found.get(project, 0) + nanos
        return found

    def image(self) -> list[DayCosts]:
        """All of it as data."""
        return [DayCosts(day, dict(sorted(self._days[day].items()))) for day in sorted(self._days)]

    @classmethod
    def from_image(cls, image: list[DayCosts], whole: bool) -> ProjectCosts:
        """To go on exactly from there."""
        return cls({one.day: one.nanos for one in image}, whole)
