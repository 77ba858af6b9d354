"""Budgets and cost: what is left, who spent it, and what it was spent on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.budget import BUDGET_COLUMNS
from bursar.cli.common import read_since
from bursar.cli.forecast import FORECAST_COLUMNS, forecast_row
from bursar.cli.money import DIMENSIONS, cost_columns, covered, dated_rows, read_dimensions
from bursar.cli.output import Column, Row
from bursar.clock import format_instant
from bursar.codec import view
from bursar.errors import NotFound
from bursar.pictures import Picture
from bursar_web.asking import client_of
from bursar_web.pages import pictured
from bursar_web.show import command_line, page
from bursar_web.tables import SORT_BY, Link, as_file, budget_link, changed, job_link, number_of, table

PERIODS: Final = (
    *("today", "yesterday", "this-month", "last-month", "this-quarter", "last-quarter"),
    *("this-year", "last-year"),
)
"""What a period is called most; it may be a day, a month, a quarter or a year as well."""
ROWS_MAX: Final = 500
"""Of a table on the page: the dearest, and the rest as one row. Files have all."""
TIMES: Final = frozenset({"hour", "day", "month"})
MANY: Final = TIMES | {"job", "attempt"}
"""What no picture has a colour for each of."""
LINES: Final = "job,attempt,node,kind,class,price,hour"
"""A row for each line of the books that charges have: no finer one is kept."""
POSTING_COLUMNS = (
    Column("at"),
    Column("kind"),
    Column("amount", right=True),
    Column("by"),
    Column("reason"),
)


async def budgets(request: Request) -> Response:
    """`/budgets`; `?show=forecast` is where they end."""
    query = request.query_params
    if query.get("show") == "forecast":
        return await _forecasts(request)
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


async def _forecasts(request: Request) -> Response:
    rows = [forecast_row(view.budget(each)) for each in await client_of(request).forecasts()]
    if (file := as_file(request, "forecast", rows, FORECAST_COLUMNS)) is not None:
        return file
    return page(
        request,
        "budgets.html",
        command=command_line("forecast"),
        table=table(
            "Where budgets end: estimates",
            rows,
            FORECAST_COLUMNS,
            links={"name": lambda row: budget_link(row["name"])},
            empty="no budgets; `bursar policy apply` makes one",
            query=request.query_params,
        ),
        bars=[],
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
        spent=_spent(row),
        expected=expected,
        left=await pictured.or_said(
            "What is left, day by day",
            pictured.budget_left(client_of(request), row, expected, request.app.state.clock.now()),
        ),
        postings=table(
            "What it was given", row["postings"], POSTING_COLUMNS, empty="nothing beside its document"
        ),
    )


def _spent(row: Row) -> str:
    """The cost of the scope in the period, job by job; "" where cost cannot be asked of that scope."""
    words = row["scope"].split()
    names = words[::2]
    if len(words) % 2 or set(names) - set(pictured.SCOPES) or len(set(names)) < len(names):
        return ""
    asked = dict(zip(names, words[1::2], strict=True))
    ends = {"until": row["period_end"]} if row["period_end"] else {}
    begins = {"since": row["period_start"] or "1970-01-01"}
    return "/cost?" + urlencode({"by": "job", **asked, **begins, **ends})


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
        "period": query.get("period", "" if {"since", "until", "job"} & {*query} else "this-month"),
        "job": query.get("job", ""),
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
    whole = bool(request.scope.get("file") or asked["top"]) or TIMES.issuperset(dimensions)
    bound = asked if whole else asked | {"top": ROWS_MAX}
    found = await client_of(request).cost(by=dimensions, **bound)
    document = view.cost(found, dimensions)
    others = 0 if whole else left_out(document, dimensions)
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
        others=others,
        lines="" if query.get("by") == LINES else _lines(query),
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


def left_out(document: Row, dimensions: list[str]) -> int:
    """Of a document that was asked for as its dearest rows alone, how many are in one; where that is none,
    its rows are put in the order of their keys, as without that bound.
    """
    others: int = sum(row.get("others", 0) for row in document["rows"])
    if not others:
        document["rows"].sort(key=lambda row: [str(row[name]) for name in dimensions])
    return others


async def _daily(
    request: Request, document: Row, dimensions: list[str], asked: dict[str, Any]
) -> Picture | None:
    """By day, of the first thing that is no time itself; None where there is none."""
    groups = [name for name in dimensions if name not in MANY]
    if not groups and not asked["job"] and TIMES.issuperset(dimensions):
        return None
    dimension = groups[0] if groups else "project"
    kept = {name: value for name, value in asked.items() if name not in ("compare", "top")}
    made = pictured.daily_cost(client_of(request), document, dimension, kept, request.app.state.clock.now())
    return await pictured.or_said("Cost by day", made)


def _lines(query: QueryParams) -> str:
    """The same charges line by line: what only groups of them can be asked of is left out."""
    return changed(query, by=LINES, depth="", top="", compare="", **{SORT_BY: ""})


def _narrower(query: QueryParams) -> dict[str, Link]:
    """From a row to what it is made of: of a project or a user the jobs, of a job its page."""

    def of(name: str) -> Link:
        return lambda row: changed(query, by="job", **{name: row[name]}) if row[name] else ""

    return {"project": of("project"), "user": of("user"), "job": lambda row: job_link({"id": row["job"]})}


def _command(dimensions: list[str], asked: dict[str, Any]) -> str:
    words = (asked["job"],) if asked["job"] else ()
    names = ("period", "project", "user", "experiment", "model", "timezone", "compare", "depth", "top")
    instants = {name: format_instant(asked[name]) for name in ("since", "until") if asked[name]}
    flags = {name: asked[name] for name in names} | instants
    return command_line(
        "cost", *words, by=",".join(dimensions), **flags, percent=True, idle=asked["include_idle"]
    )
