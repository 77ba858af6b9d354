"""Consolidation: fill nodes in one fixed order.

Why     a greedy fragmentation gradient alone scatters work over equally good nodes; the published
        schedulers owe much of their packing to a fixed order of ties. Making that order a term with
        a weight lets fragmentation overrule it when the difference is real.
"""

from __future__ import annotations

import numpy as np

from bursar_policies.scorers.api import Ints, NodeState, NodeStates


class Consolidation:
    """The node's place in the order, 0 for the first to fill, 1 (a million) for the last."""

    name = "consolidation"
    relative = False
    by_row = True

    def __init__(self, weight: int, place: Ints) -> None:
        """`place`: (n), 0..n-1, the order in which nodes are filled."""
        last = max(len(place) - 1, 1)
        self._cost = np.asarray(weight * place // last, dtype=np.int64)
        self._rows: list[int] = self._cost.tolist()

    def of_node(self, state: NodeState) -> int:
        """Its place."""
        return self._rows[state.row]

    def of_nodes(self, states: NodeStates) -> Ints:
        """The place of each."""
        return self._cost[states.rows]

    def least_of_node(self, state: NodeState) -> int:
        """Its place, which a member does not change."""
        return self._rows[state.row]

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The place of each."""
        return self._cost[states.rows]
