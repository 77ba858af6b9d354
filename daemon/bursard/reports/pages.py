"""A report as a table with notes: text for people, CSV and JSON for programs, the same numbers in each.

Why     every report has a head that says which time and whose days, rows that add up to a total, cells that
        nobody knows and that are not 0, and notes. Made once, so that no form says less than another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from bursar.clock import HOUR_US, format_instant
from bursar.money import format_nanos
from bursar.tables import Head, layout, render, wrapped
from bursard.reports.files import csv_lines, decimal_text, defused, hours
from bursard.reports.period import Period
from bursard.state.periods import ClosedPeriod

Cell = str | int | None
_PLACES: Final = {"percent": 4, "joules": 3, "kwh": 9, "grams": 9}
"""Of quantities that are kept as whole numbers of a small part."""
WIDTH: Final = 80
"""Of the text form: a report is read in terminals and mails, and nobody knows how wide they are."""
WRAPPED_LEAST: Final = 24
"""Cells that a column keeps whose text goes on below."""


class Column(msgspec.Struct, frozen=True):
    """A column of a report.

    Attributes:
        kind: `text`, `money` (nanos), `hours` (microseconds), `percent` (millionths), `count`, `joules`
            (thousandths), `kwh` or `grams` (billionths).
        absent: what people are told where a cell is None.
        drop: where the text form has too little room, columns with the highest go first; 0 stays.
        wrap: a text that goes on in further lines below, never cut.
    """

    name: str
    kind: str = "text"
    absent: str = "not known"
    drop: int = 0
    wrap: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A report. A cell that is None is not known, or what its column says.
    `total` has a cell for each column, or none at all.

    Attributes:
        closed: by which close nothing of it changes any more; None: it is provisional.
        notes: sentences below the table.
    """

    kind: str
    period: Period
    currency: str
    project: str = ""
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()
    closed: ClosedPeriod | None = None

    @property
    def status(self) -> str:
        """May it still change?"""
        return "provisional" if self.closed is None else "closed"


def text_pieces(page: Page) -> Iterator[bytes]:
    """For people: amounts in full, since rounded ones would not add up."""
    of = f" for {page.project}" if page.project else ""
    days = f"days of {page.period.timezone}"
    head = f"{page.kind.capitalize()} {page.period.text}{of}, in {page.currency}, {days}: {page.status}"
    made = [head, "", *table_lines(page)]
    if page.notes:
        made += ["", *(line for note in page.notes for line in wrapped(note, WIDTH))]
    yield ("\n".join(made) + "\n").encode()


def shown_cells(page: Page) -> list[list[str]]:
    """Titles, rows and the total as people read them; amounts in full."""
    found = [[column.name.replace("_", " ") for column in page.columns]]
    found += [_shown(page, row) for row in page.rows]
    return [*found, _shown(page, page.total)] if page.total else found


def table_lines(page: Page) -> list[str]:
    """The table alone, as text, as wide as a terminal: what has no room is named below it."""
    heads, *rows = shown_cells(page)
    columns = [
        Head(title, right=column.kind != "text", drop=column.drop, wrap=column.wrap, least=WRAPPED_LEAST)
        for title, column in zip(heads, page.columns, strict=True)
    ]
    return fitted(columns, rows)


def fitted(columns: Sequence[Head], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in `WIDTH`, and a line that says which columns it has no room for."""
    shown, _ = layout(columns, rows, WIDTH)
    made = [("  ".join(line)).rstrip() for line in render(columns, rows, WIDTH)]
    left_out = [column.title for at, column in enumerate(columns) if at not in shown]
    if left_out:
        made += wrapped(f"(no room here for {', '.join(left_out)}: CSV and JSON have all)", WIDTH)
    return made


def hanging(before: str, text: str) -> Iterator[str]:
    """A line that goes on below its own beginning. Of what stands before too little room is left for some."""
    first, *rest = wrapped(text, max(WIDTH - len(before), WRAPPED_LEAST))
    yield (before + first).rstrip()
    yield from (" " * len(before) + line for line in rest)


def _shown(page: Page, row: Sequence[Cell]) -> list[str]:
    return [_text(column, cell) for column, cell in zip(page.columns, row, strict=True)]


def _text(column: Column, cell: Cell) -> str:
    if cell is None:
        return column.absent
    if column.kind == "percent":
        return f"{_value(column, cell)}%"
    return printable(_value(column, cell))


def printable(text: str) -> str:
    """A text that moves nobody's terminal or page."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _value(column: Column, cell: str | int) -> str:
    """One cell as a plain number, or a text."""
    if isinstance(cell, str) or column.kind == "count":
        return str(cell)
    if column.kind == "money":
        return format_nanos(cell)
    if (places := _PLACES.get(column.kind)) is not None:
        return decimal_text(cell, places)
    return hours(cell)


def csv_pieces(page: Page) -> Iterator[bytes]:
    """A line a row, then the total; of each, which time, whose days, and whether it can change."""
    header = [_title(column) for column in page.columns]
    header += ["currency", "period", "since", "until", "timezone", "status"]
    period = page.period
    of_time = (period.text, format_instant(period.since), format_instant(period.until), period.timezone)
    lines = [
        (
            *(
                "" if cell is None else defused(cell) if isinstance(cell, str) else _exact(column, cell)
                for column, cell in zip(page.columns, row, strict=True)
            ),
            page.currency,
            *of_time,
            page.status,
        )
        for row in (*page.rows, *((page.total,) if page.total else ()))
    ]
    return csv_lines(header, lines)


def _exact(column: Column, cell: int) -> str:
    """One cell for programs, to the digit that JSON has; people are told hours at three places."""
    return f"{Decimal(repr(cell / HOUR_US)):f}" if column.kind == "hours" else _value(column, cell)


def _title(column: Column) -> str:
    """With its unit."""
    unit = {"hours": "_hours", "percent": "_percent"}.get(column.kind, "")
    return column.name if column.name.endswith(unit) else column.name + unit


def json_pieces(page: Page) -> Iterator[bytes]:
    """For programs: money as in every JSON of Bursar, null where nobody knows."""
    document: dict[str, object] = {
        "report": page.kind,
        "period": page.period.text,
        "since": format_instant(page.period.since),
        "until": format_instant(page.period.until),
        "timezone": page.period.timezone,
        "project": page.project,
        "currency": page.currency,
        "status": page.status,
        "rows": objects(page),
        "total": _object(page, page.total) if page.total else None,
        "notes": list(page.notes),
    }
    yield (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def objects(page: Page) -> list[dict[str, object]]:
    """The rows for programs."""
    return [_object(page, row) for row in page.rows]


def _object(page: Page, row: Sequence[Cell]) -> dict[str, object]:
    return {_title(column): _json(page, column, cell) for column, cell in zip(page.columns, row, strict=True)}


def _json(page: Page, column: Column, cell: Cell) -> object:
    if cell is None or isinstance(cell, str) or column.kind == "count":
        return cell
    if column.kind == "money":
        return {"amount": format_nanos(cell), "currency": page.currency}
    places = _PLACES.get(column.kind)
    return cell / HOUR_US if places is None else cell / 10**places


FORMATS = {"text": text_pieces, "csv": csv_pieces, "json": json_pieces}
