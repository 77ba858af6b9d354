"""How job and attempt events change the state: queue, resources, money and terminal states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.errors import InvariantViolation
from bursar.model import EndCause, JobState
from bursard.events import (
    AttemptEnded,
    AttemptPlaced,
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    MemberEnded,
    MemberStarted,
    StopRequested,
)
from bursard.state.records import ArrayRecord, AttemptRecord, EndedUsage, JobRecord, MemberRecord

if TYPE_CHECKING:
    from bursard.state.core import Applied, State

_TERMINAL = {EndCause.COMPLETED: JobState.SUCCEEDED, EndCause.CANCELLED: JobState.CANCELLED}
"""Every other cause ends a job in FAILED when it is not tried again."""


def submitted(state: State, event: JobSubmitted, at: int, applied: Applied) -> None:
    """A job is there; an array with all its tasks."""
    job = _record(state, event, at)
    state.typical.add(event.spec)
    state.jobs[job.id] = job
    state.numbers[job.number] = job.id
    state.next_number = job.number + 1
    state.last_of_user[job.user] = job.id
    if job.spec.name:
        state.names.setdefault(job.spec.name, []).append(job.id)
    if event.key:
        state.keys[event.user, event.key] = job.id
    for other, _ in event.dependencies:
        state.dependents.setdefault(other, []).append(job.id)
    array = job.spec.array
    if array is None:
        state.next_order += 1
        state.counts[JobState.PENDING] = state.counts.get(JobState.PENDING, 0) + 1
        state.enqueue(job, at)
        return
    slots = array.max_parallel or len(array.indices)
    job.array = ArrayRecord(array.indices, array.max_parallel, {JobState.PENDING.value: len(array.indices)})
    job.array.open_slots = slots
    job.array.waiting = list(reversed(array.indices))
    state.next_order += len(array.indices)
    state.counts[JobState.PENDING] = state.counts.get(JobState.PENDING, 0) + len(array.indices)
    for position, index in enumerate(array.indices):
        task = _record(state, event, at)
        task.id, task.parent_id, task.array_index = f"{job.id}.{index}", job.id, index
        task.order, task.key = job.order + position, ""
        state.jobs[task.id] = task
    open_tasks(state, job, at)


def _record(state: State, event: JobSubmitted, at: int) -> JobRecord:
    budgets, hard = state.budgets.matching(event.user, event.spec)
    return JobRecord(
        id=event.job_id,
        number=event.number,
        user=event.user,
        spec=event.spec,
        order=state.next_order,
        submitted_at=at,
        held=event.spec.held,
        key=event.key,
        waiting_on=dict(event.dependencies),
        attempts=[],
        budgets=budgets,
        hard_budgets=hard,
    )


def open_tasks(state: State, parent: JobRecord, at: int) -> None:
    """Let as many waiting tasks into the queue as there are parallel slots."""
    array = parent.array
    if array is None or parent.held or parent.waiting_on:
        return
    while array.waiting and array.open_slots > 0:
        task = state.jobs.get(f"{parent.id}.{array.waiting.pop()}")
        if task is None or task.state is not JobState.PENDING:
            continue
        array.open_slots -= 1
        task.has_slot = True
        task.held = False
        task.waiting_on = {}
        state.enqueue(task, at)


def held(state: State, event: JobHeld, at: int, applied: Applied) -> None:
    """Out of the queue until released; an array with its queued tasks."""
    job = state.jobs[event.job_id]
    job.held = True
    state.pending.remove(job.id)
    for task in tasks_of(state, job):
        if task.state is JobState.PENDING and not task.held:
            task.held = True
            state.pending.remove(task.id)


def released(state: State, event: JobReleased, at: int, applied: Applied) -> None:
    """Back into the queue."""
    job = state.jobs[event.job_id]
    job.held = False
    if job.array is not None:
        waiting = set(job.array.waiting)
        for task in tasks_of(state, job):
            if task.state is JobState.PENDING:
                task.held = False
                if task.array_index not in waiting:
                    state.enqueue(task, at)
        open_tasks(state, job, at)
    elif job.parent_id and job.array_index in _waiting(state, job):
        return
    else:
        state.enqueue(job, at)


def _waiting(state: State, task: JobRecord) -> list[int]:
    parent = state.jobs.get(task.parent_id)
    return parent.array.waiting if parent is not None and parent.array is not None else []


def tasks_of(state: State, job: JobRecord) -> list[JobRecord]:
    """The tasks of an array that are still in memory."""
    if job.array is None:
        return []
    ids = (f"{job.id}.{index}" for index in job.array.indices)
    return [state.jobs[task_id] for task_id in ids if task_id in state.jobs]


def updated(state: State, event: JobUpdated, at: int, applied: Applied) -> None:
    """A pending job asks for something else from now on; an array with its pending tasks."""
    job = state.jobs[event.job_id]
    if job.spec.name != event.spec.name and not job.parent_id:
        named = state.names.get(job.spec.name, [])
        if job.id in named:
            named.remove(job.id)
        state.names.setdefault(event.spec.name, []).append(job.id)
    for one in [job, *tasks_of(state, job)]:
        if one.state is JobState.PENDING:
            one.spec = event.spec
            one.budgets, one.hard_budgets = state.budgets.matching(one.user, one.spec)
            if one.id in state.pending:
                state.enqueue(one, at)


def requeued(state: State, event: JobRequeued, at: int, applied: Applied) -> None:
    """When the live attempt has ended, run again."""
    state.jobs[event.job_id].requeue = True


def ended(state: State, event: JobEnded, at: int, applied: Applied) -> None:
    """A job that never started, or never will again, is over."""
    _finish(state, state.jobs[event.job_id], event.state, at, applied, event.message)


def placed(state: State, event: AttemptPlaced, at: int, applied: Applied) -> None:
    """Resources and money are taken; the job is STARTING."""
    job = state.jobs[event.job_id]
    if job.attempt is not None:
        raise InvariantViolation(f"J4: {job.id} already has a live attempt")
    boots = dict(event.boots)
    members = [MemberRecord(alloc, boots[alloc.node_id]) for alloc in event.members]
    attempt = AttemptRecord(
        id=event.attempt_id,
        job_id=job.id,
        number=event.number,
        option=event.option,
        members=members,
        time_limit_us=event.time_limit_us,
        grace_us=event.grace_us,
        holds=event.holds,
        placed_at=at,
        why=event.why,
        port=event.port,
        cut_by_budget=event.cut_by_budget,
    )
    for member in members:
        node = state.nodes[member.alloc.node_id]
        state.cluster.take(node.row, member.alloc)
        node.live[attempt.id] = member.alloc.rank
        if not member.alloc.price_id:
            job.unpriced = True
        if any(node.facts.devices[share.index].simulated for share in member.alloc.devices):
            job.simulated = True
    state.pending.remove(job.id)
    state.attempts[attempt.id] = attempt
    job.attempts.append(attempt)
    job.requeue = False
    _move(state, job, JobState.STARTING)
    transaction = state.ledger.place(attempt.id, job.id, event.holds)
    if transaction is not None:
        applied.transactions.append(transaction)


def stop_requested(state: State, event: StopRequested, at: int, applied: Applied) -> None:
    """The attempt must end. The first cause stands, but for a cancel: a job that was being preempted or
    requeued would otherwise come back. A later request may only be more urgent.
    """
    attempt = state.attempts[event.attempt_id]
    if attempt.stop_cause is None:
        attempt.stop_grace_us = event.grace_us
    if attempt.stop_cause is None or event.cause is EndCause.CANCELLED:
        attempt.stop_cause, attempt.stop_message = event.cause, event.message
    attempt.stop_grace_us = min(attempt.stop_grace_us, event.grace_us)
    attempt.state = "STOPPING"
    _move(state, state.jobs[attempt.job_id], JobState.STOPPING)


def member_started(state: State, event: MemberStarted, at: int, applied: Applied) -> None:
    """A process exists; the attempt runs once all of them do."""
    attempt = state.attempts[event.attempt_id]
    member = attempt.members[event.rank]
    member.started_at, member.pid = event.at, event.pid
    if attempt.state == "STARTING" and all(m.started_at for m in attempt.members):
        attempt.state, attempt.started_at = "RUNNING", at
        job = state.jobs[attempt.job_id]
        job.started_at = job.started_at or at
        _move(state, job, JobState.RUNNING)


def member_ended(state: State, event: MemberEnded, at: int, applied: Applied) -> None:
    """Its process tree is gone: what it held is free, what it cost is settled."""
    attempt = state.attempts[event.attempt_id]
    member = attempt.members[event.rank]
    node = state.nodes[member.alloc.node_id]
    if member.report is not None:
        raise InvariantViolation(f"J5: rank {event.rank} of {attempt.id} ended twice")
    member.report = event.report
    state.cluster.give(node.row, member.alloc)
    node.live.pop(attempt.id, None)
    if member.started_at and event.report.held_us > member.charged_us and member.alloc.price_id:
        # May begin before `through`, when it was reported late: the next interval makes up for it.
        start = member.started_at + member.charged_us
        end = member.started_at + event.report.held_us
        if end > start:
            node.ended.append(EndedUsage(start, end, member.started_at, member.alloc.rates))
    member.charged_us = max(member.charged_us, event.report.held_us)
    cost = sum(charge.nanos for charge in event.charges)
    attempt.settled_nanos += cost
    state.jobs[attempt.job_id].settled_nanos += cost
    applied.charges += event.charges
    applied.transactions += state.ledger.charge(event.charges)


def attempt_ended(state: State, event: AttemptEnded, at: int, applied: Applied) -> None:
    """The attempt is over: its holds resolve, its job goes back to the queue or ends."""
    attempt = state.attempts.pop(event.attempt_id)
    job = state.jobs[attempt.job_id]
    attempt.state, attempt.finished_at = "ENDED", at
    attempt.cause, attempt.exit_code, attempt.message = event.cause, event.exit_code, event.message
    transaction = state.ledger.release(attempt.id)
    if transaction is not None:
        applied.transactions.append(transaction)
    if event.requeue:
        job.retries += event.counts
        job.requeue = False
        job.budgets, job.hard_budgets = state.budgets.matching(job.user, job.spec)
        _move(state, job, JobState.PENDING)
        state.enqueue(job, at)
        return
    job.exit_code = event.exit_code
    _finish(state, job, _TERMINAL.get(event.cause, JobState.FAILED), at, applied, event.message)


def _finish(
    state: State, job: JobRecord, final: JobState, at: int, applied: Applied, message: str = ""
) -> None:
    state.pending.remove(job.id)
    job.finished_at, job.message = at, message
    if job.array is None:
        _move(state, job, final, at)
    else:
        job.state = final
    applied.finished.append(job)
    _meet_dependents(state, job, at)
    if job.parent_id:
        _task_finished(state, job, at, applied)


def satisfied(when: str, final: JobState) -> bool:
    """Does a final state meet a dependency's condition?"""
    if when == "finished":
        return True
    return (final is JobState.SUCCEEDED) == (when == "succeeded")


def _meet_dependents(state: State, ended_job: JobRecord, at: int) -> None:
    """Jobs that waited for this end may start; those it disappoints stay, for `decide` to end them."""
    disappointed = []
    for job_id in state.dependents.pop(ended_job.id, ()):
        job = state.jobs.get(job_id)
        if job is None or ended_job.id not in job.waiting_on:
            continue
        if not satisfied(job.waiting_on[ended_job.id], ended_job.state):
            disappointed.append(job_id)
            continue
        for one in [job, *tasks_of(state, job)]:
            one.waiting_on.pop(ended_job.id, None)
        if job.array is not None:
            open_tasks(state, job, at)
        else:
            state.enqueue(job, at)
    if disappointed:
        state.dependents[ended_job.id] = disappointed


def _task_finished(state: State, task: JobRecord, at: int, applied: Applied) -> None:
    parent = state.jobs[task.parent_id]
    array = parent.array
    assert array is not None
    parent.settled_nanos += task.settled_nanos
    parent.unpriced |= task.unpriced
    parent.simulated |= task.simulated
    array.open_slots += task.has_slot
    counts = array.counts
    live = sum(count for name, count in counts.items() if not JobState(name).terminal)
    if live:
        open_tasks(state, parent, at)
        return
    if counts.get(JobState.FAILED.value):
        final, code = JobState.FAILED, 1
    elif counts.get(JobState.CANCELLED.value):
        final, code = JobState.CANCELLED, -1
    else:
        final, code = JobState.SUCCEEDED, 0
    parent.exit_code = code
    _finish(state, parent, final, at, applied)


def _move(state: State, job: JobRecord, to: JobState, at: int = 0) -> None:
    """Change a job's state, and with it the counts of its array."""
    if job.state is to:
        return
    parent = state.jobs.get(job.parent_id) if job.parent_id else None
    if parent is not None and parent.array is not None:
        counts = parent.array.counts
        counts[job.state.value] -= 1
        counts[to.value] = counts.get(to.value, 0) + 1
        if to is JobState.STARTING and parent.state is JobState.PENDING:
            parent.state = JobState.RUNNING
        if to is JobState.RUNNING and not parent.started_at:
            parent.started_at = job.started_at
    state.count(job, to)
