"""Best fit: leave as little as possible on the node that is taken, and open few devices.

Why     full nodes keep other nodes empty, which is where gangs and whole-node jobs start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bursar.resources import MILLI
from bursar_policies.scorers.api import Ints, NodeState, NodeStates

MILLION = 1_000_000


class BestFit:
    """What is left of the node's CPUs, memory and devices, as the mean share of its totals.

    With a negative weight this is worst fit: the `spread` strategy.
    """

    name = "best_fit"
    relative = False
    by_row = False

    def __init__(self, weight: int, cpu: Ints, memory: Ints, gpus: Ints) -> None:
        self._weight = weight
        self._totals = (np.maximum(cpu, 1), np.maximum(memory, 1), np.maximum(gpus * MILLI, 1))
        self._rows: Sequence[tuple[int, int, int]] = list(
            zip(*(total.tolist() for total in self._totals), strict=True)
        )

    def of_node(self, state: NodeState) -> int:
        """Mean free share, times the weight."""
        cpu, memory, gpus = self._rows[state.row]
        free = sum([left for left in state.gpus if left > 0])
        # The shift keeps bytes times a million inside 64 bits; both forms must round alike.
        share = (
            state.cpu_milli * MILLION // cpu
            + (state.memory_bytes >> 16) * MILLION // ((memory >> 16) + 1)
            + free * MILLION // gpus
        )
        return self._weight * share // (3 * MILLION)

    def of_nodes(self, states: NodeStates) -> Ints:
        """Mean free share of each, times the weight."""
        cpu, memory, gpus = (total[states.rows] for total in self._totals)
        free = np.maximum(states.gpus, 0).sum(axis=1)
        share = (
            states.cpu_milli * MILLION // cpu
            + (states.memory_bytes >> 16) * MILLION // ((memory >> 16) + 1)
            + free * MILLION // gpus
        )
        result: Ints = self._weight * share // (3 * MILLION)
        return result

    def least_of_node(self, state: NodeState) -> int:
        """Members only take: nothing free, or as much as now when free capacity is what counts for it."""
        return 0 if self._weight >= 0 else self.of_node(state)

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        if self._weight >= 0:
            return np.zeros(len(states.rows), dtype=np.int64)
        return self.of_nodes(states)


class OpenedDevices:
    """Devices that are partly used: opening one costs, filling one up exactly pays."""

    name = "opened_devices"
    relative = True
    by_row = False

    def __init__(self, weight: int) -> None:
        self._weight = weight

    def of_node(self, state: NodeState) -> int:
        """The count of partly used devices, times the weight."""
        return self._weight * len([left for left in state.gpus if 0 < left < MILLI])

    def of_nodes(self, states: NodeStates) -> Ints:
        """The count for each."""
        partly = (states.gpus > 0) & (states.gpus < MILLI)
        result: Ints = self._weight * partly.sum(axis=1, dtype=np.int64)
        return result

    def least_of_node(self, state: NodeState) -> int:
        """No device partly used; with a negative weight all of them."""
        return 0 if self._weight >= 0 else self._weight * sum(left >= 0 for left in state.gpus)

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        if self._weight >= 0:
            return np.zeros(len(states.rows), dtype=np.int64)
        result: Ints = self._weight * (states.gpus >= 0).sum(axis=1, dtype=np.int64)
        return result
