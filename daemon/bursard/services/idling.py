"""What idle policies say of a job, for who asks; and putting them off."""

from __future__ import annotations

import msgspec

from bursar.clock import format_duration
from bursar.errors import InvalidRequest
from bursar.model import IdleSpec, JobSpec
from bursar.v1 import types_pb2 as pb
from bursar_policies.idleness import ATTENDANCE, Mark
from bursard.state import JobRecord, State
from bursard.state.idling import document_for, may_snooze, rules_of, snoozed_until


def idleness_of(state: State, job: JobRecord, now: int) -> pb.Idleness | None:
    """What a job that has not ended is under, and how far that is; None: no policy is about it."""
    if job.state.terminal:
        return None
    attempt = job.attempt
    gpus = asks_for_gpus(job.spec)
    if attempt is not None:
        gpus = any(member.alloc.devices for member in attempt.members)
    wire = idleness_of_spec(state, job.user, job.spec, gpus)
    if wire is None:
        return None
    until = snoozed_until(state, job)
    wire.snoozed_until = until if until > now else 0
    for rule in wire.rules:
        mark = attempt.idle.get(f"{rule.ground}/{rule.policy}") if attempt is not None else None
        if isinstance(mark, Mark):
            rule.idle_us, rule.told_at = mark.idle_us, mark.warned_at
    return wire


def idleness_of_spec(state: State, user: str, spec: JobSpec, gpus: bool) -> pb.Idleness | None:
    """What a job of this user would be under."""
    rules = rules_of(state, user, spec, gpus)
    if not rules:
        return None
    longest_us, left = may_snooze(state, user, spec)
    return pb.Idleness(
        rules=[
            pb.IdleRule(
                policy=rule.policy,
                ground=rule.ground,
                below_percent=0 if rule.ground == ATTENDANCE else round(100 * rule.below),
                window_us=rule.window_us,
                warn_after_us=rule.warn_after_us,
                action=rule.action,
            )
            for rule in rules
        ],
        snooze_us=longest_us,
        snoozes_left=left,
    )


def asks_for_gpus(spec: JobSpec) -> bool:
    """In its first alternative."""
    return bool(spec.options and spec.options[0].gpus)


def snoozed(state: State, user: str, spec: JobSpec, snooze_us: int, now: int) -> IdleSpec:
    """The policy of a job, put off for so long from now; 0: no longer. Raises `InvalidRequest`."""
    idle = spec.idle_policy
    if not (idle.judged or document_for(state, user, spec)):
        raise InvalidRequest("idle_snooze: the job has no idle_policy, and no IdlePolicy is about it")
    if not snooze_us:
        return msgspec.structs.replace(idle, snoozed_until=0)
    longest_us, left = may_snooze(state, user, spec)
    if snooze_us > longest_us:
        raise InvalidRequest(
            f"idle_snooze: at most {format_duration(longest_us)} at once{_whose(state, user, spec)}",
            {"longest_s": str(longest_us // 1_000_000)},
        )
    if left == 0:
        raise InvalidRequest(
            f"idle_snooze: it was put off {idle.snoozes} times, and may not be again"
            f"{_whose(state, user, spec)}",
            {"snoozes": str(idle.snoozes)},
        )
    return msgspec.structs.replace(idle, snoozed_until=now + snooze_us, snoozes=idle.snoozes + 1)


def _whose(state: State, user: str, spec: JobSpec) -> str:
    document = document_for(state, user, spec)
    return f", says the idle policy {document[0]}" if document is not None else ""
