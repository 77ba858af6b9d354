"""Lists of jobs: the active ones from memory, the finished ones from the store, newest first, by page."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
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
from bursard.services.views import Form, fitting_in_turns, job_view
from bursard.state import JobRecord
from bursard.state.arrays import told_state, unrecorded_tasks, waits
from bursard.store import JobFilter
from bursard.turns import breathe

PAGE_DEFAULT = 100
PAGE_MAX = 1000
_LOOKS_AT_ONCE = 500
"""Jobs that a list looks at between two looks whether others are to have their turn: a millisecond or two."""

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
    identity, matches = caller(), _matches(request)
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
            ended_since=request.since or (now - DAY_US if not states and not parent_id else 0),
            parent_id=parent_id,
            cursor=before,
            limit=size + 1,
        )
        found = await engine.read(lambda views: views.jobs(query))
        rows = await records_of(engine, found.rows)
    ended = {row.id for row in rows}
    if parent is not None:
        wanted = {*wanted_active, *(wanted_ended if states else (s for s in JobState if s.terminal))}
        active = list(islice(_tasks(engine, parent, wanted, before, matches), size + 1))
    else:
        active = await _live(engine, matches, set(wanted_active), before, size + 1)
    jobs = sorted([*rows, *(job for job in active if job.id not in ended)], key=_order)
    state = engine.state
    shown = await fitting_in_turns(
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


def _matches(request: pb.ListJobsRequest) -> Callable[[JobRecord], bool]:
    """Is a job one that was asked for, and that the caller may see? Wherever it stands in the list."""
    labels, project, identity = request.labels, request.project, caller()

    def matches(job: JobRecord) -> bool:
        spec = job.spec
        # What costs least is asked first: of many jobs most are somebody else's.
        return (
            request.user in ("", job.user)
            and is_within(spec.project, project)
            and request.experiment in ("", spec.experiment)
            and request.model in ("", spec.model)
            and request.name in ("", spec.name)
            and (not request.since or max(job.submitted_at, job.finished_at) >= request.since)
            and all(dict(spec.labels).get(key) == value for key, value in labels.items())
            and allowed(identity, Action.SEE_JOBS, spec.project)
        )

    return matches


async def _live(
    engine: Engine,
    matches: Callable[[JobRecord], bool],
    states: set[JobState],
    before: Place | None,
    many: int,
) -> list[JobRecord]:
    """The newest jobs in memory that match. Others have their turn while a long list is gone through.

    What waits has arrays and services of which a part does, whatever the rest of it is in.
    """
    found, waiting = list[JobRecord](), JobState.PENDING in states
    keys = reversed(list(engine.state.jobs))
    while some := list(islice(keys, _LOOKS_AT_ONCE)):
        for key in some:
            job = engine.state.jobs.get(key)
            if (
                job is not None
                and (told_state(job) in states or (waiting and waits(job)))
                and not job.parent_id
                and (before is None or _order(job) > (-before[0], before[1]))
                and matches(job)
            ):
                found.append(job)
                if len(found) == many:
                    return found
        await breathe()
    return found


def _tasks(
    engine: Engine,
    parent: JobRecord,
    wanted: set[JobState],
    before: Place | None,
    matches: Callable[[JobRecord], bool],
) -> Iterator[JobRecord]:
    """Tasks of an array that are in memory, or told of by its own record alone, by index."""
    after = before[1] if before is not None else -1
    records = engine.state.tasks.get(parent.id, {})
    known = (records[index] for index in sorted(records) if index > after)
    told = unrecorded_tasks(parent, wanted, after, matches)
    yield from heapq.merge(
        (task for task in known if task.state in wanted and matches(task)),
        (task for task in told if task.array_index not in records),
        key=lambda task: task.array_index,
    )
