"""Nodes, their devices, readings and tokens, as the clients answer with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from bursar.money import Money
from bursar.results.base import Result
from bursar.results.jobs import Job


class NodeState(StrEnum):
    """Whether a node takes work."""

    UP = "up"
    SILENT = "silent"
    UNWELL = "unwell"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DRAINED = "drained"
    QUARANTINED = "quarantined"


class Device(Result, frozen=True, kw_only=True):
    """One GPU of a node. `free`: the share of it that nobody holds, 0 to 1."""

    index: int
    uuid: str
    type: str
    memory_bytes: int
    simulated: bool
    free: float


class GpuReading(Result, frozen=True, kw_only=True):
    """One device, read live. None: not known, which is never a 0."""

    index: int
    utilization_ratio: float | None
    sm_ratio: float | None
    memory_used_bytes: int | None
    power_watts: float | None
    temperature_celsius: float | None
    simulated: bool


class Reading(Result, frozen=True, kw_only=True):
    """A node, read live; no money depends on it."""

    at: datetime | None
    cpu_utilization_ratio: float
    memory_used_bytes: int
    power_watts: float | None
    gpus: tuple[GpuReading, ...]


class Calibration(Result, frozen=True, kw_only=True):
    """What a node delivered when it was measured; None: not known. Of several devices the slowest.

    Attributes:
        job: id of what measured. devices: GPUs that were measured; 0: its CPUs were.
        matmul_flops_per_second: by precision, of square matrix products on one device.
        memory_bytes_per_second: read and written by a copy on one device.
        allreduce_bytes_per_second: bus bandwidth over all devices.
    """

    at: datetime | None
    job: str
    torch: str
    devices: int
    matmul_flops_per_second: Mapping[str, int]
    memory_bytes_per_second: int | None
    allreduce_bytes_per_second: int | None
    disk_write_bytes_per_second: int | None
    disk_read_bytes_per_second: int | None


class Node(Result, frozen=True, kw_only=True):
    """A node: what it has, what is free, what it costs, how it is.

    Attributes:
        reason: why it takes no work; empty when it does.
        limits: what it can hold a job to, of memory, cpu, pids and gpu.
        rate_per_hour: None: its price is unknown.
        calibration: None: it was never measured, or has other devices since.
        reading: the newest live one; None: none came yet.
    """

    id: str
    name: str
    state: NodeState
    reason: str
    pool: str
    provider: str
    region: str
    zone: str
    rack: str
    instance_type: str
    market: str
    labels: Mapping[str, str]
    address: str
    limits: tuple[str, ...]
    cpus: float
    cpus_free: float
    memory_bytes: int
    memory_free_bytes: int
    devices: tuple[Device, ...]
    rate_per_hour: Money | None
    price_id: str
    jobs: int
    last_seen_at: datetime | None
    agent_version: str
    calibration: Calibration | None
    reading: Reading | None


class Top(Result, frozen=True, kw_only=True):
    """The live picture; `jobs` and `nodes` end at 1 MiB each, the totals count all."""

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    nodes_total: int
    jobs_total: int


class NewToken(Result, frozen=True, kw_only=True):
    """A secret with which a node enrols; it is shown to nobody again."""

    token: str
    expires_at: datetime | None


class NodeToken(Result, frozen=True, kw_only=True):
    """A secret that is good now, without the secret. `state`: unused | bound."""

    id: str
    node: str
    state: str
    issued_at: datetime | None
    expires_at: datetime | None


class RemovedNode(Result, frozen=True, kw_only=True):
    """A node that is forgotten."""

    id: str
    name: str


class Reservation(Result, frozen=True, kw_only=True):
    """Nodes that are kept for some, or for nobody, in a window of time.

    `state`: coming | active. `projects`, `users`: whose jobs may use them; `maintenance`: nobody's.
    `running`: what becomes of what runs into it: refuse | leave | preempt. `own`: attempts that run there and
    may stay; `others`: that may not, and the last of them ends at `others_until` at the latest.
    """

    name: str
    state: str
    nodes: tuple[str, ...]
    starts_at: datetime | None
    ends_at: datetime | None
    projects: tuple[str, ...]
    users: tuple[str, ...]
    maintenance: bool
    running: str
    reason: str
    version: int
    own: int
    others: int
    others_until: datetime | None


class Machine(Result, frozen=True, kw_only=True):
    """A rented machine, from its intent until its provider lists it as gone, and after that.

    `state`: intended | launching | up | draining | ending | gone. `job`: whose launch it is; empty once that
    is over, and for who may not see it. `attempt`: that runs there, the first of several. `why`: it was
    rented. `ends_at`: of its lifetime; None when its pool, or it, is gone. `billed_until`: None until then.
    `cost`: so far; of one that is gone what its node cost, its launch and what was refunded included.
    """

    id: str
    name: str
    pool: str
    provider: str
    provider_id: str
    region: str
    zone: str
    instance_type: str
    market: str
    state: str
    job: str
    attempt: str
    why: str
    reason: str
    launched_at: datetime | None
    billed_from: datetime | None
    billed_until: datetime | None
    ends_at: datetime | None
    rate_per_hour: Money
    cost: Money


class CloudCheck(Result, frozen=True, kw_only=True):
    """One thing that must be right before machines can be rented. `remedy`: what to do when it is not."""

    name: str
    good: bool
    says: str
    remedy: str
