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

FEW = 4
"""Up to so many rows the plain form is faster."""
STATES_MAX = 1 << 20
"""Different states that are told apart; past it all are forgotten."""


class Packing:
    """Costs of placements, int; lower is better.

    Attributes:
        least: int64 (n), no placement on the node costs less.
        by_row: int64 (n), the part of a cost that lies in which node it is, whatever its state.
        state: int64 (n), equal for nodes of one kind with the same free.
    """

    def __init__(self, free: Free, scorers: tuple[Scorer, ...], kinds: Kinds) -> None:
        self.free = free
        self._scorers = scorers
        self._kinds: list[int] = kinds.of.tolist()
        self._base = np.zeros(free.count, dtype=np.int64)
        self.least = np.zeros(free.count, dtype=np.int64)
        self.state = np.zeros(free.count, dtype=np.int64)
        self._states: dict[tuple[int, int, int, tuple[int, ...]], int] = {}
        self._alike: list[int] = []
        """How many nodes are in each state, and one more for each time that one came back to it."""
        every = NodeStates(free.every, free.cpu, free.memory, free.gpus)
        self.by_row = np.zeros(free.count, dtype=np.int64)
        for scorer in scorers:
            if scorer.by_row:
                self.by_row += scorer.of_nodes(every)
        self.rescore(free.every)

    def cost(self, after: NodeState) -> int:
        """How good one node looks after a placement."""
        return sum([scorer.of_node(after) for scorer in self._scorers]) - int(self._base[after.row])

    def costs(self, after: NodeStates) -> NDArray[np.int64]:
        """The same for many nodes."""
        total: NDArray[np.int64] = -self._base[after.rows]
        for scorer in self._scorers:
            total += scorer.of_nodes(after)
        return total

    def alike(self, row: int) -> Rows | None:
        """All nodes in the state of this one; None when it is the only one."""
        state = int(self.state[row])
        return np.flatnonzero(self.state == state) if self._alike[state] > 1 else None

    def rescore(self, rows: Rows) -> None:
        """These nodes were written."""
        for row in rows.tolist():
            self._note(self.free.state(row))
        if len(rows) <= FEW:
            for row in rows.tolist():
                self._rescore_one(self.free.state(row))
            return
        free = self.free
        states = NodeStates(rows, free.cpu[rows], free.memory[rows], free.gpus[rows])
        total = np.zeros(len(rows), dtype=np.int64)
        least = np.zeros(len(rows), dtype=np.int64)
        for scorer in self._scorers:
            if scorer.relative:
                total += scorer.of_nodes(states)
            least += scorer.least_of_nodes(states)
        self._base[rows] = total
        self.least[rows] = least - total

    def rescore_one(self, row: int) -> None:
        """This node was written."""
        state = self.free.state(row)
        self._note(state)
        self._rescore_one(state)

    def _rescore_one(self, state: NodeState) -> None:
        total = sum([scorer.of_node(state) for scorer in self._scorers if scorer.relative])
        least = sum([scorer.least_of_node(state) for scorer in self._scorers])
        self._base[state.row] = total
        self.least[state.row] = least - total

    def _note(self, state: NodeState) -> None:
        key = (self._kinds[state.row], state.cpu_milli, state.memory_bytes, tuple(sorted(state.gpus)))
        found = self._states.get(key)
        if found is None:
            if len(self._states) >= STATES_MAX:
                self._forget()
            found = self._states[key] = len(self._alike)
            self._alike.append(0)
        self._alike[found] += 1
        self.state[state.row] = found

    def _forget(self) -> None:
        """Every node is alone in a state of its own until it is written again."""
        self._states = {}
        self.state[:] = self.free.every
        self._alike = [1] * self.free.count
