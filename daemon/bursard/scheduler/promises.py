"""Promises: jobs that were told they end by their deadlines, as one plan keeps the places for them.

Owns    what a job may use of a node on which a place is kept for another; the starts that are due; and the
        search for the place of a job that asks for a promise (`place_for`).
Why     a promise is a place on nodes from an instant on, and money for it. Whatever a plan starts leaves both
        alone, so that when the instant comes the job begins there, whoever else waits. It may begin before,
        as any other job, where that costs no more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from bursar.model.allocation import FREE
from bursar_policies.decision import JobClass, Placement, Promised, Snapshot
from bursar_policies.scorers import NodeState
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Rooms
from bursard.scheduler.backfill import has_room, least
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.dearer import Reach
from bursard.scheduler.free import Mask, Rows
from bursard.scheduler.openings import Future, Opening, Search, Timeline, first_bad
from bursard.scheduler.portion import Portion
from bursard.scheduler.releases import NEVER, Ints, Releases
from bursard.scheduler.table import Table
from bursard.scheduler.world import World

SLACK_US = 5_000_000
"""A promised job begins so long before it must: a plan is made each second, and a node takes its time."""


class _Kept:
    """What a job that holds its nodes until some instant may use of those with places for others.

    Attributes:
        rows: (k), those. left: (k, 2 + slots), what of each: CPU, memory, devices.
    """

    def __init__(self, rows: Rows, left: Ints) -> None:
        self.rows, self.left = rows, left
        self._index = {row: index for index, row in enumerate(rows.tolist())}
        self._states: dict[int, NodeState] = {}
        self._fitting: dict[int, tuple[NodeState, ...]] = {}

    def __contains__(self, row: object) -> bool:
        return row in self._index

    def state(self, row: int) -> NodeState:
        """What may be used of one."""
        found = self._states.get(row)
        if found is None:
            cpu, memory, *gpus = self.left[self._index[row]].tolist()
            found = self._states[row] = NodeState(row, cpu, memory, gpus)
        return found

    def fitting(self, table: Table) -> tuple[NodeState, ...]:
        """Those with room for a member."""
        found = self._fitting.get(table.number)
        if found is None:
            request, left = table.request, self.left
            fits = (left[:, 0] >= request.cpu_milli) & (left[:, 1] >= request.memory_bytes)
            if request.gpus is not None:
                fits &= (left[:, 2:] >= request.gpus.milli).sum(axis=1) >= request.gpus.count
            found = self._fitting[table.number] = tuple(map(self.state, self.rows[fits].tolist()))
        return found


class Limits(Mapping[int, NodeState]):
    """What may be used of nodes, by row; all of those that are not named.

    Args:
        own: of the nodes of its own place, as if nothing were kept for it; None: all of it.
    """

    def __init__(self, kept: _Kept | None = None, own: Mapping[int, NodeState | None] | None = None) -> None:
        self._kept = kept if kept is not None else _Kept(np.zeros(0, dtype=np.intp), _NONE)
        self._own = own or {}
        self._gone = {row for row, state in self._own.items() if state is None and row in self._kept}

    def __getitem__(self, row: int) -> NodeState:
        state = self._own.get(row)
        if state is not None:
            return state
        if row in self._own or row not in self._kept:
            raise KeyError(row)
        return self._kept.state(row)

    def __iter__(self) -> Iterator[int]:
        if not self._own:
            return iter(self._kept.rows.tolist())
        mine = [row for row, state in self._own.items() if state is not None]
        return iter([*(row for row in self._kept.rows.tolist() if row not in self._own), *mine])

    def __contains__(self, row: object) -> bool:
        return self._own[row] is not None if row in self._own else row in self._kept  # type: ignore[index]

    def __len__(self) -> int:
        return len(self._kept.rows) - len(self._gone)

    def fitting(self, table: Table) -> Sequence[NodeState]:
        """Those of them that have room for a member of this."""
        found = self._kept.fitting(table)
        if not self._own:
            return found
        mine = (state for state in self._own.values() if state is not None)
        others = (state for state in found if state.row not in self._own)
        return [*others, *(state for state in mine if has_room(state, table.request))]


_NONE: Final = np.zeros((0, 2), dtype=np.int64)
NO_LIMITS: Final = Limits()


class Guard:
    """The promises of one plan.

    Args:
        releases: what ends when, the starts of this plan among it.
    """

    def __init__(
        self, world: World, promised: Iterable[Promised], releases: Callable[[], Releases], now: int
    ) -> None:
        self._world, self._releases, self._now = world, releases, now
        self._open = {one.job_id: one for one in promised}
        self._starts = sorted(one.start for one in self._open.values())
        self._rows = Counter(member.node for one in self._open.values() for member in one.members)
        self._queues = Counter(one.queue for one in self._open.values())
        self._future: Future | None = None
        self._timeline: Timeline | None = None
        self._index: Rows = np.zeros(0, dtype=np.intp)
        """By node, where it stands in the timeline; -1: nothing is kept there."""
        self._known: dict[int, _Kept] = {}
        self._reaches: dict[int, tuple[int, Reach]] = {}
        """By table, and of which state of what is free."""

    def _changed(self) -> None:
        self._future = self._timeline = None
        self._known.clear()
        self._reaches.clear()

    def __bool__(self) -> bool:
        return bool(self._open)

    def reach(self, table: Table) -> Reach:
        """For how long its nodes that have room could be held, as things are."""
        known, free = self._reaches.get(table.number), self._world.free
        if known is not None and known[0] == free.now:
            return known[1]
        if known is not None:
            # What was written since has less: of nodes on which something is kept all would be another.
            since, made = known
            rows = free.since(since)
            if rows is not free.every:
                made.leave(rows[~self._world.fit(table, rows)])
                self._reaches[table.number] = free.now, made
                return made
        rows = self._world.rows_with_room(table)
        bad = np.full(len(rows), NEVER)
        line, index = self._line()
        on = index[rows]
        among = np.flatnonzero(on >= 0)
        if len(among):
            some = line.of(on[among])
            bad[among] = first_bad(some, table.request)[some.begins]
        made = Reach(rows, table.rates[rows], bad)
        self._reaches[table.number] = free.now, made
        return made

    def has_spare(self, table: Table, nodes: int) -> bool:
        """Is there room for so many members, whatever is kept?"""
        return self._world.has_room(table, nodes + len(self._rows))

    def own_room(self, table: Table, own: Promised, until: int) -> list[int]:
        """Nodes of its own place with room for a member until an instant, as if nothing were kept for it."""
        there = [member.node for member in own.members if self._world.fits_on(table, member.node)]
        if not there:
            return there
        least = ((row, self._beside_own(own, row, until)) for row in sorted(set(there)))
        return [row for row, state in least if has_room(state, table.request)]

    def of(self, job_id: str) -> Promised | None:
        """The promise to a job that has not begun."""
        return self._open.get(job_id)

    def waits_in(self, queue: int) -> bool:
        """Has a queue jobs that were promised a place and have not begun?"""
        return self._queues[queue] > 0

    def due(self) -> list[Promised]:
        """Those whose time has come, the first first."""
        found = [one for one in self._open.values() if one.start <= self._now]
        return sorted(found, key=lambda one: (one.by, one.start, one.job_id))

    def begun(self, job_id: str) -> None:
        """It has begun, or is about to: nothing is kept for it any more."""
        one = self._open.pop(job_id, None)
        if one is not None:
            self._starts.remove(one.start)
            self._rows -= Counter(member.node for member in one.members)
            self._queues[one.queue] -= 1
            self._changed()

    def took(self, members: Iterable[Placement]) -> None:
        """These have started."""
        if self._timeline is not None and any(member.node in self._rows for member in members):
            self._timeline = None
            self._known.clear()
            self._reaches.clear()

    def _line(self) -> tuple[Timeline, Rows]:
        """What is left of the nodes on which something is kept, and where each stands."""
        self._releases()
        if self._timeline is None:
            future = self._all()
            rows = np.array(future.rows, dtype=np.intp)
            self._timeline = future.timeline(rows)
            self._index = np.full(self._world.count, -1, dtype=np.intp)
            self._index[rows] = np.arange(len(rows))
        return self._timeline, self._index

    def _all(self) -> Future:
        if self._future is None:
            self._future = Future(self._world, self._releases(), self._open.values(), self._now)
        return self._future

    def future(self, job_id: str = "") -> Future:
        """What is kept, as a job sees it: its own place is free to it."""
        if job_id not in self._open:
            self._releases()
            return self._all()
        return Future(self._world, self._releases(), self._open.values(), self._now, but=job_id)

    def limits(self, hold_us: int, job_id: str, tables: Sequence[Table] | None = None) -> Limits:
        """What a job that may hold its nodes for so long may use of those on which places are kept.

        Args:
            tables: what it asks for, where it is only looked for room for that: a node of its own place
                without any now needs no closer look.
        """
        until = self._now + hold_us
        key = bisect_left(self._starts, until)
        own = self._open.get(job_id)
        if not key:
            return NO_LIMITS
        kept = self._known.get(key)
        if kept is None:
            kept = self._known[key] = _until(self._line()[0], until)
        if own is None:
            return Limits(kept)
        rows = np.array([member.node for member in own.members], dtype=np.intp)
        if tables is not None:
            free = self._world.free
            rows = rows[np.logical_or.reduce([free.fitting(table.request, rows) for table in tables])]
        if not len(rows):
            return Limits(kept)
        return Limits(kept, self._own(own, np.unique(rows), until))

    def _own(self, own: Promised, rows: Rows, until: int) -> dict[int, NodeState | None]:
        """Nodes of its own place, as if nothing were kept for it there. None: nor is for others by then."""
        others = zip(rows.tolist(), self._all().others(rows, until, own), strict=True)
        return {row: self._beside_own(own, row, until) if met else None for row, met in others}

    def _beside_own(self, own: Promised, row: int, until: int) -> NodeState:
        """The least that is left of a node of its own place, as if nothing were kept for it there."""
        line, index = self._line()
        place = index.item(row)
        first = line.begins.item(place)
        last = line.begins.item(place + 1) if place + 1 < len(line.begins) else len(line.at)
        at, left = line.at[first:last], line.left[first:last]
        count = int(np.searchsorted(at, until))
        at, left = at[:count], left[:count].copy()
        for start, end, amounts in self._all().kept_for(own, row):
            left[(at >= start) & (at < end)] += amounts
        cpu, memory, *gpus = left.min(axis=0).tolist()
        return NodeState(row, cpu, memory, gpus)


def _until(line: Timeline, until: int) -> _Kept:
    """The least that is left, by node on which a promise begins before then."""
    before = line.at < until
    places = np.concatenate([[0], np.cumsum(before)])[line.begins]
    if not len(places):
        return _Kept(np.zeros(0, dtype=np.intp), _NONE)
    least = np.minimum.reduceat(line.left[before], places, axis=0)
    met = line.first < until
    return _Kept(line.row[line.begins][met], least[met])


class Beside:
    """Where a job that waits for room finds it, beside what is promised to others."""

    def __init__(self, future: Future) -> None:
        self._future = future

    def first(
        self, table: Table, job_class: JobClass, pays: Callable[[int], bool]
    ) -> tuple[int, list[int]] | None:
        """When and on which nodes there is room first that money admits."""
        found = Search(self._future, table, job_class, self._future.now).first(pays)
        return None if found is None else (found.at, found.rows)

    def at(self, row: int, instant: int) -> NodeState:
        """What is left of a node then."""
        return self._future.at(row, instant)


def within(state: NodeState, limits: Limits) -> NodeState:
    """A node as far as it may be used."""
    limit = limits.get(state.row)
    return state if limit is None else least(state, limit)


def has_devices(state: NodeState, member: Placement) -> bool:
    """Is all that a member was promised of a node free there?"""
    enough = state.cpu_milli >= member.cpu_milli and state.memory_bytes >= member.memory_bytes
    return enough and all(state.gpus[share.index] >= share.milli for share in member.devices)


class Place(NamedTuple):
    """Where a job can be promised to begin, and what of its money is set aside."""

    option: int
    at: int
    rate: int
    hold_nanos: int
    members: tuple[Placement, ...]


class Asked(NamedTuple):
    """A job that asks for a promise.

    Attributes:
        latest: it must begin by then; `NEVER`: the first place is wanted.
        since: it may not begin before. barred: bool (n), nodes on which nothing is promised.
        portion: what may be promised in all; None: everything.
    """

    job_id: str
    job_class: JobClass
    since: int
    latest: int
    barred: Mask | None = None
    portion: Portion | None = None


def place_for(world: World, snapshot: Snapshot, rooms: Rooms, asked: Asked, now: int) -> Place | None:
    """The cheapest place that begins by its latest start, of all alternatives (`ordered`: the first that has
    one); without a latest start the first place.
    """
    job_class = asked.job_class
    releases = Releases(snapshot.running, world.free)
    future = Future(world, releases, snapshot.promises, now, but=asked.job_id)
    found = list[tuple[tuple[int, int, int], Place]]()
    for option, ask in enumerate(asks_of(job_class)):
        table = world.table(ask)
        if table.usable_count < job_class.nodes:
            continue
        nodes, portion = job_class.nodes, asked.portion
        if portion is not None and portion.beyond(table.request, nodes) is not None:
            continue
        closed = portion.closed(table.request, nodes, now) if portion is not None else ()
        search = Search(future, table, job_class, asked.since, asked.barred, closed)

        def pays(rate: int) -> bool:
            answer = rooms.admit(job_class, rate)
            return isinstance(answer, Admitted) and answer.time_limit_us >= job_class.time_limit_us

        first = asked.latest == NEVER
        opening = search.first(pays) if first else search.cheapest_by(asked.latest, pays)
        if opening is None:
            continue
        place = _place(world, table, job_class, search, opening, option, rooms)
        if job_class.ordered and not first:
            return place
        key = (place.at, 0, option) if first else (place.rate < 0, place.rate, option)
        found.append((key, place))
    return min(found, key=lambda one: one[0])[1] if found else None


def _place(
    world: World,
    table: Table,
    job_class: JobClass,
    search: Search,
    opening: Opening,
    option: int,
    rooms: Rooms,
) -> Place:
    members, request = [], table.request
    for state in search.held(opening):
        indices = devices.choose(state.gpus, request.gpus) if request.gpus is not None else ()
        assert indices is not None, "an opening has room for the devices"
        held = devices.shares(indices, request.gpus) if request.gpus is not None else ()
        members.append(Placement(state.row, held, request.cpu_milli, request.memory_bytes, FREE))
    answer = rooms.admit(job_class, opening.rate)
    nanos = answer.hold_nanos if isinstance(answer, Admitted) else 0
    return Place(option, opening.at, opening.rate, nanos, tuple(members))
