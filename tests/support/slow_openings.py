"""The plain way to find a place beside promises: each node and each instant is looked at by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass, Placement, Promised
from bursar_policies.scorers import NodeState
from bursard.scheduler.backfill import has_room, least
from bursard.scheduler.free import Free, Mask, Rows
from bursard.scheduler.openings import TIMES_MAX, Opening, Pays
from bursard.scheduler.releases import NEVER, Ints, Releases
from bursard.scheduler.table import Table
from bursard.scheduler.windows import Windows
from bursard.scheduler.world import World


class _Span(NamedTuple):
    """It may begin from `start` to `end`, both included."""

    start: int
    end: int


class Future:
    """What is promised on the nodes of one world, beside what runs.

    Args:
        but: a job whose own promise is none to it.
    """

    def __init__(
        self, world: World, releases: Releases, promised: Iterable[Promised], now: int, but: str = ""
    ) -> None:
        self.world, self.releases, self.now = world, releases, now
        self._on: dict[int, list[tuple[Promised, Placement]]] = {}
        for one in promised:
            for member in one.members if one.job_id != but else ():
                self._on.setdefault(member.node, []).append((one, member))

    @property
    def rows(self) -> Iterable[int]:
        """Nodes on which something is promised."""
        return self._on.keys()

    def begins(self, row: int, until: int) -> list[int]:
        """When promises on a node begin, `now` for those that are due, and before an instant."""
        found = {max(one.start, self.now) for one, _ in self._on.get(row, ())}
        return sorted(at for at in found if at < until)

    def at(self, row: int, instant: int) -> NodeState:
        """What is left of a node at an instant, below zero where less is there than was promised."""
        state = self.releases.state_at(row, instant) if instant > self.now else self.world.free.state(row)
        cpu, memory, gpus = state.cpu_milli, state.memory_bytes, list(state.gpus)
        for one, member in self._on.get(row, ()):
            # What is due and has not begun is still to come.
            if max(one.start, self.now) <= instant < max(one.until, self.now + one.until - one.start):
                cpu -= member.cpu_milli
                memory -= member.memory_bytes
                for share in member.devices:
                    gpus[share.index] -= share.milli
        return NodeState(row, cpu, memory, gpus)

    def least(self, row: int, since: int, until: int) -> NodeState:
        """What is left of a node throughout `[since, until)`. Room only goes where a promise begins."""
        found = self.at(row, since)
        for instant in self.begins(row, until):
            if instant > since:
                found = least(found, self.at(row, instant))
        return found

    def changes(self, row: int) -> list[int]:
        """When anything on a node may change from now on, the first first."""
        among = np.zeros(self.world.free.count, dtype=np.bool_)
        among[row] = True
        ends = self.releases.members(among).ends_at.tolist()
        mine = (at for one, _ in self._on.get(row, ()) for at in (one.start, self._until(one)))
        return sorted({self.now, *(at for at in (*ends, *mine) if at > self.now)})

    def _until(self, one: Promised) -> int:
        return max(one.until, self.now + one.until - one.start)


class Search:
    """For a place in time of one job.

    Args:
        since: it may not begin before. barred: bool (n), nodes that are not to be used.
    """

    def __init__(
        self, future: Future, table: Table, job_class: JobClass, since: int, barred: Mask | None = None
    ) -> None:
        self._future, self._table = future, table
        self._count, self._hold_us = job_class.nodes, job_class.hold_us
        world = future.world
        self._windows = world.windows
        self._job_class, self._since = job_class, max(since, future.now)
        usable = table.usable if barred is None else table.usable & ~barred
        shut = _windowed(self._windows, job_class)
        rows = {row for row in (*future.rows, *shut) if usable.item(row)}
        self._spans = {row: self._spans_on(row, shut.get(row, [])) for row in rows}
        first = future.releases.first_fit(table.request, future.now, usable)
        first[list(rows)] = NEVER
        self._first: Ints = np.where(first == NEVER, NEVER, np.maximum(first, self._since))
        free: Free = world.free
        assert len(self._first) == free.count
        self._rates = table.rates
        self._order = np.lexsort((world.place, self._rates, self._rates < 0))

    def _spans_on(self, row: int, shut: Sequence[tuple[int, int]]) -> list[_Span]:
        """When a member may begin on a node of which something is promised or reserved."""
        future, hold_us, request = self._future, self._hold_us, self._table.request
        edges = {*future.changes(row), *(at for window in shut for at in window if at > future.now)}
        times = sorted({self._since, *(at for at in edges if at > self._since)})
        states = [None if _within(shut, at) else future.at(row, at) for at in times]
        found = list[_Span]()
        for index, start in enumerate(times):
            bad = _first_bad(times, states, index, request)
            end = times[index + 1] - 1 if index + 1 < len(times) else NEVER
            end = min(end, bad - hold_us) if bad != NEVER else end
            if states[index] is not None and start <= end:
                found.append(_Span(start, end))
        return found

    def _rows_at(self, instant: int) -> Mask:
        ok: Mask = self._first <= instant
        for row, spans in self._spans.items():
            ok[row] = any(one.start <= instant <= one.end for one in spans)
        return ok

    def _instants(self, until: int) -> list[int]:
        """At which a place may come, or is there for the last time."""
        there = (self._first <= until) & (self._first != NEVER)
        known = np.unique(self._first[there]).tolist()
        ends = (one.end for spans in self._spans.values() for one in spans if one.end < until)
        starts = (one.start for spans in self._spans.values() for one in spans)
        last = (until,) if until != NEVER else ()
        found = sorted({at for at in (*known, *starts, *ends, *last) if self._since <= at <= until})
        if len(found) > TIMES_MAX:
            step = -(-len(found) // TIMES_MAX)
            found = [*found[:-1:step], found[-1]]
        return found

    def _cheapest(self, instant: int) -> Opening | None:
        ok = self._rows_at(instant)
        found = list[Opening]()
        for group in self._table.groups(np.flatnonzero(ok), self._count):
            among = np.zeros(len(ok), dtype=np.bool_)
            among[group] = True
            rows: Rows = self._order[among[self._order]][: self._count]
            rates = self._rates[rows]
            rate = -1 if bool((rates < 0).any()) else int(sum(rates.tolist()))
            found.append(Opening(instant, rate, rows.tolist()))
        return min(found, key=lambda one: (one.rate < 0, one.rate), default=None)

    def first(self, pays: Pays) -> Opening | None:
        """The first place that money admits."""
        places = (self._cheapest(at) for at in self._instants(NEVER))
        return next((one for one in places if one is not None and pays(one.rate)), None)

    def cheapest_by(self, latest: int, pays: Pays) -> Opening | None:
        """The cheapest place that begins by an instant; of equal ones the last, which leaves others most of
        the time before.
        """
        found = [one for one in map(self._cheapest, self._instants(latest)) if one is not None]
        found = [one for one in found if pays(one.rate)]
        return min(found, key=lambda one: (one.rate < 0, one.rate, -one.at), default=None)

    def held(self, place: Opening) -> Iterator[NodeState]:
        """What is left of each of its nodes for as long as it may hold them."""
        return (self._future.least(row, place.at, place.at + self._hold_us) for row in place.rows)


def _first_bad(
    times: Sequence[int], states: Sequence[NodeState | None], index: int, request: ResourceRequest
) -> int:
    """When one that began at a time would first lack room; `NEVER` for not at all."""
    first = states[index]
    if first is None or not has_room(first, request):
        return times[index]
    left = first
    for at, state in zip(times[index + 1 :], states[index + 1 :], strict=True):
        if state is None:
            return at
        left = least(left, state)
        if not has_room(left, request):
            return at
    return NEVER


def _within(windows: Sequence[tuple[int, int]], at: int) -> bool:
    return any(start <= at < end for start, end in windows)


def _windowed(windows: Windows | None, job_class: JobClass) -> dict[int, list[tuple[int, int]]]:
    """By node, the windows in which it is reserved from a job."""
    found: dict[int, list[tuple[int, int]]] = {}
    for name, spec in windows.specs.items() if windows is not None else ():
        if windows is not None and name not in job_class.reservations:
            for row in np.flatnonzero(windows.mask((name,))).tolist():
                found.setdefault(row, []).append((spec.starts_at, spec.ends_at))
    return found
