"""Services: what each serves and costs, its replicas, its keys, and what each key cost."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.money import cost_columns
from bursar.cli.output import Row
from bursar.cli.services import KEY_COLUMNS, REPLICA_COLUMNS, SERVICE_COLUMNS, shown
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import Forbidden, NotFound
from bursar_web.asking import client_of, events_shown
from bursar_web.show import command_line, page
from bursar_web.tables import Table, as_file, job_link, node_link, table

_BY = ["service", "key"]


def service_link(name: str) -> str:
    """The page of a service."""
    return f"/services/{quote(name, safe='')}"


async def services(request: Request) -> Response:
    """`/services`: those that have not ended."""
    query = request.query_params
    project = query.get("project", "")
    rows = [shown(view.service(one)) for one in await client_of(request).services(project=project)]
    if (file := as_file(request, "services", rows, SERVICE_COLUMNS)) is not None:
        return file
    return page(
        request,
        "services.html",
        command=command_line("service", "ls", project=project),
        project=project,
        table=table(
            "Services",
            rows,
            SERVICE_COLUMNS,
            links={"name": lambda row: service_link(row["name"])},
            empty=f"no service is of project {project}"
            if project
            else "no services; a job file with `type: service` is one",
            query=query,
        ),
    )


async def service(request: Request) -> Response:
    """`/services/SERVICE`."""
    client, name = client_of(request), request.path_params["service"]
    found = await client.services(name)
    if not found:
        raise NotFound(f"there is no service {name!r}; the page of services lists them")
    row = shown(view.service(found[0]))
    if (file := as_file(request, f"service-{row['name']}", [row], SERVICE_COLUMNS, row)) is not None:
        return file
    keys, problem = await _keys(client, row["name"])
    document = view.cost(await client.cost(job=row["id"], by=_BY), _BY)
    return page(
        request,
        "service.html",
        command=command_line("service", "show", row["name"]),
        service=row,
        job=job_link(row),
        told=row["url"] is not None,
        replicas=table(
            "Replicas",
            row["replicas"],
            REPLICA_COLUMNS,
            links={"node": lambda one: node_link(one["node"]) if one["node"] else ""},
            empty="none runs",
        ),
        keys=keys,
        problem=problem,
        document=document,
        cost=table(
            "Cost by key",
            document["rows"],
            cost_columns(_BY, percent=True),
            leave_out=frozenset({"service"}),
            empty="no cost yet",
        ),
        events=await events_shown(client, 20, job=row["id"]),
    )


async def _keys(client: AsyncWireClient, name: str) -> tuple[Table | None, str]:
    """Who may ask it; or why that is not shown."""
    try:
        rows: list[Row] = [view.service_key(one) for one in await client.service_keys(name)]
    except Forbidden as problem:
        return None, str(problem)
    return table("Keys", rows, KEY_COLUMNS, empty="no keys; `bursar key new` makes one"), ""
