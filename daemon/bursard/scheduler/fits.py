"""On which nodes there is room for what is asked: all asks against the few nodes that were written.

Why     most of what waits, waits for room. What found none in the last plan can only be helped by nodes that
        were written since, and whether it is costs one comparison of columns, not a look at each queue. A
        start takes room on one node: whom that stops is known of all asks at once, from what is left there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar_policies.scorers import NodeState
from bursard.scheduler.candidates import Candidates
from bursard.scheduler.free import Free, Mask, Rows, counted

FEW_MAX = 1_024
"""Up to so many nodes are remembered by ask: what was freed since the last plan is mostly fewer."""
_BYTES_MIN = 8
"""The bits of a node are whole words."""
_KNOWN_MAX = 4_096
_ANY = -1
"""All bits."""
_AT_ONCE = 255
"""Nodes that are tested in one go: what is made on the way stays in the cache, and a byte counts them."""
Bits = NDArray[np.uint8]


class Fits:
    """Nodes by asks, as `free` is now: whoever writes `free` calls `sync` or `take`.

    A node has one bit for each ask, eight to a byte, so that all asks are one number of Python's as well.
    """

    def __init__(self, free: Free) -> None:
        self._free = free
        self._seen = free.now
        self._askeds: list[Candidates] = []
        self._cpu: dict[int, int] = {}
        self._memory: dict[int, int] = {}
        self._served: dict[bytes, int] = {}
        """Which asks so much CPU, so much memory, and so many devices of each size would do for."""
        self._had: dict[int, Rows] = {}
        self._listed: dict[int, list[int]] = {}
        """By ask that fits on few nodes, those that had room at some look since the last `sync`."""
        self._few: tuple[list[bool], Rows, Bits] | None = None
        """Which asks fitted on few nodes at a look since then, the nodes on which any of them did, and the
        bits of these (bytes, nodes).
        """
        self._left = [_ANY] * free.count
        """By node, the bits that a start since the last `sync` left; `_ANY` where there was none."""
        self._room(_BYTES_MIN)

    _bits: Bits
    _usable: Bits
    """(nodes, bytes)."""
    _counts: NDArray[np.int64]
    _wanted: NDArray[np.int64]
    """CPU, memory, and which size of `free` each device has; devices. Each (asks)."""
    _devices: NDArray[np.int16]

    def _room(self, width: int) -> None:
        nodes, asks, known = self._free.count, 8 * width, len(self._askeds)
        bits, usable = np.zeros((nodes, width), dtype=np.uint8), np.zeros((nodes, width), dtype=np.uint8)
        counts, wanted = np.zeros(asks, dtype=np.int64), np.zeros((3, asks), dtype=np.int64)
        devices = np.zeros(asks, dtype=np.int16)
        if known:
            before = self._bits.shape[1]
            bits[:, :before], usable[:, :before] = self._bits, self._usable
            counts[:known], wanted[:, :known] = self._counts[:known], self._wanted[:, :known]
            devices[:known] = self._devices[:known]
        self._bits, self._usable, self._counts, self._wanted = bits, usable, counts, wanted
        self._devices, self._width = devices, width

    def add(self, asked: Candidates) -> int:
        """Another ask; its number. It may be larger than any column: then it fits nowhere, and is never
        compared.
        """
        index, request = len(self._askeds), asked.request
        if index == len(self._counts):
            self._room(2 * self._width)
        self._askeds.append(asked)
        for known in (self._cpu, self._memory, self._served):
            known.clear()
        self._forget()
        if asked.usable_count:
            gpus = request.gpus
            count, milli = (gpus.count, gpus.milli) if gpus is not None else (0, 0)
            self._wanted[:, index] = (request.cpu_milli, request.memory_bytes, self._free.size_of(milli))
            self._devices[index] = count
            fits = asked.usable & self._free.fitting(request)
            byte, bit = divmod(index, 8)
            self._usable[asked.usable, byte] |= 1 << bit
            self._bits[fits, byte] |= 1 << bit
            self._counts[index] = int(fits.sum())
        return index

    def rows(self, number: int) -> Rows:
        """The nodes that have room for a member of an ask, in rising order."""
        among = self._had.get(number)
        if among is None:
            byte, bit = number >> 3, 1 << (number & 7)
            few, nodes, bits = self._few or self._find_few()
            if not few[number]:
                found = np.flatnonzero(self._bits[:, byte] & bit)
                if len(found) <= FEW_MAX:
                    self._had[number] = found
                return found
            among = nodes[(bits[byte] & bit).nonzero()[0]]
        found = self._had[number] = among[self.on(number, among)]
        return found

    def listed(self, number: int) -> list[int]:
        """The same of an ask that fits on a handful of nodes, as a list that nobody may write."""
        among = self._listed.get(number)
        if among is None:
            among = self.rows(number).tolist()
        left, bit = self._left, 1 << number
        found = self._listed[number] = [row for row in among if left[row] & bit]
        return found

    def _find_few(self) -> tuple[list[bool], Rows, Bits]:
        few = self._counts <= FEW_MAX
        wanted = np.packbits(few, bitorder="little").view(np.uint64)
        nodes = np.flatnonzero(counted((self._bits.view(np.uint64) & wanted) != 0))
        self._few = few.tolist(), nodes, np.ascontiguousarray(self._bits[nodes].T)
        return self._few

    def _forget(self) -> None:
        self._had.clear()
        self._listed.clear()
        self._few = None
        self._left = [_ANY] * self._free.count

    def on(self, number: int, rows: Rows) -> Mask:
        """Which of these nodes have room for a member of an ask."""
        byte, bit = divmod(number, 8)
        found: Mask = (self._bits[rows, byte] & (1 << bit)).astype(np.bool_)
        return found

    def at(self, number: int, row: int) -> bool:
        """Has this node room for a member of an ask?"""
        return bool(self._bits.item(row, number >> 3) >> (number & 7) & 1)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of all asks by number, and of those to come."""
        return self._counts

    def count(self, number: int) -> int:
        """Nodes that have room for a member."""
        return self._counts.item(number)

    def take(self, after: NodeState) -> None:
        """A member was put on this node: it has room for fewer."""
        free, row = self._free, after.row
        self._seen = free.now
        before = self._left[row]
        if before < 0:
            before = self._at(row)
        left = before & self._enough(self._cpu, 0, after.cpu_milli) & self._served_by(free.sizes_at(row))
        left &= self._enough(self._memory, 1, after.memory_bytes)
        if left != before:
            self._bits[row] = self._apart(left)
            self._counts -= np.unpackbits(self._apart(before ^ left), bitorder="little")
        self._left[row] = left

    def _at(self, row: int) -> int:
        return int.from_bytes(self._bits[row].tobytes(), "little")

    def _apart(self, bits: int) -> Bits:
        return np.frombuffer(bits.to_bytes(self._width, "little"), dtype=np.uint8)

    def _enough(self, known: dict[int, int], which: int, have: int) -> int:
        found = known.get(have)
        if found is None:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            found = known[have] = _joined(self._wanted[which] <= have)
        return found

    def _served_by(self, sizes: NDArray[np.int16]) -> int:
        key = sizes.tobytes()
        found = self._served.get(key)
        if found is None:
            if len(self._served) >= _KNOWN_MAX:
                self._served.clear()
            wanted = self._wanted[2]
            found = self._served[key] = _joined(self._devices <= sizes[wanted]) if len(sizes) else -1
        return found

    def take_gang(self) -> None:
        """Members were put on some nodes."""
        for row in self._look().tolist():
            self._left[row] = self._at(row)

    def sync(self) -> None:
        """Look again at the nodes that were written since: some may have room for more than before."""
        self._forget()
        self._look()

    def _look(self) -> Rows:
        """At the nodes that were written since the last look; which."""
        free = self._free
        rows = free.since(self._seen)
        if rows is not free.every:
            rows = np.unique(rows)  # one that was written twice counts once
        self._seen = free.now
        if not self._askeds:
            return rows
        sizes = free.sizes_at(rows).T
        for first in range(0, len(rows), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            at = rows[some]
            fits = free.cpu[at, None] >= self._wanted[0]
            fits &= free.memory[at, None] >= self._wanted[1]
            if sizes.shape[1]:
                fits &= sizes[some][:, self._wanted[2]] >= self._devices
            bits = np.packbits(fits, axis=1, bitorder="little") & self._usable[at]
            self._counts += _by_ask(bits) - _by_ask(self._bits[at])
            self._bits[at] = bits
        return rows


def _joined(flags: Mask) -> int:
    """These as the bits of one number, the first the lowest."""
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


def _by_ask(bits: Bits) -> NDArray[np.int64]:
    """How many nodes have each bit; of 255 at most."""
    found: NDArray[np.uint8] = np.unpackbits(bits, axis=1, bitorder="little").sum(axis=0, dtype=np.uint8)
    return found.astype(np.int64)
