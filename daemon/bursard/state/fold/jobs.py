"""How job events change the state: the queue, arrays, dependencies and terminal states."""

from __future__ import annotations

from bursar.model import JobState
from bursard.events import JobEnded, JobHeld, JobReleased, JobRequeued, JobSubmitted, JobUpdated
from bursard.state.records import ArrayRecord, JobRecord
from bursard.state.tables import Applied, Doom, Tables


def submitted(state: Tables, event: JobSubmitted, at: int, applied: Applied) -> None:
    """A job is there; an array with all its tasks."""
    job = _record(state, event, at)
    state.typical.add(event.spec)
    state.jobs[job.id] = job
    state.numbers[job.number] = job.id
    state.next_number = job.number + 1
    state.last_of_user[job.user] = job.id
    if job.spec.name:
        state.names.setdefault(job.spec.name, {})[job.id] = None
    if event.key:
        state.keys[event.user, event.key] = job.id
    for other, _ in event.dependencies:
        state.dependents.setdefault(other, {})[job.id] = None
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


def _record(state: Tables, event: JobSubmitted, at: int) -> JobRecord:
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


def open_tasks(state: Tables, parent: JobRecord, at: int) -> None:
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


def held(state: Tables, event: JobHeld, at: int, applied: Applied) -> None:
    """Out of the queue until released; an array with its queued tasks."""
    job = state.jobs[event.job_id]
    job.held = True
    state.pending.remove(job.id)
    for task in tasks_of(state, job):
        if task.state is JobState.PENDING and not task.held:
            task.held = True
            state.pending.remove(task.id)


def released(state: Tables, event: JobReleased, at: int, applied: Applied) -> None:
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


def _waiting(state: Tables, task: JobRecord) -> list[int]:
    parent = state.jobs.get(task.parent_id)
    return parent.array.waiting if parent is not None and parent.array is not None else []


def tasks_of(state: Tables, job: JobRecord) -> list[JobRecord]:
    """The tasks of an array that are still in memory."""
    if job.array is None:
        return []
    ids = (f"{job.id}.{index}" for index in job.array.indices)
    return [state.jobs[task_id] for task_id in ids if task_id in state.jobs]


def updated(state: Tables, event: JobUpdated, at: int, applied: Applied) -> None:
    """A pending job asks for something else from now on; an array with its pending tasks."""
    job = state.jobs[event.job_id]
    if job.spec.name != event.spec.name and not job.parent_id:
        state.unname(job)
        if event.spec.name:
            state.names.setdefault(event.spec.name, {})[job.id] = None
    for one in [job, *tasks_of(state, job)]:
        if one.state is JobState.PENDING:
            one.spec = event.spec
            one.budgets, one.hard_budgets = state.budgets.matching(one.user, one.spec)
            if one.id in state.pending:
                state.enqueue(one, at)


def requeued(state: Tables, event: JobRequeued, at: int, applied: Applied) -> None:
    """When the live attempt has ended, run again."""
    state.jobs[event.job_id].requeue = True


def ended(state: Tables, event: JobEnded, at: int, applied: Applied) -> None:
    """A job that never started, or never will again, is over. The first end stands (logs of the first
    schema may hold a second).
    """
    job = state.jobs[event.job_id]
    if job.state.terminal:
        return
    finish(state, job, event.state, at, applied, event.message)


def finish(
    state: Tables, job: JobRecord, final: JobState, at: int, applied: Applied, message: str = ""
) -> None:
    """A job is over: its dependants learn of it, its array counts it."""
    state.pending.remove(job.id)
    state.doomed.pop(job.id, None)
    job.finished_at, job.message = at, message
    if job.array is None:
        move(state, job, final, at)
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


def _meet_dependents(state: Tables, ended_job: JobRecord, at: int) -> None:
    """Jobs that waited for this end may start; those it disappoints are doomed, for `decide` to end them."""
    for job_id in state.dependents.pop(ended_job.id, ()):
        job = state.jobs.get(job_id)
        when = job.waiting_on.get(ended_job.id) if job is not None else None
        if job is None or when is None or job.state.terminal:
            continue
        if not satisfied(when, ended_job.state):
            state.doomed.setdefault(job_id, Doom(ended_job.display, when, ended_job.state))
            continue
        for one in [job, *tasks_of(state, job)]:
            one.waiting_on.pop(ended_job.id, None)
        if job.array is not None:
            open_tasks(state, job, at)
        else:
            state.enqueue(job, at)


def _task_finished(state: Tables, task: JobRecord, at: int, applied: Applied) -> None:
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
    finish(state, parent, final, at, applied)


def move(state: Tables, job: JobRecord, to: JobState, at: int = 0) -> None:
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
