"""Backfill: use the gaps, never at the expense of the job the queue is waiting for.

Owns    the reservation of the first job that waits for resources: when enough of the running jobs
        must have ended (the shadow time), on which nodes and devices it will then start.
Why     without it small jobs would starve a big one for ever; with it (EASY) a later job starts only
        if it ends before the shadow time or leaves what is reserved alone.
Source  EASY backfilling, one reservation; re-made at every plan, so early ends are used at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass
from bursar_policies.scorers import NodeState
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Rooms
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.free import Free, Rows
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.releases import NEVER, Ints, Releases
from bursard.scheduler.table import Table
from bursard.scheduler.windows import Windows
from bursard.scheduler.world import World


class Reservation:
    """The head's claim: `left` is what its nodes have beside it at the shadow time.

    Attributes:
        job_id, queue: whose it is, and the index of its queue; set by whoever keeps the claim.
    """

    def __init__(self, at: int, left: dict[int, NodeState], rate: int, hold_nanos: int) -> None:
        self.job_id = ""
        self.queue = -1
        self.at = at
        self.left = left
        self.rate_nanos_per_hour = rate
        self.hold_nanos = hold_nanos
        self._stops: dict[tuple[int, int], bool] = {}
        self._fits_beside: dict[int, tuple[int, ...]] = {}
        """By table, nodes of the claim that have room for a member beside it: what has none, gets none."""

    @cached_property
    def rows(self) -> Rows:
        """Its nodes."""
        return np.array(list(self.left), dtype=np.intp)

    @cached_property
    def _at_first(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        states = list(self.left.values())
        cpu = np.array([state.cpu_milli for state in states], dtype=np.int64)
        memory = np.array([state.memory_bytes for state in states], dtype=np.int64)
        return cpu, memory, np.array([state.gpus for state in states], dtype=np.int64)

    def room_for(self, request: ResourceRequest) -> int:
        """Nodes of the claim that had room for a member beside it when it was made."""
        cpu, memory, gpus = self._at_first
        fits = (cpu >= request.cpu_milli) & (memory >= request.memory_bytes)
        if request.gpus is not None:
            fits &= (gpus >= request.gpus.milli).sum(axis=1) >= request.gpus.count
        return int(fits.sum())

    def stops(self, world: World, table: Table, count: int) -> bool:
        """Is there no place for a gang that outlives the shadow time, now and for the rest of this plan?"""
        known = self._stops.get((table.number, count))
        if known is None:
            # Mostly there is room enough even if all nodes of the claim were among those that have it.
            known = not world.has_room(table, count + len(self.left))
            if known:
                room = world.fits_elsewhere(table, self.rows) + self.room_for(table.request)
                known = room < count
            self._stops[table.number, count] = known
        return known

    def is_clear_of(self, table: Table, rows: list[int]) -> bool:
        """Are these best nodes of all also the best of what is left beside the claim? So they are when none
        of them is claimed, and no claimed node has room beside the claim. Where members must be together, the
        best place goes by how many have room.
        """
        return table.domain is None and not self._beside(table) and self.left.keys().isdisjoint(rows)

    def _beside(self, table: Table) -> tuple[int, ...]:
        """The nodes of the claim that have room for a member beside it."""
        known = self._fits_beside.get(table.number)
        if known is None:
            request = table.request
            known = tuple([row for row, later in self.left.items() if has_room(later, request)])
            self._fits_beside[table.number] = known
        return known

    def usable(self, free: Free, row: int) -> NodeState:
        """What a job that outlives the shadow time may use of a node."""
        now = free.state(row)
        later = self.left.get(row)
        return now if later is None else least(now, later)

    def best(self, world: World, table: Table, count: int, limits: Limited | None = None) -> list[int]:
        """The best nodes for a job that outlives the shadow time. `limits`: what it may use of some."""
        free, fits = world.free, []
        if limits:
            return self._best_within(world, table, count, limits)
        for row in self._beside(table):
            state = self.usable(free, row)
            if has_room(state, table.request):
                fits.append(state)
        rows = table.best_but(world.packing, count, self.left, fits)
        if len(rows) < count:
            self._stops[table.number, count] = True
        return rows

    def _best_within(self, world: World, table: Table, count: int, limits: Limited) -> list[int]:
        fits = []
        for row in self.left:
            state, limit = self.usable(world.free, row), limits.get(row)
            state = state if limit is None else least(state, limit)
            if has_room(state, table.request):
                fits.append(state)
        fits += [state for state in limits.fitting(table) if state.row not in self.left]
        return table.best_but(world.packing, count, {**dict.fromkeys(limits), **self.left}, fits)

    def take(self, row: int, cpu_milli: int, memory_bytes: int, taken: Iterable[tuple[int, int]]) -> None:
        """A job that outlives the shadow time was started on a reserved node."""
        left = self.left.get(row)
        if left is None:
            return
        gpus = list(left.gpus)
        for index, milli in taken:
            gpus[index] -= milli
        cpu, memory = left.cpu_milli - cpu_milli, left.memory_bytes - memory_bytes
        self.left[row] = NodeState(row, cpu, memory, gpus)
        # Whom a node had room for beside the claim is to be seen again; whom none had, has none.
        self._fits_beside = {number: rows for number, rows in self._fits_beside.items() if not rows}


def least(one: NodeState, other: NodeState) -> NodeState:
    """Of a node, what both have."""
    return NodeState(
        one.row,
        min(one.cpu_milli, other.cpu_milli),
        min(one.memory_bytes, other.memory_bytes),
        [min(a, b) for a, b in zip(one.gpus, other.gpus, strict=True)],
    )


class Limited(Protocol):
    """What may be used of some nodes."""

    def get(self, row: int, /) -> NodeState | None:
        """Of one; None: all of it."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Those nodes."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def fitting(self, table: Table) -> Sequence[NodeState]:
        """Those of them that have room for a member."""
        ...


class NoClaim(NamedTuple):
    """No end of a running job helps, or (`money`) money would still refuse the job then."""

    money: bool


class _Option(NamedTuple):
    at: int
    rate: int
    option: int
    rows: list[int]
    table: Table


class Openings(Protocol):
    """Finds room beside what is promised to others."""

    def first(
        self, table: Table, job_class: JobClass, pays: Callable[[int], bool]
    ) -> tuple[int, list[int]] | None:
        """When and on which nodes there is room first that money admits."""
        ...

    def at(self, row: int, instant: int) -> NodeState:
        """What is left of a node then."""
        ...


def reserve(
    world: World,
    job_class: JobClass,
    rooms: Rooms,
    releases: Releases,
    now: int,
    openings: Openings | None = None,
) -> Reservation | NoClaim:
    """The earliest claim of a job that waits for resources, if there is one: a job that cannot start does not
    hold others back. `job_class` has its time limit. `openings`: where something is promised to others.
    """
    found, money = [], False
    for option, ask in enumerate(asks_of(job_class)):
        table = world.table(ask)
        if openings is None:
            claim = _earliest(world, option, table, job_class, rooms, releases, now)
        else:
            claim = _beside(option, table, job_class, rooms, openings)
        if isinstance(claim, NoClaim):
            money = money or claim.money
        else:
            found.append(claim)
    if not found:
        return NoClaim(money)
    best = min(found, key=lambda c: (c.at, 0 if job_class.ordered else c.rate, c.option))
    request = best.table.request
    left = {}
    if openings is None:
        states = releases.states_at(best.rows, best.at)
    else:
        states = [openings.at(row, best.at) for row in best.rows]
    for state in states:
        row = state.row
        gpus = list(state.gpus)
        if request.gpus is not None:
            for index in devices.choose(gpus, request.gpus) or ():
                gpus[index] -= request.gpus.milli
        cpu = state.cpu_milli - request.cpu_milli
        left[row] = NodeState(row, cpu, state.memory_bytes - request.memory_bytes, gpus)
    answer = rooms.admit(job_class, best.rate)
    hold_nanos = answer.hold_nanos if isinstance(answer, Admitted) else 0
    return Reservation(best.at, left, best.rate, hold_nanos)


def _beside(
    option: int, table: Table, job_class: JobClass, rooms: Rooms, openings: Openings
) -> _Option | NoClaim:
    """When and where one alternative can first start beside what is promised to others."""
    if table.usable_count < job_class.nodes:
        return NoClaim(money=False)
    place = openings.first(table, job_class, lambda rate: isinstance(rooms.admit(job_class, rate), Admitted))
    if place is None:
        return NoClaim(money=True)
    return _Option(place[0], gang_rate(table, place[1]), option, place[1], table)


def has_room(state: NodeState, request: ResourceRequest) -> bool:
    """For one member."""
    if state.cpu_milli < request.cpu_milli or state.memory_bytes < request.memory_bytes:
        return False
    gpus = request.gpus
    return gpus is None or sum([left >= gpus.milli for left in state.gpus]) >= gpus.count


def _earliest(
    world: World,
    option: int,
    table: Table,
    job_class: JobClass,
    rooms: Rooms,
    releases: Releases,
    now: int,
) -> _Option | NoClaim:
    """When and where one alternative can first start."""
    count = job_class.nodes
    if table.usable_count < count:
        return NoClaim(money=False)
    if world.windows is not None:
        return _between(world, world.windows, option, table, job_class, rooms, releases, now)
    for soonest in (count, 0):
        # Money may refuse the soonest nodes: then all that will ever have room are looked at.
        first = releases.first_fit(table.request, now, table.usable, soonest)
        found = _first_paid(world, table, job_class, rooms, first)
        if found is not None:
            at, nodes = found
            return _Option(at, gang_rate(table, nodes), option, nodes, table)
    return NoClaim(money=int((first != NEVER).sum()) >= count)


def _between(
    world: World,
    windows: Windows,
    option: int,
    table: Table,
    job_class: JobClass,
    rooms: Rooms,
    releases: Releases,
    now: int,
) -> _Option | NoClaim:
    """The same where nodes are reserved: in the first stretch of time in which enough are open to it."""
    count = job_class.nodes
    first = releases.first_fit(table.request, now, table.usable)
    for start, end, closed in windows.segments(job_class, now):
        there = np.maximum(first, start)
        there[closed | (there >= end)] = NEVER
        if int((there != NEVER).sum()) < count:
            continue
        found = _first_paid(world, table, job_class, rooms, there)
        if found is not None:
            at, nodes = found
            return _Option(at, gang_rate(table, nodes), option, nodes, table)
    return NoClaim(money=int((first != NEVER).sum()) >= count)


def _first_paid(
    world: World, table: Table, job_class: JobClass, rooms: Rooms, first: Ints
) -> tuple[int, list[int]] | None:
    """When and where so many nodes first have room that money admits them; where members must be together,
    in the place where that is soonest, and cheapest.
    """
    if table.domain is None:
        return _first_paid_of(world, table, job_class, rooms, first)
    count, best = job_class.nodes, None
    groups = table.groups(np.flatnonzero(first != NEVER), count)
    soonest = [int(np.partition(first[rows], count - 1)[count - 1]) for rows in groups]
    for group in sorted(range(len(groups)), key=lambda group: soonest[group]):
        if best is not None and soonest[group] > best[0]:
            break
        there = np.full_like(first, NEVER)
        there[groups[group]] = first[groups[group]]
        found = _first_paid_of(world, table, job_class, rooms, there)
        if found is not None:
            at, rows = found
            rate = gang_rate(table, rows)
            one = at, rate < 0, rate, [world.place.item(row) for row in rows], rows
            best = one if best is None else min(best, one)
    return None if best is None else (best[0], best[4])


def _first_paid_of(
    world: World, table: Table, job_class: JobClass, rooms: Rooms, first: Ints
) -> tuple[int, list[int]] | None:
    """The first moment at which so many nodes have room that money admits the cheapest of them, and those.

    The more ends have come, the cheaper the cheapest nodes that have room: the moment is found by halving.
    """
    count = job_class.nodes
    rows = np.flatnonzero(first != NEVER)
    if len(rows) < count:
        return None
    rates = table.rates[rows]
    rows = rows[np.lexsort((world.place[rows], rates, rates < 0))]
    at = first[rows]
    moments = np.unique(at)
    low = int(np.searchsorted(moments, np.sort(at)[count - 1]))
    high = len(moments) - 1

    def chosen(moment: int) -> list[int]:
        found: list[int] = rows[at <= moments[moment]][:count].tolist()
        return found

    def pays(moment: int) -> bool:
        return isinstance(rooms.admit(job_class, gang_rate(table, chosen(moment))), Admitted)

    if pays(low):
        high = low
    elif not pays(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle + 1, high)
    return int(moments[high]), chosen(high)
