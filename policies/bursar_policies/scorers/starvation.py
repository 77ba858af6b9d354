"""Starvation: how near a node's free GPUs are to lacking the CPUs that go with them.

Why     fragmentation counts a node only once it is lost; this one sees it coming, so that jobs with many CPUs
        go where few GPUs are left, or where there are more CPUs than GPUs will need, and jobs with few CPUs
        go where CPUs are short.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from bursar.resources import MILLI
from bursar_policies.scorers.api import Ints, NodeState, NodeStates

UNIT: Final = 10_000
MARGIN: Final = 3_210
"""So near, of all the CPUs that the GPUs of a node want, is near: 3,210 of 10,000."""


class Starvation:
    """The square of what is missing of the CPUs that the free GPUs want and of a margin above them, as a part
    of what all GPUs of the node want; once for each GPU of the node.

    A square, so that what makes a bad node worse counts more than what spoils a good one.
    """

    name = "starvation"
    relative = True
    by_row = False

    def __init__(self, weight: int, cores_milli: int, gpus: Ints) -> None:
        """`cores_milli`: CPU thousandths that go with one whole GPU. `gpus`: (n), those that a node has."""
        self._weight = weight
        self._cores = cores_milli
        self._total = np.asarray(gpus, dtype=np.int64)
        self._rows: list[int] = self._total.tolist()

    def of_node(self, state: NodeState) -> int:
        """The square, times the GPUs and the weight."""
        total = self._rows[state.row]
        all_cores = self._cores * total
        if not all_cores:
            return 0
        wanted = self._cores * sum([left for left in state.gpus if left > 0]) // MILLI
        near = (wanted - state.cpu_milli) * UNIT // all_cores + MARGIN
        return self._weight * total * near * near // UNIT**2 if near > 0 else 0

    def of_nodes(self, states: NodeStates) -> Ints:
        """The same of each."""
        total = self._total[states.rows]
        all_cores = self._cores * total
        wanted = self._cores * np.maximum(states.gpus, 0).sum(axis=1) // MILLI
        near = (wanted - states.cpu_milli) * UNIT // np.maximum(all_cores, 1) + MARGIN
        near = np.where(all_cores > 0, np.maximum(near, 0), 0)
        result: Ints = self._weight * total * near * near // UNIT**2
        return result

    def least_of_node(self, state: NodeState) -> int:
        """Nothing missing; with a negative weight everything."""
        return min(self._weight, 0) * self._rows[state.row] * (UNIT + MARGIN) ** 2 // UNIT**2

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        most = min(self._weight, 0) * (UNIT + MARGIN) ** 2
        result: Ints = most * self._total[states.rows] // UNIT**2
        return result
