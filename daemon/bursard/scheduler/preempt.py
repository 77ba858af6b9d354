"""Preemption: whom to stop so that the job with the claim can start, and whether that is worth it.

Owns    the choice of victims: whole attempts of lower priority, those that lose the least money first.
Why     what is stopped is paid for twice: the work since its last checkpoint, and its restart. So nothing is
        asked to end before it is shown that the job then fits and is paid for, and that what it gains (its
        own rate, for as long as it would otherwise wait) is more than all that is lost. What a quota
        guarantees is taken back from those that borrowed it whatever that costs, at the least cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.money import cumulative
from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import Holder, JobClass, MemberColumns, PendingQueue, Snapshot
from bursar_policies.scorers import NodeState
from bursar_policies.specs import GPUS, SPEND_RATE, PriorityPolicySpec
from bursard.scheduler.admit import Admitted, Rooms
from bursard.scheduler.backfill import has_room
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.quotas import Tenancy
from bursard.scheduler.shapes import Tables
from bursard.scheduler.table import Table
from bursard.scheduler.world import World

LOOKED_AT = 64
"""Nodes beyond those that a gang needs of which the cheapest victims are worked out; of the others it is seen
that all that could be stopped there costs more."""
PLACES_LOOKED_AT = 8
"""Where members must be together, the places of which that is done."""
Ints = NDArray[np.int64]
_LOSS_MAX = 1 << 40
RESTART_US = 300_000_000
"""What a stopped job loses beside its unsaved work, where no policy says."""
_UNPRICED = 1_000
_Member = tuple[int, str, int]
"""One that may be stopped on a node: what is lost with it, its attempt, its row of the members."""


class Room(NamedTuple):
    """Who must end so that a job fits: nobody, where those that already end are enough."""

    victims: tuple[str, ...]
    lost_nanos: int = 0
    gain_nanos: int = 0


class Debt(NamedTuple):
    """What is lost with one attempt, and which resources it holds that are guaranteed to the other."""

    lost_nanos: int
    named: frozenset[str]


class _On(NamedTuple):
    """The cheapest way to a member's room on one node. Sorts by what it costs, then by the node's name."""

    lost_nanos: int
    place: int
    row: int
    victims: tuple[str, ...]


class Preemption:
    """What may be stopped for one job.

    Args:
        lost: by attempt that may be stopped, what is lost with it.
        worth: None: only where the job gains more than that; else what it may have whatever it costs, asked
            with what it would hold (table, rows).
        named: by attempt, the resources that it gives back: it is stopped only where one of these is short,
            never for others. None: for whatever is short.
        kept: nodes of which places are kept for others by then: nobody is stopped there.

    Attributes:
        lost: as given.
    """

    def __init__(
        self,
        world: World,
        snapshot: Snapshot,
        lost: Mapping[str, int],
        now: int,
        worth: Callable[[Table, list[int]], bool] | None = None,
        kept: Collection[int] = (),
        named: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._world, self._running, self._now = world, snapshot.running, now
        self._named = named
        self.lost, self._worth = lost, worth
        self._kept = list(kept)
        ids = snapshot.running.attempt_ids
        self._ending = _rows(ids, {name for name, one in snapshot.holders.items() if one.stopping})
        self._victims = _rows(ids, self.lost)
        self._grace_us = max((one.grace_us for one in snapshot.holders.values()), default=0)

    def room_for(self, job_class: JobClass, rooms: Rooms, claim_at: int) -> Room | None:
        """Whom to stop for it, None where nobody's end makes room or is worth it.

        Args:
            job_class: with its time limit.
            claim_at: when it starts without.
        """
        wait_us = min(claim_at - self._now, job_class.time_limit_us)
        best: tuple[int, Room] | None = None
        for table in self._tables(job_class):
            rows = self._rows(table, job_class.nodes)
            if rows is None:
                continue
            rate = gang_rate(table, [one.row for one in rows])
            if not isinstance(rooms.admit(job_class, rate), Admitted):
                continue
            victims = tuple(sorted({name for one in rows for name in one.victims}))
            lost, gain = sum(self.lost[name] for name in victims), cumulative(max(rate, 0), wait_us)
            if self._worth is not None:
                if not self._worth(table, [one.row for one in rows]):
                    continue
            elif victims and gain <= lost:
                continue
            if best is None or gain - lost > best[0]:
                best = gain - lost, Room(victims, lost, gain)
        return best[1] if best is not None else None

    def _tables(self, job_class: JobClass) -> Tables:
        """Without nodes that will be closed to it once all who may be stopped have had their grace."""
        windows, shape = self._world.windows, job_class.without_limit()
        if windows is None:
            return self._world.tables(shape)
        return self._world.tables_beside(
            shape, windows.closing(job_class, self._now, job_class.hold_us + self._grace_us)
        )

    def _rows(self, table: Table, count: int) -> list[_On] | None:
        """The cheapest nodes for a gang: all that it needs, or None."""
        most = self._given(np.concatenate([self._ending, self._victims]))
        fits = table.usable & _fitting(self._world, most, table.request)
        fits[self._kept] = False
        if self._named is not None:
            fits &= self._short_of_named(table.request)
        groups = table.groups(np.flatnonzero(fits), count)
        if not groups:
            return None
        least: Ints = np.zeros(self._world.count, dtype=np.int64)
        ids = self._running.attempt_ids
        losses = [min(self.lost[ids[row]] // 1_000, _LOSS_MAX) for row in self._victims.tolist()]
        np.add.at(least, self._running.node[self._victims], np.array(losses, dtype=np.int64))
        ordered = [rows[np.lexsort((self._world.place[rows], least[rows]))] for rows in groups]
        ordered.sort(key=lambda rows: (int(least[rows[:count]].sum()), self._world.place.item(rows[0])))
        found = []
        for rows in ordered[:PLACES_LOOKED_AT]:
            ways = (self._on(table, row) for row in rows[: LOOKED_AT + count].tolist())
            on = sorted(way for way in ways if way is not None)
            if len(on) >= count:
                found.append(self._cheapest(table, on, count))
        return min(found, key=self._lost_with, default=None)

    def _short_of_named(self, request: ResourceRequest) -> NDArray[np.bool_]:
        """Nodes that have room once what ends there is gone, or lack something that is guaranteed."""
        given = self._given(self._ending)
        every = frozenset().union(*(self._named or {}).values())
        return _fitting(self._world, given, request) | ~_fitting(self._world, given, only(request, every))

    def _lost_with(self, rows: list[_On]) -> tuple[int, list[int]]:
        victims = {name for one in rows for name in one.victims}
        return sum(self.lost[name] for name in victims), [one.place for one in rows]

    def _cheapest(self, table: Table, rows: list[_On], count: int) -> list[_On]:
        """So many of these. A gang that is stopped for one node leaves others too, where then nobody need be:
        of all that the cheapest nodes would take, what is not needed goes on, the dearest first.
        """
        wanted = {name for one in rows[:count] for name in one.victims}
        if count == 1:
            return rows[:1]
        found = self._served(table, rows, wanted)
        for name in sorted(wanted, key=lambda name: (-self.lost[name], name)):
            without = self._served(table, rows, wanted - {name})
            if len(without) >= count:
                wanted, found = wanted - {name}, without
        return found[:count]

    def _served(self, table: Table, rows: list[_On], victims: set[str]) -> list[_On]:
        """Those that have room for a member once these are gone, each with whom of them it had."""
        ids, running = self._running.attempt_ids, self._running
        found = []
        for one in rows:
            here = self._victims[running.node[self._victims] == one.row].tolist()
            gone = [(0, ids[member], member) for member in here if ids[member] in victims]
            if has_room(_with_all(self._ended(one.row), running, gone), table.request):
                found.append(one._replace(victims=tuple(name for _, name, _ in gone)))
        return found

    def _on(self, table: Table, row: int) -> _On | None:
        """The cheapest way to room on one node; None where it is not to be had from these."""
        running, state = self._running, self._ended(row)
        found: list[_Member] = []
        for member in self._victims[running.node[self._victims] == row].tolist():
            attempt_id = running.attempt_ids[member]
            found.append((self.lost[attempt_id], attempt_id, member))
        chosen = self._least(state, sorted(found), table.request)
        if self._named is not None:
            chosen = self._for_named(state, found, chosen, table.request)
        if chosen is None:
            return None
        lost = sum(one[0] for one in chosen)
        return _On(lost, self._world.place.item(row), row, tuple(one[1] for one in chosen))

    def _least(
        self, state: NodeState, found: list[_Member], request: ResourceRequest
    ) -> list[_Member] | None:
        """The first of these that make room, without those of them that are not needed for it."""
        chosen: list[_Member] = []
        for one in found:
            if has_room(_with_all(state, self._running, chosen), request):
                break
            chosen.append(one)
        for one in reversed(chosen[:]):
            others = [other for other in chosen if other != one]
            if has_room(_with_all(state, self._running, others), request):
                chosen = others
        return chosen if has_room(_with_all(state, self._running, chosen), request) else None

    def _for_named(
        self, state: NodeState, found: list[_Member], cheapest: list[_Member] | None, request: ResourceRequest
    ) -> list[_Member] | None:
        """Of what makes room, what stops nobody but for what is guaranteed: each of them is needed for that,
        and what else they hold comes free with it. Those that lose the least first, then those that hold the
        most, of which fewer are needed.
        """
        named, running = self._named or {}, self._running
        every = only(request, frozenset().union(*named.values()))
        largest = sorted(
            found, key=lambda one: (-running.cpu_milli.item(one[2]), -running.memory_bytes.item(one[2]), one)
        )
        for chosen in (
            cheapest,
            self._least(state, sorted(found), every),
            self._least(state, largest, every),
        ):
            if chosen is None or not has_room(_with_all(state, running, chosen), request):
                continue
            without = ((one, [other for other in chosen if other != one]) for one in chosen)
            if not any(
                has_room(_with_all(state, running, others), only(request, named[one[1]]))
                for one, others in without
            ):
                return chosen
        return None

    def _ended(self, row: int) -> NodeState:
        """A node once what is ending there is gone."""
        running, state = self._running, self._world.free.state(row)
        for member in self._ending[running.node[self._ending] == row].tolist():
            state = _with(state, running, member)
        return state

    def _given(self, members: NDArray[np.intp]) -> tuple[Ints, Ints, Ints]:
        """What is free on every node once these have ended."""
        free, running = self._world.free, self._running
        cpu, memory, gpus = free.cpu.copy(), free.memory.copy(), free.gpus.copy()
        nodes = running.node[members]
        np.add.at(cpu, nodes, running.cpu_milli[members])
        np.add.at(memory, nodes, running.memory_bytes[members])
        np.add.at(gpus, nodes, running.gpu_milli[members, : free.slots].astype(np.int64))
        return cpu, memory, np.where(free.gpus < 0, free.gpus, gpus)


def lower_ones(
    snapshot: Snapshot, rules: PriorityPolicySpec, queue: PendingQueue, tenancy: Tenancy | None, now: int
) -> dict[str, int]:
    """What may be stopped for a job of this queue because its priority is lower, and what is lost with each:
    that must be known, since nothing else says whether it is worth it.
    """
    most = queue.priority - rules.preempt_gap
    return {
        attempt_id: _lost_nanos(holder, rules.restart_us, now)
        for attempt_id, holder in snapshot.holders.items()
        if _may_be_stopped(holder)
        and holder.rate >= 0
        and holder.priority <= most
        and not (tenancy is not None and tenancy.shelters(attempt_id, queue.job_class))
    }


def debtors(
    snapshot: Snapshot, job_class: JobClass, guaranteed: Sequence[str], tenancy: Tenancy, now: int
) -> dict[str, Debt]:
    """What may be stopped because it holds what is guaranteed to a job of this class. What has no price loses
    by its time alone, which orders those among themselves.
    """
    rules = snapshot.priority
    restart_us = rules.restart_us if rules is not None and rules.preempt_gap else RESTART_US
    found = {}
    for attempt_id, holder in snapshot.holders.items():
        if not guaranteed or not _may_be_stopped(holder):
            continue
        if named := tenancy.owes(attempt_id, job_class, guaranteed):
            priced = holder if holder.rate >= 0 else replace(holder, rate=_UNPRICED)
            found[attempt_id] = Debt(_lost_nanos(priced, restart_us, now), named)
    return found


def only(request: ResourceRequest, named: Collection[str]) -> ResourceRequest:
    """What of a request is of these resources. A guarantee by what it costs is of all that a node has."""
    if SPEND_RATE in named:
        return request
    return ResourceRequest(
        request.gpus if any(name.partition("/")[0] == GPUS for name in named) else None,
        request.cpu_milli if "cpus" in named else 0,
        request.memory_bytes if "memory" in named else 0,
    )


def _may_be_stopped(holder: Holder) -> bool:
    return not (holder.exempt or holder.stopping)


def _lost_nanos(holder: Holder, restart_us: int, now: int) -> int:
    """What it did since its last checkpoint, and does again."""
    worked_us = max(now - holder.unsaved_since, 0) if holder.unsaved_since else 0
    return cumulative(holder.rate, worked_us + restart_us)


def _rows(ids: Sequence[str], wanted: Collection[str]) -> NDArray[np.intp]:
    return np.array([row for row, attempt_id in enumerate(ids) if attempt_id in wanted], dtype=np.intp)


def _fitting(world: World, most: tuple[Ints, Ints, Ints], request: ResourceRequest) -> NDArray[np.bool_]:
    cpu, memory, gpus = most
    fits: NDArray[np.bool_] = (cpu >= request.cpu_milli) & (memory >= request.memory_bytes)
    if request.gpus is not None:
        fits &= (gpus >= request.gpus.milli).sum(axis=1) >= request.gpus.count
    return fits


def _with(state: NodeState, running: MemberColumns, member: int) -> NodeState:
    """A node once a member of it has ended."""
    given = running.gpu_milli[member].tolist()
    gpus = [
        left if left < 0 else min(MILLI, left + milli) for left, milli in zip(state.gpus, given, strict=False)
    ]
    cpu = state.cpu_milli + running.cpu_milli.item(member)
    return NodeState(state.row, cpu, state.memory_bytes + running.memory_bytes.item(member), gpus)


def _with_all(state: NodeState, running: MemberColumns, members: list[_Member]) -> NodeState:
    for _, _, member in members:
        state = _with(state, running, member)
    return state
