"""Whose costs are when: the table of teams and cost centres, in all its versions. Pure.

Why     who owns a project changes, and a month that was published must read the same tomorrow. So each hour
        is told by the table that was in force in it, as it was known while that hour's month was open. What a
        later table says otherwise of it is a move, booked when that table was applied.
Words   an hour is *told* by one version for ever. A version *holds* from an instant on, which may have passed
        when it was applied; the months before `open_since` were published then, and stay as they were told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from bursar_policies.specs import AttributionSpec

TEAM, COST_CENTER = "team", "cost-center"
OWNED = (TEAM, COST_CENTER)
"""What a job does not say itself, as dimensions of cost."""
NOBODY = AttributionSpec()


class Work(NamedTuple):
    """What is known of whom a charge is for; in the order of `Scope.covers`."""

    project: str
    user: str
    experiment: str
    model: str
    labels: Mapping[str, str]


class Owner(NamedTuple):
    """Empty: nobody's."""

    team: str
    cost_center: str


class Change(NamedTuple):
    """A table was applied, or taken out of force (`spec` None), at an instant, by somebody.

    Attributes:
        since: the full hour from which on it holds. open_since: what is told of months before this was
            published, and stays. Neither is after `at`, but for a table that is to hold later.
    """

    name: str
    version: int
    at: int
    by: str
    since: int
    open_since: int
    spec: AttributionSpec | None


class Span(NamedTuple):
    """A stretch of hours `[since, until)`, and by which table they are told; `until` 0: without an end."""

    since: int
    until: int
    spec: AttributionSpec


Line = Sequence[tuple[int, AttributionSpec]]
"""Tables by the instant from which on they hold, the first from 0 on."""


class Move(NamedTuple):
    """What a change says otherwise of hours `[since, until)`, which were published. `booked_at`: when that
    counts. `cuts`: the hours in stretches in each of which both tables are one.
    """

    change: Change
    booked_at: int
    cuts: Sequence[tuple[int, int]]
    before: Line
    after: Line


class Attributions:
    """All tables that there ever were."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        """`changes`: in the order in which they were made."""
        self.changes: list[Change] = []
        open_since = 0
        for one in changes:
            open_since = max(open_since, one.open_since)  # also by a clock that was set back
            self.changes.append(one._replace(open_since=open_since))

    @cached_property
    def _lines(self) -> list[Line]:
        """After each change what was known; first what was known before any."""
        lines: list[list[tuple[int, AttributionSpec]]] = [[(0, NOBODY)]]
        for one in self.changes:
            kept = [each for each in lines[-1] if each[0] < one.since]
            lines.append([*kept, (one.since, one.spec or NOBODY)])
        return list(lines)

    @cached_property
    def _opened(self) -> list[int]:
        return [one.open_since for one in self.changes]

    def told(self, booked_at: int, used_at: int) -> AttributionSpec:
        """By which table is told what was used at an instant and counts at another one?"""
        return at_hour(self._lines[bisect_right(self._opened, booked_at)], used_at)

    def spans(self, since: int, until: int) -> Iterator[Span]:
        """A time in stretches of one table each. `until` 0: without an end."""
        cuts = {one.open_since for one in self.changes} | {at for line in self._lines for at, _ in line}
        yield from _joined(_cut(since, until, cuts), lambda at: self.told(at, at))

    def moves(self, since: int, until: int) -> Iterator[Move]:
        """What is booked in a time, oldest first."""
        for at, one in enumerate(self.changes):
            booked_at = max(one.at, one.open_since)
            if booked_at < since or (until and booked_at >= until) or one.since >= one.open_since:
                continue
            before, after = self._lines[at], self._lines[at + 1]
            cuts = {start for line in (before, after) for start, _ in line}
            yield Move(one, booked_at, _cut(one.since, one.open_since, cuts), before, after)


def owner_of(spec: AttributionSpec, work: Work) -> Owner:
    """Whose a job's costs are: of the first entry that covers it and names one; else as its labels say."""
    team = cost_center = ""
    for rule in spec.owners:
        if (team or not rule.team) and (cost_center or not rule.cost_center):
            continue
        if rule.scope.covers(*work):
            team, cost_center = team or rule.team, cost_center or rule.cost_center
            if team and cost_center:
                break
    return Owner(team or work.labels.get(TEAM, ""), cost_center or work.labels.get(COST_CENTER, ""))


def labels_of(specs: Iterable[AttributionSpec]) -> tuple[str, ...]:
    """Every label that says whose costs are, in order."""
    named = {key for spec in specs for rule in spec.owners for key, _ in rule.scope.labels}
    return tuple(sorted(named | set(OWNED)))


def at_hour(line: Line, at: int) -> AttributionSpec:
    """The table of an hour."""
    return line[bisect_right(line, at, key=lambda one: one[0]) - 1][1]


def _cut(since: int, until: int, cuts: Iterable[int]) -> list[tuple[int, int]]:
    inside = sorted({at for at in cuts if since < at and (not until or at < until)})
    return list(zip([since, *inside], [*inside, until], strict=True))


def _joined(parts: Sequence[tuple[int, int]], spec_of: Callable[[int], AttributionSpec]) -> Iterator[Span]:
    """Stretches that follow each other and are told alike are one."""
    found: Span | None = None
    for since, until in parts:
        spec = spec_of(since)
        if found is not None and found.spec == spec:
            found = found._replace(until=until)
            continue
        if found is not None:
            yield found
        found = Span(since, until, spec)
    if found is not None:
        yield found
