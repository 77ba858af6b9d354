"""The working view of one plan: what is free, and what was worked out of it.

Owns    `World`: the nodes, the plan's own copy of what is free (`free`), scores (`packing`), tables, and how
        many nodes each table's ask fits on; and `PlanCache`, which keeps a world between plans.
Why     one arrival changes one node. Comparing the new snapshot with the columns of the last plan
        (20,000 numbers, ten microseconds) finds that node; whatever was made of it is then looked at again,
        and nothing else. A plan with a cache is byte for byte the plan without: the cache holds no decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_not
from threading import Lock
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.errors import InvalidRequest
from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass, NodeColumns, PendingQueue, Placement, Promised, Snapshot
from bursar_policies.filters import Ask
from bursar_policies.scorers import Weights, scorers_for, weighted
from bursar_policies.specs import ReservationSpec
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.fits import Fits
from bursard.scheduler.free import Free, Mask, Rows
from bursard.scheduler.kinds import Kinds
from bursard.scheduler.order import Sizes
from bursard.scheduler.packing import Packing
from bursard.scheduler.shapes import ALONE, SHAPES_MAX, Ints, Shapes, Tables
from bursard.scheduler.table import Table
from bursard.scheduler.windows import windows_of

NODES_MAX = 65_536
"""The place of a node takes 16 bits of a sort key."""
LINES_MAX = 4_096
"""Promises whose numbers are kept."""
TABLES_MAX = 2_048
"""Tables kept from one plan to the next; past it all are dropped, and made again when asked for."""


EMPTY = -1
"""The time limit of the first job of a queue that has none."""


class Known(NamedTuple):
    """Of a queue. numbers: that of its class among `shapes`, or `ALONE` when it must be looked at by itself;
    of its oldest job what ranks it (the lower comes first), its order and its time limit.
    """

    queue: PendingQueue
    numbers: tuple[int, int, int, int]


class Lines:
    """What is promised, as numbers: lines (members, 5 + slots) of row, start, until, CPU, memory, devices.

    A promise is the same object from snapshot to snapshot as long as nothing of it changes; its members are,
    when only its queue stands elsewhere.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._known: dict[int, tuple[Promised, NDArray[np.int64]]] = {}
        self._every: tuple[tuple[Promised, ...], NDArray[np.int64]] = (), self._none()

    def _none(self) -> NDArray[np.int64]:
        return np.zeros((0, 5 + self._slots), dtype=np.int64)

    def of(self, one: Promised) -> NDArray[np.int64]:
        """The lines of one."""
        known = self._known.get(id(one.members))
        if known is None or not _same_place(known[0], one):
            if len(self._known) >= LINES_MAX:
                self._known.clear()
            known = self._known[id(one.members)] = one, self._made(one)
        return known[1]

    def of_all(self, promised: Iterable[Promised], but: str = "") -> NDArray[np.int64]:
        """The lines of all of these, less those of one job. Nobody writes them."""
        promised = tuple(promised)
        before, lines = self._every
        if len(promised) != len(before) or any(map(is_not, promised, before)):
            if len(promised) != len(before) or not all(map(_same_place, promised, before)):
                lines = np.concatenate([self._none(), *map(self.of, promised)])
            self._every = promised, lines
        if not but or not promised:
            return lines
        counts = [len(one.members) for one in promised]
        found: NDArray[np.int64] = lines[np.repeat([one.job_id != but for one in promised], counts)]
        return found

    def _made(self, one: Promised) -> NDArray[np.int64]:
        found = np.zeros((len(one.members), 5 + self._slots), dtype=np.int64)
        for line, member in zip(found, one.members, strict=True):
            line[:5] = member.node, one.start, one.until, member.cpu_milli, member.memory_bytes
            for share in member.devices:
                line[5 + share.index] += share.milli
        return found


def _same_place(one: Promised, other: Promised) -> bool:
    return one.members is other.members and (one.start, one.until) == (other.start, other.until)


def filling_order(nodes: NodeColumns) -> NDArray[np.int64]:
    """(n), the position of each node in the order in which nodes are filled.

    By name; nodes of several shapes all at the same pace, however they are named: names of a site often tell
    what a node is, and one shape after another would be taken as a whole by whoever comes first.
    """
    columns = (nodes.gpu_type, nodes.gpu_total, nodes.cpu_total, nodes.memory_total)
    keys: list[tuple[int, ...]] = list(zip(*(column.tolist() for column in columns), strict=True))
    by_name = sorted(range(len(keys)), key=lambda row: nodes.names[row])
    count, seen = Counter(keys), Counter[tuple[int, ...]]()
    at: dict[int, float] = {}
    for row in by_name:
        seen[keys[row]] += 1
        at[row] = (2 * seen[keys[row]] - 1) / (2 * count[keys[row]])
    place = np.empty(len(keys), dtype=np.int64)
    place[sorted(by_name, key=at.__getitem__)] = np.arange(len(keys))
    return place


class World:
    """Nodes, what is free of them as the plan spends it, and a table for each ask."""

    def __init__(self, snapshot: Snapshot, weights: Weights | None = None) -> None:
        nodes = snapshot.nodes
        if len(nodes.ids) > NODES_MAX:
            raise InvalidRequest(f"{len(nodes.ids)} nodes; one plan covers at most {NODES_MAX}")
        self.nodes: NodeColumns = nodes
        self.count = len(nodes.ids)
        self.place = filling_order(nodes)
        self.kinds = Kinds(nodes)
        self.free = Free(nodes)
        places: list[int] = self.place.tolist()
        weights = weights or weighted(snapshot.strategy, snapshot.weights)
        scorers = scorers_for(snapshot.strategy, nodes, snapshot.typical, places, weights)
        self.packing = Packing(self.free, scorers, self.kinds)
        self._fits = Fits(self.free)
        self.sizes = Sizes(nodes)
        self.windows = windows_of(nodes, snapshot.reservations)
        self._tables: dict[Ask, Table] = {}
        self._beside: dict[tuple[int, tuple[str, ...]], tuple[JobClass, Tables]] = {}
        self.shapes = Shapes(self._tables_of)
        self._known: dict[int, Known] = {}
        """By identity, the queues of the last plan."""
        self.promised = Lines(self.free.slots)

    def sync(self, nodes: NodeColumns) -> None:
        """Take over the free columns of a new snapshot with the same facts."""
        self.nodes = nodes
        if len(self._tables) > TABLES_MAX:
            self._tables, self._fits, self._known = {}, Fits(self.free), {}
            self._beside.clear()
            self.sizes, self.shapes = Sizes(nodes), Shapes(self._tables_of)
        elif len(self.shapes) > SHAPES_MAX:
            self.shapes, self._known = Shapes(self._tables_of), {}
        self.packing.rescore(self.free.sync(nodes))
        self._fits.sync()

    def reserves(self, specs: Mapping[str, ReservationSpec]) -> bool:
        """Are these the reservations that it was made with?"""
        return specs == self.windows.specs if self.windows is not None else not specs

    def tables(self, job_class: JobClass) -> Tables:
        """One table per alternative. Classes of queues are the same objects from plan to plan."""
        return self.shapes.of(job_class)[1]

    def tables_beside(self, job_class: JobClass, closing: tuple[str, ...]) -> Tables:
        """The same without the nodes of these reservations."""
        if self.windows is None or not closing:
            return self.tables(job_class)
        known = self._beside.get((id(job_class), closing))
        if known is None or known[0] is not job_class:
            asks = self.windows.asks(asks_of(job_class), closing)
            known = self._beside[id(job_class), closing] = job_class, tuple(map(self.table, asks))
        return known[1]

    def _tables_of(self, job_class: JobClass) -> Tables:
        return tuple(self.table(ask) for ask in asks_of(job_class))

    def known(self, queues: Sequence[PendingQueue]) -> list[Known]:
        """What a plan goes by of these: of a queue to which nothing happened nothing is looked up anew."""
        before, self._known = self._known, {}
        for queue in queues:
            self._known[id(queue)] = before.get(id(queue)) or self._look_up(queue)
        return [self._known[id(queue)] for queue in queues]

    def _look_up(self, queue: PendingQueue) -> Known:
        jobs = queue.jobs
        if not jobs.orders.size:
            return Known(queue, (ALONE, -queue.priority, 0, EMPTY))
        first = jobs.orders.item(0), jobs.limits_us.item(0)
        return Known(queue, (self._number_of(queue), -queue.priority, *first))

    def _number_of(self, queue: PendingQueue) -> int:
        """Of its class among `shapes`; `ALONE` when it must be looked at by itself."""
        try:
            return self.shapes.of(queue.job_class)[2]
        except ArithmeticError:
            return ALONE

    @property
    def counts(self) -> Ints:
        """By number of an ask, on how many nodes there is room for a member."""
        return self._fits.counts

    def table(self, ask: Ask) -> Table:
        """The table of one ask."""
        table = self._tables.get(ask)
        if table is None:
            if self.windows is not None and (ask.closed or ask.only):
                table = self.table(replace(ask, closed=(), only=())).beside(ask, self.windows)
            else:
                table = Table(ask, self.nodes, self.kinds, self.place, self._fits)
            self._tables[ask] = table
        return table

    def has_room(self, table: Table, count: int) -> bool:
        """Have enough nodes room for a member?"""
        return self._fits.count(table.number) >= count

    def fits_count(self, table: Table) -> int:
        """How many nodes have room for a member."""
        return self._fits.count(table.number)

    def rows_with_room(self, table: Table) -> Rows:
        """Nodes that have room for a member, rising."""
        return self._fits.rows(table.number)

    def fit(self, table: Table, rows: Rows) -> Mask:
        """Which of these nodes have room for a member."""
        return self._fits.on(table.number, rows)

    def may_start(self, tables: Tables, count: int) -> bool:
        """Has any alternative enough nodes with room?"""
        if len(tables) == 1:
            return self._fits.count(tables[0].number) >= count
        return any(self._fits.count(table.number) >= count for table in tables)

    def fits_on(self, table: Table, row: int) -> bool:
        """Has this node room for a member?"""
        return self._fits.at(table.number, row)

    def fits_elsewhere(self, table: Table, rows: Rows) -> int:
        """Nodes but these that have room for a member."""
        return self._fits.count(table.number) - int(self._fits.on(table.number, rows).sum())

    def take(self, members: Sequence[Placement]) -> None:
        """Spend what the members of one start get."""
        if len(members) == 1:
            after = self.free.take(members[0])
            self.packing.rescore_one(after)
            self._fits.take(after)
            return
        self.free.take_all(members)
        for member in members:
            self.packing.rescore_one(self.free.state(member.node))
        self._fits.take_gang()


class PlanCache:
    """What a caller may keep between plans to make them faster. Never changes an answer.

    One plan at a time may use it, from whichever thread; one that comes meanwhile works without.
    """

    def __init__(self) -> None:
        self._in_use = Lock()
        self._world: World | None = None
        self._key: tuple[int, object, Weights | None] = (0, "", None)
        self._typical: Sequence[tuple[ResourceRequest, int]] = ()

    @contextmanager
    def world(self, snapshot: Snapshot, weights: Weights | None = None) -> Iterator[World]:
        """A world equal to a fresh one of this snapshot, for as long as the context lasts."""
        if not self._in_use.acquire(blocking=False):
            yield World(snapshot, weights)
            return
        try:
            yield self._current(snapshot, weights)
        finally:
            self._in_use.release()

    def _current(self, snapshot: Snapshot, weights: Weights | None) -> World:
        key = (snapshot.facts_version, (snapshot.strategy, snapshot.weights), weights)
        world = self._world
        if (
            world is None
            or snapshot.facts_version <= 0
            or key != self._key
            or snapshot.nodes.ids is not world.nodes.ids
            or not (snapshot.typical is self._typical or snapshot.typical == self._typical)
            or not world.reserves(snapshot.reservations)
        ):
            world = World(snapshot, weights)
            self._world, self._key, self._typical = world, key, snapshot.typical
        else:
            world.sync(snapshot.nodes)
        return world
