"""Parts of results that have a form of their own: promises of deadlines, steps, and calibrations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from bursar import results
from bursar.codec import view
from bursar.codec.view.jobs import step_started_at
from bursar.money import Money
from bursar.v1 import jobs_pb2, types_pb2


def promise(
    of: types_pb2.Job | jobs_pb2.PlanResponse, cash: str, instant: Callable[[int], datetime | None]
) -> results.Promise | None:
    """The promise of a job or a plan; None for none. `instant`: how a time is told."""
    if not of.HasField("promise"):
        return None
    wire = of.promise
    cost = wire.cost_at_most
    return results.Promise(
        by=instant(wire.by),
        given_at=instant(wire.given_at),
        starts_by=instant(wire.starts_by),
        cost_at_most=Money(int(cost.nanos or 0), cash) if wire.HasField("cost_at_most") else None,
        state=wire.state,
        broken_at=instant(wire.broken_at),
        cause=wire.cause,
        message=wire.message,
    )


def idleness(
    of: types_pb2.Job | jobs_pb2.PlanResponse, instant: Callable[[int], datetime | None]
) -> results.Idleness | None:
    """The idle policies that a job is under, or would be; None: none."""
    if not of.HasField("idleness"):
        return None
    wire = of.idleness
    return results.Idleness(
        rules=tuple(
            results.IdleRule(
                policy=rule.policy,
                ground=rule.ground,
                below_percent=rule.below_percent or None,
                time_window=timedelta(microseconds=rule.window_us),
                warn_after=timedelta(microseconds=rule.warn_after_us),
                action=rule.action,
                idle=timedelta(microseconds=rule.idle_us),
                told_at=instant(rule.told_at),
            )
            for rule in wire.rules
        ),
        snoozed_until=instant(wire.snoozed_until),
        snooze=timedelta(microseconds=wire.snooze_us),
        snoozes_left=wire.snoozes_left if wire.HasField("snoozes_left") else None,
    )


def step(
    attempt: types_pb2.Attempt,
    wire: types_pb2.Step,
    state: results.StepState,
    instant: Callable[[int], datetime | None],
) -> results.Step:
    """A step that a place of an attempt started. `state`: its word."""
    return results.Step(
        number=wire.number,
        rank=wire.member,
        name=wire.name,
        state=state,
        nodes=wire.nodes,
        tasks=wire.tasks,
        exit_code=wire.exit_code if wire.HasField("exit_code") else None,
        signal=wire.signal or None,
        failed_task=wire.rank if wire.HasField("rank") else None,
        started_at=instant(step_started_at(attempt, wire)),
        elapsed=timedelta(microseconds=wire.elapsed_us),
    )


def calibration(
    wire: types_pb2.Calibration, instant: Callable[[int], datetime | None]
) -> results.Calibration:
    """What a node delivered."""
    matmul = {name: getattr(wire, f"{name}_flops_per_second") for name in view.PRECISIONS}
    return results.Calibration(
        at=instant(wire.at),
        job=wire.job,
        torch=wire.torch,
        devices=wire.devices,
        matmul_flops_per_second={name: rate for name, rate in matmul.items() if rate},
        memory_bytes_per_second=wire.memory_bytes_per_second or None,
        allreduce_bytes_per_second=wire.allreduce_bytes_per_second or None,
        disk_write_bytes_per_second=wire.disk_write_bytes_per_second or None,
        disk_read_bytes_per_second=wire.disk_read_bytes_per_second or None,
    )
