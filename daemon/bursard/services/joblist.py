"""Lists of jobs: the active ones from memory, the finished ones from the store, newest first, by page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from bursar.clock import DAY_US
from bursar.errors import InvalidRequest
from bursar.model import JobState
from bursar.v1 import jobs_pb2 as pb
from bursard.access.authorize import Action, allowed, projects
from bursard.access.identity import caller
from bursard.cycle import Cycle, reason_of
from bursard.engine import Engine
from bursard.services.lookup import find_job
from bursard.services.views import job_view, record_of
from bursard.state import JobRecord
from bursard.store import JobFilter

PAGE_DEFAULT = 100
PAGE_MAX = 1000

_TOKEN = re.compile(r"(\d{1,18})\.(-1|\d{1,9})", re.ASCII)

Place = tuple[int, int]
"""(number, array index): the order of every list, descending."""


async def page(engine: Engine, cycle: Cycle, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
    """One page. The token is the place of the last job on the page before."""
    size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
    states = _states(request)
    before = _place(request.page_token)
    parent_id = (await find_job(engine, request.tasks_of)).id if request.tasks_of else ""
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
        rows = [record_of(row) for row in found.rows]
    ended = {row.id for row in rows}
    active = islice(
        (job for job in _active(engine, request, parent_id, before) if job.state in wanted_active), size + 1
    )
    jobs = sorted([*rows, *(job for job in active if job.id not in ended)], key=place_of, reverse=True)
    answer = pb.ListJobsResponse(
        jobs=[
            job_view(engine.state, job, reason_of(engine.state, cycle, job, now), seen_by=identity)
            for job in jobs[:size]
        ]
    )
    if len(jobs) > size:
        number, index = place_of(jobs[size - 1])
        answer.next_page_token = f"{number}.{index}"
    return answer


def place_of(job: JobRecord) -> Place:
    """Where a job stands in lists."""
    return job.number, job.array_index


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


def _active(
    engine: Engine, request: pb.ListJobsRequest, parent_id: str, before: Place | None
) -> Iterator[JobRecord]:
    """Matching jobs in memory, newest first: they were added in the order of their numbers."""
    state = engine.state
    labels = request.labels
    project = request.project
    identity = caller()
    ids = reversed(state.jobs) if not parent_id else _tasks(engine, parent_id)
    for job_id in ids:
        job = state.jobs[job_id]
        spec = job.spec
        if (
            job.parent_id != parent_id
            or not allowed(identity, Action.SEE_JOBS, spec.project)
            or (before is not None and place_of(job) >= before)
            or (project and spec.project != project and not spec.project.startswith(project + "/"))
            or (request.user and job.user != request.user)
            or (request.experiment and spec.experiment != request.experiment)
            or (request.model and spec.model != request.model)
            or (request.name and spec.name != request.name)
            or (request.since and max(job.submitted_at, job.finished_at) < request.since)
            or any(dict(spec.labels).get(key) != value for key, value in labels.items())
        ):
            continue
        yield job


def _tasks(engine: Engine, parent_id: str) -> Iterator[str]:
    parent = engine.state.jobs.get(parent_id)
    if parent is not None and parent.array is not None:
        for index in reversed(parent.array.indices):
            if f"{parent_id}.{index}" in engine.state.jobs:
                yield f"{parent_id}.{index}"
