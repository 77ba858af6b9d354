"""Job specs and node facts, both ways between `bursar.model` and `bursar.v1`.

Input   protobuf messages from outside are checked here against hard bounds (sizes, counts, characters),
        so no room behind this one sees an unbounded or malformed value.
Why     job files are validated by `bursar.jobfile` with line numbers, but anybody may speak gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from bursar.errors import InvalidRequest, NotBuilt
from bursar.model import (
    ArraySpec,
    CheckpointSpec,
    Dependency,
    Device,
    DeviceShare,
    JobSpec,
    NodeFacts,
    RetrySpec,
)
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import types_pb2 as pb

ARRAY_MAX = 10_000
"""Tasks of one array."""
NODES_MAX = 10_000
TEXT_MAX = 65_536
"""Bytes of script, setup, environment and argv, each."""
NAME_MAX = 200
DAYS_366_US = 366 * 86_400 * 1_000_000

_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}")
_NAME = re.compile(r"[^\x00-\x1f\x7f/\[\]]*")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIGNALS = frozenset({"", "USR1", "USR2", "INT", "TERM", "HUP", "QUIT", "CONT"})
_WHEN = frozenset({"succeeded", "failed", "finished"})
_RETRY_ON = frozenset({"failed", "out_of_memory", "start_failed", "time_limit", "node_lost", "preempted"})


def spec_to_wire(spec: JobSpec) -> pb.JobSpec:
    """One spec as a message."""
    wire = pb.JobSpec(
        name=spec.name,
        project=spec.project,
        experiment=spec.experiment,
        model=spec.model,
        model_version=spec.model_version,
        priority=spec.priority,
        preemptible=spec.preemptible,
        nodes=spec.nodes,
        options=[_option_to_wire(option) for option in spec.options],
        ordered=spec.ordered,
        spot_policy=spec.spot_policy,
        time_limit_us=spec.time_limit_us,
        begin_after=spec.begin_after,
        depends_on=[pb.Dependency(job=d.job, when=d.when) for d in spec.depends_on],
        max_cost_nanos=spec.max_cost_nanos,
        max_price_nanos_per_hour=spec.max_price_nanos_per_hour,
        currency=spec.currency,
        on_exceed=spec.on_exceed,
        command=spec.command,
        script=spec.script,
        setup=spec.setup,
        workdir=spec.workdir,
        held=spec.held,
        comment=spec.comment,
    )
    for field, pairs in (
        (wire.labels, spec.labels),
        (wire.constraints, spec.constraints),
        (wire.env, spec.env),
    ):
        for key, value in pairs:
            field[key] = value
    if spec.array is not None:
        wire.array.CopyFrom(pb.ArraySpec(indices=spec.array.indices, max_parallel=spec.array.max_parallel))
    if spec.checkpoint != CheckpointSpec():
        wire.checkpoint.signal = spec.checkpoint.signal
        wire.checkpoint.grace_us = spec.checkpoint.grace_us
    if spec.retry != RetrySpec():
        wire.retry.CopyFrom(
            pb.RetrySpec(on=spec.retry.on, max=spec.retry.max, avoid_same_node=spec.retry.avoid_same_node)
        )
    return wire


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


def spec_from_wire(wire: pb.JobSpec) -> JobSpec:
    """One message as a spec, every bound checked. Raises `InvalidRequest` naming the field."""
    _check_texts(wire)
    _check_numbers(wire)
    options = tuple(_option_from_wire(option) for option in wire.options) or (ResourceRequest(),)
    return JobSpec(
        name=wire.name,
        project=wire.project.lower() or "default",
        experiment=wire.experiment,
        model=wire.model,
        model_version=wire.model_version,
        labels=_pairs(wire.labels, "labels", _LABEL_KEY, 64),
        priority=wire.priority,
        preemptible=wire.preemptible,
        nodes=wire.nodes or 1,
        options=options,
        ordered=wire.ordered,
        constraints=_pairs(wire.constraints, "constraints", _LABEL_KEY, 32),
        spot_policy=wire.spot_policy or "auto",
        time_limit_us=wire.time_limit_us,
        begin_after=wire.begin_after,
        depends_on=tuple(_dependency(d) for d in wire.depends_on),
        array=_array(wire),
        max_cost_nanos=wire.max_cost_nanos,
        max_price_nanos_per_hour=wire.max_price_nanos_per_hour,
        currency=wire.currency,
        on_exceed=wire.on_exceed or "stop",
        checkpoint=_checkpoint(wire),
        retry=_retry(wire),
        env=_pairs(wire.env, "env", _ENV_NAME, 1000, TEXT_MAX),
        command=tuple(wire.command),
        script=wire.script,
        setup=wire.setup,
        workdir=wire.workdir,
        held=wire.held,
        comment=wire.comment,
    )


def _check_texts(wire: pb.JobSpec) -> None:
    for field in ("name", "experiment", "model", "model_version"):
        text = getattr(wire, field)
        _require(len(text) <= NAME_MAX, field, f"at most {NAME_MAX} characters")
        _require(_NAME.fullmatch(text) is not None, field, "no control characters, slashes or brackets")
    if wire.project:
        _require(
            len(wire.project) <= NAME_MAX and _PROJECT.fullmatch(wire.project) is not None,
            "project",
            f"{wire.project!r} is not a path such as nlp/finetune "
            "(letters, digits, . _ -; at most 8 levels, no leading or double slash)",
        )
    for field in ("script", "setup", "workdir", "comment"):
        _require(len(getattr(wire, field)) <= TEXT_MAX, field, f"at most {TEXT_MAX} characters")
        _require("\0" not in getattr(wire, field), field, "no NUL characters")
    _require(bool(wire.command) != bool(wire.script), "run", "give either a script or a command")
    _require(sum(map(len, wire.command)) <= TEXT_MAX, "command", f"at most {TEXT_MAX} characters")
    _require(not any("\0" in word for word in wire.command), "command", "no NUL characters")
    _require(not wire.workdir or wire.workdir.startswith("/"), "workdir", "an absolute path on the node")


def _check_numbers(wire: pb.JobSpec) -> None:
    _require(wire.priority <= 100, "priority", "0 to 100")
    _require(wire.nodes <= NODES_MAX, "nodes", f"1 to {NODES_MAX}")
    _require(wire.time_limit_us <= DAYS_366_US, "time_limit", "at most 366 days")
    _require(wire.max_cost_nanos >= 0, "max_cost", "not negative")
    _require(wire.max_price_nanos_per_hour >= 0, "max_price", "not negative")
    priced = wire.max_cost_nanos or wire.max_price_nanos_per_hour
    _require(
        not priced or re.fullmatch(r"[A-Z]{3}", wire.currency) is not None,
        "currency",
        "a currency code such as USD",
    )
    _require(wire.begin_after >= 0, "begin_after", "an instant after 1970")
    _require(len(wire.options) <= 16, "any_of", "at most 16 alternatives")
    _require(len(wire.depends_on) <= 100, "depends_on", "at most 100 jobs")
    _require(
        wire.spot_policy in ("", "auto", "spot", "on-demand"),
        "spot_policy",
        "auto, spot or on-demand",
    )
    if wire.on_exceed not in ("", "stop", "checkpoint-stop"):
        raise NotBuilt(f"on_exceed {wire.on_exceed!r} is not built yet; use stop or checkpoint-stop")


def _require(ok: bool, field: str, want: str) -> None:
    if not ok:
        raise InvalidRequest(f"{field}: {want}", {"field": field})


def _pairs(
    mapping: Mapping[str, str],
    field: str,
    key_form: re.Pattern[str],
    count_max: int,
    value_max: int = 256,
) -> tuple[tuple[str, str], ...]:
    _require(len(mapping) <= count_max, field, f"at most {count_max} entries")
    for key, value in mapping.items():
        _require(key_form.fullmatch(key) is not None, field, f"{key!r} is not a valid name")
        _require(
            len(value) <= value_max and "\0" not in value,
            field,
            f"{key}: at most {value_max} characters",
        )
    return tuple(sorted(mapping.items()))


def _option_from_wire(wire: pb.ResourceRequest) -> ResourceRequest:
    _require(wire.cpu_milli <= 10**9, "cpus", "at most 1,000,000")
    _require(wire.memory_bytes < 2**62, "memory", "at most 4 EB")
    gpus = None
    if wire.HasField("gpus"):
        count, milli = wire.gpus.count, wire.gpus.milli or 1000
        _require(1 <= count <= 16, "gpus", "1 to 16 on one node")
        _require(milli <= 1000, "gpus", "a fraction is at most 1 GPU")
        _require(milli == 1000 or count == 1, "gpus", "a fraction applies to one GPU")
        _require(wire.gpus.memory_bytes < 2**50, "gpus", "a device memory below 1 PB")
        _require(len(wire.gpus.types) <= 16, "gpus", "at most 16 types")
        types = tuple(t.upper() for t in wire.gpus.types)
        _require(all(_LABEL_KEY.fullmatch(t) for t in types), "gpus", "a type such as H100")
        gpus = GpuRequest(count=count, types=types, milli=milli, memory_bytes=wire.gpus.memory_bytes)
    return ResourceRequest(gpus=gpus, cpu_milli=wire.cpu_milli, memory_bytes=wire.memory_bytes)


def _dependency(wire: pb.Dependency) -> Dependency:
    when = wire.when or "succeeded"
    _require(when in _WHEN, "depends_on", "when is succeeded, failed or finished")
    return Dependency(job=wire.job, when=when)


def _array(wire: pb.JobSpec) -> ArraySpec | None:
    if not wire.HasField("array"):
        return None
    indices = tuple(wire.array.indices)
    _require(1 <= len(indices) <= ARRAY_MAX, "array", f"1 to {ARRAY_MAX} tasks")
    _require(
        all(a < b for a, b in pairwise(indices)),
        "array",
        "ascending, unique indices",
    )
    return ArraySpec(indices=indices, max_parallel=wire.array.max_parallel)


def _checkpoint(wire: pb.JobSpec) -> CheckpointSpec:
    _require(wire.checkpoint.signal in _SIGNALS, "checkpoint.signal", "one of USR1, USR2, INT, TERM, HUP")
    _require(wire.checkpoint.grace_us <= DAYS_366_US // 366, "checkpoint.grace", "at most a day")
    return CheckpointSpec(signal=wire.checkpoint.signal, grace_us=wire.checkpoint.grace_us)


def _retry(wire: pb.JobSpec) -> RetrySpec:
    _require(set(wire.retry.on) <= _RETRY_ON, "retry.on", f"some of {', '.join(sorted(_RETRY_ON))}")
    _require(wire.retry.max <= 1000, "retry.max", "at most 1000")
    return RetrySpec(on=tuple(wire.retry.on), max=wire.retry.max, avoid_same_node=wire.retry.avoid_same_node)


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
    )
    for key, value in facts.labels:
        wire.labels[key] = value
    return wire


def facts_from_wire(wire: pb.NodeFacts) -> NodeFacts:
    """A node's facts from an agent, every bound checked. Raises `InvalidRequest`."""
    _require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", wire.name) is not None,
        "name",
        "a host name",
    )
    _require(0 < wire.cpu_milli <= 10**8, "cpu_milli", "1 to 100,000 CPUs")
    _require(0 < wire.memory_bytes < 2**60, "memory_bytes", "more than 0")
    _require(len(wire.devices) <= 16, "devices", "at most 16")
    _require(len({d.type for d in wire.devices}) <= 1, "devices", "one GPU type per node")
    _require(
        [d.index for d in wire.devices] == list(range(len(wire.devices))),
        "devices",
        "indices 0, 1, 2 …",
    )
    for field in (
        "pool",
        "provider",
        "region",
        "zone",
        "rack",
        "instance_type",
        "market",
        "address",
    ):
        _require(len(getattr(wire, field)) <= NAME_MAX, field, f"at most {NAME_MAX} characters")
    return NodeFacts(
        name=wire.name,
        cpu_milli=wire.cpu_milli,
        memory_bytes=wire.memory_bytes,
        devices=tuple(
            Device(d.index, d.uuid[:200], d.type.upper()[:40], d.memory_bytes, d.simulated)
            for d in wire.devices
        ),
        pool=wire.pool or "local",
        provider=wire.provider or "onprem",
        region=wire.region,
        zone=wire.zone,
        rack=wire.rack,
        instance_type=wire.instance_type,
        market=wire.market or "on-demand",
        labels=_pairs(wire.labels, "labels", _LABEL_KEY, 64),
        address=wire.address or "127.0.0.1",
    )


def shares_to_wire(shares: Iterable[DeviceShare]) -> list[pb.DeviceShare]:
    """Device shares as messages."""
    return [pb.DeviceShare(index=share.index, milli=share.milli) for share in shares]
