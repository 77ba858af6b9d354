"""Jobs: the list that decides whether people come back, one job with why and what it cost, and its log."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.cli.common import read_labels, read_since
from bursar.cli.jobs import JOB_COLUMNS, read_states
from bursar.cli.money import cost_columns
from bursar.cli.output import Column, Row
from bursar.cli.terminal import seconds_text
from bursar.cli.texts import BUDGET_NOW, deadline_text, is_estimate, needs_text, where_text
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar.model import JobState
from bursar_web.asking import client_of, events_shown
from bursar_web.pages import pictured, scheduler
from bursar_web.pages.money import LINES
from bursar_web.show import command_line, page
from bursar_web.tables import Table, as_file, budget_link, changed, job_link, node_link, table

PAGE_ROWS = 50
LOG_LINES = 500
_PLACE: Final = re.compile(r"[0-9]{1,18}\.(-1|[0-9]{1,9})")
FILTERS: Final = ("project", "user", "experiment", "model", "name")
ATTEMPT_COLUMNS = (
    Column("number", right=True),
    Column("state"),
    Column("nodes", show=lambda row: where_text(row["nodes"])),
    Column("started", "started_at"),
    Column("ended", "finished_at"),
    Column("cause", "end_cause"),
)
QUEUE_COLUMNS = (Column("reason"), Column("jobs", right=True))
NODE_VERDICTS = (Column("node"), Column("fits"), Column("why_not"))
VERBS: Final = {
    "cancel": ("Cancel", "ends it; what it has cost stays, what it holds is given back"),
    "hold": ("Hold", "keeps it from starting until it is released"),
    "release": ("Release", "lets it start"),
    "requeue": ("Requeue", "ends its attempt and runs it again; what the attempt has cost stays"),
}
_OFFERED: Final = {
    "PENDING": ("cancel", "hold", "release"),
    "STARTING": ("cancel", "requeue"),
    "RUNNING": ("cancel", "requeue"),
    "STOPPING": ("cancel",),
}


class Tasks(NamedTuple):
    """Of an array: how many are in which state, one page of them, and where all are; "" if these are all."""

    counts: str
    table: Table
    rest: str


async def jobs(request: Request) -> Response:
    """`/jobs`: filters, and the page of the list, stand in the address."""
    query = request.query_params
    fields = {name: query.get(name, "") for name in FILTERS}
    filters: dict[str, Any] = dict(fields)
    states = read_states(query.get("state") or None)
    labels = read_labels(query.getlist("label") if query.get("label") else [])
    filters |= {"states": states, "labels": labels, "tasks_of": query.get("tasks", "")}
    place = _place(query.get("page", ""))
    found, token = await client_of(request).job_page(
        size=PAGE_ROWS, token=place, since=read_since(query.get("since") or None), **filters
    )
    rows = [view.job(each) for each in found]
    if (file := as_file(request, "jobs", rows, JOB_COLUMNS)) is not None:
        return file
    given = {name: query.get(name, "") for name in ("state", *FILTERS, "label", "since", "tasks")}
    return page(
        request,
        "jobs.html",
        command=command_line("ls", **given),
        filters=fields,
        states=("", "all", *(state.value.lower() for state in JobState)),
        table=table(
            "Jobs, newest first",
            rows,
            JOB_COLUMNS,
            links={"number": job_link, "name": job_link},
            leave_out=frozenset({"id"}),
            empty=_nothing(any(given.values()), bool(place)),
        ),
        after=changed(query, page=token) if token else "",
        first=changed(query, page="") if query.get("page") else "",
    )


def _place(text: str) -> str:
    """Where a page of the list begins, as the link of the page before has it. Raises `InvalidRequest`."""
    if text and not _PLACE.fullmatch(text):
        raise InvalidRequest(
            f"page: {text[:40]!r} is no place in the list; take `page` out of the address to begin at the"
            " first page, whose link goes on to the next"
        )
    return text


def _nothing(filtered: bool, goes_on: bool) -> str:
    """What stands in place of an empty list."""
    if goes_on:
        return "no job comes after; the first page has the newest"
    return "no job matches; leave a filter out" if filtered else "no jobs; `bursar run -- COMMAND` starts one"


async def queue(request: Request) -> Response:
    """`/queue`: how many wait for what, and how the scheduler does; `?show=scheduler` is the latter as files.

    The daemon counts them all, so the first page does not ask for it.
    """
    counts: dict[str, int] = {}
    wire = await client_of(request).server(census=True)
    server = view.server(wire)
    figures = scheduler.health(server)
    alone = request.query_params.get("show") == "scheduler"
    if alone and (file := as_file(request, "scheduler", figures, scheduler.HEALTH_COLUMNS)) is not None:
        return file
    for one in wire.census:
        if one.state == JobState.PENDING:
            counts[one.reason] = counts.get(one.reason, 0) + one.jobs
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [{"reason": reason, "jobs": jobs} for reason, jobs in ordered]
    if (file := as_file(request, "queue", rows, QUEUE_COLUMNS)) is not None:
        return file
    return page(
        request,
        "queue.html",
        command=command_line("ls", state="pending"),
        picture=pictured.queue(rows),
        took=scheduler.took(server),
        figures=table("How the scheduler does", figures, scheduler.HEALTH_COLUMNS),
        table=table("What waits, by reason", rows, QUEUE_COLUMNS, empty="nothing waits"),
    )


async def job(request: Request) -> Response:
    """`/jobs/JOB`."""
    client, reference = client_of(request), request.path_params["job"]
    told = view.explain(await client.explain(reference))
    row: Row = told["job"]
    if (file := as_file(request, f"job-{row['number']}", [row], JOB_COLUMNS, row)) is not None:
        return file
    keys = ["attempt"]
    cost = view.cost(await client.cost(job=row["id"], by=keys), keys)
    return page(
        request,
        "job.html",
        command=command_line("explain", row["id"]),
        job=row,
        told=told,
        needs=needs_text(row),
        deadline=deadline_text(row),
        estimated=is_estimate(row),
        elapsed=seconds_text(row["elapsed_s"]),
        verbs=[(verb, VERBS[verb][0]) for verb in _OFFERED.get(row["state"], ())],
        attempts=table("Attempts", row["attempts"], ATTEMPT_COLUMNS, empty="it has not started"),
        tasks=await _tasks(client, row) if row["array"] else None,
        cost=table("Cost by attempt", cost["rows"], cost_columns(keys), empty="no cost yet"),
        total=cost["total"],
        lines=LINES,
        hours=await pictured.or_said("Cost by hour", pictured.job_by_hour(client, row["id"])),
        nodes=table(
            "Nodes, as it sees them",
            told["nodes"],
            NODE_VERDICTS,
            links={"node": lambda one: node_link(one["node"])},
        ),
        budgets=table(
            "Its budgets", told["budgets"], BUDGET_NOW, links={"budget": lambda one: budget_link(one["name"])}
        ),
        ahead=[(job_link(one), f"{one['number']} {one['name']}", one["why"]) for one in told["ahead_jobs"]],
        events=await events_shown(client, 20, job=row["id"]),
        log=f"{job_link(row)}/log",
    )


async def _tasks(client: AsyncWireClient, array: Row) -> Tasks:
    found, more = await client.job_page(size=PAGE_ROWS, states=list(JobState), tasks_of=array["id"])
    counts = [f"{many} {state.lower()}" for state, many in array["array"]["counts"].items()]
    shown = table(
        "Tasks",
        [view.job(each) for each in found],
        JOB_COLUMNS,
        links={"number": job_link, "name": job_link},
        leave_out=frozenset({"id", "project", "user"}),
    )
    rest = "/jobs?" + urlencode({"tasks": array["id"], "state": "all"}) if more else ""
    return Tasks(", ".join(counts), shown, rest)


async def log(request: Request) -> Response:
    """`/jobs/JOB/log`: the last lines of one rank."""
    client, reference = client_of(request), request.path_params["job"]
    rank = request.query_params.get("rank", "0")
    if not rank.isascii() or not rank.isdigit() or len(rank) > 6:
        raise InvalidRequest(f"rank: {rank[:40]!r} is not the number of a member; the first is 0")
    row = view.job(await client.get(reference))
    try:
        parts = [chunk.data async for chunk in client.logs(row["id"], rank=int(rank), tail_lines=LOG_LINES)]
        text, problem = b"".join(parts).decode("utf-8", "backslashreplace"), ""
    except (NotFound, WrongState) as fault:
        text, problem = "", str(fault)
    return page(
        request,
        "log.html",
        command=command_line("logs", row["id"], "-n", str(LOG_LINES), "--rank", rank),
        job=row,
        rank=int(rank),
        ranks=range(min(row["max_nodes"] or row["nodes"], 64)),
        text=text,
        problem=problem,
        back=job_link(row),
        most=LOG_LINES,
    )


async def ask(request: Request) -> Response:
    """`/jobs/JOB/VERB`: what it would do, with the money it touches, before anything is done."""
    row = view.job(await client_of(request).get(request.path_params["job"]))
    verb = request.path_params["verb"]
    name, effect = VERBS[verb]
    return page(
        request,
        "confirm.html",
        command=command_line(verb, row["id"]),
        title=f"{name} job {row['number']} {row['name']}?",
        effect=effect,
        job=row,
        back=job_link(row),
        name=name,
    )


async def act(request: Request) -> Response:
    """POST `/jobs/JOB/VERB`."""
    client, verb = client_of(request), request.path_params["verb"]
    row = view.job(await client.get(request.path_params["job"]))
    await getattr(client, verb)([row["id"]])
    return RedirectResponse(f"/jobs/{quote(row['id'], safe='')}", 303)
