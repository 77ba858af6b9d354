"""Job specs and node facts, both ways between `bursar.model` and `bursar.v1`.

Input   protobuf messages from outside. What a job may ask is judged by `bursar.model.check`, as for a job
        file, so no room behind this one sees an unbounded or malformed value.
Why     job files are validated with line numbers, but anybody may speak gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec

from bursar.codec.amounts import exact, put_amounts
from bursar.errors import InvalidRequest, NotBuilt
from bursar.model import (
    LIMITS,
    ArraySpec,
    Calibration,
    CheckpointSpec,
    Dependency,
    Device,
    DeviceShare,
    IdleSpec,
    JobSpec,
    NodeFacts,
    RetrySpec,
    ServiceSpec,
)
from bursar.model.check import ARRAY_TASKS_MAX, Problem, check
from bursar.model.ranges import Indices, Range, compress, count
from bursar.resources import MILLI, GpuRequest, ResourceRequest
from bursar.v1 import types_pb2 as pb

PROBLEMS_SHOWN = 20
"""Of one spec; more of them say that it is something else."""
_SHARED = tuple(
    name
    for name in JobSpec.__struct_fields__
    if (field := pb.JobSpec.DESCRIPTOR.fields_by_name.get(name)) is not None and field.message_type is None
)
_LISTS = tuple(name for name in _SHARED if isinstance(getattr(JobSpec(), name), tuple))
_AMOUNT: Final = "max_cost_nanos"
"""Of any size: beside it stands `max_cost_nanos_wide`."""
_VALUES = tuple(name for name in _SHARED if name not in (*_LISTS, _AMOUNT))
"""Plain fields of the same name on both sides: they are converted without being named here."""
_MEANT: Final = (
    "project", "nodes", "spot_policy", "on_exceed", "max_cost_per", "launch", "deadline_policy"
)  # fmt: skip
_UNSAID: Final[Mapping[str, Any]] = {
    name: zero
    for name in _VALUES
    if name not in _MEANT and (zero := getattr(pb.JobSpec(), name)) != getattr(JobSpec(), name)
}
"""What a field that the wire does not say is, where that is not the default: the wire's zero. Of those
named here saying nothing means the default.
"""


def spec_to_wire(spec: JobSpec) -> pb.JobSpec:
    """One spec as a message."""
    wire = pb.JobSpec(
        options=[_option_to_wire(option) for option in spec.options],
        depends_on=[pb.Dependency(job=d.job, when=d.when) for d in spec.depends_on],
        throughput=throughput_to_wire(spec.throughput),
        **{name: value for name in (*_VALUES, *_LISTS) if (value := getattr(spec, name))},
    )
    if spec.max_cost_nanos:
        put_amounts(wire, max_cost_nanos=spec.max_cost_nanos)
    for field, pairs in (
        (wire.labels, spec.labels),
        (wire.constraints, spec.constraints),
        (wire.env, spec.env),
    ):
        for key, value in pairs:
            field[key] = value
    if spec.array is not None:
        wire.array.max_parallel = spec.array.max_parallel
        for start, stop, step in spec.array.ranges:
            wire.array.ranges.add(start=start, stop=stop, step=step)
    if spec.checkpoint != CheckpointSpec():
        wire.checkpoint.signal = spec.checkpoint.signal
        wire.checkpoint.grace_us = spec.checkpoint.grace_us
        wire.checkpoint.before_us = spec.checkpoint.before_us
        wire.checkpoint.script_only = spec.checkpoint.script_only
    if spec.idle_policy != IdleSpec():
        idle = spec.idle_policy
        wire.idle_policy.CopyFrom(
            pb.IdleSpec(
                below_percent=idle.below_percent,
                window_us=idle.window_us,
                warn_after_us=idle.warn_after_us,
                action=idle.action,
                snoozed_until=idle.snoozed_until,
                detached_us=idle.detached_us,
                cpu_below_percent=idle.cpu_below_percent,
                snoozes=idle.snoozes,
            )
        )
    if spec.retry != RetrySpec():
        retry = spec.retry
        wire.retry.CopyFrom(
            pb.RetrySpec(on=retry.on, max=retry.max, avoid_same_node=retry.avoid_same_node, never=retry.never)
        )
    if spec.service is not None:
        wire.service.CopyFrom(pb.ServiceSpec(**msgspec.structs.asdict(spec.service)))
    return wire


def throughput_to_wire(found: Iterable[tuple[str, int, int]]) -> list[pb.Throughput]:
    """How fast a job says to be where."""
    return [pb.Throughput(gpu_type=kind, gpus=gpus, micro=micro) for kind, gpus, micro in found]


def throughput_from_wire(wire: Iterable[pb.Throughput]) -> tuple[tuple[str, int, int], ...]:
    """The same as a spec has it."""
    return tuple(sorted((one.gpu_type.upper(), one.gpus, one.micro) for one in wire))


def _option_to_wire(option: ResourceRequest) -> pb.ResourceRequest:
    wire = pb.ResourceRequest(cpu_milli=option.cpu_milli, memory_bytes=option.memory_bytes)
    if option.gpus is not None:
        gpus = option.gpus
        wire.gpus.CopyFrom(
            pb.GpuRequest(
                count=gpus.count, types=gpus.types, milli=gpus.milli, memory_bytes=gpus.memory_bytes
            )
        )
    return wire


def options_with(
    options: Sequence[ResourceRequest],
    *,
    gpus: pb.GpuRequest | None = None,
    cpu_milli: int | None = None,
    memory_bytes: int | None = None,
) -> tuple[ResourceRequest, ...]:
    """Alternatives that each ask for something else: what is None stays. Those that became equal are one."""
    changes: dict[str, Any] = {}
    if gpus is not None:
        changes["gpus"] = _gpus_from_wire(gpus) if gpus.count else None
    if cpu_milli is not None:
        changes["cpu_milli"] = cpu_milli
    if memory_bytes is not None:
        changes["memory_bytes"] = memory_bytes
    return tuple(dict.fromkeys(msgspec.structs.replace(option, **changes) for option in options))


def spec_from_wire(wire: pb.JobSpec) -> JobSpec:
    """One message as a spec, every rule checked. Raises `InvalidRequest` naming the fields."""
    spec = _spec(wire)
    problems = check(spec)
    if problems:
        refuse(problems)
    return spec


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """All problems as one error: `NotBuilt` when that is all they are."""
    lines = [f"{problem.field}: {problem.message}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"... and {len(problems) - PROBLEMS_SHOWN} more")
    kind = NotBuilt if all(problem.not_built for problem in problems) else InvalidRequest
    raise kind("\n".join(lines), {"field": problems[0].field})


def _spec(wire: pb.JobSpec) -> JobSpec:
    """Of what the wire says alone: most jobs say little, and each field that is asked for costs as much."""
    plain = dict(_UNSAID)
    for field, value in wire.ListFields():
        name = field.name
        plain[name] = _READERS[name](value) if name in _READERS else value
    if plain.pop(f"{_AMOUNT}_wide", None) is not None:
        plain[_AMOUNT] = exact(wire, _AMOUNT)
    if "array" in plain and _AMOUNT in plain:
        plain.setdefault("max_cost_per", "job")
    return JobSpec(**plain)


def _pairs(mapping: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(mapping.items()))


def _require(ok: bool, field: str, want: str) -> None:
    if not ok:
        raise InvalidRequest(f"{field}: {want}", {"field": field})


def _gpus_from_wire(wire: pb.GpuRequest) -> GpuRequest:
    types = tuple(name.upper() for name in wire.types)
    return GpuRequest(wire.count, types, wire.milli or MILLI, wire.memory_bytes)


def _option_from_wire(wire: pb.ResourceRequest) -> ResourceRequest:
    gpus = _gpus_from_wire(wire.gpus) if wire.HasField("gpus") else None
    return ResourceRequest(gpus=gpus, cpu_milli=wire.cpu_milli, memory_bytes=wire.memory_bytes)


def _array(wire: pb.ArraySpec) -> ArraySpec:
    parts: list[Range] = [(index, index + 1, 1) for index in wire.indices]
    for one in wire.ranges:
        _require(
            one.start < one.stop and one.step >= 1, "array.ranges", "start < stop, and a step of 1 or more"
        )
        last = range(one.start, one.stop, one.step)[-1]
        parts.append((one.start, last + 1, one.step if last > one.start else 1))
    ranges = tuple(parts)
    if len(parts) > 1 and count(ranges) <= ARRAY_TASKS_MAX:
        ranges = compress(Indices(ranges))  # one form for equal sets, however they were written
    return ArraySpec(ranges, wire.max_parallel)


def _service_from_wire(wire: pb.ServiceSpec) -> ServiceSpec:
    said: dict[str, Any] = {field.name: value for field, value in wire.ListFields()}
    if "steps" in said:
        said["steps"] = tuple(said["steps"])
    return ServiceSpec(**said)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_LISTS, tuple),
    "project": str.lower,
    "labels": _pairs,
    "options": lambda options: tuple(map(_option_from_wire, options)),
    "constraints": _pairs,
    "throughput": throughput_from_wire,
    "depends_on": lambda wire: tuple(Dependency(one.job, one.when or "succeeded") for one in wire),
    "array": _array,
    "checkpoint": lambda wire: CheckpointSpec(wire.signal, wire.grace_us, wire.before_us, wire.script_only),
    "service": _service_from_wire,
    "idle_policy": lambda wire: IdleSpec(
        wire.below_percent,
        wire.window_us,
        wire.warn_after_us,
        wire.action,
        wire.snoozed_until,
        wire.detached_us,
        wire.cpu_below_percent,
        wire.snoozes,
    ),
    "retry": lambda wire: RetrySpec(tuple(wire.on), wire.max, wire.avoid_same_node, wire.never),
    "env": _pairs,
}
"""How a field of the wire becomes one of the spec, where it is not that already."""


def facts_to_wire(facts: NodeFacts) -> pb.NodeFacts:
    """A node's facts as a message."""
    wire = pb.NodeFacts(
        name=facts.name,
        cpu_milli=facts.cpu_milli,
        memory_bytes=facts.memory_bytes,
        devices=[
            pb.Device(
                index=d.index,
                uuid=d.uuid,
                type=d.type,
                memory_bytes=d.memory_bytes,
                simulated=d.simulated,
            )
            for d in facts.devices
        ],
        pool=facts.pool,
        provider=facts.provider,
        region=facts.region,
        zone=facts.zone,
        rack=facts.rack,
        instance_type=facts.instance_type,
        market=facts.market,
        address=facts.address,
        limits=facts.limits,
    )
    for key, value in facts.labels:
        wire.labels[key] = value
    return wire


CALIBRATED: Final = tuple(name for name in Calibration.__struct_fields__ if name not in ("at", "job_id"))
"""Fields of a calibration that are the same on the wire."""


def calibration_to_wire(found: Calibration) -> pb.Calibration:
    """What a node delivered."""
    return pb.Calibration(
        at=found.at,
        job=found.job_id,
        torch=found.torch,
        devices=found.devices,
        bf16_flops_per_second=found.bf16_flops_per_second,
        fp16_flops_per_second=found.fp16_flops_per_second,
        tf32_flops_per_second=found.tf32_flops_per_second,
        fp32_flops_per_second=found.fp32_flops_per_second,
        fp64_flops_per_second=found.fp64_flops_per_second,
        memory_bytes_per_second=found.memory_bytes_per_second,
        allreduce_bytes_per_second=found.allreduce_bytes_per_second,
        disk_write_bytes_per_second=found.disk_write_bytes_per_second,
        disk_read_bytes_per_second=found.disk_read_bytes_per_second,
    )


def calibration_from_wire(wire: pb.Calibration, at: int) -> Calibration:
    """The same, as of this instant."""
    return Calibration(at=at, job_id=wire.job, **{name: getattr(wire, name) for name in CALIBRATED})


def facts_from_wire(wire: pb.NodeFacts) -> NodeFacts:
    """A node's facts from an agent, as it said them: what may be said is the daemon's door to judge
    (`bursard.fleet.door`), the same for every backend.
    """
    return NodeFacts(
        name=wire.name,
        cpu_milli=wire.cpu_milli,
        memory_bytes=wire.memory_bytes,
        devices=tuple(
            Device(d.index, d.uuid, d.type.upper(), d.memory_bytes, d.simulated) for d in wire.devices
        ),
        pool=wire.pool or "local",
        provider=wire.provider or "onprem",
        region=wire.region,
        zone=wire.zone,
        rack=wire.rack,
        instance_type=wire.instance_type,
        market=wire.market or "on-demand",
        labels=_pairs(wire.labels),
        address=wire.address or "127.0.0.1",
        limits=tuple(name for name in LIMITS if name in wire.limits),
    )


def shares_to_wire(shares: Iterable[DeviceShare]) -> list[pb.DeviceShare]:
    """Device shares as messages."""
    return [pb.DeviceShare(index=share.index, milli=share.milli) for share in shares]
