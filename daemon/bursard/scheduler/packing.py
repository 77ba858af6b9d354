"""How good a node looks after a placement, by the strategy in force.

Owns    the scorers of one plan, what each node scores as it stands, the least that a placement on it can
        cost, and which nodes are in the same state.
Why     the sum over all scorers is asked for in two forms, one node and many, which must agree. The bound
        lets a table leave alone the nodes that cannot be the best; and of nodes of one kind and state, such
        as the empty ones, one is scored for all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar_policies.scorers import NodeState, NodeStates, Scorer
from bursard.scheduler.free import Free, Rows
from bursard.scheduler.kinds import Kinds

_COST_ZERO = 1 << 31
_COST_MAX = (1 << 32) - 1
ONE_BY_ONE_MAX = 8
"""Up to so many nodes the plain form of the scorers is faster than numpy's."""
STATES_MAX = 1 << 18
"""Different states that are told apart beyond one for each node; past it all are forgotten."""

_Key = tuple[int, int, int, tuple[int, ...]]
"""Kind of the node, free thousandths of CPUs, bytes, devices in rising order: what a state is known by."""


def key_of_cost(cost: int) -> int:
    """The part of the sort key of a node that a cost makes."""
    return min(max(cost + _COST_ZERO, 0), _COST_MAX) << 16


def keys_of_costs(costs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same for many."""
    found: NDArray[np.int64] = np.minimum(np.maximum(costs + _COST_ZERO, 0), _COST_MAX) << 16
    return found


class Packing:
    """Costs of placements, int; lower is better.

    Attributes:
        least_key: int64 (n), no placement on the node costs less, as part of a key. leasts: the same as a
            list.
        by_row: int64 (n), the part of a cost that lies in which node it is, whatever its state.
        state: int64 (n), equal for nodes of one kind with the same free.
        known: the states that have a number; another dictionary once numbers mean something else.
    """

    known: dict[_Key, int]

    def __init__(self, free: Free, scorers: tuple[Scorer, ...], kinds: Kinds) -> None:
        self.free = free
        self._by_state = [scorer for scorer in scorers if not scorer.by_row]
        self._kinds: list[int] = kinds.of.tolist()
        self._base = np.zeros(free.count, dtype=np.int64)
        self.least_key = np.zeros(free.count, dtype=np.int64)
        self.leasts = [0] * free.count
        self.state = np.zeros(free.count, dtype=np.int64)
        every = NodeStates(free.every, free.cpu, free.memory, free.gpus)
        self.by_row = np.zeros(free.count, dtype=np.int64)
        for scorer in scorers:
            if scorer.by_row and not scorer.relative:
                self.by_row += scorer.of_nodes(every)
        self._forget()
        self.rescore(free.every)

    def _forget(self) -> None:
        self._scored: dict[_Key, tuple[int, int]] = {}
        """Of a state, all that it measures, and what of that where the rise counts."""
        self.known = {}
        self._scores: list[tuple[int, int]] = []
        """Of each state that a node was in, what it measures where the rise counts, and the least that a
        placement costs.
        """
        self._alike: list[int] = []
        """How many nodes are in each state."""
        self.state[:] = -1

    def cost(self, after: NodeState, in_order: tuple[int, ...]) -> int:
        """How good one node looks after a placement, `by_row` aside. `in_order`: its devices then, rising."""
        row, cpu, memory, _ = after
        return self._measured(after, (self._kinds[row], cpu, memory, in_order))[0] - self._base.item(row)

    def _measured(self, state: NodeState, key: _Key) -> tuple[int, int]:
        """A state that a placement would leave is soon the state of the node, and of others like it."""
        found = self._scored.get(key)
        if found is None:
            if len(self._scored) >= STATES_MAX:
                self._scored.clear()
            total = base = 0
            for scorer in self._by_state:
                measure = scorer.of_node(state)
                total += measure
                if scorer.relative:
                    base += measure
            found = self._scored[key] = total, base
        return found

    def costs(self, after: NodeStates) -> NDArray[np.int64]:
        """The same for many nodes."""
        total: NDArray[np.int64] = self.by_row[after.rows] - self._base[after.rows]
        for scorer in self._by_state:
            total += scorer.of_nodes(after)
        return total

    def alike(self, row: int) -> Rows | None:
        """All nodes in the state of this one; None when it is the only one."""
        state = self.state.item(row)
        return np.flatnonzero(self.state == state) if self._alike[state] > 1 else None

    def rescore(self, rows: Rows) -> None:
        """These nodes were written."""
        if len(self.known) + len(rows) > STATES_MAX + self.free.count:
            self._forget()
            rows = self.free.every
        if len(rows) <= ONE_BY_ONE_MAX:
            for row in rows.tolist():
                self.rescore_one(self.free.state(row))
            return
        free = self.free
        states = NodeStates(rows, free.cpu[rows], free.memory[rows], free.gpus[rows])
        bases, leasts = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        for scorer in self._by_state:
            if scorer.relative:
                bases += scorer.of_nodes(states)
            leasts += scorer.least_of_nodes(states)
        leasts -= bases
        self._base[rows] = bases
        self.least_key[rows] = keys = keys_of_costs(leasts + self.by_row[rows])
        gpus_in_order = np.sort(states.gpus, axis=1)
        columns = (rows, states.cpu_milli, states.memory_bytes, gpus_in_order, bases, leasts, keys)
        for row, cpu, memory, gpus, base, least, least_key in zip(
            *(one.tolist() for one in columns), strict=True
        ):
            self.leasts[row] = least_key
            key = (self._kinds[row], cpu, memory, tuple(gpus))
            found = self.known.get(key)
            if found is None:
                found = self.known[key] = len(self._alike)
                self._alike.append(0)
                self._scores.append((base, least))
            self._move(row, found)

    def rescore_one(self, state: NodeState) -> None:
        """This node was written."""
        row, cpu, memory, gpus = state
        key = (self._kinds[row], cpu, memory, tuple(sorted(gpus)))
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = len(self._alike)
            self._alike.append(0)
            base = self._measured(state, key)[1]
            least = sum([scorer.least_of_node(state) for scorer in self._by_state]) - base
            self._scores.append((base, least))
        self._move(row, found)
        self._base[row], least = self._scores[found]
        self.least_key[row] = self.leasts[row] = key_of_cost(least + self.by_row.item(row))

    def _move(self, row: int, state: int) -> None:
        """This node is in another state."""
        self._alike[state] += 1
        if (before := self.state.item(row)) >= 0:
            self._alike[before] -= 1
        self.state[row] = state
