"""When a job starts if all that runs and all that comes before it takes its whole limit.

Why     the claim of a job says when there is room for it as if nobody stood before it. Here the same plans
        are made as the scheduler will make them, one after another, at the instants at which something may
        start; so what is told is what happens if nothing ends early and nothing comes in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from bursar.resources import MILLI
from bursar_policies.decision import (
    BudgetRoom,
    Holding,
    MemberColumns,
    PendingQueue,
    RunningMember,
    Snapshot,
    Start,
)
from bursard.scheduler.admit import Rooms
from bursard.scheduler.backfill import Reservation, reserve
from bursard.scheduler.plan import plan
from bursard.scheduler.quotas import uses_of
from bursard.scheduler.releases import NEVER, Releases, ending
from bursard.scheduler.world import PlanCache

JOBS_MAX: Final = 64
"""So many jobs before another are followed; with more nobody is told more than that they come first."""
PLANS_MAX: Final = 200


def start_at(snapshot: Snapshot, job_id: str, now: int) -> int:
    """The instant, microseconds; 0 where money, or more than `PLANS_MAX` plans, is between now and then.

    Args:
        snapshot: with no jobs but this one and those before it.
    """
    snapshot = replace(ending(snapshot, now), holders={}, facts_version=1)  # nobody is stopped for another
    cache = PlanCache()  # facts of nodes stay as they are
    at = now
    for _ in range(PLANS_MAX):
        starts = plan(snapshot, at, cache).starts
        if any(start.job_id == job_id for start in starts):
            return at
        snapshot = _started(snapshot, starts, at)
        at = _next(snapshot, at, cache)
        if at == NEVER:
            return 0
        snapshot = _ended(snapshot, at)
    return 0


def _started(snapshot: Snapshot, starts: Sequence[Start], at: int) -> Snapshot:
    """The same world after these have started: their money is gone for good, as nothing ends early."""
    if not starts:
        return snapshot
    names = {start.job_id for start in starts}
    nodes, queues = snapshot.nodes, snapshot.queues
    cpu, memory, gpus = nodes.cpu_free.copy(), nodes.memory_free.copy(), nodes.gpu_free.copy()
    members, budgets = list[RunningMember](), dict[str, BudgetRoom](snapshot.budgets)
    holdings = dict(snapshot.holdings)
    for start in starts:
        job_class = queues[start.queue].job_class
        ends_at = at + (start.full_limit_us or start.time_limit_us) + job_class.hold_us
        for one in start.members:
            cpu[one.node] -= one.cpu_milli
            memory[one.node] -= one.memory_bytes
            for share in one.devices:
                gpus[one.node, share.index] -= share.milli
            held = (one.node, ends_at, one.cpu_milli, one.memory_bytes, one.devices, start.job_id)
            members.append(RunningMember(*held))
        if snapshot.quotas:
            uses = tuple(sorted(uses_of(nodes, start.members).items()))
            holdings[start.job_id] = Holding(job_class.quotas, uses, at, job_class.pinned)
        for name in start.budgets:
            if name in budgets:
                room = budgets[name]
                budgets[name] = replace(room, held_nanos=room.held_nanos + start.hold_nanos)
    return replace(
        snapshot,
        nodes=replace(nodes, cpu_free=cpu, memory_free=memory, gpu_free=gpus),
        queues=[_without(queue, names) for queue in queues],
        running=_joined(snapshot.running, MemberColumns.of(members)),
        budgets=budgets,
        holdings=holdings,
    )


def _without(queue: PendingQueue, names: set[str]) -> PendingQueue:
    left = [job_id not in names for job_id in queue.jobs.ids.tolist()]
    return queue if all(left) else replace(queue, jobs=queue.jobs.kept(left))


def _joined(first: MemberColumns, second: MemberColumns) -> MemberColumns:
    return MemberColumns(
        node=np.concatenate([first.node, second.node]),
        ends_at=np.concatenate([first.ends_at, second.ends_at]),
        cpu_milli=np.concatenate([first.cpu_milli, second.cpu_milli]),
        memory_bytes=np.concatenate([first.memory_bytes, second.memory_bytes]),
        gpu_milli=np.concatenate([first.gpu_milli, second.gpu_milli]),
        attempt_ids=(*first.attempt_ids, *second.attempt_ids),
    )


def _next(snapshot: Snapshot, at: int, cache: PlanCache) -> int:
    """The next instant at which anything may start: no job starts before there is room for it alone. One that
    has room and leaves it to another may start with any end.
    """
    soonest = NEVER
    with cache.world(snapshot) as world:
        rooms = Rooms(snapshot.budgets, snapshot.currency)
        releases = Releases(snapshot.running, world.free)
        for queue in snapshot.queues:
            if not len(queue.jobs):
                continue
            shortest = queue.class_at(int(queue.jobs.limits_us.argmin()))
            found = reserve(world, shortest, rooms, releases, at)
            if not isinstance(found, Reservation):
                continue
            if found.at > at:
                soonest = min(soonest, found.at)
            else:
                ends = snapshot.running.ends_at
                soonest = min(soonest, int(np.maximum(ends, at + 1).min(initial=NEVER)))
                if world.windows is not None:
                    soonest = min(soonest, world.windows.next_end(at))
    return soonest


def _ended(snapshot: Snapshot, at: int) -> Snapshot:
    """The same world after everything that ends by then has ended."""
    running, nodes = snapshot.running, snapshot.nodes
    over = running.ends_at <= at
    rows = running.node[over]
    cpu, memory = nodes.cpu_free.copy(), nodes.memory_free.copy()
    np.add.at(cpu, rows, running.cpu_milli[over])
    np.add.at(memory, rows, running.memory_bytes[over])
    given = np.zeros_like(nodes.gpu_free)
    np.add.at(given, rows, running.gpu_milli[over][:, : given.shape[1]])
    gpus = np.where(nodes.gpu_free < 0, nodes.gpu_free, np.minimum(nodes.gpu_free + given, MILLI))
    left = ~over
    live = {running.attempt_ids[row] for row in np.flatnonzero(left).tolist()}
    return replace(
        snapshot,
        holdings={one: holding for one, holding in snapshot.holdings.items() if one in live},
        nodes=replace(nodes, cpu_free=cpu, memory_free=memory, gpu_free=gpus.astype(nodes.gpu_free.dtype)),
        running=MemberColumns(
            node=running.node[left],
            ends_at=running.ends_at[left],
            cpu_milli=running.cpu_milli[left],
            memory_bytes=running.memory_bytes[left],
            gpu_milli=running.gpu_milli[left],
            attempt_ids=[one for one, stays in zip(running.attempt_ids, left, strict=True) if stays],
        ),
    )
