"""On how many nodes there is room for what is asked: all asks against the few nodes that were written.

Why     most of what waits, waits for room. What found none in the last plan can only be helped by nodes that
        were written since, and whether it is costs one comparison of columns, not a look at each queue. A
        start takes room on one node: whom that stops is one comparison of all asks with this node.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursard.scheduler.candidates import Candidates
from bursard.scheduler.free import Free

_ASKS_MIN = 16
_SERVED_MAX = 4_096
_AT_ONCE = 64
"""Asks that are tested in one go: what is made on the way stays in the cache."""


class Fits:
    """Asks by nodes, as `free` is now: whoever writes `free` calls `sync` or `take`."""

    def __init__(self, free: Free) -> None:
        self._free = free
        self._seen = free.now
        self._askeds: list[Candidates] = []
        self._served: dict[bytes, NDArray[np.bool_]] = {}
        """By devices of each size that are free on a node, which asks these would do for."""
        self._room(_ASKS_MIN)

    def _room(self, asks: int) -> None:
        rows, known = self._free.count, len(self._askeds)
        fits = np.zeros((asks, rows), dtype=np.bool_)
        usable = np.zeros((asks, rows), dtype=np.bool_)
        counts, wanted = np.zeros(asks, dtype=np.int64), np.zeros((4, asks), dtype=np.int64)
        if known:
            fits[:known], usable[:known] = self._fits[:known], self._usable[:known]
            counts[:known], wanted[:, :known] = self._counts[:known], self._wanted[:, :known]
        self._fits, self._usable, self._counts, self._wanted = fits, usable, counts, wanted

    _fits: NDArray[np.bool_]
    _usable: NDArray[np.bool_]
    _counts: NDArray[np.int64]
    _wanted: NDArray[np.int64]
    """CPU, memory, devices, and which size of `free` each of them has."""
    _most_cpu = _most_memory = 0
    _most: NDArray[np.int16] = np.zeros(0, dtype=np.int16)
    """The most that any ask wants, and the most devices of each size."""

    def add(self, asked: Candidates) -> int:
        """Another ask; its number. It may be larger than any column: then it fits nowhere, and is never
        compared.
        """
        index, request = len(self._askeds), asked.request
        self._served.clear()
        if index == len(self._counts):
            self._room(2 * index)
        self._askeds.append(asked)
        if asked.usable_count:
            gpus = request.gpus
            count, milli = (gpus.count, gpus.milli) if gpus is not None else (0, 0)
            size = self._free.size_of(milli)
            self._wanted[:, index] = (request.cpu_milli, request.memory_bytes, count, size)
            self._usable[index] = asked.usable
            self._fits[index] = asked.usable & self._free.fitting(request)
            self._counts[index] = int(self._fits[index].sum())
            self._most_cpu = max(self._most_cpu, request.cpu_milli)
            self._most_memory = max(self._most_memory, request.memory_bytes)
            self._most = np.zeros(int(self._wanted[3].max()) + 1, dtype=np.int16)
            np.maximum.at(self._most, self._wanted[3], self._wanted[2].astype(np.int16))
        return index

    def of(self, number: int) -> NDArray[np.bool_]:
        """Which nodes (n) have room for a member of an ask."""
        found: NDArray[np.bool_] = self._fits[number]
        return found

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of all asks by number, and of those to come."""
        return self._counts

    def count(self, number: int) -> int:
        """Nodes that have room for a member."""
        return self._counts.item(number)

    def take(self, row: int) -> None:
        """A member was put on this node: it has room for fewer."""
        asks, free = len(self._askeds), self._free
        self._seen = free.now
        cpu, memory, sizes = free.cpu.item(row), free.memory.item(row), free.sizes_at(row)
        enough = cpu >= self._most_cpu and memory >= self._most_memory
        if enough and (sizes[: len(self._most)] >= self._most).all():
            return
        before, wanted = self._fits[:asks, row], self._wanted[:, :asks]
        key = sizes.tobytes()
        served = self._served.get(key)
        if served is None:
            if len(self._served) >= _SERVED_MAX:
                self._served.clear()
            served = self._served[key] = wanted[2] <= sizes[wanted[3]]
        fits = wanted[0] <= cpu
        fits &= served
        fits &= wanted[1] <= memory
        fits &= before
        self._counts[:asks] -= before ^ fits
        before[:] = fits

    def sync(self) -> None:
        """Look again at the nodes that were written since."""
        free = self._free
        if self._seen == free.now:
            return
        rows = free.since(self._seen)
        if rows is not free.every:
            rows = np.unique(rows)  # one that was written twice counts once
        self._seen = free.now
        asks = len(self._askeds)
        if not asks:
            return
        cpu, memory, sizes = free.cpu[rows], free.memory[rows], free.sizes_at(rows)
        for first in range(0, asks, _AT_ONCE):
            some = slice(first, min(first + _AT_ONCE, asks))
            wanted = self._wanted[:, some]
            fits = self._usable[some, rows]
            fits &= cpu >= wanted[0, :, None]
            fits &= memory >= wanted[1, :, None]
            fits &= sizes[wanted[3]] >= wanted[2, :, None]
            self._counts[some] += fits.sum(axis=1) - self._fits[some, rows].sum(axis=1)
            self._fits[some, rows] = fits
