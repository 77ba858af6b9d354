"""Experiments and models: what each run and each version cost, and all of it together."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.money import cost_columns
from bursar.codec import view
from bursar.model import JobState
from bursar_web.asking import client_of
from bursar_web.pages import money
from bursar_web.pages.jobs import PAGE_ROWS
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, job_link, table

_ALL = [state.value for state in JobState]


async def experiment(request: Request) -> Response:
    """`/experiments/EXPERIMENT`: by job."""
    return await _runs(request, "experiment", request.path_params["experiment"], "job")


async def model(request: Request) -> Response:
    """`/models/MODEL`: by version."""
    return await _runs(request, "model", request.path_params["model"], "model_version")


async def _runs(request: Request, kind: str, name: str, by: str) -> Response:
    client, period = client_of(request), request.query_params.get("period", "")
    scope = {kind: name}
    bound = {} if request.scope.get("file") else {"top": money.ROWS_MAX}
    document = view.cost(await client.cost(by=[by], period=period, **scope, **bound), [by])
    others = money.left_out(document, [by]) if bound else 0
    columns = cost_columns([by], percent=True)
    if (file := as_file(request, f"{kind}-{name}", document["rows"], columns, document)) is not None:
        return file
    found, more = await client.job_page(size=PAGE_ROWS, states=_ALL, **scope)
    return page(
        request,
        "runs.html",
        command=command_line("cost", **scope, by=by, period=period),
        kind=kind,
        name=name,
        document=document,
        cost=table(
            f"Cost by {by.replace('_', ' ')}",
            document["rows"],
            columns,
            links={"job": lambda row: job_link({"id": row["job"]})},
            empty="no cost yet",
            query=request.query_params,
        ),
        jobs=table(
            "Its jobs, newest first",
            [view.job(each) for each in found],
            JOB_COLUMNS,
            links={"number": job_link, "name": job_link},
            leave_out=frozenset({"id"}),
            empty="no job of that name, or none that you may see",
        ),
        more=bool(more),
        others=others,
    )
