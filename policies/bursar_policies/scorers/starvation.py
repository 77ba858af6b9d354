"""Starvation: GPUs left without the CPUs that a job on them would need.

Why     fragmentation counts a node only once it is lost; this one sees it coming, so that jobs with
        many CPUs go where few GPUs are left.
"""

from __future__ import annotations

import numpy as np

from bursar.resources import MILLI
from bursar_policies.scorers.api import Ints, NodeState, NodeStates


class Starvation:
    """The share of the CPUs wanted by the free GPUs that is missing, 0..1 (a million)."""

    name = "starvation"
    relative = False
    by_row = False

    def __init__(self, weight: int, cores_milli: int) -> None:
        """`cores_milli`: CPU thousandths that go with one whole GPU."""
        self._weight = weight
        self._cores = cores_milli

    def of_node(self, state: NodeState) -> int:
        """The missing share, times the weight."""
        wanted = self._cores * sum([left for left in state.gpus if left > 0]) // MILLI
        missing = wanted - state.cpu_milli
        return self._weight * missing // wanted if missing > 0 else 0

    def of_nodes(self, states: NodeStates) -> Ints:
        """The missing share of each."""
        wanted = self._cores * np.maximum(states.gpus, 0).sum(axis=1) // MILLI
        missing = np.maximum(wanted - states.cpu_milli, 0)
        result: Ints = self._weight * missing // np.maximum(wanted, 1)
        return result

    def least_of_node(self, state: NodeState) -> int:
        """Nothing missing; with a negative weight everything."""
        return min(self._weight, 0)

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        return np.full(len(states.rows), min(self._weight, 0), dtype=np.int64)
