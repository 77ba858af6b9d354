"""Tasks of arrays that are no records: those that still wait, and those that ended without ever starting.

Why     100,000 tasks that wait, or are cancelled waiting, are two or three ranges of their parent's record. A
        task becomes a record of its own when it may start soon, or when somebody does something to it alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator

import msgspec

from bursar.model import JobSpec, JobState
from bursar.model.ranges import above, contains, count
from bursard.state.records import EndedTasks, JobRecord

QUEUED_MAX = 1024
"""Tasks of one array in the queue at once: more than one cycle looks at."""

_OF_ITS_ARRAY = JobSpec(options=())
"""Stands for the spec of the array; no job that was accepted has no option."""


def size_of(job: JobRecord) -> int:
    """Tasks of an array; 1 for any other job, a task among them."""
    return 1 if job.parent_id else size_of_spec(job.spec)


def size_of_spec(spec: JobSpec) -> int:
    """Tasks that a submission brings."""
    return count(spec.array.ranges) if spec.array is not None else 1


def beyond_wanted(job: JobRecord) -> int:
    """Of a service, its places that no replica is wanted for: they wait for nothing. One of which nothing is
    wanted waits itself, for requests, and counts as one. Of any other job 0.
    """
    if job.spec.service is None or job.array is None or job.state.terminal:
        return 0
    unopened = count(job.array.unopened)
    return unopened - (unopened == size_of(job))


def told_state(job: JobRecord) -> JobState:
    """The state that people are told: of an array of which all that is left stops, that it stops."""
    if job.array is None or job.state is not JobState.RUNNING:
        return job.state
    left = {state for state, tasks in job.array.counts.items() if tasks and not JobState(state).terminal}
    return JobState.STOPPING if left == {JobState.STOPPING.value} else job.state


def waits(job: JobRecord) -> bool:
    """Is it one that waits, or has tasks or wanted replicas that do?"""
    if job.array is None or job.state.terminal:
        return job.state is JobState.PENDING
    return job.array.counts.get(JobState.PENDING.value, 0) > beyond_wanted(job)


def task_record(parent: JobRecord, index: int) -> JobRecord:
    """A waiting task as the record it would be. Its parent's hold and dependencies are its own too, and are
    kept there alone.
    """
    assert parent.spec.array is not None
    return JobRecord(
        id=f"{parent.id}.{index}",
        number=parent.number,
        user=parent.user,
        spec=parent.spec,
        order=parent.order + parent.spec.array.indices.place_of(index),
        submitted_at=parent.submitted_at,
        waits_since=parent.waits_since,
        attempts=[],
        waiting_on={},
        budgets=parent.budgets,
        hard_budgets=parent.hard_budgets,
        parent_id=parent.id,
        array_index=index,
    )


def unrecorded(parent: JobRecord, index: int) -> JobRecord | None:
    """A task that is no record, as one to look at: waiting, or ended without a start. None for others."""
    array = parent.array
    if array is None:
        return None
    if contains(array.unopened, index):
        return task_record(parent, index)
    ended = next((one for one in array.ended if contains(one.ranges, index)), None)
    return _ended_task(parent, index, ended) if ended is not None else None


def unrecorded_tasks(
    parent: JobRecord,
    states: Container[JobState],
    after: int,
    wanted: Callable[[JobRecord], bool] = lambda _: True,
) -> Iterator[JobRecord]:
    """Tasks above the index `after`, in one of these states, that are no records, ascending.

    Args:
        wanted: asked of one task for all that wait, or that ended together: they differ in their index alone.
    """
    array = parent.array
    if array is None:
        return
    groups: list[EndedTasks | None] = [one for one in array.ended if one.state in states]
    if JobState.PENDING in states:
        groups.append(None)
    # Ranges of different kinds may lie between each other, but each index is in one of them alone.
    yield from heapq.merge(
        *(_group(parent, one, after, wanted) for one in groups), key=lambda task: task.array_index
    )


def _group(
    parent: JobRecord, ended: EndedTasks | None, after: int, wanted: Callable[[JobRecord], bool]
) -> Iterator[JobRecord]:
    assert parent.array is not None
    indices = above(ended.ranges if ended is not None else parent.array.unopened, after)
    for place, index in enumerate(indices):
        task = _ended_task(parent, index, ended) if ended is not None else task_record(parent, index)
        if place == 0 and not wanted(task):
            return
        yield task


def _ended_task(parent: JobRecord, index: int, ended: EndedTasks) -> JobRecord:
    task = task_record(parent, index)
    task.state, task.finished_at, task.message = ended.state, ended.at, ended.message
    return task


def is_lean(job: JobRecord) -> bool:
    """Does it still lack what its array says?"""
    return not job.spec.options


def lean(job: JobRecord, parent: JobRecord | None) -> JobRecord:
    """A record to write down: of a task without what its array says already."""
    if not job.parent_id or parent is None or job.spec is not parent.spec:
        return job
    return without_spec(job)


def without_spec(job: JobRecord) -> JobRecord:
    """A task's record without the spec, which its array has; any other job as it is."""
    return msgspec.structs.replace(job, spec=_OF_ITS_ARRAY) if job.parent_id else job
