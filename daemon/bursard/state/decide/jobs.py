"""What people ask of jobs: submit, hold, release, cancel, requeue, update."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from bursar.clock import format_duration
from bursar.errors import InvalidRequest, InvariantViolation, KeyConflict, RateLimited, WrongState
from bursar.ids import Ids
from bursar.model import EndCause, JobSpec, JobState
from bursar.model.check import DEPENDENCIES_MAX
from bursar.model.ends import REQUEUED
from bursard.events import (
    DeadlineBroken,
    Event,
    Follow,
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    StopRequested,
    TasksEnded,
)
from bursard.events.changes import difference
from bursard.state import requeues
from bursard.state.admission import check_currency, refuse_beyond_quota, refuse_cap_below, refuse_unaffordable
from bursard.state.arrays import size_of_spec
from bursard.state.core import State
from bursard.state.decide import following, limits, services
from bursard.state.decide.changed import CALLED, changed, refuse_while_launched
from bursard.state.decide.following import Fates
from bursard.state.decide.rights import secrets_of
from bursard.state.fold.jobs import satisfied, tasks_of
from bursard.state.records import JobRecord
from bursard.state.shares import bytes_of_spec, refuse_more
from bursard.state.tables import TASK_SUCCEEDED

EVENTS_MAX = 1_000
"""Events of one answer, about: what one commit may hold without the loop standing still."""


STOPS_MAX = 16
"""So often an attempt may be asked to end sooner: each is an event, and a grace has many microseconds."""
RUNNING_CHANGES = ("priority", "comment", "idle_policy")
"""Fields of a spec that may change while the job runs: no promise rests on them."""
LIMIT_CHANGES = ("time_limit_us", "max_cost_nanos", "currency")
"""And these of a job that is no array: its nodes are told, and its holds follow."""


def submit(
    state: State,
    ids: Ids,
    *,
    user: str,
    spec: JobSpec,
    key: str = "",
    digest: bytes = b"",
    ended: Mapping[str, JobState] | None = None,
    called: Mapping[str, str] | None = None,
    fates: Mapping[str, Fates] | None = None,
) -> list[Event]:
    """Accept a job. An empty answer means that this key already has this very job (`state.keys`).

    Args:
        spec: `depends_on` already names job ids.
        digest: what `key` is bound to, where that is not `spec`.
        ended: final states of dependencies that are no longer in memory.
        called: what people called the jobs of `depends_on`, by id.
        fates: of the arrays whose tasks this one follows one by one, what became of theirs.

    Raises:
        KeyConflict, and what `admit` raises.
    """
    spec = services.with_places(spec)
    if key:
        known = state.keys.get((user, key))
        if known is not None:
            check_same(state.jobs[known].spec, spec, key, known)
            return []
    waits = admit(state, user, spec, ended or {}, called or {}, fates or {})
    job_id = ids.new("job")
    digest = digest if key else b""
    return [JobSubmitted(job_id, state.next_number, user, spec, key, waits.jobs, digest, waits.follows)]


class Waits(NamedTuple):
    """What a job waits for: others, as (job id, when), and the tasks of others with its own."""

    jobs: tuple[tuple[str, str], ...]
    follows: tuple[Follow, ...]

    def first(self, spec: JobSpec) -> tuple[tuple[str, str], ...]:
        """What must come before anything of it starts: of arrays that it follows, nothing where a task of it
        waits for none.
        """
        waiting = {index for one in self.follows for part in one.waits for index in range(*part)}
        lost = {index for one in self.follows for part in one.lost for index in range(*part)}
        if spec.array is None or len(waiting | lost) < size_of_spec(spec):
            return self.jobs
        return (*self.jobs, *((one.other, TASK_SUCCEEDED) for one in self.follows if one.waits))


def admit(
    state: State,
    user: str,
    spec: JobSpec,
    ended: Mapping[str, JobState],
    called: Mapping[str, str],
    fates: Mapping[str, Fates],
    updates: bool = False,
) -> Waits:
    """May this job come in? What it would wait for: a plan says what a submit would do. `updates`: it is
    planned as what the service of its name is to become.

    Raises `RateLimited`, `BudgetExceeded`, `QuotaExceeded`, `InvalidRequest`.
    """
    if not updates:
        services.refuse_second(state, spec)
    pending, more = state.counts.get(JobState.PENDING, 0), size_of_spec(spec)
    if pending + more > state.limits.pending_max:
        raise RateLimited(
            f"{pending} jobs and tasks are pending, {more} more would pass the limit of"
            f" {state.limits.pending_max}; wait for some to start or cancel some"
        )
    _refuse_more(state, user, more, bytes_of_spec(spec))
    if spec.currency:
        check_currency(state, spec.currency, "the job's budget")
    if spec.idle_policy.snoozed_until or spec.idle_policy.snoozes:
        raise InvalidRequest("idle_policy: it is put off once the job is there, by `bursar snooze JOB 2h`")
    secrets_of(state, spec)
    _refuse_grace(state, spec)
    found = _dependencies(state, user, spec, ended, called, fates)
    follows = following.follows(state, spec, fates)
    refuse_beyond_quota(state, user, spec)
    refuse_unaffordable(state, user, spec)
    return Waits(found, follows)


def _refuse_grace(state: State, spec: JobSpec) -> None:
    """How long others wait for a place that is to be given back is the site's to bound."""
    most_us, asked_us = state.limits.grace_max_us, spec.checkpoint.grace_us
    if asked_us > most_us:
        raise InvalidRequest(
            f"checkpoint.grace: {format_duration(asked_us)} is longer than this site lets a job that is asked"
            f" to end keep its place; at most {format_duration(most_us)} (`grace_max` of bursard)",
            {"most_us": str(most_us)},
        )


def _refuse_more(state: State, user: str, pending: int, size: int) -> None:
    limits = state.limits
    share = state.shares.of(user)
    refuse_more(share, pending, size, limits.user_pending_max, limits.user_texts_bytes)


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


def _dependencies(
    state: State,
    user: str,
    spec: JobSpec,
    ended: Mapping[str, JobState],
    called: Mapping[str, str],
    fates: Mapping[str, Fates],
) -> tuple[tuple[str, str], ...]:
    waiting: dict[str, str] = {}
    for dependency in following.as_waited_for(spec, fates):
        if dependency.when == "singleton":
            waiting |= dict.fromkeys(_same_name(state, user, dependency.job), "finished")
            continue
        job = state.job(dependency.job)
        final = job.state if job is not None else ended.get(dependency.job)
        if final is None:
            raise InvalidRequest(f"depends_on: there is no job {dependency.job!r}")
        if dependency.when == "started":
            if job is not None and job.array is not None:
                raise InvalidRequest(
                    f"depends_on: {job.display} is an array, which starts task by task; name one of its tasks"
                )
            if final is JobState.PENDING and job is not None and not job.started_at:
                waiting[dependency.job] = dependency.when
        elif not final.terminal:
            waiting[dependency.job] = dependency.when
        elif not satisfied(dependency.when, final):
            raise InvalidRequest(
                f"depends_on: job {called.get(dependency.job, dependency.job)} has already ended"
                f" {final.value}, so `when: {dependency.when}` can never come true"
            )
    return tuple(waiting.items())


def _same_name(state: State, user: str, name: str) -> list[str]:
    """Jobs of this name and user that have not ended, oldest first. Raises `InvalidRequest` if too many."""
    jobs = [state.jobs[job_id] for job_id in state.names.get(name, ())]
    found = [job.id for job in jobs if job.user == user and not job.state.terminal]
    if len(found) > DEPENDENCIES_MAX:
        raise InvalidRequest(
            f"depends_on: {len(found)} of your jobs are called {name!r}, and a singleton waits for all;"
            f" at most {DEPENDENCIES_MAX}: an array with `max_parallel: 1` does the same"
        )
    return found


def hold(state: State, job: JobRecord) -> list[Event]:
    """Keep a pending job from starting. Raises `WrongState`."""
    live = _live(state, job)
    if live is None or not _has_pending(live):
        raise WrongState(f"job {job.display} is {_word(live, job)}; only a pending job can be held")
    if live.held:
        return []
    promise = live.promise
    if promise is None or promise.broken_at:
        return [JobHeld(live.id)]
    said = "it was put on hold, and a job on hold is promised nothing"
    return [JobHeld(live.id), DeadlineBroken(live.id, promise.by, "held", said, given_up=True)]


def release(state: State, job: JobRecord) -> list[Event]:
    """Let a held job start. Raises `WrongState`."""
    live = _live(state, job)
    if live is None:
        raise WrongState(f"job {job.display} is {_word(live, job)}; only a held job can be released")
    if not live.held:
        parent = state.jobs.get(live.parent_id)
        if parent is not None and parent.held and live.state is JobState.PENDING:
            raise WrongState(f"job {live.display} is held with its array; release {parent.display}")
        raise WrongState(f"job {live.display} is not held")
    return [JobReleased(live.id)]


def _live(state: State, job: JobRecord) -> JobRecord | None:
    """The job as it is now, if it is still to end. What a caller holds may come from the store, or have
    ended since it was found: no event may ever be about it.
    """
    found = state.job(job.id)
    return None if found is None or found.state.terminal else found


def _word(live: JobRecord | None, job: JobRecord) -> str:
    return (live or job).state.value


def _has_pending(job: JobRecord) -> bool:
    if job.array is not None:
        return bool(job.array.counts.get(JobState.PENDING.value))
    return job.state is JobState.PENDING


def cancel(state: State, job: JobRecord, grace_us: int | None, message: str = "") -> list[Event]:
    """End a job: at once when it waits, after its grace when it runs. An ended job stays as it is.

    Of a large array only so much that one commit stays small: ask again until nothing follows.
    """
    live = _live(state, job)
    if live is None:
        return []
    if live.parent_id and live.spec.service is not None:
        raise WrongState(
            f"job {live.display} is a place for replicas of service {live.spec.name}: `bursar service scale"
            f" {live.spec.name} N` says how many there are, `bursar requeue {live.display}` starts this one"
            f" anew, `bursar cancel {live.number}` ends all"
        )
    if live.array is None:
        return _cancel_one(live, grace_us, message)
    events: list[Event] = []
    if _has_pending(live):
        events.append(TasksEnded(live.id, JobState.CANCELLED, message))
    for task in tasks_of(state, live):
        if task.attempt is not None:
            events += _cancel_one(task, grace_us, message)
        if len(events) >= EVENTS_MAX:
            break
    return events


def _cancel_one(job: JobRecord, grace_us: int | None, message: str) -> list[Event]:
    attempt = job.attempt
    if attempt is None:
        return [JobEnded(job.id, JobState.CANCELLED, message)]
    grace = attempt.grace_us if grace_us is None else min(grace_us, attempt.grace_us)
    if attempt.stop_cause is EndCause.CANCELLED and attempt.stop_grace_us <= grace:
        return []
    if attempt.stops >= STOPS_MAX and grace:
        raise WrongState(
            f"job {job.display} was asked to end {attempt.stops} times, each time sooner; it has"
            f" {format_duration(attempt.stop_grace_us)} left at most, and `bursar cancel {job.display}"
            " --grace 0s` ends it at once"
        )
    return [StopRequested(attempt.id, EndCause.CANCELLED, grace, message)]


def requeue(state: State, job: JobRecord, now: int = 0) -> list[Event]:
    """End the live attempt and run the job again; one that asks for that too often in a row is put on hold.

    Raises `WrongState`.
    """
    live = _live(state, job)
    if live is None:
        raise WrongState(f"job {job.display} is {_word(live, job)}; only a running job can be requeued")
    if live.array is not None:
        first = live.spec.array.indices[0] if live.spec.array is not None else 0
        if live.spec.service is not None:
            raise WrongState(
                f"job {live.display} is the service {live.spec.name}; requeue the replica of one slot, such"
                f" as {live.number}[{first}]: `bursar service show {live.spec.name}` lists them"
            )
        raise WrongState(f"job {live.display} is an array; requeue one task, such as {live.number}[{first}]")
    attempt = live.attempt
    if attempt is None:
        raise WrongState(f"job {live.display} is {live.state.value}; only a running job can be requeued")
    if attempt.stop_cause is EndCause.CANCELLED:
        raise WrongState(f"job {live.display} is being cancelled; submit it again to run it again")
    if live.requeue and attempt.stop_cause is not None:
        return []
    stop = StopRequested(attempt.id, EndCause.PREEMPTED, attempt.grace_us, REQUEUED)
    if not live.held and requeues.is_too_often(live, attempt, now):
        return [JobRequeued(live.id), JobHeld(live.id), stop]
    return [JobRequeued(live.id), stop]


def update(state: State, job: JobRecord, changes: Mapping[str, object], now: int = 0) -> list[Event]:
    """Change a pending job; `changes` are `JobSpec` fields. What runs keeps what it was promised, but for its
    time limit and what it may cost.

    Args:
        now: a limit that a running job has passed by then is refused.

    Raises:
        WrongState, InvalidRequest, BudgetExceeded.
    """
    live = _live(state, job)
    if live is None:
        raise WrongState(
            f"job {job.display} is {_word(live, job)}, which nothing changes any more; submit the job anew"
        )
    if live.parent_id:
        raise WrongState(f"job {live.display} is one task; change the whole array {live.number}")
    if live.spec.service is not None:
        fixed = [CALLED.get(name, name) for name in changes if name not in RUNNING_CHANGES]
        if fixed:
            raise WrongState(
                f"job {live.display} is service {live.spec.name}: {', '.join(fixed)} of it changes with"
                f" `bursar service update {live.spec.name} FILE`, replica by replica"
            )
    spec: JobSpec = msgspec.structs.replace(live.spec, **changes)
    if live.array is not None and spec.max_cost_nanos and not live.spec.max_cost_nanos:
        spec = msgspec.structs.replace(spec, max_cost_per="job")
    if spec.project != live.spec.project:
        secrets_of(state, spec)
    if not _has_pending(live):
        _refuse_promised(live, spec)
    elif spec != live.spec:
        refuse_while_launched(state, live, spec)
        if spec.checkpoint != live.spec.checkpoint:
            _refuse_grace(state, spec)
        if spec.currency:
            check_currency(state, spec.currency, "the job's budget")
        settled = 0
        if live.array is not None and spec.caps_array:
            settled = state.array_money[live.id].settled_nanos
            refuse_cap_below(state, live, spec)
        refuse_beyond_quota(state, live.user, spec)
        refuse_unaffordable(state, live.user, spec, settled)
    if spec == live.spec:
        return []
    _refuse_more(state, live.user, 0, bytes_of_spec(spec) - bytes_of_spec(live.spec))
    told = JobUpdated(live.id, difference(live.spec, spec), changed(live.spec, spec))
    return [told, *_other_limit(state, live, spec, now)]


def _other_limit(state: State, live: JobRecord, spec: JobSpec, now: int) -> list[Event]:
    attempt = live.attempt
    if attempt is None or all(getattr(spec, name) == getattr(live.spec, name) for name in LIMIT_CHANGES):
        return []
    if spec.currency:
        check_currency(state, spec.currency, "the job's budget")
    return limits.change(state, live, attempt, spec, now)


def _refuse_promised(live: JobRecord, spec: JobSpec) -> None:
    """Of a job that runs, nothing may change that it was placed, priced or limited by."""
    names = [name for name in spec.__struct_fields__ if getattr(spec, name) != getattr(live.spec, name)]
    may = RUNNING_CHANGES if live.array is not None else (*RUNNING_CHANGES, *LIMIT_CHANGES)
    fixed = [CALLED.get(name, name) for name in names if name not in may]
    if fixed:
        *first, last = [CALLED.get(name, name) for name in may if name != "currency"]
        raise WrongState(
            f"job {live.display} is {live.state.value}: its {', '.join(fixed)} cannot change, since nodes,"
            f" limits and money were promised when it was placed; only {', '.join(first)} and {last} can."
            f" To run it otherwise: `bursar cancel {live.display}`, then submit the changed job",
            {"fields": ",".join(fixed)},
        )


def doomed(state: State, most: int) -> list[Event]:
    """Ends of jobs that wait for what can no longer come: of the first `most` of them."""
    events: list[Event] = []
    for job_id, doom in islice(state.doomed.items(), most):
        if doom.when == TASK_SUCCEEDED:
            events += following.lost(state, state.jobs[job_id], most - len(events))
            continue
        message = f"it depends on job {doom.other} ({doom.when}), which ended {doom.final.value}"
        events += cancel(state, state.jobs[job_id], None, message)
    return events


def refuse_second_end(state: State, event: Event) -> None:
    """J5, before an event is true: what has ended does not end again. Raises `InvariantViolation`.

    The fold does not insist on it: logs of the first schema hold such ends, and must open.
    """
    job = state.job(event.job_id) if isinstance(event, JobEnded) else None
    if job is not None and job.state.terminal:
        raise InvariantViolation(f"J5: {job.id} has ended {job.state.value} and would end again")
