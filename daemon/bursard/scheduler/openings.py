"""Openings: when a node has room for a member for as long as a job may hold it, beside what is promised.

Owns    the future of nodes on which something is promised or reserved, and the search for a place in time:
        the first one, or the cheapest one that begins by an instant.
Why     where nothing is promised, room that has come stays until somebody takes it, so one column says from
        when on each node has it. A promise, or a reservation, is room that goes again: of the nodes that have
        one, every change to come is a line of one table (`Timeline`), so a search is a few columns of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import JobClass, Promised
from bursar_policies.scorers import NodeState
from bursard.scheduler.free import Free, Mask, Rows
from bursard.scheduler.releases import NEVER, Ints, Releases, sums_since
from bursard.scheduler.table import Table
from bursard.scheduler.windows import Windows
from bursard.scheduler.world import World

TIMES_MAX = 512
"""Instants at which one search compares prices: beyond, evenly chosen ones and the last."""
_CHUNK: Final = 64
"""Instants that are looked at together by who wants the first."""
Pays = Callable[[int], bool]
"""Does money admit a gang at so many nanos per hour, -1 for unknown?"""
_ROW, _START, _UNTIL, _CPU, _, _GPUS = range(6)
"""Of `Lines`."""


class Opening(NamedTuple):
    """Where a gang may begin, and when. `rate`: nanos per hour of all, -1 for unknown."""

    at: int
    rate: int
    rows: list[int]


class Timeline(NamedTuple):
    """What is left of some nodes from `now` on: of each change (e) on one, by row and time.

    Attributes:
        row, at: (e). left: (e, 2 + slots): CPU, memory, and each device.
        begins: (n) of the nodes, their first line. first: (n), when the first promise on each begins.
    """

    row: Ints
    at: Ints
    left: Ints
    begins: Ints
    first: Ints

    def of(self, which: NDArray[np.intp]) -> Timeline:
        """The same of some of the nodes alone, by where they stand here, rising."""
        ends = np.append(self.begins[1:], len(self.at))
        counts = (ends - self.begins)[which]
        begins = np.cumsum(counts) - counts
        lines = np.arange(int(counts.sum())) + np.repeat(self.begins[which] - begins, counts)
        return Timeline(self.row[lines], self.at[lines], self.left[lines], begins, self.first[which])


class Future:
    """What is promised on the nodes of one world, beside what runs.

    Args:
        but: a job whose own promise is none to it.
    """

    def __init__(
        self, world: World, releases: Releases, promised: Iterable[Promised], now: int, but: str = ""
    ) -> None:
        self.world, self.releases, self.now = world, releases, now
        self._lines = world.promised.of_all(promised, but)
        self._count = world.free.count

    def on(self, rows: Iterable[int]) -> Future:
        """The same of some nodes alone."""
        wanted = np.zeros(self._count, dtype=np.bool_)
        wanted[list(rows)] = True
        made = copy(self)
        made._lines = self._lines[wanted[self._lines[:, _ROW]]]
        return made

    def others(self, rows: Rows, until: int, own: Promised) -> list[int]:
        """Of each of these nodes, how many places that are kept for others begin before an instant."""
        counts = np.zeros(self._count, dtype=np.int64)
        for lines, sign in ((self._lines, 1), (self.world.promised.of(own), -1)):
            begin = np.maximum(lines[:, _START], self.now)
            np.add.at(counts, lines[begin < until, _ROW], sign)
        found: list[int] = counts[rows].tolist()
        return found

    def kept_for(self, own: Promised, row: int) -> Iterator[tuple[int, int, Ints]]:
        """From when until when what of a node is kept for one."""
        for line in self.world.promised.of(own):
            if line[_ROW] == row:
                start, until = line.item(_START), line.item(_UNTIL)
                # What is due and has not begun is still to come.
                yield max(start, self.now), max(until, self.now + until - start), line[_CPU:]

    @property
    def rows(self) -> list[int]:
        """Nodes on which something is promised."""
        found: list[int] = np.unique(self._lines[:, _ROW]).tolist()
        return found

    def at(self, row: int, instant: int) -> NodeState:
        """What is left of a node at an instant, below zero where less is there than was promised."""
        state = self.releases.state_at(row, instant) if instant > self.now else self.world.free.state(row)
        lines, now = self._lines[self._lines[:, _ROW] == row], self.now
        start, until = lines[:, _START], lines[:, _UNTIL]
        # What is due and has not begun is still to come.
        there = (np.maximum(start, now) <= instant) & (instant < np.maximum(until, now + until - start))
        cpu, memory, *gpus = lines[there][:, _CPU:].sum(axis=0).tolist()
        left = [have - taken for have, taken in zip(state.gpus, gpus, strict=True)]
        return NodeState(row, state.cpu_milli - cpu, state.memory_bytes - memory, left)

    def least(self, row: int, since: int, until: int) -> NodeState:
        """What is left of a node throughout `[since, until)`."""
        line = self.on((row,)).timeline(np.array([row], dtype=np.intp))
        last = int(np.searchsorted(line.at, until))
        first = max(int(np.searchsorted(line.at, since, side="right")) - 1, 0)
        return _state(row, line.left[first : max(last, first + 1)].min(axis=0))

    def timeline(self, rows: Rows, edges: Sequence[tuple[int, int]] = ()) -> Timeline:
        """Of these nodes, rising.

        Args:
            edges: (row, instant), where a line is wanted whatever changes.
        """
        free, now, lines = self.world.free, self.now, self._lines
        among = np.zeros(self._count, dtype=np.bool_)
        among[rows] = True
        if len(lines):
            lines = lines[among[lines[:, _ROW]]]
        given = self.releases.members(among)
        start, until = lines[:, _START], lines[:, _UNTIL]
        more = np.array([(row, at) for row, at in edges if at > now], dtype=np.int64).reshape(-1, 2)
        count, given_count, kept = len(rows), len(given.node), len(lines)
        row = np.concatenate([rows, given.node, lines[:, _ROW], lines[:, _ROW], more[:, 0]])
        begin = np.maximum(start, now)
        # What has not ended though its time is over may do so from now on.
        at = np.concatenate(
            [
                np.full(count, now),
                np.maximum(given.ends_at, now + 1),
                np.maximum(until, now + until - start),
                begin,
                more[:, 1],
            ]
        )
        order = np.lexsort((at, row))
        back = np.zeros((len(row), 2 + free.slots), dtype=np.int64)
        back[count : count + given_count, 0] = given.cpu
        back[count : count + given_count, 1] = given.memory
        back[count : count + given_count, 2:] = given.gpus
        kept_for = np.zeros_like(back)
        at_ends, at_begins = count + given_count, count + given_count + kept
        kept_for[at_ends:at_begins] = lines[:, _CPU:]
        kept_for[at_begins : at_begins + kept] = -lines[:, _CPU:]
        row, at = row[order], at[order]
        last = np.ones(len(row), dtype=np.bool_)
        last[:-1] = (row[1:] != row[:-1]) | (at[1:] != at[:-1])
        begins = np.searchsorted(row, rows)
        base = np.repeat(begins, np.diff(np.append(begins, len(row))))
        left = sums_since(back[order], base)
        have = np.concatenate([free.cpu[row, None], free.memory[row, None], free.gpus[row]], axis=1)
        left += have
        gpus, had = left[:, 2:], have[:, 2:]
        np.copyto(gpus, np.where(had < 0, had, np.minimum(gpus, MILLI)))
        left += sums_since(kept_for[order], base)
        first = np.full(self._count, NEVER)
        np.minimum.at(first, lines[:, _ROW], begin)
        row, at, left = row[last], at[last], left[last]
        return Timeline(row, at, left, np.searchsorted(row, rows), first[rows])


def _state(row: int, left: Ints) -> NodeState:
    cpu, memory, *gpus = left.tolist()
    return NodeState(row, cpu, memory, gpus)


class _Spans(NamedTuple):
    """A member may begin on a node from `start` to `end`, both included: columns (s)."""

    row: Ints
    start: Ints
    end: Ints


class Search:
    """For a place in time of one job.

    Args:
        since: it may not begin before. barred: bool (n), nodes that are not to be used.
        closed: windows of time in which it may hold no node.
    """

    def __init__(
        self,
        future: Future,
        table: Table,
        job_class: JobClass,
        since: int,
        barred: Mask | None = None,
        closed: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._future, self._table = future, table
        self._count, self._hold_us = job_class.nodes, job_class.hold_us
        world = future.world
        self._since = max(since, future.now)
        usable = table.usable if barred is None else table.usable & ~barred
        shut = _windowed(world.windows, job_class)
        for row in np.flatnonzero(usable).tolist() if closed else ():
            shut.setdefault(row, []).extend(closed)
        rows = np.array(sorted({row for row in (*future.rows, *shut) if usable.item(row)}), dtype=np.intp)
        self._spans = self._spans_of(rows, shut)
        first = future.releases.first_fit(table.request, future.now, usable)
        first[rows] = NEVER
        self._first: Ints = np.where(first == NEVER, NEVER, np.maximum(first, self._since))
        free: Free = world.free
        assert len(self._first) == free.count
        self._rates = table.rates
        self._order = np.lexsort((world.place, self._rates, self._rates < 0))
        there = self._first != NEVER
        there[self._spans.row] = True
        self._may: Rows = self._order[there[self._order]]
        """Nodes on which it may ever begin, the cheapest first."""
        self._place_of = np.full(free.count, -1, dtype=np.int64)
        self._place_of[self._may] = np.arange(len(self._may))

    def _spans_of(self, rows: Rows, shut: dict[int, list[tuple[int, int]]]) -> _Spans:
        """When a member may begin on nodes of which something is promised or reserved."""
        edges = [(row, at) for row in rows.tolist() for window in shut.get(row, ()) for at in window]
        line = self._future.timeline(rows, edges)
        if not len(line.at):
            return _Spans(line.row, line.at, line.at)
        ends = np.append(line.at[1:], NEVER)
        ends[:-1][line.row[1:] != line.row[:-1]] = NEVER
        closed = np.zeros(len(line.at), dtype=np.bool_)
        for row in shut:
            mine = line.row == row
            for since, until in shut[row]:
                closed |= mine & (line.at >= since) & (line.at < until)
        bad = first_bad(line, self._table.request, closed)
        start = np.maximum(line.at, self._since)
        end = np.where(ends == NEVER, NEVER, ends - 1)
        end = np.where(bad == NEVER, end, np.minimum(end, bad - self._hold_us))
        found = (bad > line.at) & (ends > self._since) & (start <= end)
        return _Spans(line.row[found], start[found], end[found])

    def _instants(self, until: int) -> Ints:
        """At which a place may come, or is there for the last time."""
        spans = self._spans
        there = (self._first <= until) & (self._first != NEVER)
        parts = [self._first[there], spans.start, spans.end[spans.end < until]]
        if until != NEVER:
            parts.append(np.array([until], dtype=np.int64))
        found = np.unique(np.concatenate(parts))
        within: Ints = found[(found >= self._since) & (found <= until)]
        return within

    def _open(self, instants: Ints) -> Mask:
        """On which nodes it may begin at each of these: (t, m), of the nodes by price."""
        found: Mask = self._first[self._may][None, :] <= instants[:, None]
        spans = self._spans
        low = np.searchsorted(instants, spans.start)
        high = np.searchsorted(instants, spans.end, side="right")
        for place, one, other in zip(self._place_of[spans.row], low, high, strict=True):
            found[one:other, place] = True
        return found

    def _cheapest(self, instants: Ints) -> list[Opening | None]:
        """The cheapest at each of these."""
        ok = self._open(instants)
        if self._table.domain is not None:
            return self._cheapest_together(instants, ok)
        count, rates = self._count, self._rates[self._may]
        enough = ok.sum(axis=1) >= count
        if count == 1:
            places = ok.argmax(axis=1).tolist() if len(self._may) else [0] * len(instants)
            found = zip(instants.tolist(), enough.tolist(), places, strict=True)
            return [
                Opening(at, rates.item(place), [self._may.item(place)]) if there else None
                for at, there, place in found
            ]
        taken = ok & (ok.cumsum(axis=1) <= count)
        return [
            self._opening(at, self._may[places]) if there else None
            for at, there, places in zip(instants.tolist(), enough.tolist(), taken, strict=True)
        ]

    def _cheapest_together(self, instants: Ints, ok: Mask) -> list[Opening | None]:
        """The same where members must be together. At most instants the same nodes are open as before."""
        known, found = dict[bytes, Opening | None](), list[Opening | None]()
        for at, there in zip(instants.tolist(), ok, strict=True):
            key = there.tobytes()
            if key not in known:
                known[key] = self._together(self._may[there])
            one = known[key]
            found.append(None if one is None else one._replace(at=at))
        return found

    def _together(self, rows: Rows) -> Opening | None:
        """Of members that must be together, the cheapest place."""
        ok = np.zeros(len(self._first), dtype=np.bool_)
        ok[rows] = True
        found = list[Opening]()
        for group in self._table.groups(np.flatnonzero(ok), self._count):
            among = np.zeros(len(ok), dtype=np.bool_)
            among[group] = True
            found.append(self._opening(0, self._order[among[self._order]][: self._count]))
        return min(found, key=lambda one: (one.rate < 0, one.rate), default=None)

    def _opening(self, at: int, rows: Rows) -> Opening:
        rates = self._rates[rows]
        rate = -1 if bool((rates < 0).any()) else int(sum(rates.tolist()))
        return Opening(at, rate, rows.tolist())

    def first(self, pays: Pays, until: int = NEVER) -> Opening | None:
        """The first place that money admits."""
        instants, paid = self._instants(until), dict[int, bool]()
        for start in range(0, len(instants), _CHUNK):
            for one in self._cheapest(instants[start : start + _CHUNK]):
                if one is not None and _pays(paid, pays, one.rate):
                    return one
        return None

    def cheapest_by(self, latest: int, pays: Pays) -> Opening | None:
        """The cheapest place that begins by an instant; of equal ones the last, which leaves others most of
        the time before. Where there are very many instants, any that is there.
        """
        instants, paid = self._instants(latest), dict[int, bool]()
        every = len(instants) <= TIMES_MAX
        if not every:
            step = -(-len(instants) // TIMES_MAX)
            instants = np.append(instants[:-1:step], instants[-1])
        found = [one for one in self._cheapest(instants) if one is not None]
        found.sort(key=lambda one: (one.rate < 0, one.rate, -one.at))
        best = next((one for one in found if _pays(paid, pays, one.rate)), None)
        return best if best is not None or every else self.first(pays, latest)

    def held(self, place: Opening) -> Iterator[NodeState]:
        """What is left of each of its nodes for as long as it may hold them."""
        return (self._future.least(row, place.at, place.at + self._hold_us) for row in place.rows)


def first_bad(line: Timeline, request: ResourceRequest, closed: Mask | None = None) -> Ints:
    """When a member that began at each line would first lack room; `NEVER` for not at all.

    Its devices are the same ones throughout: it lacks room when the last but so many of them has gone.

    Args:
        closed: bool (lines), where it would be shut out.
    """
    count = len(line.at)
    numbers = np.arange(count)
    ends = np.append(line.begins[1:], count)[np.searchsorted(line.begins, numbers, side="right") - 1]
    lacks = (line.left[:, 0] < request.cpu_milli) | (line.left[:, 1] < request.memory_bytes)
    gone = _next(lacks if closed is None else lacks | closed, numbers)
    if request.gpus is not None:
        short = line.left[:, 2:] < request.gpus.milli
        need, there = request.gpus.count, short.shape[1]
        if need > there:
            return line.at.copy()
        each = _next(short, numbers[:, None])
        gone = np.minimum(gone, np.partition(each, there - need, axis=1)[:, there - need])
    never = gone >= ends
    bad: Ints = np.where(never, NEVER, line.at[np.minimum(gone, count - 1)])
    return bad


def _pays(paid: dict[int, bool], pays: Pays, rate: int) -> bool:
    if rate not in paid:
        paid[rate] = pays(rate)
    return paid[rate]


def _next(flags: Mask, numbers: NDArray[np.intp]) -> Ints:
    """From each line on, the first at which a flag is set, of any node."""
    at = np.where(flags, numbers, NEVER)
    found: Ints = np.minimum.accumulate(at[::-1], axis=0)[::-1]
    return found


def _windowed(windows: Windows | None, job_class: JobClass) -> dict[int, list[tuple[int, int]]]:
    """By node, the windows in which it is reserved from a job."""
    found: dict[int, list[tuple[int, int]]] = {}
    for name, spec in windows.specs.items() if windows is not None else ():
        if windows is not None and name not in job_class.reservations:
            for row in np.flatnonzero(windows.mask((name,))).tolist():
                found.setdefault(row, []).append((spec.starts_at, spec.ends_at))
    return found
