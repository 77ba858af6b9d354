"""The tables of the command line, as cells of a page, as CSV and as JSON.

Why     a page and a command that show the same rows say the same words and digits, because the same columns
        (`bursar.cli`) make them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.output import Column, Row, csv_text, human, ordered
from bursar.cli.terminal import STATE_STYLES
from bursar.errors import InvalidRequest

WHOLE: Final = 22
"""So long a text stands on one line: a time has 20, the longest reason has that."""
Link = Callable[[Row], str]
SORT_BY: Final = "sort-by"
FILES: Final = ("csv", "json")
"""What the address of a page with a table may end in."""


class Head(NamedTuple):
    """A column's head. sort: the address that sorts by it, or empty. order: of `aria-sort`."""

    title: str
    right: bool
    sort: str
    order: str


class Cell(NamedTuple):
    """One cell. state: whether it is a word of a state, which has a colour beside its text. long: its line
    may be broken; a time, an amount or a word is read whole.
    """

    text: str
    link: str
    state: bool
    right: bool
    long: bool


class Table(NamedTuple):
    """What a template draws."""

    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str


def table(
    caption: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    links: Mapping[str, Link] | None = None,
    leave_out: frozenset[str] = frozenset(),
    empty: str = "nothing",
    query: QueryParams | None = None,
) -> Table:
    """Rows of views as a table of a page.

    Args:
        links: by the name of a column, the address of each of its cells; "" is none.
        query: of the page whose `sort-by` orders the rows; None: they keep their order and cannot be sorted.

    Raises:
        InvalidRequest: there is no column to sort by.
    """
    shown = [column for column in columns if column.name not in leave_out]
    sort_by = query.get(SORT_BY, "") if query is not None else ""
    found = ordered(list(rows), shown, sort_by)
    heads = tuple(_head(column, query, sort_by) for column in shown)
    by_column = [_cells(found, column, (links or {}).get(column.name)) for column in shown]
    return Table(caption, heads, tuple(zip(*by_column, strict=True)) if found else (), empty)


def _head(column: Column, query: QueryParams | None, sort_by: str) -> Head:
    title = column.name.replace("_", " ")
    if query is None:
        return Head(title, column.right, "", "")
    turned = f"-{column.name}" if sort_by == column.name else column.name
    order = {column.name: "ascending", f"-{column.name}": "descending"}.get(sort_by, "")
    return Head(title, column.right, changed(query, **{SORT_BY: turned}), order)


def _cells(rows: Sequence[Row], column: Column, link: Link | None) -> list[Cell]:
    texts = human(rows, column)
    return [
        Cell(
            text,
            link(row) if link else "",
            column.name == "state" and text in STATE_STYLES,
            column.right,
            len(text) > WHOLE,
        )
        for text, row in zip(texts, rows, strict=True)
    ]


def changed(query: QueryParams, **values: str) -> str:
    """The address of this page with other words of its query; an empty one is taken out."""
    kept = {name: value for name, value in query.items() if name not in values}
    return "?" + urlencode(kept | {name: value for name, value in values.items() if value})


def number_of(text: str, name: str, most: int) -> int:
    """A number of the address; 0 where there is none. Raises `InvalidRequest`."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or not 1 <= int(text) <= most:
        raise InvalidRequest(f"{name}: {text[:20]!r} is no number from 1 to {most}")
    return int(text)


def job_link(row: Row) -> str:
    """The page of a job, by its id: numbers and names may be of another one some day."""
    return f"/jobs/{quote(row['id'], safe='')}"


def node_link(name: str) -> str:
    """The page of a node."""
    return f"/nodes/{quote(name, safe='')}"


def budget_link(name: str) -> str:
    """The page of a budget."""
    return f"/budgets/{quote(name, safe='')}"


def policy_link(row: Row) -> str:
    """The page of a document."""
    return f"/policies/{quote(row['kind'], safe='')}/{quote(row['name'], safe='')}"


def as_file(
    request: Request, name: str, rows: Sequence[Row], columns: Sequence[Column], document: Any = None
) -> Response | None:
    """The rows of the page as the file that the end of its address asks for; None: the page itself.

    `document`: what JSON is, in place of the list of rows, as the command prints it.
    """
    wanted = request.scope.get("file", "")
    if wanted == "json":
        text = json.dumps(list(rows) if document is None else document, indent=2, ensure_ascii=False)
        return Response(text + "\n", media_type="application/json")
    if wanted == "csv":
        return Response(
            csv_text(ordered(list(rows), columns, request.query_params.get(SORT_BY, "")), columns),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="bursar-{quote(name, safe="")}.csv"'},
        )
    return None
