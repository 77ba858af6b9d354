"""On how many nodes there is room for what is asked: all asks against the few nodes written since.

Why     most of what waits, waits for room. What found none in the last plan can only be helped by nodes that
        were written since, and whether it is costs one comparison of columns, not a look at each queue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bursard.scheduler.candidates import Candidates
from bursard.scheduler.free import Free

_ASKS_MIN = 16
_AT_ONCE = 64
"""Asks that are tested in one go: what is made on the way stays in the cache."""


class Fits:
    """Asks by nodes, as of the last `sync`."""

    def __init__(self, free: Free) -> None:
        self._free = free
        self.seen = free.now
        """What is said here is true of this moment of `free`."""
        self._index: dict[int, int] = {}
        self._askeds: list[Candidates] = []
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
    """CPU, memory, devices and thousandths of each."""

    def add(self, asked: Candidates) -> None:
        """Another ask. It may be larger than any column: then it fits nowhere, and is never compared."""
        index, request = len(self._askeds), asked.request
        if index == len(self._counts):
            self._room(2 * index)
        self._index[id(asked)] = index
        self._askeds.append(asked)
        if not asked.usable_count:
            return
        gpus = request.gpus
        count, milli = (gpus.count, gpus.milli) if gpus is not None else (0, 0)
        self._wanted[:, index] = (request.cpu_milli, request.memory_bytes, count, milli)
        self._usable[index] = asked.usable
        self._fits[index] = asked.usable & self._free.fitting(request)
        self._counts[index] = int(self._fits[index].sum())

    def of(self, asked: Candidates) -> NDArray[np.bool_]:
        """Which nodes (n) had room for a member at `seen`, or when the ask was added."""
        found: NDArray[np.bool_] = self._fits[self._index[id(asked)]]
        return found

    def count(self, asked: Candidates) -> int:
        """Nodes that had room for a member at the last `sync`, or when the ask was added."""
        return int(self._counts[self._index[id(asked)]])

    def enough(self, askeds: Sequence[Candidates], count: int) -> bool:
        """Had so many nodes room for a member of any of these?"""
        counts, index = self._counts, self._index
        return any(counts[index[id(asked)]] >= count for asked in askeds)

    def sync(self) -> None:
        """Look again at the nodes that were written since."""
        free = self._free
        if self.seen == free.now:
            return
        rows = free.since(self.seen)
        if rows is not free.every:
            rows = np.unique(rows)  # one that was written twice counts once
        self.seen = free.now
        asks = len(self._askeds)
        if not asks:
            return
        cpu, memory = free.cpu[rows], free.memory[rows]
        sizes = np.unique(self._wanted[3, :asks])
        large = np.stack([free.large(milli)[rows] for milli in sizes.tolist()])
        for first in range(0, asks, _AT_ONCE):
            some = slice(first, min(first + _AT_ONCE, asks))
            wanted = self._wanted[:, some]
            fits = self._usable[some, rows]
            fits &= cpu >= wanted[0, :, None]
            fits &= memory >= wanted[1, :, None]
            fits &= large[np.searchsorted(sizes, wanted[3])] >= wanted[2, :, None]
            before = self._fits[some, rows]
            self._counts[some] += fits.sum(axis=1) - before.sum(axis=1)
            self._fits[some, rows] = fits
