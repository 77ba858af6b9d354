"""Fragmentation: free GPU thousandths that the jobs seen here could not use.

Owns    the measure of "Beware of Fragmentation" (USENIX ATC'23): the expected free GPU of a node
        that a job drawn from the typical ones cannot use there.
Why     a node with 4 free GPUs and no free CPU, or with eight devices 30 % free, has capacity in the
        books that nobody can be given.
Input   typical requests come from past submissions, never from a table in the code.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.scorers.api import Ints, NodeState, NodeStates

PARTS = 10_000
"""Weights of typical requests are scaled to this sum."""
KNOWN_MAX = 200_000
"""States of nodes whose loss is kept: most nodes are in few of them."""


class Fragmentation:
    """Expected unusable GPU thousandths of a node, times the weight per thousandth.

    Typical requests without GPUs are left out: they shift every node alike.
    """

    name = "fragmentation"
    relative = True
    by_row = False

    def __init__(
        self,
        weight: int,
        typical: Sequence[tuple[ResourceRequest, int]],
        gpu_types: Sequence[str],
        gpu_type: Sequence[int],
    ) -> None:
        wanted = [(r, r.gpus, w) for r, w in typical if r.gpus is not None and w > 0]
        total = sum(w for _, _, w in wanted) or 1
        self._weight = weight
        self.sizes = sorted({gpus.milli for _, gpus, _ in wanted})
        place = {milli: i for i, milli in enumerate(self.sizes)}
        self._size = np.array([place[g.milli] for _, g, _ in wanted], dtype=np.intp)
        self._count = np.array([g.count for _, g, _ in wanted], dtype=np.int64)
        self._cpu = np.array([r.cpu_milli for r, _, _ in wanted], dtype=np.int64)
        self._memory = np.array([r.memory_bytes for r, _, _ in wanted], dtype=np.int64)
        self._parts = np.array([w * PARTS // total for _, _, w in wanted], dtype=np.int64)
        allowed = [[not g.types or name in g.types for _, g, _ in wanted] for name in [*gpu_types, ""]]
        # The last line serves nodes without a type (index -1).
        self._allowed = np.array(allowed, dtype=np.bool_).reshape(len(gpu_types) + 1, len(wanted))
        self._type = np.array(gpu_type, dtype=np.intp)
        self._lines = [self._line(i) for i in range(len(allowed))]
        self._type_rows: list[int] = self._type.tolist()
        self._cpu_steps: list[int] = sorted({r.cpu_milli for r, _, _ in wanted})
        self._memory_steps: list[int] = sorted({r.memory_bytes for r, _, _ in wanted})
        self._known: dict[tuple[int, int, int, tuple[int, ...]], int] = {}

    def _line(self, kind: int) -> tuple[int, list[tuple[int, int, int, int, int]]]:
        """For one GPU type: the parts that can never use it, and the requests that may."""
        rows = zip(
            self._size.tolist(),
            self._count.tolist(),
            self._cpu.tolist(),
            self._memory.tolist(),
            self._parts.tolist(),
            strict=True,
        )
        allowed = self._allowed[kind].tolist()
        chosen, never = [], 0
        for row, ok in zip(rows, allowed, strict=True):
            if ok:
                chosen.append(row)
            else:
                never += row[4]
        return never, chosen

    def of_node(self, state: NodeState) -> int:
        """Expected unusable thousandths of one node."""
        gpus = [left for left in state.gpus if left > 0]
        if not gpus or not self.sizes:
            return 0
        gpus.sort()
        # All that counts of CPUs and memory is which of the typical requests they are enough for.
        key = (
            self._type_rows[state.row],
            bisect_right(self._cpu_steps, state.cpu_milli),
            bisect_right(self._memory_steps, state.memory_bytes),
            tuple(gpus),
        )
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = self._known[key] = self._lost(state, gpus)
        return found

    def _lost(self, state: NodeState, gpus: Sequence[int]) -> int:
        total = sum(gpus)
        fits, waste = [], []
        for milli in self.sizes:
            large = [left for left in gpus if left >= milli]
            fits.append(len(large))
            waste.append(total - sum(large))
        never, lines = self._lines[self._type_rows[state.row]]
        cpu, memory = state.cpu_milli, state.memory_bytes
        lost = never * total
        for size, count, need_cpu, need_memory, parts in lines:
            if fits[size] >= count and cpu >= need_cpu and memory >= need_memory:
                lost += parts * waste[size]
            else:
                lost += parts * total
        return self._weight * lost // PARTS

    def of_nodes(self, states: NodeStates) -> Ints:
        """Expected unusable thousandths of each node."""
        if not self.sizes:
            return np.zeros(len(states.rows), dtype=np.int64)
        gpus = np.maximum(states.gpus, 0)
        total = gpus.sum(axis=1)
        shape = (len(states.rows), len(self.sizes))
        fits, waste = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        for i, milli in enumerate(self.sizes):
            large = gpus >= milli
            fits[:, i] = large.sum(axis=1)
            waste[:, i] = total - (gpus * large).sum(axis=1)
        usable = (
            (fits[:, self._size] >= self._count)
            & (states.cpu_milli[:, None] >= self._cpu)
            & (states.memory_bytes[:, None] >= self._memory)
            & self._allowed[self._type[states.rows]]
        )
        lost = np.where(usable, waste[:, self._size], total[:, None]) @ self._parts
        result: Ints = self._weight * lost // PARTS
        # Scaled parts need not sum to PARTS; both forms use the same parts, so they agree.
        return result

    def least_of_node(self, state: NodeState) -> int:
        """Nothing unusable; with a negative weight all that is free."""
        return 0 if self._weight >= 0 else self._weight * sum(left for left in state.gpus if left > 0)

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for each."""
        if self._weight >= 0:
            return np.zeros(len(states.rows), dtype=np.int64)
        result: Ints = self._weight * np.maximum(states.gpus, 0).sum(axis=1)
        return result


def cores_per_gpu(typical: Sequence[tuple[ResourceRequest, int]]) -> int:
    """CPU thousandths that typical GPU requests ask per whole GPU; 0 when none is known."""
    cpu = sum(r.cpu_milli * w for r, w in typical if r.gpus is not None)
    gpu = sum(r.gpus.count * r.gpus.milli * w for r, w in typical if r.gpus is not None)
    return cpu * MILLI // gpu if gpu else 0
