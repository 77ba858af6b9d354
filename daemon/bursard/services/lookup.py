"""Finding the job a person means: an id, a number, an unambiguous name, `last`, or `JOB[7]`."""

from __future__ import annotations

import re

from bursar.errors import InvalidRequest, NotFound
from bursard.engine import Engine
from bursard.services.views import record_of
from bursard.state import JobRecord

_TASK = re.compile(r"(.+)\[(\d{1,9})\]")
REF_MAX = 300


def find_job(engine: Engine, ref: str, user: str) -> JobRecord:
    """An active or finished job. Raises `NotFound`, or `InvalidRequest` for a name that fits several."""
    if not ref or len(ref) > REF_MAX:
        raise InvalidRequest("name a job: its id, number, name, or `last`")
    task = _TASK.fullmatch(ref)
    if task is not None:
        parent = find_job(engine, task.group(1), user)
        return _by_id(engine, f"{parent.id}.{int(task.group(2))}", ref)
    if ref == "last":
        last = engine.state.last_of_user.get(user)
        if last is None:
            raise NotFound(f"{user} has not submitted any job yet")
        return _by_id(engine, last, ref)
    if ref.isdecimal():
        active = engine.state.numbers.get(int(ref))
        if active is not None:
            return engine.state.jobs[active]
    elif ref in engine.state.jobs:
        return engine.state.jobs[ref]
    return _stored_or_named(engine, ref)


def _by_id(engine: Engine, job_id: str, ref: str) -> JobRecord:
    job = engine.state.jobs.get(job_id)
    if job is not None:
        return job
    row = engine.store.find_job(job_id)
    if row is None:
        raise NotFound(f"there is no job {ref!r}; `bursar ls --state all` lists them")
    return record_of(row)


def _stored_or_named(engine: Engine, ref: str) -> JobRecord:
    named = [engine.state.jobs[job_id] for job_id in engine.state.names.get(ref, ())]
    if len(named) == 1:
        return named[0]
    if not named:
        if ref.isdecimal() or ref.startswith("job_"):
            row = engine.store.find_job(ref)
            if row is not None:
                return record_of(row)
        named = [record_of(row) for row in engine.store.jobs_named(ref, 5)]
        if len(named) == 1:
            return named[0]
    if named:
        numbers = ", ".join(str(job.number) for job in named[:5])
        raise InvalidRequest(f"{len(named)} or more jobs are named {ref!r}: use a number ({numbers}) or id")
    raise NotFound(f"there is no job {ref!r}; `bursar ls --state all` lists them")
