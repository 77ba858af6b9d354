"""Small clusters and snapshots in one line each, for tests of whoever calls the scheduler.

Why     a snapshot has twenty columns; a test should only name what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from bursar.model import DeviceShare
from bursar.money import US_PER_HOUR
from bursar.resources import MILLI, GpuRequest, ResourceRequest
from bursar_policies.decision import (
    GPU_SLOTS_MAX,
    BudgetRoom,
    JobClass,
    JobColumns,
    MemberColumns,
    NodeColumns,
    PendingQueue,
    RunningMember,
    Snapshot,
    Start,
)

GIB = 1 << 30


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a test cluster. gpu, cpu, memory rates in nanos per hour; None: price unknown."""

    name: str
    gpus: int = 0
    gpu_type: str = "H100"
    gpu_memory_bytes: int = 80 * GIB
    cpu_milli: int = 16_000
    memory_bytes: int = 64 * GIB
    rates: tuple[int, int, int] | None = None
    ready: bool = True
    market: str = "on-demand"
    labels: Mapping[str, str] = {}


def columns(nodes: Sequence[Node]) -> NodeColumns:
    """Empty nodes as columns, in the order given."""
    n = len(nodes)
    types = sorted({node.gpu_type for node in nodes if node.gpus})
    free = np.full((n, GPU_SLOTS_MAX), -1, dtype=np.int16)
    for row, node in enumerate(nodes):
        free[row, : node.gpus] = MILLI

    def ints(values: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(values, dtype=np.int64)

    rates = [node.rates or (0, 0, 0) for node in nodes]
    return NodeColumns(
        ids=[f"node_{node.name}" for node in nodes],
        names=[node.name for node in nodes],
        ready=np.array([node.ready for node in nodes], dtype=np.bool_),
        cpu_total=ints([node.cpu_milli for node in nodes]),
        cpu_free=ints([node.cpu_milli for node in nodes]),
        memory_total=ints([node.memory_bytes for node in nodes]),
        memory_free=ints([node.memory_bytes for node in nodes]),
        gpu_total=ints([node.gpus for node in nodes]),
        gpu_free=free,
        gpu_type=np.array(
            [types.index(node.gpu_type) if node.gpus else -1 for node in nodes], dtype=np.int16
        ),
        gpu_memory=ints([node.gpu_memory_bytes if node.gpus else 0 for node in nodes]),
        rate=ints([-1 if node.rates is None else sum(node.rates) for node in nodes]),
        gpu_rate=ints([gpu for gpu, _, _ in rates]),
        cpu_rate=ints([cpu for _, cpu, _ in rates]),
        memory_rate=ints([memory for _, _, memory in rates]),
        gpu_types=types,
        attributes=[{"node": node.name, "market": node.market, **node.labels} for node in nodes],
        price_ids=["" if node.rates is None else "test" for node in nodes],
    )


def request(gpus: float = 0, cpus: float = 1, memory_bytes: int = 0, types: str = "") -> ResourceRequest:
    """`gpus` below 1 is a share of one device; `types` separated by `|`."""
    wanted = None
    if gpus:
        milli = MILLI if gpus >= 1 else round(gpus * MILLI)
        wanted = GpuRequest(max(1, int(gpus)), tuple(t for t in types.split("|") if t), milli)
    return ResourceRequest(wanted, round(cpus * MILLI), memory_bytes)


def job_class(*options: ResourceRequest, hours: float = 1, nodes: int = 1, **rest: object) -> JobClass:
    """A class with a time limit in hours and a minute of grace and margin."""
    limit_us = int(hours * US_PER_HOUR)
    fields: dict[str, object] = {
        "nodes": nodes,
        "options": options or (ResourceRequest(),),
        "ordered": False,
        "constraints": (),
        "spot_policy": "auto",
        "time_limit_us": limit_us,
        "hold_us": limit_us + 60_000_000,
        "budgets": (),
    }
    return msgspec.convert({**fields, **rest}, JobClass)


def queue(wanted: JobClass, *jobs: tuple[int, str], priority: int = 50) -> PendingQueue:
    """A queue of jobs (order, id) that all have the time limit of this class."""
    rows = JobColumns.of((order, job_id, wanted.time_limit_us) for order, job_id in jobs)
    return PendingQueue(wanted.without_limit(), priority, rows)


def only(waiting: PendingQueue, wanted: Callable[[str], bool]) -> PendingQueue:
    """A queue without the jobs for whose ids it says no."""
    return replace(waiting, jobs=waiting.jobs.kept(wanted(job_id) for _, job_id in waiting.jobs))


def snapshot(
    nodes: NodeColumns,
    *queues: PendingQueue,
    running: Sequence[RunningMember] = (),
    budgets: Sequence[BudgetRoom] = (),
    typical: Sequence[tuple[ResourceRequest, int]] = (),
    strategy: str = "pack",
    facts_version: int = 0,
) -> Snapshot:
    """A snapshot of version 1."""
    return Snapshot(
        version=1,
        nodes=nodes,
        queues=queues,
        running=MemberColumns.of(running),
        budgets={room.name: room for room in budgets},
        strategy=strategy,
        typical=tuple(typical),
        facts_version=facts_version,
    )


def occupy(nodes: NodeColumns, start: Start, ends_at: int) -> list[RunningMember]:
    """Apply a start to the columns, as the state would."""
    members = []
    for rank, member in enumerate(start.members):
        nodes.cpu_free[member.node] -= member.cpu_milli
        nodes.memory_free[member.node] -= member.memory_bytes
        for share in member.devices:
            nodes.gpu_free[member.node, share.index] -= share.milli
        members.append(
            RunningMember(
                member.node,
                ends_at,
                member.cpu_milli,
                member.memory_bytes,
                member.devices,
                f"{start.job_id}/{rank}",
            )
        )
    return members


def records(running: MemberColumns) -> list[RunningMember]:
    """The rows of the columns, one record each."""
    columns = (running.node, running.ends_at, running.cpu_milli, running.memory_bytes)
    found = []
    for row, attempt_id in enumerate(running.attempt_ids):
        node, ends_at, cpu_milli, memory_bytes = (int(column[row]) for column in columns)
        held = enumerate(running.gpu_milli[row].tolist())
        devices = tuple(DeviceShare(index, milli) for index, milli in held if milli)
        found.append(RunningMember(node, ends_at, cpu_milli, memory_bytes, devices, attempt_id))
    return found


def vacate(nodes: NodeColumns, member: RunningMember) -> None:
    """Return what one member held."""
    nodes.cpu_free[member.node] += member.cpu_milli
    nodes.memory_free[member.node] += member.memory_bytes
    for share in member.devices:
        nodes.gpu_free[member.node, share.index] += share.milli
