"""How job events change the state: the queue, arrays, dependencies and terminal states."""

from __future__ import annotations

from collections import deque

from bursar.model import JobSpec, JobState
from bursar.model.ranges import Indices, compress, contains, count, with_index, without
from bursard.events import (
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    TasksEnded,
)
from bursard.events.changes import with_changes
from bursard.state.arrays import QUEUED_MAX, size_of, size_of_spec, task_record, unrecorded
from bursard.state.counted import counted_nanos
from bursard.state.ends import job_ended_at
from bursard.state.fold import following, machines
from bursard.state.records import ArrayRecord, EndedTasks, JobRecord
from bursard.state.shares import bytes_of_spec
from bursard.state.tables import ENDED, STARTED, TASK_SUCCEEDED, Applied, ArrayMoney, Doom, Met, Tables
from bursard.state.waits import asks_for_more

MET_MAX = 1_000
"""Jobs and tasks, about, that one turn of the loop lets go on because what they waited for is over."""


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
    for other, when in event.dependencies:
        state.waits(job.id, other, when)
    array = job.spec.array
    tasks = size_of(job)
    state.next_order += tasks
    state.counts[JobState.PENDING] = state.counts.get(JobState.PENDING, 0) + tasks
    state.shares.add(job.user, tasks, bytes_of_spec(job.spec))
    if array is None:
        state.enqueue(job, at)
        return
    job.array = ArrayRecord(array.max_parallel, {JobState.PENDING.value: tasks}, array.ranges, ended_at=0)
    job.array.open_slots = array.max_parallel or (0 if job.spec.service is not None else tasks)
    following.begin(state, job, job.array, event.follows)
    state.tasks[job.id] = {}
    state.array_money[job.id] = ArrayMoney()
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
        likely_us=state.runs.likely_us(event.spec),
    )


def claim(state: Tables, job_id: str, at: int) -> JobRecord:
    """The record of a live job; a task that was none becomes one. Raises `KeyError`."""
    parent_id, _, index = job_id.partition(".")
    if state.met:
        _tell_first(state, state.jobs.get(parent_id), at)
    found = state.jobs.get(job_id)
    if found is not None:
        return found
    parent = state.jobs[parent_id]
    assert parent.array is not None
    if not index.isdecimal() or not contains(parent.array.unopened, int(index)):
        raise KeyError(job_id)
    return _task(state, parent, int(index))


def _task(state: Tables, parent: JobRecord, index: int) -> JobRecord:
    """The record of a task that still waits for its turn."""
    tasks = state.tasks[parent.id]
    task = tasks.get(index)
    if task is None:
        task = task_record(parent, index)
        task.budgets, task.hard_budgets = state.budgets.matching(task.user, task.spec)
        task.likely_us = state.runs.likely_us(task.spec)
        state.jobs[task.id] = tasks[index] = task
    return task


def open_tasks(state: Tables, parent: JobRecord, at: int, since: int = 0) -> None:
    """Let as many waiting tasks into the queue as there are parallel slots, and room in the queue.

    Args:
        since: when that was to happen, where it is not `at`: tasks that follow others wait from then on.
    """
    array = parent.array
    if array is None or parent.held or parent.waiting_on:
        return
    while array.openable and array.open_slots > 0 and array.queued < QUEUED_MAX:
        task = _task(state, parent, array.openable[0][0])
        if array.ready is not None:
            task.waits_since = max(task.waits_since, since or at)
        take_slot(state, task)
        state.enqueue(task, at)


def take_slot(state: Tables, task: JobRecord) -> None:
    """A task has its turn: it is in the queue, or alive."""
    array = state.jobs[task.parent_id].array
    assert array is not None
    if task.has_slot:
        return
    _no_longer_unopened(array, task.array_index)
    array.open_slots -= 1
    array.queued += 1
    task.has_slot = True


def _no_longer_unopened(array: ArrayRecord, index: int) -> None:
    array.unopened = without(array.unopened, index)
    if array.ready is not None:
        array.ready = without(array.ready, index)


def step_back(state: Tables, task: JobRecord) -> None:
    """A pending task gives its turn to another, which the caller lets in."""
    array = state.jobs[task.parent_id].array
    assert array is not None
    _no_longer_unopened(array, task.array_index)
    if task.has_slot:
        array.open_slots += 1
        array.queued -= 1
        task.has_slot = False


def held(state: Tables, event: JobHeld, at: int, applied: Applied) -> None:
    """Out of the queue until released; an array with its queued tasks."""
    job = claim(state, event.job_id, at)
    job.held = True
    state.pending.remove(job.id)
    state.leave_room(job)
    if job.parent_id:
        step_back(state, job)
        open_tasks(state, state.jobs[job.parent_id], at)
    for task in tasks_of(state, job):
        state.pending.remove(task.id)
        state.leave_room(task)


def released(state: Tables, event: JobReleased, at: int, applied: Applied) -> None:
    """Back into the queue; an array with all its tasks, also those that were held by themselves."""
    job = claim(state, event.job_id, at)
    job.held, job.waits_since = False, at
    if job.parent_id:
        _wait_again(state, job)
        open_tasks(state, state.jobs[job.parent_id], at)
        return
    for task in tasks_of(state, job):
        if task.state is JobState.PENDING:
            task.waits_since = at
        if task.held and not task.state.terminal:
            task.held = False
            _wait_again(state, task)
        else:
            state.enqueue(task, at)
    open_tasks(state, job, at)
    state.enqueue(job, at)


def _wait_again(state: Tables, task: JobRecord) -> None:
    array = state.jobs[task.parent_id].array
    assert array is not None
    array.unopened = with_index(array.unopened, task.array_index)
    following.make_ready(array, task.array_index)


def tasks_of(state: Tables, job: JobRecord) -> list[JobRecord]:
    """The tasks of an array that are records, in the order in which they became so."""
    return list(state.tasks.get(job.id, {}).values())


def first_pending(state: Tables, job: JobRecord) -> JobRecord | None:
    """Of an array, the task that is next in the queue; one that waits for its turn when none is there."""
    tasks = [task for task in tasks_of(state, job) if task.state is JobState.PENDING]
    queued = [task for task in tasks if task.id in state.pending]
    if queued or (tasks and not (job.array is not None and job.array.unopened)):
        return min(queued or tasks, key=lambda task: task.array_index)
    if job.array is None or not job.array.unopened:
        return None
    return state.job(f"{job.id}.{(job.array.openable or job.array.unopened)[0][0]}")


def waits_next(state: Tables, job: JobRecord) -> JobRecord | None:
    """The first task that waits; of a service, the first place that is to have a replica and has none."""
    if job.spec.service is None:
        return first_pending(state, job)
    waits = (task for task in tasks_of(state, job) if task.state is JobState.PENDING and task.has_slot)
    return min(waits, key=lambda task: task.array_index, default=None)


def updated(state: Tables, event: JobUpdated, at: int, applied: Applied) -> None:
    """A pending job asks for something else from now on; an array with its pending tasks. What runs keeps
    the budgets it was placed with.
    """
    job = claim(state, event.job_id, at)
    # One object for all tasks: they refer to their array's.
    spec = with_changes(JobSpec() if event.whole else job.spec, event.fields)
    if job.spec.name != spec.name and not job.parent_id:
        state.unname(job)
        if spec.name:
            state.names.setdefault(spec.name, {})[job.id] = None
    state.shares.add(job.user, spec_bytes=bytes_of_spec(spec) - bytes_of_spec(job.spec))
    if job.spec.service is not None and spec.service is not None and job.array is not None:
        _service_updated(state, job, spec)
    for one in [job, *tasks_of(state, job)]:
        if one.state is JobState.PENDING or one.array is not None:
            another = one.array is None and begin_anew(state, one, spec)
            if asks_for_more(one.spec, spec, state.limits.default_time_limit_us):
                one.waits_since = at
                state.leave_room(one)
            one.spec = spec
            one.budgets, one.hard_budgets = state.budgets.matching(one.user, one.spec)
            one.likely_us = state.runs.likely_us(one.spec)
            if another or one.id in state.pending or one.id in state.pending.aside:
                state.enqueue(one, at)
        elif one is job:
            one.spec = spec
        if one.attempt is not None:
            state.count_again((one.attempt,))


def begin_anew(state: Tables, task: JobRecord, spec: JobSpec) -> bool:
    """Another revision waits for no ends of the one before. False: it is none, or nothing is waited for."""
    if task.spec.service is None or spec.service is None or not task.free_retries:
        return False
    if task.spec.service.revision == spec.service.revision:
        return False
    task.free_retries = task.retry_at = 0
    state.forget_later(task)
    return True


def _service_updated(state: Tables, job: JobRecord, spec: JobSpec) -> None:
    """What it was before can be had back, if it is another revision; and there may be more places."""
    assert job.array is not None
    assert job.spec.service is not None
    assert spec.service is not None
    if spec.service.revision != job.spec.service.revision:
        job.replaced, job.back = job.spec, None
    before, after = size_of_spec(job.spec), size_of_spec(spec)
    if after > before:
        job.array.unopened = compress([*Indices(job.array.unopened), *range(before, after)])
        pending = JobState.PENDING
        job.array.counts[pending.value] = job.array.counts.get(pending.value, 0) + after - before
        state.counts[pending] = state.counts.get(pending, 0) + after - before
        state.shares.add(job.user, after - before)


def requeued(state: Tables, event: JobRequeued, at: int, applied: Applied) -> None:
    """When the live attempt has ended, run again."""
    state.jobs[event.job_id].requeue = True


def ended(state: Tables, event: JobEnded, at: int, applied: Applied) -> None:
    """A job that never started, or never will again, is over. The first end stands (logs of the first
    schema may hold a second).
    """
    job = state.jobs.get(event.job_id)
    if job is None or not job.state.terminal:
        finish(state, claim(state, event.job_id, at), event.state, at, applied, event.message)


def tasks_ended(state: Tables, event: TasksEnded, at: int, applied: Applied) -> None:
    """Every pending task of an array is over: the many that are no records all at once, within its own."""
    parent = claim(state, event.job_id, at)
    array = parent.array
    assert array is not None
    pending = [task for task in tasks_of(state, parent) if task.state is JobState.PENDING]
    waiting = array.unopened
    for task in pending:
        waiting = without(waiting, task.array_index)
    array.unopened = ()
    following.leave(state, parent, array)
    if waiting:
        array.ended.append(EndedTasks(waiting, event.state, at, event.message))
        _count_ended(state, parent, count(waiting), event.state)
        _note_end(array, at)
        waited_for = [*state.dependents, *(one for one in state.starters if one not in state.dependents)]
        for task_id in [one for one in waited_for if one.startswith(f"{parent.id}.")]:
            index = int(task_id.partition(".")[2])
            ended_task = unrecorded(parent, index) if contains(waiting, index) else None
            if ended_task is not None:
                _meet_dependents(state, ended_task, at)
        following.lose(state, parent, waiting)
    for task in pending:
        finish(state, task, event.state, at, applied, event.message)
    if not pending:
        _close_array(state, parent, at, applied)


def _count_ended(state: Tables, parent: JobRecord, many: int, final: JobState) -> None:
    array = parent.array
    assert array is not None
    array.counts[JobState.PENDING.value] -= many
    array.counts[final.value] = array.counts.get(final.value, 0) + many
    state.counts[JobState.PENDING] -= many
    state.shares.add(parent.user, -many)


def finish(
    state: Tables, job: JobRecord, final: JobState, at: int, applied: Applied, message: str = ""
) -> None:
    """A job is over: its dependants learn of it, its array counts it."""
    state.pending.remove(job.id)
    state.leave_room(job)
    if job.parent_id and not job.has_slot:
        step_back(state, job)
    state.doomed.pop(job.id, None)
    job.finished_at, job.message = at, message
    job.likely_us = 0  # of no use any more, and what ended before it was kept has none
    if job.array is None:
        move(state, job, final, at)
    else:
        job.state = final
    if state.machines:
        machines.job_ended(state, job.id, applied)
    applied.finished.append(job)
    _meet_dependents(state, job, at)
    for follower in following.met(state, job):
        open_tasks(state, follower, at)
    if job.parent_id:
        _task_finished(state, job, at, applied)


def satisfied(when: str, final: JobState) -> bool:
    """Does a final state meet a dependency's condition?"""
    if when in ("finished", "started"):
        return True
    return (final is JobState.SUCCEEDED) == (when == "succeeded")


def _meet_dependents(state: Tables, ended_job: JobRecord, at: int) -> None:
    """Jobs that waited for this end may start; those it disappoints are doomed, for `decide` to end them."""
    waiting = [*state.starters.pop(ended_job.id, ()), *state.dependents.pop(ended_job.id, ())]
    _meet(state, (ended_job.id, ENDED), Met(ended_job.display, ended_job.state, deque(waiting), at), at)


def meet_started(state: Tables, started_job: JobRecord, at: int) -> None:
    """Jobs that waited for this start alone wait no more."""
    waiting = deque(state.starters.pop(started_job.id, ()))
    _meet(state, (started_job.id, STARTED), Met(started_job.display, None, waiting, at), at)


def _meet(state: Tables, key: tuple[str, str], met: Met, at: int) -> None:
    """As many as one turn of the loop can bear at once, with the next turns the others: until its own, a job
    waits as it did before.
    """
    if met.waiting:
        state.met[key] = met
        meet_some(state, at, MET_MAX - state.told)


def meet_some(state: Tables, at: int, most: int) -> bool:
    """Tell the next so many of those whose dependency has come; an array counts with the tasks that it lets
    into the queue. True: more are left.

    No event, since the end that they waited for is one: a replay leaves them in `Tables.met`, and the first
    turns after it bring them where they would be.
    """
    while state.met and most > 0:
        key, met = next(iter(state.met.items()))
        while met.waiting and most > 0:
            took = _tell(state, key[0], met, met.waiting.popleft(), at)
            state.told, most = state.told + took, most - took
        if not met.waiting:
            state.met.popitem(last=False)
    return bool(state.met)


def _tell_first(state: Tables, job: JobRecord | None, at: int) -> None:
    """Before anything else happens to it, so that a replay, which has no turns, finds it as it was then."""
    for other, when in tuple(job.waiting_on.items()) if job is not None else ():
        met = state.met.get((other, STARTED)) if when == STARTED else None
        met = met or state.met.get((other, ENDED))
        if job is not None and met is not None:
            _tell(state, other, met, job.id, at)


def _tell(state: Tables, other: str, met: Met, job_id: str, at: int) -> int:
    """What it took, in jobs and tasks."""
    job = state.jobs.get(job_id)
    when = job.waiting_on.get(other) if job is not None else None
    if job is None or when is None or job.state.terminal:
        return 1
    if met.final is not None and not satisfied(when, met.final):
        if job_id not in state.doomed or state.doomed[job_id].when == TASK_SUCCEEDED:
            state.doomed[job_id] = Doom(met.display, when, met.final)
        return 1
    del job.waiting_on[other]
    # Not `at`: in a replay, which has no turns, that is another one.
    for one in (job, *tasks_of(state, job)):
        if one.state is JobState.PENDING or one.array is not None:
            one.waits_since = max(one.waits_since, met.at)
    if job.array is None:
        state.enqueue(job, at)
        return 1
    before = job.array.queued
    open_tasks(state, job, at, met.at)
    return 1 + job.array.queued - before


def _task_finished(state: Tables, task: JobRecord, at: int, applied: Applied) -> None:
    parent = state.jobs[task.parent_id]
    array = parent.array
    assert array is not None
    parent.settled_nanos += task.settled_nanos
    for name in parent.budgets:
        if missing := task.settled_nanos - counted_nanos(task, name):
            parent.uncounted = {**parent.uncounted, name: parent.uncounted.get(name, 0) + missing}
    parent.unpriced |= task.unpriced
    parent.simulated |= task.simulated
    array.open_slots += task.has_slot
    _note_end(array, job_ended_at(task))
    following.drop(state, parent, array, task.array_index)
    _close_array(state, parent, at, applied)


def _note_end(array: ArrayRecord, at: int) -> None:
    if array.ended_at >= 0:
        array.ended_at = max(array.ended_at, at)


def _close_array(state: Tables, parent: JobRecord, at: int, applied: Applied) -> None:
    """The array ends with the last of its tasks; before that another may have its turn."""
    array = parent.array
    assert array is not None
    counts = array.counts
    live = sum(many for name, many in counts.items() if not JobState(name).terminal)
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
        if job.has_slot:
            parent.array.queued += (to is JobState.PENDING) - (job.state is JobState.PENDING)
        counts[to.value] = counts.get(to.value, 0) + 1
        if to is JobState.STARTING and parent.state is JobState.PENDING:
            parent.state = JobState.RUNNING
        if to is JobState.RUNNING and not parent.started_at:
            parent.started_at = job.started_at
    state.count(job, to)
