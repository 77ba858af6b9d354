"""The working view of one plan: what is free, and which nodes changed since when.

Owns    `World`, the plan's own copy of the free columns, and `PlanCache`, which keeps a world and
        everything computed from it between plans.
Why     one arrival changes one node. Comparing the new snapshot with the columns of the last plan
        (20,000 numbers, ten microseconds) finds that node; every table then refreshes only what
        changed. A plan with a cache is byte for byte the plan without: the cache holds no decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bursar.errors import InvalidRequest
from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns, Placement, Snapshot
from bursar_policies.filters import Ask
from bursar_policies.scorers import NodeState, NodeStates, Scorer, Weights, scorers_for
from bursard.scheduler.table import Table

NODES_MAX = 65_536
"""The place of a node takes 16 bits of a sort key."""
TABLES_MAX = 2_048
"""Tables kept; past it all are dropped, and made again when asked for."""


class World:
    """What is free right now, as the plan spends it."""

    def __init__(self, snapshot: Snapshot, weights: Weights | None = None) -> None:
        nodes = snapshot.nodes
        if len(nodes.ids) > NODES_MAX:
            raise InvalidRequest(f"{len(nodes.ids)} nodes; one plan covers at most {NODES_MAX}")
        self.nodes: NodeColumns = nodes
        self.count = len(nodes.ids)
        self.slots = int(nodes.gpu_total.max()) if self.count else 0
        self.cpu = nodes.cpu_free.astype(np.int64)
        self.memory = nodes.memory_free.astype(np.int64)
        self.gpus = nodes.gpu_free[:, : self.slots].astype(np.int64)
        by_name = sorted(range(self.count), key=lambda row: nodes.names[row])
        self.place = [0] * self.count
        for place, row in enumerate(by_name):
            self.place[row] = place
        self.scorers: tuple[Scorer, ...] = scorers_for(
            snapshot.strategy, nodes, snapshot.typical, self.place, weights
        )
        self._relative = tuple(scorer for scorer in self.scorers if scorer.relative)
        self.clock = 1
        self.changed_at = np.ones(self.count, dtype=np.int64)
        self.base = np.zeros(self.count, dtype=np.int64)
        self._rescore(np.arange(self.count))
        self.tables: dict[Ask, Table] = {}

    def sync(self, nodes: NodeColumns) -> None:
        """Take over the free columns of a new snapshot with the same facts."""
        self.nodes = nodes
        gpus = nodes.gpu_free[:, : self.slots]
        differs = (nodes.cpu_free != self.cpu) | (nodes.memory_free != self.memory)
        if self.slots:
            differs |= (gpus != self.gpus).any(axis=1)
        rows = np.flatnonzero(differs)
        if len(rows) == 0:
            return
        self.cpu[rows] = nodes.cpu_free[rows]
        self.memory[rows] = nodes.memory_free[rows]
        self.gpus[rows] = gpus[rows]
        self.clock += 1
        self.changed_at[rows] = self.clock
        self._rescore(rows)

    def table(self, ask: Ask) -> Table:
        """The up-to-date table of one ask."""
        table = self.tables.get(ask)
        if table is None:
            if len(self.tables) >= TABLES_MAX:
                self.tables.clear()
            table = self.tables[ask] = Table(ask, self.nodes, self.place)
        table.refresh(self)
        return table

    def take(self, placement: Placement) -> None:
        """Spend what one member gets."""
        row = placement.node
        self.cpu[row] -= placement.cpu_milli
        self.memory[row] -= placement.memory_bytes
        for share in placement.devices:
            self.gpus[row, share.index] -= share.milli
        self.clock += 1
        self.changed_at[row] = self.clock
        state = self.state(row)
        self.base[row] = sum(scorer.of_node(state) for scorer in self._relative)

    def state(self, row: int) -> NodeState:
        """One node as plain integers."""
        return NodeState(row, int(self.cpu[row]), int(self.memory[row]), self.gpus[row].tolist())

    def cost(self, after: NodeState) -> int:
        """How good one node looks after a placement; lower is better."""
        return sum(scorer.of_node(after) for scorer in self.scorers) - int(self.base[after.row])

    def costs(self, after: NodeStates) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The same for many nodes."""
        total = -self.base[after.rows]
        for scorer in self.scorers:
            total += scorer.of_nodes(after)
        return total

    def _rescore(self, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        if not self._relative:
            return
        if len(rows) <= 4:
            for row in rows.tolist():
                state = self.state(row)
                self.base[row] = sum(scorer.of_node(state) for scorer in self._relative)
            return
        states = NodeStates(rows, self.cpu[rows], self.memory[rows], self.gpus[rows])
        total = np.zeros(len(rows), dtype=np.int64)
        for scorer in self._relative:
            total += scorer.of_nodes(states)
        self.base[rows] = total


class PlanCache:
    """What a caller may keep between plans to make them faster. Never changes an answer."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._key: tuple[int, str, Weights | None] = (0, "", None)
        self._typical: Sequence[tuple[ResourceRequest, int]] = ()

    def world(self, snapshot: Snapshot, weights: Weights | None = None) -> World:
        """A world equal to a fresh one of this snapshot."""
        key = (snapshot.facts_version, snapshot.strategy, weights)
        world = self._world
        if (
            world is None
            or snapshot.facts_version <= 0
            or key != self._key
            or len(snapshot.nodes.ids) != world.count
            or not (snapshot.typical is self._typical or snapshot.typical == self._typical)
        ):
            world = World(snapshot, weights)
            self._world, self._key, self._typical = world, key, snapshot.typical
        else:
            world.sync(snapshot.nodes)
        return world
