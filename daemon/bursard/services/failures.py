"""The failed tasks of an array that has ended, read from the store to be named beside its end."""

from __future__ import annotations

from itertools import islice

from bursar.model import JobState
from bursar.v1 import types_pb2 as pb
from bursard.access.authorize import Action, allowed
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.services.ends import TASKS_SHOWN, name_failed
from bursard.services.lookup import records_of
from bursard.state import JobRecord
from bursard.state.arrays import unrecorded_tasks
from bursard.store import JobFilter


async def add_failed_tasks(engine: Engine, wire: pb.Job, job: JobRecord) -> None:
    """Name them, where there are any."""
    if not wire.end.failed_total:
        return
    query = JobFilter(states=(JobState.FAILED.value,), parent_id=job.id, limit=TASKS_SHOWN)
    found = await engine.read(lambda views: views.jobs(query))
    tasks = await records_of(engine, found.rows)
    room = max(TASKS_SHOWN - len(tasks), 0)
    tasks += islice(unrecorded_tasks(job, {JobState.FAILED}, -1), room)
    private = allowed(caller(), Action.SEE_PRIVATE, job.spec.project, job.user)
    name_failed(wire.end, job.number, tasks, private)
