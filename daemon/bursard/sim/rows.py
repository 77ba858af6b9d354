"""The rows of JOBS and NODES: contract section 9 as values.

Owns    columns, defaults and what each cell may say. Times are microseconds from the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple, Protocol

import msgspec

from bursar.errors import InvalidRequest
from bursar.model.check import DEADLINE_POLICIES
from bursar.money import parse_amount
from bursar.resources import MILLI, GpuRequest, ResourceRequest, parse_gpu_type
from bursar_policies.decision import GPU_SLOTS_MAX
from bursard.sim import csvfile
from bursard.sim.csvfile import BadCell, Table, flag, integer, one_of, positive_us, seconds_us

MIB = 1 << 20
NODES_PER_JOB_MAX = 65_536
PRIORITIES = {"low": 25, "normal": 50, "high": 75}
ANY_COUNT = 0
"""In `JobRow.throughput`: however many GPUs there are."""
_COUNTED = re.compile(r"(.*[A-Z0-9])x([1-9]\d{0,5})", re.ASCII)
"""Not `gtx1080`."""
DEFAULT_GPU_TYPE = "GPU"
"""Of nodes that have GPUs and do not say which."""

JOB_COLUMNS = (
    "job_id", "submit_s", "duration_s", "nodes", "gpus", "gpu_milli", "gpu_type", "cpu_milli", "memory_mib",
    "priority", "project", "user", "experiment", "deadline_s", "deadline_policy", "time_limit_s",
    "preemptible", "max_cost", "checkpoint_s", "throughput", "restart_s", "saves", "idle_after_s",
)  # fmt: skip
NODE_COLUMNS = (
    "node_id", "cpu_milli", "memory_mib", "gpus", "gpu_type", "gpu_memory_mib", "pool", "rack",
    "price_per_hour", "available_from_s", "available_until_s",
)  # fmt: skip


class Pace(Protocol):
    """How an attempt gets on, of which both sides count microseconds: of the job's work at speed 1, and held.

    It is a protocol since a job's speed may change as it gets on: benches have such.
    """

    def needs_us(self, from_us: Fraction, to_us: int) -> int:
        """How long it takes from so much work to so much."""

    def reaches_us(self, from_us: Fraction, held_us: int) -> Fraction:
        """How much work is done after so long, from so much on."""


class Steady(NamedTuple):
    """At one speed."""

    speed: Fraction

    def needs_us(self, from_us: Fraction, to_us: int) -> int:
        """See `Pace`."""
        return round((to_us - from_us) / self.speed)

    def reaches_us(self, from_us: Fraction, held_us: int) -> Fraction:
        """See `Pace`."""
        return from_us + held_us * self.speed


class JobRow(msgspec.Struct, kw_only=True):
    """One job.

    Attributes:
        duration_us: at speed 1; None: it never ends.
        throughput: speed by GPU type, or by (type, GPUs in all) where that is given; 1 for others.
        restart_us: an attempt after one that was stopped works only after so long.
        max_nodes: of a range of nodes, whose least is `nodes`; 0: it is none. least_gpus: of a range of GPUs
            on a node, of which `request` has the most; 0: it is none.
        first_us: its first attempt works only after so long.
        saves: it saves all that it has done when it is asked to end.
        idle_after_us: its first attempt works so long, and then does nothing; None: it works to its end.
    """

    job_id: str
    submit_us: int
    duration_us: int | None
    nodes: int
    request: ResourceRequest
    priority: int
    project: str
    user: str
    experiment: str
    deadline_us: int | None
    deadline_policy: str
    time_limit_us: int
    preemptible: bool
    max_cost_nanos: int
    checkpoint_us: int
    throughput: Mapping[tuple[str, int], Fraction]
    restart_us: int = 0
    max_nodes: int = 0
    least_gpus: int = 0
    first_us: int = 0
    saves: bool = False
    idle_after_us: int | None = None

    def pace_on(self, gpu_type: str, gpus: int) -> Pace:
        """How it gets on there."""
        return Steady(self.speed_on(gpu_type, gpus))

    def speed_on(self, gpu_type: str, gpus: int) -> Fraction:
        """Of a gang whose slowest members have such GPUs, so many of them in all."""
        found = self.throughput.get((gpu_type, gpus)) or self.throughput.get((gpu_type, ANY_COUNT))
        return found if found is not None else Fraction(1)


class NodeRow(msgspec.Struct, kw_only=True):
    """One node. `rate_nanos` None: its pool's cost model says, or nobody does. `until_us` None: for ever."""

    node_id: str
    cpu_milli: int
    memory_bytes: int
    gpus: int
    gpu_type: str
    gpu_memory_bytes: int
    pool: str
    rack: str
    rate_nanos: int | None
    from_us: int
    until_us: int | None


def read_jobs(path: str) -> list[JobRow]:
    """The workload, in the order of the file. Raises `InvalidRequest` with every fault."""
    table = Table(path, JOB_COLUMNS, ("job_id", "submit_s"))
    found: list[JobRow] = []
    seen: set[str] = set()
    requests: dict[ResourceRequest, ResourceRequest] = {}
    for _ in table.rows():
        row = _job(table)
        if row.job_id in seen:
            table.wrong("job_id", f"the job {row.job_id!r} is there twice")
        seen.add(row.job_id)
        row.request = requests.setdefault(row.request, row.request)
        found.append(row)
    table.finish()
    return found


def _job(table: Table) -> JobRow:
    submit_us = table.require("submit_s", 0, seconds_us)
    deadline_us = table.cell("deadline_s", None, _maybe_seconds)
    if deadline_us is not None and deadline_us < submit_us:
        table.wrong(
            "deadline_s", "is before submit_s; like submit_s it counts from the start of the simulation"
        )
    nodes, max_nodes = table.cell("nodes", (1, 0), _range(1, NODES_PER_JOB_MAX))
    request, least_gpus = _request(table)
    return JobRow(
        job_id=table.require("job_id", "", csvfile.name),
        submit_us=submit_us,
        duration_us=table.cell("duration_s", None, _maybe_seconds),
        nodes=nodes,
        max_nodes=max_nodes,
        request=request,
        least_gpus=least_gpus,
        priority=table.cell("priority", 50, one_of(PRIORITIES, integer(0, 100))),
        project=table.cell("project", "default", csvfile.name),
        user=table.cell("user", "sim", csvfile.name),
        experiment=table.cell("experiment", "", csvfile.name),
        deadline_us=deadline_us,
        deadline_policy=table.cell("deadline_policy", "best-effort", _deadline_policy),
        time_limit_us=table.cell("time_limit_s", 0, positive_us),
        preemptible=table.cell("preemptible", True, flag),
        max_cost_nanos=table.cell("max_cost", 0, _cost),
        checkpoint_us=table.cell("checkpoint_s", 0, positive_us),
        throughput=table.cell("throughput", {}, _throughput),
        restart_us=table.cell("restart_s", 0, seconds_us),
        saves=table.cell("saves", False, flag),
        idle_after_us=table.cell("idle_after_s", None, _maybe_seconds),
    )


def _deadline_policy(text: str) -> str:
    if text not in DEADLINE_POLICIES:
        raise BadCell("must be promise or best-effort")
    return text


def _maybe_seconds(text: str) -> int | None:
    return seconds_us(text)


def _range(least: int, most: int) -> Callable[[str], tuple[int, int]]:
    """`4`, which is no range: 4 and 0; or `2..8`."""
    whole = integer(least, most)

    def read(text: str) -> tuple[int, int]:
        first, dots, last = text.partition("..")
        if not dots:
            return whole(text), 0
        ends = whole(first), whole(last)
        if not 0 < ends[0] < ends[1]:
            raise BadCell(f"{text[:60]!r} is no range: the least comes first, as in 2..8")
        return ends

    return read


def _request(table: Table) -> tuple[ResourceRequest, int]:
    least, most = table.cell("gpus", (0, 0), _range(0, 10_000))
    gpus = most or least
    if most > GPU_SLOTS_MAX:
        table.wrong("gpus", f"a range of GPUs is of one node, which has at most {GPU_SLOTS_MAX}")
    milli = table.cell("gpu_milli", MILLI, integer(0, MILLI))
    no_types: tuple[str, ...] = ()
    types = table.cell("gpu_type", no_types, _types)
    wanted = None
    if gpus:
        if milli == 0:
            table.wrong("gpu_milli", f"0 of each of {gpus} GPUs is nothing; give 1 to 1000, or gpus=0")
        elif milli < MILLI and gpus > 1:
            table.wrong("gpu_milli", f"a share of a GPU ({milli}/1000) needs gpus=1, not {gpus}")
            milli = MILLI
        wanted = GpuRequest(gpus, types, milli or MILLI)
    request = ResourceRequest(
        wanted,
        table.cell("cpu_milli", 0, integer(0)),
        table.cell("memory_mib", 0, integer(0)) * MIB,
    )
    return request, least if most else 0


def _types(text: str) -> tuple[str, ...]:
    return tuple(sorted({parse_gpu_type(part) for part in text.split("|") if part.strip()}))


def _cost(text: str) -> int:
    nanos = _amount(text)
    if nanos <= 0:
        raise BadCell(f"{text} must be more than 0; leave it empty for no cap")
    return nanos


def _amount(text: str) -> int:
    if "_" in text or len(text) > 40:
        raise BadCell(f"{text[:60]!r} is not an amount, such as 12.50")
    return parse_amount(text)


def _throughput(text: str) -> dict[tuple[str, int], Fraction]:
    found: dict[tuple[str, int], Fraction] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        kind, equals, speed = part.partition("=")
        value = csvfile.number(speed.strip()) if equals else Decimal(0)
        if not equals or not Decimal("1e-6") <= value <= Decimal("1e6"):
            raise BadCell(
                f"{part[:60]!r} is not TYPE=SPEED with a speed from 0.000001 to 1000000, as in A100=2.6 or"
                " A100x4=3.1, the speed on four of them in all"
            )
        counted = _COUNTED.fullmatch(kind.strip())
        name, count = (counted[1], int(counted[2])) if counted else (kind, ANY_COUNT)
        found[parse_gpu_type(name), count] = Fraction(value)
    return found


def read_nodes(path: str, some: bool = True) -> list[NodeRow]:
    """The cluster, in the order of the file. Raises `InvalidRequest` with every fault; where there must be
    `some`, also for none.
    """
    table = Table(path, NODE_COLUMNS, ("node_id", "cpu_milli", "memory_mib"))
    found: list[NodeRow] = []
    seen: set[str] = set()
    for _ in table.rows():
        row = _node(table)
        if row.node_id in seen:
            table.wrong("node_id", f"the node {row.node_id!r} is there twice")
        seen.add(row.node_id)
        found.append(row)
    table.finish()
    if some and not found:
        raise InvalidRequest(f"{table.name}: has no nodes")
    return found


def _node(table: Table) -> NodeRow:
    from_us = table.cell("available_from_s", 0, seconds_us)
    until_us = table.cell("available_until_s", None, _maybe_seconds)
    if until_us is not None and until_us <= from_us:
        table.wrong("available_until_s", "must be after available_from_s")
    return NodeRow(
        node_id=table.require("node_id", "", csvfile.name),
        cpu_milli=table.require("cpu_milli", 0, integer(0)),
        memory_bytes=table.require("memory_mib", 0, integer(0)) * MIB,
        gpus=table.cell("gpus", 0, integer(0, GPU_SLOTS_MAX)),
        gpu_type=table.cell("gpu_type", DEFAULT_GPU_TYPE, parse_gpu_type),
        gpu_memory_bytes=table.cell("gpu_memory_mib", 0, integer(0)) * MIB,
        pool=table.cell("pool", "", csvfile.name),
        rack=table.cell("rack", "", csvfile.name),
        rate_nanos=table.cell("price_per_hour", None, price),
        from_us=from_us,
        until_us=until_us,
    )


def price(text: str) -> int:
    """An amount an hour, not negative. Raises `BadCell`."""
    nanos = _amount(text)
    if nanos < 0:
        raise BadCell(f"{text} must not be negative")
    if nanos > 10**15:
        raise BadCell(f"{text} an hour is out of range; the most is 1000000")
    return nanos
