"""How good a node looks after a placement, by the strategy in force.

Owns    the scorers of one plan and what each node scores as it stands.
Why     the sum over all scorers is asked for in two forms, one node and many, which must agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar_policies.scorers import NodeState, NodeStates, Scorer
from bursard.scheduler.free import Free, Rows

FEW = 4
"""Up to so many rows the plain form is faster."""


class Packing:
    """Costs of placements, int; lower is better."""

    def __init__(self, free: Free, scorers: tuple[Scorer, ...]) -> None:
        self.free = free
        self._scorers = scorers
        self._relative = tuple(scorer for scorer in scorers if scorer.relative)
        self._base = np.zeros(free.count, dtype=np.int64)
        self.rescore(np.arange(free.count))

    def cost(self, after: NodeState) -> int:
        """How good one node looks after a placement."""
        return sum(scorer.of_node(after) for scorer in self._scorers) - int(self._base[after.row])

    def costs(self, after: NodeStates) -> NDArray[np.int64]:
        """The same for many nodes."""
        total: NDArray[np.int64] = -self._base[after.rows]
        for scorer in self._scorers:
            total += scorer.of_nodes(after)
        return total

    def rescore(self, rows: Rows) -> None:
        """These nodes were written."""
        if not self._relative:
            return
        if len(rows) <= FEW:
            for row in rows.tolist():
                self.rescore_one(row)
            return
        free = self.free
        states = NodeStates(rows, free.cpu[rows], free.memory[rows], free.gpus[rows])
        total = np.zeros(len(rows), dtype=np.int64)
        for scorer in self._relative:
            total += scorer.of_nodes(states)
        self._base[rows] = total

    def rescore_one(self, row: int) -> None:
        """This node was written."""
        state = self.free.state(row)
        self._base[row] = sum(scorer.of_node(state) for scorer in self._relative)
