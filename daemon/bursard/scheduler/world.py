"""The working view of one plan: what is free, and which nodes changed since when.

Owns    `World`: the nodes, the plan's own copy of what is free (`free`), scores (`packing`) and tables;
        and `PlanCache`, which keeps a world and everything computed from it between plans.
Why     one arrival changes one node. Comparing the new snapshot with the columns of the last plan
        (20,000 numbers, ten microseconds) finds that node; every table then refreshes only what
        changed. A plan with a cache is byte for byte the plan without: the cache holds no decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from bursar.errors import InvalidRequest
from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns, Placement, Snapshot
from bursar_policies.filters import Ask
from bursar_policies.scorers import Weights, scorers_for
from bursard.scheduler.free import Free
from bursard.scheduler.packing import Packing
from bursard.scheduler.table import Table

NODES_MAX = 65_536
"""The place of a node takes 16 bits of a sort key."""
TABLES_MAX = 2_048
"""Tables kept; past it all are dropped, and made again when asked for."""


class World:
    """Nodes, what is free of them as the plan spends it, and a table for each ask."""

    def __init__(self, snapshot: Snapshot, weights: Weights | None = None) -> None:
        nodes = snapshot.nodes
        if len(nodes.ids) > NODES_MAX:
            raise InvalidRequest(f"{len(nodes.ids)} nodes; one plan covers at most {NODES_MAX}")
        self.nodes: NodeColumns = nodes
        self.count = len(nodes.ids)
        by_name = sorted(range(self.count), key=lambda row: nodes.names[row])
        self.place = [0] * self.count
        for place, row in enumerate(by_name):
            self.place[row] = place
        self.free = Free(nodes)
        scorers = scorers_for(snapshot.strategy, nodes, snapshot.typical, self.place, weights)
        self.packing = Packing(self.free, scorers)
        self._tables: dict[Ask, Table] = {}

    def sync(self, nodes: NodeColumns) -> None:
        """Take over the free columns of a new snapshot with the same facts."""
        self.nodes = nodes
        rows = self.free.sync(nodes)
        if len(rows):
            self.packing.rescore(rows)

    def table(self, ask: Ask) -> Table:
        """The up-to-date table of one ask."""
        table = self._tables.get(ask)
        if table is None:
            if len(self._tables) >= TABLES_MAX:
                self._tables.clear()
            table = self._tables[ask] = Table(ask, self.nodes, self.place)
        table.refresh(self.packing)
        return table

    def take(self, placement: Placement) -> None:
        """Spend what one member gets."""
        self.free.take(placement)
        self.packing.rescore_one(placement.node)


class PlanCache:
    """What a caller may keep between plans to make them faster. Never changes an answer.

    One plan at a time may use it, from whichever thread; one that comes meanwhile works without.
    """

    def __init__(self) -> None:
        self._in_use = Lock()
        self._world: World | None = None
        self._key: tuple[int, str, Weights | None] = (0, "", None)
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
        key = (snapshot.facts_version, snapshot.strategy, weights)
        world = self._world
        if (
            world is None
            or snapshot.facts_version <= 0
            or key != self._key
            or snapshot.nodes.ids is not world.nodes.ids
            or not (snapshot.typical is self._typical or snapshot.typical == self._typical)
        ):
            world = World(snapshot, weights)
            self._world, self._key, self._typical = world, key, snapshot.typical
        else:
            world.sync(snapshot.nodes)
        return world
