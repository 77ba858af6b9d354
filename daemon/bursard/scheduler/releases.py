"""What ends when, by node: where a claim looks for room to come.

Why     30,000 members are columns; only the nodes a claim could use are looked at one member at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bursar_policies.decision import GPU_SLOTS_MAX, MemberColumns, Placement


class Release(NamedTuple):
    """One member's latest end and what it gives back. gpu_milli: thousandths per device."""

    ends_at: int
    cpu_milli: int
    memory_bytes: int
    gpu_milli: Sequence[int]


class Releases:
    """Ends of everything that runs, and of what this plan starts."""

    def __init__(self, running: MemberColumns, count: int) -> None:
        """`count`: nodes there are."""
        self._running = running
        self._order = np.lexsort((running.ends_at, running.node))
        nodes = running.node[self._order]
        self._bounds: list[int] = np.searchsorted(nodes, np.arange(count + 1)).tolist()
        self._started: dict[int, list[Release]] = {}

    def add(self, member: Placement, ends_at: int) -> None:
        """This plan starts one."""
        held = [0] * GPU_SLOTS_MAX
        for share in member.devices:
            held[share.index] += share.milli
        release = Release(ends_at, member.cpu_milli, member.memory_bytes, held)
        self._started.setdefault(member.node, []).append(release)

    def of(self, row: int) -> list[Release]:
        """Of one node, soonest first."""
        running = self._running
        members = self._order[self._bounds[row] : self._bounds[row + 1]]
        found = [
            Release(ends_at, cpu_milli, memory_bytes, gpu_milli)
            for ends_at, cpu_milli, memory_bytes, gpu_milli in zip(
                running.ends_at[members].tolist(),
                running.cpu_milli[members].tolist(),
                running.memory_bytes[members].tolist(),
                running.gpu_milli[members].tolist(),
                strict=True,
            )
        ]
        if row in self._started:
            found += self._started[row]
            found.sort(key=lambda release: release.ends_at)
        return found
