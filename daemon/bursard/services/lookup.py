"""Finding the job a person means: an id, a number, an unambiguous name, `last`, or `JOB[7]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from bursar.errors import InvalidRequest, NotFound, WrongState
from bursard.access.authorize import Action, allowed, authorize
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.services.views import DAMAGED, listed_record_of, record_of
from bursard.state import JobRecord
from bursard.state.arrays import unrecorded
from bursard.store import JobRow, Views

_TASK = re.compile(r"(.+)\[(\d{1,9})\]")
REF_MAX = 300
INDEX_DIGITS_MAX = 9


async def find_job(engine: Engine, ref: str, action: Action = Action.SEE_JOBS) -> JobRecord:
    """A job to which the caller may do `action`. Raises `Forbidden` beside what `look_up` raises.

    Of a job that the caller may not even see nothing is said, not that it exists.
    """
    job = await look_up(engine, ref, caller().name)
    if not _seen([job]):
        raise _unknown(ref)
    authorize(action, job.spec.project, job.user, f"job {job.display}")
    return job


async def look_up(engine: Engine, ref: str, user: str) -> JobRecord:
    """An active or finished job. Raises `NotFound`, or `InvalidRequest` for a name that fits several.

    Waits for the store only where memory has no answer: a job that is active is found at once.
    """
    if not ref or len(ref) > REF_MAX:
        raise InvalidRequest("name a job: its id, number, name, or `last`")
    task = _TASK.fullmatch(ref)
    if task is not None:
        parent = await look_up(engine, task.group(1), user)
        return await _task(engine, parent, int(task.group(2)), ref)
    if ref == "last":
        last = engine.state.last_of_user.get(user)
        if last is None:
            raise NotFound(f"{user} has not submitted any job yet")
        return await _by_id(engine, last, ref)
    if ref.isdecimal():
        active = engine.state.numbers.get(int(ref))
        if active is not None:
            return engine.state.jobs[active]
    elif (found := engine.state.job(ref)) is not None:
        return found
    parent_id, dot, index = ref.partition(".")
    if dot and parent_id.startswith("job_") and index.isdecimal() and len(index) <= INDEX_DIGITS_MAX:
        return await _task(engine, await _by_id(engine, parent_id, ref), int(index), ref)
    return await _stored_or_named(engine, ref)


async def _by_id(engine: Engine, job_id: str, ref: str) -> JobRecord:
    job = engine.state.jobs.get(job_id)
    if job is not None:
        return job
    row = await engine.read(lambda views: views.find_job(job_id))
    if row is None:
        raise _unknown(ref)
    return record_of(row)


async def _task(engine: Engine, parent: JobRecord, index: int, ref: str) -> JobRecord:
    """One task of an array: in memory, in the store, or told of by the array's record alone."""
    task_id = f"{parent.id}.{index}"
    found = engine.state.job(task_id)
    if found is not None:
        return found
    row = await engine.read(lambda views: views.find_job(task_id))
    if row is not None:
        return record_of(row, parent)
    told = unrecorded(parent, index)
    if told is None:
        raise _unknown(ref)
    return told


async def records_of(engine: Engine, rows: Sequence[JobRow]) -> list[JobRecord]:
    """Finished jobs for a list: as the records they were, tasks with the spec of their array. One that is
    damaged has what its row's columns say.
    """
    parents: dict[str, JobRecord] = {}
    for parent_id in {row.parent_id for row in rows if row.parent_id}:
        # Without its array, a task still has its own columns.
        with suppress(WrongState, NotFound):
            parents[parent_id] = await _by_id(engine, parent_id, parent_id)
    return [listed_record_of(row, parents.get(row.parent_id)) for row in rows]


def _unknown(ref: str) -> NotFound:
    return NotFound(f"there is no job {ref!r}; `bursar ls --state all` lists them")


async def _stored_or_named(engine: Engine, ref: str) -> JobRecord:
    named = [engine.state.jobs[job_id] for job_id in engine.state.names.get(ref, ())]
    # Of several of one name only those count that the caller may see: others' are nothing to choose from.
    seen = _seen(named)
    if not seen:
        rows = await engine.read(lambda views: _stored(views, ref))
        named += await records_of(engine, rows)
        seen = _seen(named)
        for row in rows:
            if len(seen) == 1 and row.id == seen[0].id and seen[0].message == DAMAGED:
                return record_of(row)  # which says how it is damaged
    if len(seen) == 1:
        return seen[0]
    if seen:
        numbers = ", ".join(str(job.number) for job in seen[:5])
        raise InvalidRequest(f"{len(seen)} or more jobs are named {ref!r}: use a number ({numbers}) or id")
    raise _unknown(ref)


def _is_exact(ref: str) -> bool:
    return ref.isdecimal() or ref.startswith("job_")


def _seen(jobs: list[JobRecord]) -> list[JobRecord]:
    identity = caller()
    return [job for job in jobs if allowed(identity, Action.SEE_JOBS, job.spec.project, job.user)]


def _stored(views: Views, ref: str) -> list[JobRow]:
    if _is_exact(ref):
        row = views.find_job(ref)
        if row is not None:
            return [row]
    return list(views.jobs_named(ref, 5))
