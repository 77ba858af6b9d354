"""Scarcity: GPUs of a type that jobs ask for by its name, given to one that could have had others.

Why     who names a type can go nowhere else. One that takes any GPU is better placed where nobody must go,
        though a node of the scarce type has room and comes earlier in the order.
Input   typical requests come from past submissions, never from a table in the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.scorers.api import Ints, NodeState, NodeStates

PPM: Final = 1_000_000
ASKED_MAX: Final = 4 * PPM
"""So far a type can be asked for beyond what there is of it."""


class Scarcity:
    """How much of what is used of a node is asked for by name, times the weight per GPU: less nothing, so the
    measure is what is left of it, below zero.
    """

    name = "scarcity"
    relative = True
    by_row = False

    def __init__(self, weight: int, asked_ppm: Sequence[int], gpu_type: Sequence[int]) -> None:
        """`asked_ppm`: per type of GPU, millionths. `gpu_type`: (n), the type of each node, -1 for none."""
        # The last one serves nodes without a type (index -1).
        cost = np.array([*(weight * min(asked, ASKED_MAX) // PPM for asked in asked_ppm), 0], dtype=np.int64)
        self._cost: Ints = cost[np.array(gpu_type, dtype=np.intp)]
        self._rows: list[int] = self._cost.tolist()
        self._kept = weight >= 0

    def of_node(self, state: NodeState) -> int:
        """What is left of it."""
        return -self._rows[state.row] * sum([left for left in state.gpus if left > 0]) // MILLI

    def of_nodes(self, states: NodeStates) -> Ints:
        """The same of each."""
        result: Ints = -self._cost[states.rows] * np.maximum(states.gpus, 0).sum(axis=1) // MILLI
        return result

    def least_of_node(self, state: NodeState) -> int:
        """Members only take: as much as is left now; with a negative weight nothing."""
        return self.of_node(state) if self._kept else 0

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        return self.of_nodes(states) if self._kept else np.zeros(len(states.rows), dtype=np.int64)


def asked_by_name(
    typical: Sequence[tuple[ResourceRequest, int]],
    gpu_types: Sequence[str],
    gpu_type: Sequence[int],
    gpus: Sequence[int],
) -> list[int]:
    """Per type, which part of its GPUs typical jobs that name it would take, in millionths, when as many
    GPUs are asked for as there are in all. Beyond a million they ask for more than there are of it.

    Args:
        gpu_type: (n), the type of each node, -1 for none. gpus: (n), how many it has.
    """
    there = [0] * len(gpu_types)
    for kind, count in zip(gpu_type, gpus, strict=True):
        if kind >= 0:
            there[kind] += count
    wanted = [(r.gpus, w * r.gpus.count * r.gpus.milli) for r, w in typical if r.gpus is not None and w > 0]
    every, all_gpus = sum(parts for _, parts in wanted), sum(gpus)
    asked = [0] * len(gpu_types)
    for request, parts in wanted:
        able = [i for i, name in enumerate(gpu_types) if name in request.types]
        room = sum(there[i] for i in able)
        for i in able if room else ():
            asked[i] += parts * all_gpus * PPM // (every * room)
    return asked
