"""Arrays whose tasks follow those of another array one by one (`when: task-succeeded`).

Why     task 7 of a sweep may start when task 7 of the sweep before it has succeeded, whatever becomes of the
        others. What such an array still waits for is kept as ranges of its own indices, by the array waited
        for, so that the end of one task costs a look at the few arrays that follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from bursar.model import JobState
from bursar.model.ranges import Ranges, contains, subtract, union, with_index, without
from bursard.events import Follow
from bursard.state.records import ArrayRecord, JobRecord
from bursard.state.tables import TASK_SUCCEEDED, Doom, Tables


def begin(state: Tables, job: JobRecord, array: ArrayRecord, follows: Sequence[Follow]) -> None:
    """An array is there that follows others: what of it may have its turn already."""
    if not follows:
        return
    array.ready = array.unopened
    for one in follows:
        if one.waits:
            array.follows[one.other] = one.waits
            state.followers.setdefault(one.other, {})[job.id] = None
        if one.lost:
            _lose(state, job, array, one.called, one.lost)
    _find_ready(array)


def _find_ready(array: ArrayRecord) -> None:
    ready = array.unopened
    for ranges in (*array.follows.values(), *array.lost.values()):
        ready = subtract(ready, ranges)
    array.ready = ready


def make_ready(array: ArrayRecord, index: int) -> None:
    """A task waits for its turn: does it wait for nothing else?"""
    waiting = (*array.follows.values(), *array.lost.values())
    if array.ready is None or not contains(array.unopened, index):
        return
    if not any(contains(ranges, index) for ranges in waiting):
        array.ready = with_index(array.ready, index)


def met(state: Tables, ended: JobRecord) -> list[JobRecord]:
    """A task or an array has ended: the arrays of which something may have its turn now."""
    other_id = ended.parent_id or ended.id
    found = []
    for follower_id in tuple(state.followers.get(other_id, ())):
        follower = state.jobs[follower_id]
        array = follower.array
        assert array is not None
        waits = array.follows[other_id]
        told: Ranges = waits  # the array as a whole: of what has no task of its own there
        if ended.parent_id:
            told = ((ended.array_index, ended.array_index + 1, 1),)
            if not contains(waits, ended.array_index):
                continue
        _told(state, follower, array, other_id, told)
        if ended.state is not JobState.SUCCEEDED:
            _lose(state, follower, array, _called(state, other_id), told)
            continue
        if ended.parent_id:
            make_ready(array, ended.array_index)
        elif told:
            _find_ready(array)
        found.append(follower)
    return found


def lose(state: Tables, other: JobRecord, ended: Ranges) -> None:
    """Tasks of an array ended together without a start: so do those that follow them."""
    for follower_id in tuple(state.followers.get(other.id, ())):
        follower = state.jobs[follower_id]
        array = follower.array
        assert array is not None
        waits = array.follows[other.id]
        lost = subtract(waits, subtract(waits, ended))
        if lost:
            _told(state, follower, array, other.id, lost)
            _lose(state, follower, array, other.display, lost)


def drop(state: Tables, job: JobRecord, array: ArrayRecord, index: int) -> None:
    """A task is over: it waits for nothing any more."""
    if array.ready is None:
        return
    gone = ((index, index + 1, 1),)
    for other_id in tuple(array.follows):
        _told(state, job, array, other_id, gone)
    for called, lost in tuple(array.lost.items()):
        _keep(array.lost, called, without(lost, index))
    _forget_doom(state, job, array)


def leave(state: Tables, job: JobRecord, array: ArrayRecord) -> None:
    """All that still waited is over."""
    if array.ready is None:
        return
    for other_id, waits in tuple(array.follows.items()):
        _told(state, job, array, other_id, waits)
    array.lost, array.ready = {}, ()
    _forget_doom(state, job, array)


def _called(state: Tables, job_id: str) -> str:
    return state.jobs[job_id].display


def _told(state: Tables, job: JobRecord, array: ArrayRecord, other_id: str, told: Ranges) -> None:
    """These tasks no longer wait for that array."""
    _keep(array.follows, other_id, subtract(array.follows[other_id], told))
    if other_id not in array.follows:
        state.followers[other_id].pop(job.id, None)
        if not state.followers[other_id]:
            del state.followers[other_id]


def _lose(state: Tables, job: JobRecord, array: ArrayRecord, called: str, lost: Ranges) -> None:
    known = array.lost.get(called, ())
    for ranges in array.lost.values():
        lost = subtract(lost, ranges)
    if lost:
        array.lost[called] = union(known, lost)
        if array.ready is not None:
            array.ready = subtract(array.ready, lost)
        state.doomed.setdefault(job.id, Doom(called, TASK_SUCCEEDED, JobState.FAILED))


def _keep(kept: dict[str, Ranges], key: str, ranges: Ranges) -> None:
    if ranges:
        kept[key] = ranges
    else:
        kept.pop(key, None)


def _forget_doom(state: Tables, job: JobRecord, array: ArrayRecord) -> None:
    doom = state.doomed.get(job.id)
    if doom is not None and doom.when == TASK_SUCCEEDED and not array.lost:
        del state.doomed[job.id]
