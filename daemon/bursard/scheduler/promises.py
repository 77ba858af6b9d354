"""Promises: jobs that were told they end by their deadlines, as one plan keeps the places for them.

Owns    what a job may use of a node on which a place is kept for another; the starts that are due; and the
        search for the place of a job that asks for a promise (`place_for`).
Why     a promise is a place on nodes from an instant on, and money for it. Whatever a plan starts leaves both
        alone, so that when the instant comes the job begins there, whoever else waits. It may begin before,
        as any other job, where that costs no more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bursar.model.allocation import FREE
from bursar_policies.decision import JobClass, Placement, Promised, Snapshot
from bursar_policies.scorers import NodeState
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Rooms
from bursard.scheduler.backfill import least
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.free import Mask
from bursard.scheduler.openings import Future, Opening, Search
from bursard.scheduler.releases import NEVER, Releases
from bursard.scheduler.table import Table
from bursard.scheduler.world import World

SLACK_US = 5_000_000
"""A promised job begins so long before it must: a plan is made each second, and a node takes its time."""
Limits = Mapping[int, NodeState]
"""What may be used of nodes, by row; all of those that are not named."""


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
        self._known: dict[tuple[int, str], Limits] = {}
        self._starts: list[int] = []
        self._changed()

    def _changed(self) -> None:
        self._known.clear()
        self._starts = sorted(one.start for one in self._open.values())

    def __bool__(self) -> bool:
        return bool(self._open)

    def of(self, job_id: str) -> Promised | None:
        """The promise to a job that has not begun."""
        return self._open.get(job_id)

    def due(self) -> list[Promised]:
        """Those whose time has come, the first first."""
        found = [one for one in self._open.values() if one.start <= self._now]
        return sorted(found, key=lambda one: (one.by, one.start, one.job_id))

    def gap_us(self) -> int:
        """Who holds nodes for so long is gone when the next of those begins that are not due."""
        later = self._starts[bisect_right(self._starts, self._now) :]
        return later[0] - self._now if later else 0

    def begun(self, job_id: str) -> None:
        """It has begun, or is about to: nothing is kept for it any more."""
        if self._open.pop(job_id, None) is not None:
            self._changed()

    def took(self, members: Iterable[Placement]) -> None:
        """These have started."""
        if self._known and self._open:
            rows = {one.node for promised in self._open.values() for one in promised.members}
            if any(member.node in rows for member in members):
                self._known.clear()

    def future(self, job_id: str = "") -> Future:
        """What is kept, as a job sees it: its own place is free to it."""
        return Future(self._world, self._releases(), self._open.values(), self._now, but=job_id)

    def limits(self, hold_us: int, job_id: str) -> Limits:
        """What a job that may hold its nodes for so long may use of those on which places are kept."""
        until = self._now + hold_us
        key = bisect_left(self._starts, until), job_id if job_id in self._open else ""
        found = self._known.get(key)
        if found is None:
            future = self.future(job_id)
            rows = [row for row in future.rows if future.begins(row, until)]
            found = self._known[key] = {row: future.least(row, self._now, until) for row in rows}
        return found


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
    """

    job_id: str
    job_class: JobClass
    since: int
    latest: int
    barred: Mask | None = None


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
        search = Search(future, table, job_class, asked.since, asked.barred)

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
