"""Arrays whose tasks follow those of another array one by one: what each waits for, and which are to end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

import msgspec

from bursar.errors import InvalidRequest, InvariantViolation
from bursar.model import Dependency, JobSpec, JobState
from bursar.model.ranges import Ranges, compress, contains, count, subtract
from bursard.events import Event, Follow, JobEnded, TasksEnded
from bursard.state.core import State
from bursard.state.records import JobRecord
from bursard.state.tables import TASK_SUCCEEDED

FOLLOWERS_MAX = 16
"""Arrays that may follow one: the end of each of its tasks looks at all of them."""


class Fates(msgspec.Struct, frozen=True):
    """What became of the tasks of an array so far.

    Attributes:
        called: as people name it. tasks: all its indices. failed: those that have ended, not SUCCEEDED.
        final: how the array as a whole has ended; None: it has not.
    """

    called: str
    tasks: Ranges
    failed: frozenset[int]
    final: JobState | None


def as_waited_for(spec: JobSpec, fates: Mapping[str, Fates]) -> Iterator[Dependency]:
    """What a job waits for as a whole: singletons first, since what is named in both is waited for as named.

    As in Slurm, what is no array, or waits for none, waits for the whole of the other to have succeeded.
    """
    for one in sorted(spec.depends_on, key=lambda one: one.when != "singleton"):
        if one.when != TASK_SUCCEEDED:
            yield one
        elif one.job not in fates:
            yield Dependency(one.job, "succeeded")


def follows(state: State, spec: JobSpec, fates: Mapping[str, Fates]) -> tuple[Follow, ...]:
    """What the tasks of a new array wait for, of those of others. Raises `InvalidRequest`."""
    if spec.array is None:
        return ()
    found = [
        _follow(state, spec.array.ranges, one.job, fates[one.job])
        for one in spec.depends_on
        if one.when == TASK_SUCCEEDED and one.job in fates
    ]
    lost = {index for one in found for part in one.lost for index in range(*part)}
    if lost and len(lost) == count(spec.array.ranges):
        raise InvalidRequest(
            f"depends_on: of job {found[0].called}, no task that these follow has succeeded, or still can:"
            f" `when: {TASK_SUCCEEDED}` can never come true"
        )
    return tuple(one for one in found if one.waits or one.lost)


def without_own(spec: JobSpec, fates: Mapping[str, Fates]) -> Iterator[tuple[str, Ranges]]:
    """By array that a new one follows, as people call it, those tasks that have none of their index there and
    so wait for all of it. Nothing is wrong with that, but it is easily a slip.
    """
    for one in spec.depends_on:
        fate = fates.get(one.job) if one.when == TASK_SUCCEEDED else None
        if spec.array is not None and fate is not None:
            alone = subtract(spec.array.ranges, fate.tasks)
            if alone:
                yield fate.called, alone


def _follow(state: State, own: Ranges, other_id: str, fate: Fates) -> Follow:
    if fate.final is None and len(state.followers.get(other_id, ())) >= FOLLOWERS_MAX:
        raise InvalidRequest(
            f"depends_on: the tasks of {FOLLOWERS_MAX} arrays follow those of job {fate.called} already, the"
            " most that may; wait for all of it (`when: succeeded`), or for one of those"
        )
    live = _live(state, other_id) if fate.final is None else frozenset()
    whole_waits = fate.final is None
    whole_lost = fate.final not in (None, JobState.SUCCEEDED)
    waits, lost = [], []
    for index in chain.from_iterable(range(*one) for one in own):
        there = contains(fate.tasks, index)
        if index in live or (not there and whole_waits):
            waits.append(index)
        elif index in fate.failed or (not there and whole_lost):
            lost.append(index)
    return Follow(other_id, fate.called, compress(waits), compress(lost))


def _live(state: State, array_id: str) -> frozenset[int]:
    array = state.jobs[array_id].array
    assert array is not None
    waiting = chain.from_iterable(range(*one) for one in array.unopened)
    own = (task.array_index for task in state.tasks[array_id].values() if not task.state.terminal)
    return frozenset(chain(waiting, own))


def lost(state: State, job: JobRecord, most: int) -> list[Event]:
    """Ends of tasks whose own in another array did not succeed: all that wait at once, or so many by one.

    Raises `InvariantViolation` when there is none: who asks would ask for ever.
    """
    array = job.array
    if array is None or not array.lost:
        raise InvariantViolation(f"job {job.display} is to lose tasks and has none to lose")
    if sum(count(ranges) for ranges in array.lost.values()) == array.counts.get(JobState.PENDING.value, 0):
        called = next(iter(array.lost))
        message = f"it depends on job {called} ({TASK_SUCCEEDED}), which did not succeed"
        return [TasksEnded(job.id, JobState.CANCELLED, message)]
    events: list[Event] = []
    for called, ranges in array.lost.items():
        for index in chain.from_iterable(range(*one) for one in ranges):
            if len(events) >= max(most, 1):
                return events
            message = f"it depends on job {_task(state, called, index)}, which did not succeed"
            events.append(JobEnded(f"{job.id}.{index}", JobState.CANCELLED, message))
    return events


def _task(state: State, called: str, index: int) -> str:
    """The task that is followed, or its array where that has none of this index."""
    other = state.jobs.get(state.numbers.get(int(called), ""))
    array = other.spec.array if other is not None else None
    if array is not None and not contains(array.ranges, index):
        return f"{called} (succeeded)"
    return f"{called}[{index}] (succeeded)"
