"""Backfill: use the gaps, never at the expense of the job the queue is waiting for.

Owns    the reservation of the first job that waits for resources: when enough of the running jobs
        must have ended (the shadow time), on which nodes and devices it will then start.
Why     without it small jobs would starve a big one for ever; with it (EASY) a later job starts only
        if it ends before the shadow time or leaves what is reserved alone.
Source  EASY backfilling, one reservation; re-made at every plan, so early ends are used at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI
from bursar_policies.decision import JobClass
from bursar_policies.filters import Ask
from bursar_policies.scorers import NodeState
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Rooms
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.releases import Release, Releases
from bursard.scheduler.table import NO, Table
from bursard.scheduler.world import World


class Reservation:
    """The head's claim: `left` is what its nodes have beside it at the shadow time.

    Attributes:
        job_id, queue: whose it is, and the index of its queue; set by whoever keeps the claim.
    """

    def __init__(self, at: int, left: dict[int, NodeState], rate: int, hold_nanos: int) -> None:
        self.job_id = ""
        self.queue = -1
        self.at = at
        self.left = left
        self.rate_nanos_per_hour = rate
        self.hold_nanos = hold_nanos

    def usable(self, world: World, row: int) -> NodeState:
        """What a job that outlives the shadow time may use of a node."""
        now = world.free.state(row)
        later = self.left.get(row)
        if later is None:
            return now
        return NodeState(
            row,
            min(now.cpu_milli, later.cpu_milli),
            min(now.memory_bytes, later.memory_bytes),
            [min(a, b) for a, b in zip(now.gpus, later.gpus, strict=True)],
        )

    def keys(self, world: World, table: Table) -> NDArray[np.int64]:
        """The table's keys for a job that outlives the shadow time."""
        keys = table.keys.copy()
        for row in self.left:
            if keys[row] != NO:
                keys[row] = table.key(world.packing, self.usable(world, row))
        return keys

    def take(self, row: int, cpu_milli: int, memory_bytes: int, taken: Iterable[tuple[int, int]]) -> None:
        """A job that outlives the shadow time was started on a reserved node."""
        left = self.left.get(row)
        if left is None:
            return
        gpus = list(left.gpus)
        for index, milli in taken:
            gpus[index] -= milli
        cpu, memory = left.cpu_milli - cpu_milli, left.memory_bytes - memory_bytes
        self.left[row] = NodeState(row, cpu, memory, gpus)


class NoClaim(NamedTuple):
    """No end of a running job helps, or (`money`) money would still refuse the job then."""

    money: bool


class _Option(NamedTuple):
    at: int
    rate: int
    option: int
    rows: list[int]
    table: Table


def reserve(
    world: World,
    job_class: JobClass,
    asks: tuple[Ask, ...],
    rooms: Rooms,
    releases: Releases,
    now: int,
) -> Reservation | NoClaim:
    """The earliest claim of a job that waits for resources, if there is one: a job that cannot start does not
    hold others back. `job_class` has its time limit.
    """
    found, money = [], False
    for option, ask in enumerate(asks):
        claim = _earliest(world, option, world.table(ask), job_class, rooms, releases, now)
        if isinstance(claim, NoClaim):
            money = money or claim.money
        else:
            found.append(claim)
    if not found:
        return NoClaim(money)
    best = min(found, key=lambda c: (c.at, 0 if job_class.ordered else c.rate, c.option))
    request = best.table.request
    left = {}
    for row in best.rows:
        state = _state_at(world.free.state(row), releases.of(row), best.at)
        gpus = list(state.gpus)
        if request.gpus is not None:
            for index in devices.choose(gpus, request.gpus) or ():
                gpus[index] -= request.gpus.milli
        cpu = state.cpu_milli - request.cpu_milli
        left[row] = NodeState(row, cpu, state.memory_bytes - request.memory_bytes, gpus)
    answer = rooms.admit(job_class, best.rate)
    hold_nanos = answer.hold_nanos if isinstance(answer, Admitted) else 0
    return Reservation(best.at, left, best.rate, hold_nanos)


def _earliest(
    world: World,
    option: int,
    table: Table,
    job_class: JobClass,
    rooms: Rooms,
    releases: Releases,
    now: int,
) -> _Option | NoClaim:
    """When and where one alternative can first start."""
    count = job_class.nodes
    if table.usable_count < count:
        return NoClaim(money=False)
    ready: list[tuple[int, int, int, int]] = []
    for row in np.flatnonzero(table.usable).tolist():
        at = now
        if table.keys[row] == NO:
            at = _fits_at(table, world.free.state(row), releases.of(row), now)
        if at >= 0:
            ready.append((at, int(table.rates[row]), world.place[row], row))
    ready.sort()
    by_price = sorted(ready, key=lambda entry: (entry[1] < 0, *entry[1:3]))
    if len(ready) < count or not _pays(rooms, job_class, table, by_price[:count]):
        return NoClaim(money=len(ready) >= count)
    for last in range(count - 1, len(ready)):
        if last + 1 < len(ready) and ready[last + 1][0] == ready[last][0]:
            continue
        by_price = sorted(ready[: last + 1], key=lambda entry: (entry[1] < 0, *entry[1:3]))
        if _pays(rooms, job_class, table, by_price[:count]):
            rows = [entry[3] for entry in by_price[:count]]
            return _Option(ready[last][0], gang_rate(table, rows), option, rows, table)
    raise AssertionError("all of them together pay")


def _pays(rooms: Rooms, job_class: JobClass, table: Table, chosen: list[tuple[int, int, int, int]]) -> bool:
    rate = gang_rate(table, [entry[3] for entry in chosen])
    return isinstance(rooms.admit(job_class, rate), Admitted)


def _fits_at(table: Table, state: NodeState, releases: Sequence[Release], now: int) -> int:
    """When the releases of a node have made room for one member; -1 for never."""
    cpu, memory, gpus = state.cpu_milli, state.memory_bytes, list(state.gpus)
    request = table.request
    for release in releases:
        cpu += release.cpu_milli
        memory += release.memory_bytes
        devices.give(gpus, release.gpu_milli)
        if cpu < request.cpu_milli or memory < request.memory_bytes:
            continue
        if request.gpus is None or devices.choose(gpus, request.gpus) is not None:
            return max(release.ends_at, now)
    return -1


def _state_at(state: NodeState, releases: Sequence[Release], at: int) -> NodeState:
    """A node after everything that ends by `at` has ended."""
    cpu, memory, gpus = state.cpu_milli, state.memory_bytes, list(state.gpus)
    for release in releases:
        if release.ends_at <= at:
            cpu += release.cpu_milli
            memory += release.memory_bytes
            devices.give(gpus, release.gpu_milli)
    return NodeState(state.row, cpu, memory, [min(left, MILLI) for left in gpus])
