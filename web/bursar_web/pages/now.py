"""The first page: what runs, what waits and why, what it costs, and what is left.

Why     each part asks on its own, and says so where it has no answer: one that fails blanks no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.budget import BUDGET_COLUMNS
from bursar.cli.cluster import SENTENCE_COLUMNS
from bursar.cli.ends import LIVE
from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.output import Row
from bursar.codec import view
from bursar.errors import BursarError, Unauthenticated
from bursar.model import ReasonCode
from bursar_web.asking import client_of, events_shown
from bursar_web.pages import pictured
from bursar_web.show import page
from bursar_web.tables import budget_link, job_link, table

SHOWN = 10
LOOKED_AT = 50
"""Jobs of those that wait: some are services that nobody asks anything of."""
STANDING = ("hours", "month")
NO_REQUESTS = ReasonCode.NO_REQUESTS.value
_NOT_HERE = frozenset({"id", "user"})


class Part(NamedTuple):
    """What one part of the page got, or why it got nothing."""

    value: Any
    fault: str


async def now(request: Request) -> Response:
    """`/`."""
    client = client_of(request)

    async def jobs(*states: str) -> Row:
        found, more = await client.job_page(size=SHOWN, states=states)
        return {"rows": [view.job(each) for each in found], "more": bool(more)}

    async def waiting() -> Row:
        """What waits for something. A service at no replicas is pending, and waits for nothing."""
        found, more = await client.job_page(size=LOOKED_AT, states=("PENDING",))
        rows = [row for row in map(view.job, found) if (row["reason"] or {}).get("code") != NO_REQUESTS]
        return {"rows": rows[:SHOWN], "more": bool(more) or len(rows) > SHOWN}

    async def budgets() -> list[Row]:
        return [view.budget(each) for each in await client.budgets()]

    async def nodes() -> Row:
        return _machines([view.node(each) for each in await client.nodes()])

    async def spent(period: str) -> Row:
        return view.cost(await client.cost(by=["project"], period=period, top=SHOWN), ["project"])

    async def server() -> Row:
        return view.server(await client.server())

    asked: dict[str, Callable[[], Awaitable[Any]]] = {
        "server": server,
        "running": lambda: jobs(*LIVE),
        "waiting": waiting,
        "budgets": budgets,
        "machines": nodes,
        "today": lambda: spent("today"),
        "month": lambda: spent("this-month"),
        "hours": lambda: pictured.hourly_cost(client, request.app.state.clock.now()),
        "events": lambda: events_shown(client, SHOWN),
    }
    if request.headers.get("hx-request"):
        del asked["hours"], asked["month"]  # sums of many days, which stand beside what comes anew by itself
    parts = dict(zip(asked, await asyncio.gather(*(_part(one) for one in asked.values())), strict=True))
    parts = {name: Part(None, "") for name in STANDING} | parts
    tables = {
        "running": _jobs("What runs", parts["running"], "nothing runs"),
        "waiting": _jobs("What waits, and why", parts["waiting"], "nothing waits"),
        "budgets": table(
            "What is left",
            parts["budgets"].value or [],
            BUDGET_COLUMNS,
            links={"name": lambda row: budget_link(row["name"])},
            leave_out=frozenset({"scope", "period"}),
            empty="no budgets; `bursar policy apply` makes one",
        ),
        "events": table("What happened last", parts["events"].value or [], SENTENCE_COLUMNS),
    }
    return page(request, "now.html", command="bursar top", parts=parts, tables=tables)


async def _part(ask: Callable[[], Awaitable[Any]]) -> Part:
    try:
        return Part(await ask(), "")
    except Unauthenticated:
        raise
    except BursarError as problem:
        return Part(None, str(problem))


def _jobs(caption: str, part: Part, empty: str) -> Any:
    rows = part.value["rows"] if part.value else []
    return table(
        caption,
        rows,
        JOB_COLUMNS,
        links={"number": job_link, "name": job_link},
        leave_out=_NOT_HERE,
        empty=empty,
    )


def _machines(nodes: list[Row]) -> Row:
    """How many there are, and how much of them nobody has."""
    up = [node for node in nodes if node["state"] == "up"]
    return {
        "nodes": len(nodes),
        "up": len(up),
        "away": sorted(node["name"] for node in nodes if node["state"] != "up"),
        "gpus": sum(node["gpus"] for node in up),
        "gpus_free": sum(node["gpus_free"] for node in up),
        "cpus": sum(node["cpus"] for node in up),
        "cpus_free": sum(node["cpus_free"] for node in up),
    }
