"""What became of the tasks of arrays that others are to follow one by one.

Why     a task that has ended is soon in the store alone, and the state keeps only how many ended how; so what
        is found there is held against those counts, and looked for again when more have ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bursar.errors import WrongState
from bursar.model import JobState
from bursard.engine import Engine
from bursard.state.decide.following import Fates
from bursard.state.records import ArrayRecord, JobRecord
from bursard.store import JobFilter, Views

_LOST = (JobState.FAILED, JobState.CANCELLED)
_TRIES = 20
"""Each finds all that had ended when it began."""


async def fates_of(engine: Engine, arrays: Sequence[JobRecord]) -> dict[str, Fates]:
    """By id of the array, as of now: nothing is awaited after the last look. Raises `WrongState`."""
    stored: dict[str, set[int]] = {job.id: set() for job in arrays}
    for _ in range(_TRIES):
        found = {job.id: _failed(engine, job, stored[job.id]) for job in arrays}
        lacking = [job for job in arrays if len(found[job.id]) < _lost_of(_array(engine, job))]
        if not lacking:
            return {job.id: _fates(engine, job, found[job.id]) for job in arrays}
        for job in lacking:
            stored[job.id] |= await engine.read(partial(_stored, job.id))
    raise WrongState(f"tasks of job {lacking[0].display} are ending right now; submit it again in a moment")


def _array(engine: Engine, job: JobRecord) -> ArrayRecord:
    array = (engine.state.jobs.get(job.id) or job).array
    assert array is not None
    return array


def _lost_of(array: ArrayRecord) -> int:
    return sum(array.counts.get(state.value, 0) for state in _LOST)


def _failed(engine: Engine, job: JobRecord, stored: set[int]) -> frozenset[int]:
    tasks = engine.state.tasks.get(job.id, {}).values()
    unrecorded = (part for one in _array(engine, job).ended if one.state in _LOST for part in one.ranges)
    return frozenset(
        {
            *stored,
            *(task.array_index for task in tasks if task.state in _LOST),
            *(index for part in unrecorded for index in range(*part)),
        }
    )


def _fates(engine: Engine, job: JobRecord, failed: frozenset[int]) -> Fates:
    now = engine.state.jobs.get(job.id) or job
    assert now.spec.array is not None
    return Fates(now.display, now.spec.array.ranges, failed, now.state if now.state.terminal else None)


def _stored(job_id: str, views: Views) -> set[int]:
    found: set[int] = set()
    cursor: tuple[int, int] | None = None
    while True:
        query = JobFilter(
            states=tuple(state.value for state in _LOST), parent_id=job_id, cursor=cursor, limit=1000
        )
        page = views.jobs(query)
        found |= {row.array_index for row in page.rows}
        if page.next is None:
            return found
        cursor = page.next
