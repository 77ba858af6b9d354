"""What ends when, by node: where a claim looks for room to come.

Why     30,000 members are columns, sorted by node and end, with what has been given back up to each of
        them beside it. When each node first has room for a request is then one comparison of columns, for
        all nodes at once; what a claim leaves is worked out for the few nodes that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import GPU_SLOTS_MAX, MemberColumns, Placement
from bursar_policies.scorers import NodeState
from bursard.scheduler.free import Free

NEVER = np.iinfo(np.int64).max
Ints = NDArray[np.int64]


class _Release(NamedTuple):
    """One member's latest end and what it gives back. gpu_milli: thousandths per device."""

    ends_at: int
    cpu_milli: int
    memory_bytes: int
    gpu_milli: Sequence[int]


class _Sorted(NamedTuple):
    """Members by node, soonest end first. cpu, memory (m), gpus (m, slots): given back there by then."""

    node: NDArray[np.intp]
    ends_at: Ints
    cpu: Ints
    memory: Ints
    gpus: Ints


class Releases:
    """Ends of everything that runs, and of what this plan starts."""

    def __init__(self, running: MemberColumns, free: Free) -> None:
        self._running = running
        self._free = free
        self._started: list[tuple[int, _Release]] = []
        self._sorted: _Sorted | None = None

    def add(self, member: Placement, ends_at: int) -> None:
        """This plan starts one."""
        held = [0] * GPU_SLOTS_MAX
        for share in member.devices:
            held[share.index] += share.milli
        self._started.append((member.node, _Release(ends_at, member.cpu_milli, member.memory_bytes, held)))
        self._sorted = None

    def first_fit(self, request: ResourceRequest, now: int) -> Ints:
        """When each node (n) first has room for one member, as ends come; `NEVER` where none brings it."""
        free, members = self._free, self._by_node()
        at: Ints = np.where(free.fitting(request), now, NEVER)
        node = members.node
        fits = free.cpu[node] + members.cpu >= request.cpu_milli
        fits &= free.memory[node] + members.memory >= request.memory_bytes
        if request.gpus is not None:
            had = free.gpus[node]
            have = np.where(had < 0, had, had + members.gpus)
            fits &= (have >= request.gpus.milli).sum(axis=1) >= request.gpus.count
        found = np.flatnonzero(fits)
        nodes, first = np.unique(node[found], return_index=True)
        at[nodes] = np.minimum(at[nodes], np.maximum(members.ends_at[found[first]], now))
        return at

    def state_at(self, row: int, at: int) -> NodeState:
        """A node after everything that ends by then has ended."""
        state, members = self._free.state(row), self._by_node()
        begins, ends = np.searchsorted(members.node, (row, row + 1)).tolist()
        last = begins + int(np.searchsorted(members.ends_at[begins:ends], at, side="right")) - 1
        if last < begins:
            return state
        gpus = [
            left if left < 0 else min(MILLI, left + given)
            for left, given in zip(state.gpus, members.gpus[last].tolist(), strict=True)
        ]
        cpu, memory = int(members.cpu[last]), int(members.memory[last])
        return NodeState(row, state.cpu_milli + cpu, state.memory_bytes + memory, gpus)

    def _by_node(self) -> _Sorted:
        if self._sorted is None:
            self._sorted = self._sort()
        return self._sorted

    def _sort(self) -> _Sorted:
        running, started, slots = self._running, self._started, self._free.slots
        releases = [release for _, release in started]

        def column(kept: Ints, more: list[int]) -> Ints:
            return np.concatenate([kept, np.array(more, dtype=np.int64)]) if more else kept

        node = column(running.node, [row for row, _ in started])
        ends_at = column(running.ends_at, [one.ends_at for one in releases])
        cpu = column(running.cpu_milli, [one.cpu_milli for one in releases])
        memory = column(running.memory_bytes, [one.memory_bytes for one in releases])
        gpus = running.gpu_milli[:, :slots].astype(np.int64)
        if releases:
            more = np.array([one.gpu_milli for one in releases], dtype=np.int64)[:, :slots]
            gpus = np.concatenate([gpus, more])
        order = np.argsort(ends_at, kind="stable")
        order = order[np.argsort(node[order].astype(np.uint16), kind="stable")]
        node = node[order]
        # Sums over all members, less what they were where the node begins. They may wrap: differences do not.
        begins = np.searchsorted(node, node)
        sums = [_since(values[order], begins) for values in (cpu, memory, gpus)]
        return _Sorted(node.astype(np.intp), ends_at[order], *sums)


def _since(values: Ints, begins: NDArray[np.intp]) -> Ints:
    total = values.cumsum(axis=0)
    found: Ints = total - (total - values)[begins]
    return found
