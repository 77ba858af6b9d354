"""What is free on every node, as one plan spends it.

Owns    a copy of the free columns, and which rows changed since when.
Why     reasons, claims and tables all ask "what is left now?"; they share the answer and nothing else, so
        none of them needs to know the others.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns, Placement, Start
from bursar_policies.scorers import NodeState

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]


class Free:
    """Free thousandths of CPU (n), bytes (n) and thousandths per device (n, slots), all int64.

    `changed_at` (n) is the reading of `clock` at which a row was last written.
    """

    def __init__(self, nodes: NodeColumns) -> None:
        self.count = len(nodes.ids)
        self.slots = int(nodes.gpu_total.max()) if self.count else 0
        self.cpu = nodes.cpu_free.astype(np.int64)
        self.memory = nodes.memory_free.astype(np.int64)
        self.gpus = nodes.gpu_free[:, : self.slots].astype(np.int64)
        self.clock = 1
        self.changed_at = np.ones(self.count, dtype=np.int64)

    @classmethod
    def after(cls, nodes: NodeColumns, starts: Iterable[Start]) -> Free:
        """What these starts leave."""
        free = cls(nodes)
        for start in starts:
            for member in start.members:
                free.take(member)
        return free

    def sync(self, nodes: NodeColumns) -> Rows:
        """Take over the columns of a new snapshot with the same facts; the rows that differ."""
        gpus = nodes.gpu_free[:, : self.slots]
        differs = (nodes.cpu_free != self.cpu) | (nodes.memory_free != self.memory)
        if self.slots:
            differs |= (gpus != self.gpus).any(axis=1)
        rows = np.flatnonzero(differs)
        if len(rows):
            self.cpu[rows] = nodes.cpu_free[rows]
            self.memory[rows] = nodes.memory_free[rows]
            self.gpus[rows] = gpus[rows]
            self.clock += 1
            self.changed_at[rows] = self.clock
        return rows

    def take(self, placement: Placement) -> None:
        """Spend what one member gets."""
        row = placement.node
        self.cpu[row] -= placement.cpu_milli
        self.memory[row] -= placement.memory_bytes
        for share in placement.devices:
            self.gpus[row, share.index] -= share.milli
        self.clock += 1
        self.changed_at[row] = self.clock

    def state(self, row: int) -> NodeState:
        """One node as plain integers."""
        return NodeState(row, int(self.cpu[row]), int(self.memory[row]), self.gpus[row].tolist())

    def fitting(self, request: ResourceRequest) -> Mask:
        """Nodes (n) that have room for one member, usable or not."""
        fits = (self.cpu >= request.cpu_milli) & (self.memory >= request.memory_bytes)
        if request.gpus is not None:
            fits &= self.devices(request) >= request.gpus.count
        return fits

    def devices(self, request: ResourceRequest) -> NDArray[np.int64]:
        """Devices per node (n) with enough free for one share of the request."""
        milli = request.gpus.milli if request.gpus is not None else 0
        found: NDArray[np.int64] = (self.gpus >= milli).sum(axis=1)
        return found
