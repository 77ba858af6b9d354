"""What happened: the audit trail as sentences."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.cluster import EVENT_COLUMNS, SENTENCE_COLUMNS
from bursar_web.asking import client_of, events_shown
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, table

SHOWN = 100


async def events(request: Request) -> Response:
    """`/events`: the last ones, of a job, a node or a kind where the address says so."""
    query = request.query_params
    job, node, kind = (query.get(name, "") for name in ("job", "node", "kind"))
    rows = await events_shown(client_of(request), SHOWN, job=job, node=node, kinds=[kind] if kind else [])
    if (file := as_file(request, "events", rows, EVENT_COLUMNS)) is not None:
        return file
    return page(
        request,
        "events.html",
        command=command_line("events", job=job, node=node, kind=kind, tail=SHOWN),
        table=table("What happened, newest first", rows, SENTENCE_COLUMNS, empty="no events"),
        asked={"job": job, "node": node, "kind": kind},
    )
