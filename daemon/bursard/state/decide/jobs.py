"""What people ask of jobs: submit, hold, release, cancel, requeue, update."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bursar.errors import InvalidRequest, KeyConflict, RateLimited, WrongState
from bursar.ids import Ids
from bursar.model import EndCause, JobSpec, JobState
from bursard.events import (
    Event,
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    StopRequested,
)
from bursard.state.admission import check_currency, refuse_unaffordable
from bursard.state.core import State
from bursard.state.fold.jobs import satisfied, tasks_of
from bursard.state.records import JobRecord


def submit(
    state: State,
    ids: Ids,
    *,
    user: str,
    spec: JobSpec,
    key: str = "",
    ended: Mapping[str, JobState] | None = None,
) -> list[Event]:
    """Accept a job. An empty answer means that this key already has this very job (`state.keys`).

    Args:
        spec: `depends_on` already names job ids.
        ended: final states of dependencies that are no longer in memory.

    Raises:
        KeyConflict, RateLimited, BudgetExceeded, InvalidRequest.
    """
    if key:
        known = state.keys.get((user, key))
        if known is not None:
            check_same(state.jobs[known].spec, spec, key, known)
            return []
    if len(state.pending) >= state.limits.pending_max:
        raise RateLimited(
            f"{len(state.pending)} jobs are pending, the limit is {state.limits.pending_max};"
            " wait for some to start or cancel some"
        )
    if spec.currency:
        check_currency(state, spec.currency, "the job's budget")
    dependencies = _dependencies(state, spec, ended or {})
    refuse_unaffordable(state, user, spec)
    job_id = ids.new("job")
    return [JobSubmitted(job_id, state.next_number, user, spec, key, dependencies)]


def check_same(before: JobSpec, now: JobSpec, key: str, job_id: str) -> None:
    """The same idempotency key must carry the same job. Raises `KeyConflict`."""
    if before != now:
        raise key_conflict(key, job_id)


def key_conflict(key: str, job_id: str) -> KeyConflict:
    """The error for a key that belongs to another job."""
    return KeyConflict(
        f"idempotency key {key!r} already belongs to {job_id}, which was a different job;"
        " use a new key for a new job",
        {"job": job_id},
    )


def _dependencies(state: State, spec: JobSpec, ended: Mapping[str, JobState]) -> tuple[tuple[str, str], ...]:
    waiting = []
    for dependency in spec.depends_on:
        job = state.jobs.get(dependency.job)
        final = job.state if job is not None else ended.get(dependency.job)
        if final is None:
            raise InvalidRequest(f"depends_on: there is no job {dependency.job!r}")
        if not final.terminal:
            waiting.append((dependency.job, dependency.when))
        elif not satisfied(dependency.when, final):
            raise InvalidRequest(
                f"depends_on: {dependency.job} has already ended {final.value}, so"
                f" `when: {dependency.when}` can never come true"
            )
    return tuple(waiting)


def hold(state: State, job: JobRecord) -> list[Event]:
    """Keep a pending job from starting."""
    if not _has_pending(state, job):
        raise WrongState(f"job {job.display} is {job.state.value}; only a pending job can be held")
    return [] if job.held else [JobHeld(job.id)]


def release(state: State, job: JobRecord) -> list[Event]:
    """Let a held job start."""
    if not job.held:
        raise WrongState(f"job {job.display} is not held")
    return [JobReleased(job.id)]


def _has_pending(state: State, job: JobRecord) -> bool:
    if job.array is not None:
        return bool(job.array.counts.get(JobState.PENDING.value))
    return job.state is JobState.PENDING


def cancel(state: State, job: JobRecord, grace_us: int | None, message: str = "") -> list[Event]:
    """End a job: at once when it waits, after its grace when it runs. An ended job stays as it is."""
    if job.array is not None:
        events: list[Event] = []
        for task in tasks_of(state, job):
            events += _cancel_one(state, task, grace_us, message)
        return events
    return _cancel_one(state, job, grace_us, message)


def _cancel_one(state: State, job: JobRecord, grace_us: int | None, message: str) -> list[Event]:
    if job.state.terminal:
        return []
    attempt = job.attempt
    if attempt is None:
        return [JobEnded(job.id, JobState.CANCELLED, message)]
    grace = attempt.grace_us if grace_us is None else min(grace_us, attempt.grace_us)
    if attempt.stop_cause is EndCause.CANCELLED and attempt.stop_grace_us <= grace:
        return []
    return [StopRequested(attempt.id, EndCause.CANCELLED, grace, message)]


def requeue(state: State, job: JobRecord) -> list[Event]:
    """End the live attempt and run the job again."""
    attempt = job.attempt
    if job.array is not None:
        raise WrongState(f"job {job.display} is an array; requeue one task, such as {job.number}[0]")
    if attempt is None:
        raise WrongState(f"job {job.display} is {job.state.value}; only a running job can be requeued")
    return [
        JobRequeued(job.id),
        StopRequested(attempt.id, EndCause.PREEMPTED, attempt.grace_us, "requeued by request"),
    ]


def update(state: State, job: JobRecord, changes: Mapping[str, object]) -> list[Event]:
    """Change a pending job; `changes` are `JobSpec` fields. What runs keeps what it was promised."""
    if not _has_pending(state, job):
        raise WrongState(f"job {job.display} is {job.state.value}; only a pending job can be changed")
    if job.parent_id:
        raise WrongState(f"job {job.display} is one task; change the whole array {job.number}")
    spec: JobSpec = msgspec.structs.replace(job.spec, **changes)
    if spec.currency and spec.currency != state.currency:
        raise InvalidRequest(f"this cluster keeps its books in {state.currency}, not {spec.currency}")
    refuse_unaffordable(state, job.user, spec)
    return [] if spec == job.spec else [JobUpdated(job.id, spec)]


def dependents_of(state: State, ended: JobRecord) -> list[Event]:
    """What follows for jobs that waited for one that just became terminal: those that now never can."""
    events: list[Event] = []
    for job_id in state.dependents.get(ended.id, ()):
        job = state.jobs.get(job_id)
        when = job.waiting_on.get(ended.id) if job is not None else None
        if job is None or when is None or job.state is not JobState.PENDING:
            continue
        if not satisfied(when, ended.state):
            message = f"it depends on job {ended.display} ({when}), which ended {ended.state.value}"
            events += cancel(state, job, None, message)
    return events
