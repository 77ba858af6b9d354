"""What finance reads: where the money of a period went, and what each project owes."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.output import Column, Row
from bursar.pictures import Picture
from bursar_web.asking import client_of
from bursar_web.pages import pictured
from bursar_web.printing import Printer
from bursar_web.show import command_line, page
from bursar_web.tables import FILES, Table, budget_link, node_link, table

TYPES: Final = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
}
WASTE_COLUMNS = (
    Column("category"),
    Column("cost", right=True, missing="not known"),
    Column("share", "share_percent", lambda row: _percent(row["share_percent"]), right=True),
    Column("means"),
)
IDLE_COLUMNS = (
    Column("pool"),
    Column("node"),
    Column("cause"),
    Column("hours", "time_hours", lambda row: f"{row['time_hours']:.2f}", right=True),
    Column("cost", right=True),
    Column("share", "share_percent", lambda row: _percent(row["share_percent"]), right=True),
)
GROUP_COLUMNS = (
    Column("jobs", right=True),
    Column("hours", "held_s", lambda row: f"{row['held_s'] / 3600:.3f}", right=True),
    Column("cost", right=True),
    Column("before", right=True),
    Column("change", "change_percent", lambda row: _percent(row["change_percent"]), right=True),
    Column("covered", "covered_percent", lambda row: _percent(row["covered_percent"]), right=True),
)
LIMIT_COLUMNS = (
    Column("budget"),
    Column("scope"),
    Column("every"),
    Column("since"),
    Column("limit", right=True),
    Column("settled", right=True, missing="not known"),
    Column("available", right=True, missing="not known"),
    Column("used", "used_percent", lambda row: _percent(row["used_percent"]), right=True),
)
PARTS: Final = (
    "idle", "keep_alive", "down", "unknown", "overhead", "variance", "absorption", "refund",
    "corrections", "late",
)  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


async def _report(request: Request, kind: str, form: str, **asked: str) -> bytes:
    """A whole report; of a file that is asked for as the command writes it."""
    chunks = client_of(request).report(kind, asked.pop("period"), format=form, **asked)
    return b"".join([chunk.data async for chunk in chunks])


async def waste(request: Request) -> Response:
    """`/waste`: categories that exclude each other and sum to what the nodes cost, and who was idle."""
    query = request.query_params
    period = query.get("period", "") or "this-month"
    asked = {name: query.get(name, "") for name in ("project", "timezone")}
    if (file := request.scope.get("file", "")) in FILES:
        return Response(await _report(request, "waste", file, period=period, **asked), media_type=TYPES[file])
    kinds = {"waste": asked}
    if not asked["project"]:  # nodes are of no project
        kinds["idle"] = {"timezone": asked["timezone"]}
    # Beside each other: both wait until the nodes have told what they used.
    told = await asyncio.gather(
        *(_report(request, kind, "json", period=period, **words) for kind, words in kinds.items())
    )
    found: Row = json.loads(told[0])
    idle: list[Row] = json.loads(told[1])["rows"] if len(told) > 1 else []
    return page(
        request,
        "waste.html",
        command=command_line("report", "waste", period=period, **asked),
        document=found,
        asked={"period": period, **asked},
        table=table("Where it went", found["rows"], WASTE_COLUMNS),
        waterfall=pictured.where_it_went(found),
        causes=pictured.why_idle(idle, found["currency"]) if idle else None,
        idle=table(
            "What nobody used, by node",
            idle,
            IDLE_COLUMNS,
            links={"node": lambda row: node_link(row["node"])},
            empty="nothing, or not asked: nodes are of no project",
        ),
    )


async def statement(request: Request) -> Response:
    """`/statements/PERIOD`: what each project, cost centre, user and model owes, and its control."""
    period, query = request.path_params["period"], request.query_params
    asked = {"project": query.get("project", ""), "by": query.get("by", "")}
    printer: Printer = request.app.state.printer
    if (file := request.scope.get("file", "")) in TYPES:
        data = await _report(request, "statement", file, period=period, **asked)
        return Response(data, media_type=TYPES[file], headers=_kept(file))
    if file == "pdf":
        data = await printer.pdf(await _report(request, "statement", "html", period=period, **asked))
        return Response(data, media_type="application/pdf", headers=_kept(file))
    found: Row = json.loads(await _report(request, "statement", "json", period=period, **asked))
    parts = [(name, found[name]) for name in PARTS if _told(found.get(name))]
    return page(
        request,
        "statement.html",
        command=command_line("report", "statement", period=period, **asked),
        document=found,
        parts=parts,
        pdf=printer.there,
        daily=await _days(request, found, asked["project"]),
        nodes=pictured.what_nodes_cost(found, parts) if "node_cost" in found else None,
        tables=[_by(group, found["period"]) for group in found["groups"]],
        budgets=table(
            "Budgets: limit against actual",
            found["budgets"],
            LIMIT_COLUMNS,
            links={"budget": lambda row: budget_link(row["budget"])},
            empty="no budget covers it",
        ),
    )


async def _days(request: Request, found: Row, project: str) -> Picture:
    """By day and project, as the page of costs draws it."""
    asked = {"period": found["period"], "project": project}
    made = pictured.daily_cost(client_of(request), found, "project", asked, request.app.state.clock.now())
    return await pictured.or_said("Cost by day", made)


def _by(group: Row, period: str) -> Table:
    def narrower(row: Row) -> str:
        """The jobs that its cost is of, where it can be asked of them."""
        if group["by"] not in pictured.SCOPES or not row["name"]:
            return ""
        by = "project,job" if group["by"] == "project" else "job"  # of those below it, each under its own
        return "/cost?" + urlencode({"period": period, "by": by, group["by"]: row["name"]})

    title = group["by"].removeprefix("label:")
    columns = (Column(title, "name"), *GROUP_COLUMNS)
    return table(
        f"By {title.replace('_', ' ')}",
        group["rows"],
        columns,
        links={title: narrower},
        empty="nothing had cost in it",
    )


def _kept(file: str) -> dict[str, str]:
    """A page that is a file is kept, not shown: it brings a style of its own, which no page of ours may."""
    name = f'attachment; filename="bursar-statement.{file}"'
    return {"Content-Disposition": name} if file in ("html", "pdf") else {}


def _told(value: Any) -> bool:
    return isinstance(value, dict) and "amount" in value
