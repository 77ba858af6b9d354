"""What ends when, by node: where a claim looks for room to come.

Why     30,000 members are columns. Sorted by node and end, with what has been given back up to each of them
        beside it, when each node first has room for a request is one comparison of columns for all nodes.
        A claim takes the soonest few, so mostly the ends of the next minutes are sorted, and no others; what
        a claim leaves is worked out for the few nodes that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import GPU_SLOTS_MAX, MemberColumns, Placement, Snapshot
from bursar_policies.scorers import NodeState
from bursard.scheduler.free import Free, Mask, counted
from bursard.scheduler.pricing import SECOND_US

NEVER = np.iinfo(np.int64).max
Ints = NDArray[np.int64]


class _Members(NamedTuple):
    """Columns of members (m): row, end, and what each gives back; gpus (m, slots)."""

    node: Ints
    ends_at: Ints
    cpu: Ints
    memory: Ints
    gpus: Ints


class Releases:
    """Ends of everything that runs, and of what this plan starts."""

    def __init__(self, running: MemberColumns, free: Free) -> None:
        self._running = running
        self._free = free
        self._started: list[tuple[int, int, int, int, list[int]]] = []
        self._all: _Members | None = None

    def add(self, member: Placement, ends_at: int) -> None:
        """This plan starts one."""
        held = [0] * GPU_SLOTS_MAX
        for share in member.devices:
            held[share.index] += share.milli
        self._started.append((member.node, ends_at, member.cpu_milli, member.memory_bytes, held))
        self._all = None

    def first_fit(
        self, request: ResourceRequest, now: int, among: Mask | None = None, soonest: int = 0
    ) -> Ints:
        """When each node (n) first has room for one member, as ends come; `NEVER` where none brings it.

        Args:
            among: bool (n), the nodes that are asked about, all by default; `NEVER` for the others.
            soonest: so many of the soonest are enough to know; others may be said to be `NEVER`. 0: all.
        """
        free = self._free
        if among is None:
            among = np.ones(free.count, dtype=np.bool_)
        at: Ints = np.where(free.fitting(request) & among, now, NEVER)
        if soonest:
            members = _summed(self._members(among, self._all_free_at(at, now, among, soonest)))
        else:
            members = self._every_member()
        node = members.node
        fits = free.cpu[node] + members.cpu >= request.cpu_milli
        fits &= free.memory[node] + members.memory >= request.memory_bytes
        if request.gpus is not None:
            had = free.gpus[node]
            have = np.where(had < 0, had, had + members.gpus)
            fits &= counted(have >= request.gpus.milli) >= request.gpus.count
        found = np.flatnonzero(fits)
        nodes, first = np.unique(node[found], return_index=True)
        # What has not ended though its time is over may do so from now on, and has not by now.
        at[nodes] = np.minimum(at[nodes], np.maximum(members.ends_at[found[first]], now + 1))
        at[~among] = NEVER
        return at

    def _every_member(self) -> _Members:
        if self._all is None:
            self._all = _summed(self._members(np.ones(self._free.count, dtype=np.bool_), NEVER))
        return self._all

    def _all_free_at(self, at: Ints, now: int, among: Mask, count: int) -> int:
        """When so many nodes will have given back all they can. A node has room then at the latest, so the
        few ends until then say which are the soonest, of many thousands.
        """
        last = np.full(self._free.count, -1, dtype=np.int64)
        np.maximum.at(last, self._running.node, self._running.ends_at)
        for row, ends_at, *_ in self._started:
            last[row] = max(int(last[row]), ends_at)
        last = np.where(at == now, now, np.where(last < 0, NEVER, np.maximum(last, now + 1)))[among]
        return int(np.partition(last, count - 1)[count - 1]) if len(last) >= count else NEVER

    def states_at(self, rows: Sequence[int], at: int) -> list[NodeState]:
        """Nodes after everything that ends by then has ended."""
        among = np.zeros(self._free.count, dtype=np.bool_)
        among[rows] = True
        members = self._members(among, at)
        return [self._after(row, members, members.node == row) for row in rows]

    def state_at(self, row: int, at: int) -> NodeState:
        """The same of one."""
        return self.states_at([row], at)[0]

    def _after(self, row: int, members: _Members, mine: Mask) -> NodeState:
        """A node after these of some members have ended."""
        state = self._free.state(row)
        gpus = [
            left if left < 0 else min(MILLI, left + given)
            for left, given in zip(state.gpus, members.gpus[mine].sum(axis=0).tolist(), strict=True)
        ]
        cpu, memory = int(members.cpu[mine].sum()), int(members.memory[mine].sum())
        return NodeState(row, state.cpu_milli + cpu, state.memory_bytes + memory, gpus)

    def members(self, among: Mask) -> _Members:
        """Those on some nodes (n), in no order."""
        return self._members(among, NEVER)

    def _members(self, among: Mask, until: int) -> _Members:
        """Those on some nodes that end by then."""
        running, slots = self._running, self._free.slots
        wanted = np.flatnonzero(among[running.node] & (running.ends_at <= until))
        found = _Members(
            running.node[wanted],
            running.ends_at[wanted],
            running.cpu_milli[wanted],
            running.memory_bytes[wanted],
            running.gpu_milli[wanted, :slots].astype(np.int64),
        )
        started = [one for one in self._started if among[one[0]] and one[1] <= until]
        if not started:
            return found
        node, ends_at, cpu, memory, gpus = (
            np.array(column, dtype=np.int64) for column in zip(*started, strict=True)
        )
        more = _Members(node, ends_at, cpu, memory, gpus[:, :slots])
        return _Members(*(np.concatenate(pair) for pair in zip(found, more, strict=True)))


def _summed(members: _Members) -> _Members:
    """By node, soonest end first; with what was given back there by then."""
    order = np.argsort(members.ends_at, kind="stable")
    order = order[np.argsort(members.node[order].astype(np.uint16), kind="stable")]
    node = members.node[order]
    begins = np.searchsorted(node, node)
    sums = [sums_since(values[order], begins) for values in (members.cpu, members.memory, members.gpus)]
    return _Members(node, members.ends_at[order], *sums)


def sums_since(values: Ints, begins: NDArray[np.intp]) -> Ints:
    """Sums down to each line, from the line where its own group begins. They may wrap: differences do not."""
    total = values.cumsum(axis=0)
    found: Ints = total - (total - values)[begins]
    return found


def ending(snapshot: Snapshot, now: int) -> Snapshot:
    """The same world, in which attempts that were asked to end are gone with their grace: what waits for
    their place is not passed by jobs that would end later.
    """
    ending = ((name, one) for name, one in snapshot.holders.items() if one.stopping)
    gone_at = {name: now + max(one.grace_us, SECOND_US) for name, one in ending}
    if not gone_at:
        return snapshot
    running = snapshot.running
    ends_at = running.ends_at.copy()
    for row, attempt_id in enumerate(running.attempt_ids):
        if attempt_id in gone_at:
            ends_at[row] = min(ends_at.item(row), gone_at[attempt_id])
    return replace(snapshot, running=replace(running, ends_at=ends_at))
