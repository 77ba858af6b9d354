"""Since when a job waits for what it asks for now: what `age` and `max_wait` count. PURE."""

from __future__ import annotations

from bursar.model import EndCause, JobSpec
from bursar.model.ends import REQUEUED
from bursar.resources import ResourceRequest
from bursard.state.records import JobRecord


def since(job: JobRecord) -> int:
    """The latest of its submission, its begin time, the end (or start) of the last job that it waited for, a
    release, an update that asked for more, and the end of an attempt that ran and made room for others, or
    was asked to run again: its room is theirs first.
    """
    last = job.attempts[-1] if job.attempts else None
    ran = last is not None and (last.cause is EndCause.PREEMPTED and last.started_at > 0)
    again = last.finished_at if last is not None and (ran or last.message.startswith(REQUEUED)) else 0
    return max(job.submitted_at, job.spec.begin_after, job.waits_since, again)


def asks_for_more(before: JobSpec, now: JobSpec, default_limit_us: int) -> bool:
    """Would it hold more than what it has waited for, or for longer, or something else?"""
    was_us, is_us = ((one.time_limit_us or default_limit_us) for one in (before, now))
    return (
        is_us > was_us
        or now.checkpoint.grace_us > before.checkpoint.grace_us
        or max(now.nodes, now.max_nodes) > max(before.nodes, before.max_nodes)
        or not all(any(_within(one, other) for other in before.options) for one in now.options)
    )


def _within(one: ResourceRequest, other: ResourceRequest) -> bool:
    if one.cpu_milli > other.cpu_milli or one.memory_bytes > other.memory_bytes:
        return False
    if one.gpus is None or other.gpus is None:
        return one.gpus is None
    a, b = one.gpus, other.gpus
    same = (a.types, a.memory_bytes) == (b.types, b.memory_bytes) or (not b.types and not b.memory_bytes)
    return same and a.count <= b.count and a.milli <= b.milli
