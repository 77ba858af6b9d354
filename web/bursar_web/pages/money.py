"""Budgets and cost: what is left, who spent it, and what it was spent on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.budget import BUDGET_COLUMNS
from bursar.cli.common import read_since
from bursar.cli.money import DIMENSIONS, cost_columns, covered, dated_rows, read_dimensions
from bursar.cli.output import Column, Row
from bursar.clock import format_instant
from bursar.codec import view
from bursar.errors import NotFound
from bursar.pictures import Picture
from bursar_web.asking import client_of
from bursar_web.pages import pictured
from bursar_web.show import command_line, page
from bursar_web.tables import Link, as_file, budget_link, changed, job_link, number_of, table

PERIODS: Final = (
    *("today", "yesterday", "this-month", "last-month", "this-quarter", "last-quarter"),
    *("this-year", "last-year"),
)
"""What a period is called most; it may be a day, a month, a quarter or a year as well."""
POSTING_COLUMNS = (
    Column("at"),
    Column("kind"),
    Column("amount", right=True),
    Column("by"),
    Column("reason"),
)


async def budgets(request: Request) -> Response:
    """`/budgets`."""
    query = request.query_params
    rows = [view.budget(each) for each in await client_of(request).budgets()]
    if (file := as_file(request, "budgets", rows, BUDGET_COLUMNS)) is not None:
        return file
    return page(
        request,
        "budgets.html",
        command=command_line("budget", "ls"),
        table=table(
            "Budgets in their current period",
            rows,
            BUDGET_COLUMNS,
            links={"name": lambda row: budget_link(row["name"])},
            empty="no budgets; `bursar policy apply` makes one",
            query=query,
        ),
        bars=[bar(row) for row in rows],
    )


async def budget(request: Request) -> Response:
    """`/budgets/BUDGET`."""
    name = request.path_params["budget"]
    found = await client_of(request).forecasts(name=name)
    if not found:
        raise NotFound(f"there is no budget {name!r}; the page of budgets lists them")
    row = view.budget(found[0])
    expected, row["forecast"] = row["forecast"], None  # files are those of `budget show`
    if (file := as_file(request, f"budget-{name}", [row], BUDGET_COLUMNS, row)) is not None:
        return file
    return page(
        request,
        "budget.html",
        command=command_line("budget", "show", name),
        budget=row,
        bar=bar(row),
        expected=expected,
        left=await pictured.or_said(
            "What is left, day by day",
            pictured.budget_left(client_of(request), row, expected, request.app.state.clock.now()),
        ),
        postings=table(
            "What it was given", row["postings"], POSTING_COLUMNS, empty="nothing beside its document"
        ),
    )


def bar(row: Row) -> Row:
    """A budget as parts of a bar, in thousandths of its limit; what is over the limit is cut at its end."""
    limit = Decimal(row["limit"]["amount"])

    def part(name: str) -> int:
        return min(max(int(Decimal(row[name]["amount"]) * 1000 / limit), 0), 1000) if limit > 0 else 0

    settled = part("settled")
    return {"name": row["name"], "settled": settled, "held": min(part("held"), 1000 - settled), "row": row}


async def cost(request: Request) -> Response:
    """`/cost`: range, grouping and comparison stand in the address."""
    query = request.query_params
    dimensions = read_dimensions(query.get("by", ""), False)
    compared, idle = query.get("compare", ""), query.get("idle", "")
    asked: dict[str, Any] = {
        "period": query.get("period", "" if "since" in query or "until" in query else "this-month"),
        "project": query.get("project", ""),
        "user": query.get("user", ""),
        "experiment": query.get("experiment", ""),
        "model": query.get("model", ""),
        "since": read_since(query.get("since") or None),
        "until": read_since(query.get("until") or None, "--until"),
        "timezone": query.get("timezone", ""),
        "compare": compared,
        "include_idle": idle == "1",
        "depth": number_of(query.get("depth", ""), "depth", 64),
        "top": number_of(query.get("top", ""), "top", 5_000),
    }
    found = await client_of(request).cost(by=dimensions, **asked)
    document = view.cost(found, dimensions)
    columns = cost_columns(dimensions, percent=True, compared=bool(compared))
    dated = cost_columns(dimensions, percent=True, compared=bool(compared), dated=True)
    rows = dated_rows(document) if request.scope.get("file") == "csv" else document["rows"]
    if (file := as_file(request, "cost", rows, dated, document)) is not None:
        return file
    return page(
        request,
        "cost.html",
        command=_command(dimensions, asked),
        document=document,
        covered=covered(document),
        before=covered(document["compared_with"]) if compared else "",
        asked=asked | {"by": ",".join(dimensions)},
        periods=PERIODS,
        groups=DIMENSIONS,
        daily=await _daily(request, document, dimensions, asked),
        table=table(
            "Cost",
            document["rows"],
            columns,
            links=_narrower(query),
            empty="no cost in this time",
            query=query,
        ),
        shares=[
            (" / ".join(str(row[name]) or "-" for name in dimensions), row["percent"] or 0.0)
            for row in document["rows"][:20]
        ],
    )


async def _daily(
    request: Request, document: Row, dimensions: list[str], asked: dict[str, Any]
) -> Picture | None:
    """By day, of the first thing that is no time itself; None where there is none."""
    dimension = next((name for name in dimensions if name not in ("day", "hour", "month")), "")
    if not dimension:
        return None
    kept = {name: value for name, value in asked.items() if name not in ("compare", "top")}
    made = pictured.daily_cost(client_of(request), document, dimension, kept, request.app.state.clock.now())
    return await pictured.or_said("Cost by day", made)


def _narrower(query: QueryParams) -> dict[str, Link]:
    """From a row to what it is made of: of a project or a user the jobs, of a job its page."""

    def of(name: str) -> Link:
        return lambda row: changed(query, by="job", **{name: row[name]}) if row[name] else ""

    return {"project": of("project"), "user": of("user"), "job": lambda row: job_link({"id": row["job"]})}


def _command(dimensions: list[str], asked: dict[str, Any]) -> str:
    names = ("period", "project", "user", "experiment", "model", "timezone", "compare", "depth", "top")
    instants = {name: format_instant(asked[name]) for name in ("since", "until") if asked[name]}
    flags = {name: asked[name] for name in names} | instants
    return command_line("cost", by=",".join(dimensions), **flags, percent=True, idle=asked["include_idle"])
