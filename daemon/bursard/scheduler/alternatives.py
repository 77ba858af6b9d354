"""Changes to a request worth trying when a job waits.

Why     "what would start now?" has a few answers people accept: run shorter, take another GPU, fewer
        of them, fewer CPUs, fewer nodes, another market. Each is one change with concrete numbers;
        `explain` keeps those that a real plan then starts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec.structs import replace

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import JobClass
from bursard.scheduler import text
from bursard.scheduler.plan import Planner
from bursard.scheduler.pricing import SECOND_US, longest_hold_us, spared_us
from bursard.scheduler.table import Table

Change = tuple[str, JobClass]
WINDOWS_TRIED = 32
"""Limits that end before a reservation: each is tried with a plan of its own."""


def candidates(planner: Planner, job_class: JobClass) -> list[Change]:
    """(sentence, changed class), nearest to what was asked first."""
    tables = list(planner.world.tables(job_class))
    found = [*_shorter(planner, job_class, tables)]
    if len(job_class.options) == 1:
        found += _other_gpu(planner, job_class)
        found += _smaller(planner, job_class, tables[0])
    if job_class.nodes > 1:
        for nodes in sorted({job_class.nodes // 2, 1}, reverse=True):
            found.append((f"set --nodes {nodes}", replace(job_class, nodes=nodes)))
    if job_class.spot_policy != "auto":
        found.append(("leave --spot out (spot_policy: auto)", replace(job_class, spot_policy="auto")))
    if job_class.together:
        found.append(("leave topology out", replace(job_class, constraints=job_class.where)))
    if job_class.where:
        found.append(("drop the constraints", replace(job_class, constraints=())))
    return found


def _shorter(planner: Planner, job_class: JobClass, tables: list[Table]) -> Iterator[Change]:
    """A time limit that the budgets pay for, that ends before the reserved job starts, or that is short."""
    if job_class.endless:
        return  # it has no limit that anybody could set
    overhead = job_class.hold_us - job_class.time_limit_us
    limits = set()
    reservation = planner.reservation
    if reservation is not None:
        limits.add(reservation.at - planner.now - overhead)
    if planner.kept is not None:
        limits.add(planner.kept.limit_us + spared_us(overhead) - overhead)
    if (doors := planner.doors) is not None:
        windows = doors.windows
        first = windows.first_of_a_node(doors.closing(job_class))
        starts = sorted({windows.specs[name].starts_at for name in first})
        if len(starts) > WINDOWS_TRIED:  # the first and the last, and evenly between them
            steps = range(WINDOWS_TRIED)
            starts = [starts[step * (len(starts) - 1) // (WINDOWS_TRIED - 1)] for step in steps]
        limits.update(at - planner.now - overhead for at in starts)
    rooms = [planner.rooms.room_nanos(b) for b in job_class.budgets if b in planner.rooms.budgets]
    for table in tables:
        rate = table.cheapest_rate(job_class.nodes)
        if rooms and rate > 0 and min(rooms) > 0:
            limits.add(longest_hold_us(rate, min(rooms)) - overhead)
    for limit_us in sorted(limits, reverse=True):
        whole = limit_us // SECOND_US * SECOND_US
        if SECOND_US <= whole < job_class.time_limit_us:
            shorter = replace(job_class, time_limit_us=whole, hold_us=whole + overhead)
            yield f"set --time-limit {text.duration(whole)}", _exactly(shorter, whole, overhead)


def _exactly(job_class: JobClass, limit_us: int, overhead: int) -> JobClass:
    """The limit as the sentence writes it, so that following the advice gives this very plan."""
    seconds = limit_us // SECOND_US
    if seconds >= 86_400:
        seconds -= seconds % 3_600
    elif seconds >= 600:
        seconds -= seconds % 60
    limit_us = seconds * SECOND_US
    return replace(job_class, time_limit_us=limit_us, hold_us=limit_us + overhead)


def _with(job_class: JobClass, request: ResourceRequest) -> JobClass:
    return replace(job_class, options=(request,))


def _other_gpu(planner: Planner, job_class: JobClass) -> Iterator[Change]:
    """Each other GPU type of the cluster, in the order of the names."""
    request = job_class.options[0]
    if request.gpus is None or not request.gpus.types:
        return
    for name in sorted(set(planner.world.nodes.gpu_types) - set(request.gpus.types)):
        gpus = replace(request.gpus, types=(name,))
        yield f"ask for gpus {gpus}", _with(job_class, replace(request, gpus=gpus))


def _smaller(planner: Planner, job_class: JobClass, table: Table) -> Iterator[Change]:
    """What the freest usable nodes have left of the one quantity that is short."""
    request, free, nodes = table.request, planner.world.free, job_class.nodes
    rows = np.flatnonzero(table.usable)
    if len(rows) < nodes:
        return
    if request.gpus is not None:
        count = int(np.sort(free.devices(request)[rows])[-nodes])
        if 0 < count < request.gpus.count:
            gpus = replace(request.gpus, count=count)
            yield f"ask for gpus {gpus}", _with(job_class, replace(request, gpus=gpus))
    cpu = int(np.sort(free.cpu[rows])[-nodes])
    if 0 < cpu < request.cpu_milli:
        yield f"set --cpus {cpu / MILLI:g}", _with(job_class, replace(request, cpu_milli=cpu))
    memory = int(np.sort(free.memory[rows])[-nodes]) // 1_000_000 * 1_000_000
    if 0 < memory < request.memory_bytes:
        smaller = replace(request, memory_bytes=memory)
        yield f"set --memory {memory // 1_000_000}MB", _with(job_class, smaller)
