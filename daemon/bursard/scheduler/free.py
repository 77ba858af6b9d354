"""What is free on every node, as one plan spends it.

Owns    a copy of the free columns, and the log of which rows were written, by which whoever keeps something
        made of them finds what is no longer true.
Why     reasons, claims and tables all ask "what is left now?"; they share the answer and nothing else, so
        none of them needs to know the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns, Placement, Start
from bursar_policies.scorers import NodeState

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]
_LOG_MIN = 4_096
_KNOWN_MAX = 1 << 14
"""Different sets of free devices whose counts by size are kept."""


def counted(flags: Mask) -> NDArray[np.int16]:
    """How many are true in each line (n) of (n, a few): long columns are added up faster than short lines."""
    found: NDArray[np.int16] = np.ascontiguousarray(flags.T).sum(axis=0, dtype=np.int16)
    return found


class Free:
    """Free thousandths of CPU (n), bytes (n) and thousandths per device (n, slots), all int64."""

    def __init__(self, nodes: NodeColumns) -> None:
        self.count = len(nodes.ids)
        self.slots = int(nodes.gpu_total.max()) if self.count else 0
        self.cpu = nodes.cpu_free.astype(np.int64)
        self.memory = nodes.memory_free.astype(np.int64)
        self.gpus = nodes.gpu_free[:, : self.slots].astype(np.int64)
        self.every = np.arange(self.count)
        self._sizes: dict[int, int] = {}
        self._milli = np.zeros(0, dtype=np.int64)
        self._large = np.zeros((0, self.count), dtype=np.int16)
        """Devices (sizes, n) with so many thousandths free, for every size that anybody has asked for."""
        self._counted: dict[bytes, NDArray[np.int16]] = {}
        self._log = np.empty(max(_LOG_MIN, 2 * self.count), dtype=np.intp)
        self._first = self.now = 0
        """The log has what was written from `_first` up to `now`."""

    @classmethod
    def after(cls, nodes: NodeColumns, starts: Iterable[Start]) -> Free:
        """What these starts leave."""
        free = cls(nodes)
        free.take_all([member for start in starts for member in start.members])
        return free

    def sync(self, nodes: NodeColumns) -> Rows:
        """Take over the columns of a new snapshot with the same facts; the rows that differ."""
        gpus = nodes.gpu_free[:, : self.slots]
        differs = (nodes.cpu_free != self.cpu) | (nodes.memory_free != self.memory)
        if self.slots:
            differs |= counted(gpus != self.gpus) > 0
        rows = np.flatnonzero(differs)
        if len(rows):
            self.cpu[rows] = nodes.cpu_free[rows]
            self.memory[rows] = nodes.memory_free[rows]
            self.gpus[rows] = gpus[rows]
            for size, milli in enumerate(self._milli.tolist()):
                self._large[size, rows] = (self.gpus[rows] >= milli).sum(axis=1)
            self._note(rows)
        return rows

    def take(self, placement: Placement) -> NodeState:
        """Spend what one member gets; what that leaves of its node."""
        row, free = placement.node, self.gpus[placement.node]
        self.cpu[row] = cpu = self.cpu.item(row) - placement.cpu_milli
        self.memory[row] = memory = self.memory.item(row) - placement.memory_bytes
        gpus: list[int] = free.tolist()
        if placement.devices:
            for share in placement.devices:
                index = share.index
                free[index] = gpus[index] = gpus[index] - share.milli
            if len(self._milli):
                self._large[:, row] = self._count_sizes(free)
        at = self.now - self._first
        if at == len(self._log):
            self._forget()
            at = 0
        self._log[at] = row
        self.now += 1
        return NodeState(row, cpu, memory, gpus)

    def _count_sizes(self, gpus: NDArray[np.int64]) -> NDArray[np.int16]:
        """Devices of each size on a node with these: most nodes have one of few sets of them."""
        key = gpus.tobytes()
        found = self._counted.get(key)
        if found is None:
            if len(self._counted) >= _KNOWN_MAX:
                self._counted.clear()
            found = self._counted[key] = (gpus >= self._milli[:, None]).sum(axis=1, dtype=np.int16)
        return found

    def take_all(self, members: Sequence[Placement]) -> None:
        """Spend what these get. Several may be on one node."""
        if not members:
            return
        rows = np.array([member.node for member in members], dtype=np.intp)
        np.subtract.at(self.cpu, rows, [member.cpu_milli for member in members])
        np.subtract.at(self.memory, rows, [member.memory_bytes for member in members])
        held = [(member.node, share.index, share.milli) for member in members for share in member.devices]
        if held:
            on, indices, milli = np.array(held, dtype=np.int64).T
            np.subtract.at(self.gpus, (on, indices), milli)
        if held and len(self._milli):
            self._large[:, rows] = (self.gpus[rows] >= self._milli[:, None, None]).sum(axis=2)
        self._note(rows)

    def since(self, moment: int, until: int | None = None) -> Rows:
        """Rows written since a reading of `now`, up to another, some perhaps more than once; all when that is
        long ago.
        """
        if moment < self._first:
            return self.every
        end = self.now if until is None else until
        return self._log[moment - self._first : end - self._first]

    def _note(self, rows: Rows) -> None:
        if self.now - self._first + len(rows) > len(self._log):
            self._forget()
        if len(rows) > len(self._log):
            return
        at = self.now - self._first
        self._log[at : at + len(rows)] = rows
        self.now += len(rows)

    def _forget(self) -> None:
        """Begin the log anew: to look at every row costs no more than so many entries."""
        self.now += 1
        self._first = self.now

    def state(self, row: int) -> NodeState:
        """One node as plain integers."""
        return NodeState(row, self.cpu.item(row), self.memory.item(row), self.gpus[row].tolist())

    def fitting(self, request: ResourceRequest, rows: Rows | None = None) -> Mask:
        """Which of these nodes, or of all (n), have room for one member, usable or not."""
        cpu, memory = (self.cpu, self.memory) if rows is None else (self.cpu[rows], self.memory[rows])
        fits = (cpu >= request.cpu_milli) & (memory >= request.memory_bytes)
        if request.gpus is not None:
            fits &= self.devices(request, rows) >= request.gpus.count
        return fits

    def devices(self, request: ResourceRequest, rows: Rows | None = None) -> NDArray[np.int16]:
        """Devices per node with enough free for one share of the request."""
        found = self.large(request.gpus.milli if request.gpus is not None else 0)
        return found if rows is None else found[rows]

    def large(self, milli: int) -> NDArray[np.int16]:
        """Devices per node (n) with so many thousandths free."""
        size = self.size_of(milli)
        found: NDArray[np.int16] = self._large[size]
        return found

    def size_of(self, milli: int) -> int:
        """The number of a size of devices."""
        size = self._sizes.get(milli)
        if size is None:
            size = self._sizes[milli] = len(self._milli)
            self._milli = np.append(self._milli, milli)
            self._counted.clear()
            column = counted(self.gpus >= milli)
            self._large = np.concatenate([self._large, column[None, :]])
        return size

    def sizes_at(self, rows: int | Rows) -> NDArray[np.int16]:
        """Devices of each size that are free on one node (sizes), or on m of them (sizes, m)."""
        found: NDArray[np.int16] = self._large[:, rows]
        return found


def fitting_at_first(nodes: NodeColumns, request: ResourceRequest, rows: Rows) -> Mask:
    """Which of these nodes (m) had room for one member when the snapshot was made."""
    fits = (nodes.cpu_free[rows] >= request.cpu_milli) & (nodes.memory_free[rows] >= request.memory_bytes)
    if (gpus := request.gpus) is not None:
        fits &= (nodes.gpu_free[rows] >= gpus.milli).sum(axis=1) >= gpus.count
    return fits
