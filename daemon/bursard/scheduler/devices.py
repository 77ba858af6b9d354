"""Which devices of a node a member gets.

Why     a fraction goes to the tightest device that is already shared, so that untouched devices stay
        whole for those who need whole ones; both forms (one node, many nodes) must choose alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bursar.model import DeviceShare
from bursar.resources import MILLI, GpuRequest
from bursar_policies.scorers.api import Ints

FULL = MILLI + 1
"""Above any free amount: sorts a device that does not fit last."""


def choose(free: Sequence[int], gpus: GpuRequest) -> list[int] | None:
    """Device indices for one member, or None when they do not fit.

    Whole devices: the first untouched ones. A fraction: the device it fits tightest, first of equals.
    """
    if gpus.milli >= MILLI:
        untouched = [i for i, left in enumerate(free) if left >= MILLI]
        return untouched[: gpus.count] if len(untouched) >= gpus.count else None
    fitting = sorted((left, i) for i, left in enumerate(free) if left >= gpus.milli)
    return sorted(i for _, i in fitting[: gpus.count]) if len(fitting) >= gpus.count else None


def shares(indices: Sequence[int], gpus: GpuRequest) -> tuple[DeviceShare, ...]:
    """The chosen devices as what a member holds."""
    return tuple(DeviceShare(index, gpus.milli) for index in indices)


def give(free: list[int], held: Sequence[int]) -> None:
    """Return what was held per device to one node's devices, never above whole."""
    for index, (left, milli) in enumerate(zip(free, held, strict=False)):
        if milli and left >= 0:
            free[index] = min(MILLI, left + milli)


def take_many(free: Ints, gpus: GpuRequest) -> tuple[NDArray[np.bool_], Ints]:
    """`choose` and `take` for m nodes at once.

    Returns:
        fits: bool (m); after: int64 (m, slots), meaningful where it fits.
    """
    if gpus.milli >= MILLI:
        untouched = free >= MILLI
        nth = untouched.cumsum(axis=1)
        taken = untouched & (nth <= gpus.count)
        return nth[:, -1] >= gpus.count, free - MILLI * taken
    rows = np.arange(len(free))
    after = free.copy()
    tight = np.where(free >= gpus.milli, free, FULL)
    fits = np.ones(len(free), dtype=np.bool_)
    for _ in range(gpus.count):
        best = tight.argmin(axis=1)
        fits &= tight[rows, best] != FULL
        after[rows, best] -= gpus.milli
        tight[rows, best] = FULL
    return fits, after
