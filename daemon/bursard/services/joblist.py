"""Lists of jobs: the active ones from memory, the finished ones from the store, newest first, by page."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from itertools import islice

from bursar.clock import DAY_US
from bursar.errors import InvalidRequest
from bursar.model import JobState
from bursar.projects import is_within
from bursar.v1 import jobs_pb2 as pb
from bursard.access.authorize import Action, allowed, projects
from bursard.access.identity import caller
from bursard.cycle import Cycle, reason_of
from bursard.engine import Engine
from bursard.services.lookup import find_job, records_of
from bursard.services.views import Form, fitting, job_view
from bursard.state import JobRecord
from bursard.state.arrays import unrecorded, unrecorded_indices
from bursard.store import JobFilter

PAGE_DEFAULT = 100
PAGE_MAX = 1000

_TOKEN = re.compile(r"(\d{1,18})\.(-1|\d{1,9})", re.ASCII)

Place = tuple[int, int]
"""(number, array index): lists have the newest job first, and the tasks of an array by their index."""


async def page(engine: Engine, cycle: Cycle, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
    """One page, ended by number or by bytes. The token is the place of the last job on the page before."""
    size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
    states = _states(request)
    before = _place(request.page_token)
    parent = await find_job(engine, request.tasks_of) if request.tasks_of else None
    parent_id = parent.id if parent is not None else ""
    wanted_active = (
        [s for s in states if not s.terminal] if states else [s for s in JobState if not s.terminal]
    )
    wanted_ended = [s for s in states if s.terminal]
    now = engine.now()
    rows: list[JobRecord] = []
    identity = caller()
    if wanted_ended or not states:
        query = JobFilter(
            states=tuple(s.value for s in wanted_ended),
            project=request.project,
            within=projects(Action.SEE_JOBS),
            user=request.user,
            experiment=request.experiment,
            model=request.model,
            name=request.name,
            labels=tuple(sorted(request.labels.items())),
            since=request.since,
            ended_since=now - DAY_US if not states and not request.since and not parent_id else 0,
            parent_id=parent_id,
            cursor=before,
            limit=size + 1,
        )
        found = await engine.read(lambda views: views.jobs(query))
        rows = await records_of(engine, found.rows)
    ended = {row.id for row in rows}
    if parent is not None:
        wanted = {*wanted_active, *(wanted_ended if states else (s for s in JobState if s.terminal))}
        memory = _tasks(engine, parent, wanted, before)
    else:
        wanted, memory = set(wanted_active), (engine.state.jobs[key] for key in reversed(engine.state.jobs))
    active = islice(
        (job for job in _matching(memory, request, parent_id, before) if job.state in wanted), size + 1
    )
    jobs = sorted([*rows, *(job for job in active if job.id not in ended)], key=_order)
    state = engine.state
    shown = fitting(
        job_view(state, job, reason_of(state, cycle, job, now), seen_by=identity, now=now, form=Form.ROW)
        for job in jobs[:size]
    )
    answer = pb.ListJobsResponse(jobs=shown)
    if len(jobs) > len(shown):
        number, index = place_of(jobs[len(shown) - 1])
        answer.next_page_token = f"{number}.{index}"
    return answer


def place_of(job: JobRecord) -> Place:
    """Where a job stands in lists."""
    return job.number, job.array_index


def _order(job: JobRecord) -> Place:
    return -job.number, job.array_index


def _states(request: pb.ListJobsRequest) -> list[JobState]:
    names = {state.value for state in JobState}
    wanted: list[JobState] = []
    for name in request.states:
        if name.lower() == "all":
            return list(JobState)
        if name.upper() not in names:
            raise InvalidRequest(f"state {name!r} is not one of {', '.join(sorted(names)).lower()}, all")
        wanted.append(JobState(name.upper()))
    return wanted


def _place(token: str) -> Place | None:
    if not token:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidRequest("page_token is not one this server gave out; start again without it")
    return int(match[1]), int(match[2])


def _matching(
    jobs: Iterator[JobRecord], request: pb.ListJobsRequest, parent_id: str, before: Place | None
) -> Iterator[JobRecord]:
    """Those that were asked for and that the caller may see."""
    labels = request.labels
    project = request.project
    identity = caller()
    for job in jobs:
        spec = job.spec
        if (
            job.parent_id != parent_id
            or not allowed(identity, Action.SEE_JOBS, spec.project)
            or (before is not None and _order(job) <= (-before[0], before[1]))
            or not is_within(spec.project, project)
            or (request.user and job.user != request.user)
            or (request.experiment and spec.experiment != request.experiment)
            or (request.model and spec.model != request.model)
            or (request.name and spec.name != request.name)
            or (request.since and max(job.submitted_at, job.finished_at) < request.since)
            or any(dict(spec.labels).get(key) != value for key, value in labels.items())
        ):
            continue
        yield job


def _tasks(
    engine: Engine, parent: JobRecord, wanted: set[JobState], before: Place | None
) -> Iterator[JobRecord]:
    """Tasks of an array that are in memory, or told of by its own record alone, by index."""
    above = before[1] if before is not None else -1
    records = engine.state.tasks.get(parent.id, {})
    found = (
        sorted(index for index in records if index > above),
        unrecorded_indices(parent, wanted, above),
    )
    last = -1
    for index in heapq.merge(*found):
        task = records.get(index) or unrecorded(parent, index)
        if task is not None and index != last:
            yield task
        last = index
