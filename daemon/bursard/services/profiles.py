"""Curves of an attempt: what its members and their devices did, from the spans that telemetry keeps.

Why     a device is told of by all who hold it. Of one that an attempt holds alone its readings are the
        attempt's; of one that is shared only what the attempt's own processes do is, and the rest is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import NotFound
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursard.telemetry.history import DEVICE, TIERS, History, Value, tier_for

MEMBERS_MAX: Final = 64
"""Ranks in one answer: 64 of 288 points are a megabyte."""
WHOLE_MILLI: Final = 1_000


def profile(history: History, job: types_pb2.Job, number: int, now: int) -> pb.ProfileResponse:
    """What is kept of an attempt; of the newest where `number` is 0, of a job without any no members.

    Raises `NotFound` for an attempt that it does not have.
    """
    found = [one for one in job.attempts if number in (0, one.number)]
    made = pb.ProfileResponse(job_id=job.id)
    if not found and number:
        has = f"attempts 1 to {job.attempts[-1].number}" if job.attempts else "none yet"
        raise NotFound(f"job {job.number} has no attempt {number}; it has {has}")
    if not found:
        return made
    attempt = found[-1]
    made.attempt, made.members_total = attempt.number, len(attempt.members)
    if not attempt.started_at:
        return made
    tier = tier_for(attempt.started_at, now)
    step_us, kept = TIERS[tier]
    oldest = now - now % step_us - (kept - 1) * step_us
    made.step_us = step_us
    made.since = max(attempt.started_at - attempt.started_at % step_us, oldest)
    made.until = attempt.finished_at or now
    for member in attempt.members[:MEMBERS_MAX]:
        _put(made, history, attempt.id, member, tier)
    return made


def _put(
    made: pb.ProfileResponse, history: History, attempt_id: str, member: types_pb2.Member, tier: int
) -> None:
    shared = any(share.milli < WHOLE_MILLI for share in member.devices)
    told = made.members.add(rank=member.rank, node=member.node, gpus=len(member.devices), shared=shared)
    points: dict[int, pb.ProfilePoint] = {}
    for at, (cpu, memory, sm, gpu_memory) in history.member(
        attempt_id, member.rank, tier, made.since, made.until
    ):
        point = points[at] = pb.ProfilePoint(at=at, cpu_cores=cpu)
        if memory is not None:
            point.memory_used_bytes = int(memory)
        if shared and sm is not None:
            point.sm_ratio = sm
        if shared and gpu_memory is not None:
            point.gpu_memory_used_bytes = int(gpu_memory)
    if not shared and member.devices:
        devices = [
            history.device(member.node, share.index, tier, made.since, made.until) for share in member.devices
        ]
        _put_devices(points, devices)
    told.points.extend(points[at] for at in sorted(points))


def _put_devices(points: dict[int, pb.ProfilePoint], devices: Sequence[Sequence[Value]]) -> None:
    """Ratios as means over the devices, memory and power as sums; unknown where one of them is."""
    by_span: dict[int, list[tuple[float | None, ...]]] = {}
    for device in devices:
        for at, values in device:
            by_span.setdefault(at, []).append(values)
    for at, told in by_span.items():
        if len(told) < len(devices):
            continue
        point = points.setdefault(at, pb.ProfilePoint(at=at))
        sums = dict(zip(DEVICE, (_sum(column) for column in zip(*told, strict=True)), strict=True))
        if (value := sums["utilization_ratio"]) is not None:
            point.gpu_utilization_ratio = value / len(devices)
        if (value := sums["sm_ratio"]) is not None:
            point.sm_ratio = value / len(devices)
        if (value := sums["tensor_ratio"]) is not None:
            point.tensor_ratio = value / len(devices)
        if (value := sums["memory_used_bytes"]) is not None:
            point.gpu_memory_used_bytes = int(value)
        if (value := sums["power_watts"]) is not None:
            point.gpu_power_watts = value


def _sum(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return sum(known) if len(known) == len(column) else None


def hours_of(history: History, node: str, indexes: Sequence[int], now: int) -> list[types_pb2.NodeHour]:
    """What the devices of a node did in each hour of the last day: means of the spans that were heard."""
    coarse = len(TIERS) - 1
    since = now - now % HOUR_US - (DAY_US - HOUR_US)
    sums: dict[int, dict[str, list[float]]] = {}
    for index in indexes:
        for at, values in history.device(node, index, coarse, since, now + 1):
            told = sums.setdefault(at - at % HOUR_US, {"utilization_ratio": [], "sm_ratio": []})
            for name, heard in told.items():
                value = values[DEVICE.index(name)]
                if value is not None:
                    heard.append(value)
    return [
        types_pb2.NodeHour(
            at=at, utilization_ratio=_mean(told["utilization_ratio"]), sm_ratio=_mean(told["sm_ratio"])
        )
        for at, told in sorted(sums.items())
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
