"""Documents on standard output: one table, or one document of JSON, JSON lines, CSV or YAML.

Owns    `-o`, `--sort-by`, `--columns` and `-q`, the same for every listing verb.
Input   rows as the JSON objects of `bursar.codec.view`. Whatever the format, they tell the same.
Why     programs read standard output, people read a terminal; only this file writes the former.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from bursar.cli.terminal import (
    STATE_STYLES,
    clean,
    left_text,
    money_places,
    money_text,
    paint,
    terminal_columns,
    time_text,
)
from bursar.errors import InvalidRequest
from bursar.tables import SHRINK_MIN, Head, render

FORMATS: Final = ("table", "json", "jsonl", "csv", "yaml")
NAME_LEAST: Final = 12
"""Cells that the name a row is found by keeps on one line; it goes on below, never cut."""
PLACES_MAX: Final = 6
"""Decimals of an amount in a table. One thing shown alone, and programs, have all nine."""
_TIMES = ("_at", "period_start", "period_end")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


class Column(NamedTuple):
    """One column of a table or CSV.

    Attributes:
        name: what `--columns` and `--sort-by` call it, and its head in a table.
        path: where in the row it is, dotted; empty: `name`.
        show: its human form; None: by its type, with as many decimals in every cell as one of them needs; of
            amounts six at most, and `<0.000001 USD` for what is less: one row gives no other nine of them.
        title: what programs read it as, with its unit: `elapsed_s`; empty: `name`.
        value: what it means to programs, in that unit; None: what is at `path`.
        also: (title, path) of what its human form says beside the value.
        suffix: after each amount, `/h`. missing: the human form of no value.
        left: of amounts, that they are what is left of something (`left_text`).
        mark: whether a row's value is an estimate: its human form begins with `~`.
        right, shrink, drop, least, wrap, whole, easy: as in `tables.Head`.
    """

    name: str
    path: str = ""
    show: Callable[[Row], str] | None = None
    right: bool = False
    shrink: bool = False
    drop: int = 0
    title: str = ""
    value: Callable[[Row], Any] | None = None
    also: tuple[tuple[str, str], ...] = ()
    suffix: str = ""
    missing: str = "-"
    mark: Callable[[Row], bool] | None = None
    left: bool = False
    least: int = SHRINK_MIN
    wrap: bool = False
    whole: bool = False
    easy: int = 0

    def of(self, row: Row) -> Any:
        """What a program reads in this row."""
        return lookup(row, self.path or self.name) if self.value is None else self.value(row)

    def cells(self) -> tuple[Column, ...]:
        """Its columns for programs: itself, and what it says beside."""
        return (self, *(Column(title, path) for title, path in self.also))


class Output(NamedTuple):
    """What the user asked of the output."""

    format: str = "table"
    sort_by: str = ""
    columns: tuple[str, ...] = ()
    quiet: bool = False

    @property
    def structured(self) -> bool:
        """A program reads it."""
        return self.format != "table"


# ------------------------------------------------------------------ the ways out


def emit(
    rows: Iterable[Row],
    columns: Sequence[Column],
    output: Output,
    *,
    identity: str = "id",
    document: Any = None,
    empty: str = "",
) -> None:
    """Write many rows.

    Args:
        rows: JSON objects.
        columns: the table's, in order.
        output: the user's wishes.
        identity: the field `-q` prints.
        document: what JSON and YAML print instead of the list of rows; sorted and picked rows are
            put into its `rows` field.
        empty: said on standard error when a table has no rows.
    """
    found = ordered(list(rows), columns, output.sort_by)
    if output.quiet:
        write_lines(str(lookup(row, identity)) for row in found)
        return
    picked = pick(found, columns, output.columns)
    if output.format == "table":
        if not found and empty:
            say(empty)
        write_table(found, picked)
    elif output.format == "csv":
        write_csv(found, picked)
    else:
        if output.columns:
            found = [_picked(row, picked) for row in found]
        if output.format == "jsonl":
            write_lines(dumps(row) for row in found)
        else:
            whole = found if document is None else {**document, "rows": found}
            write_document(whole, output.format)


def emit_one(
    row: Row,
    output: Output,
    text: Callable[[Row], str],
    *,
    columns: Sequence[Column] = (),
    identity: str = "id",
) -> None:
    """Write one object: as readable text, or as one document."""
    if output.quiet:
        write_lines([str(lookup(row, identity))])
    elif output.format == "table":
        write_text(text(row))
    elif output.format == "csv":
        write_csv([row], pick([row], columns, output.columns))
    else:
        if output.columns:
            picked = pick([row], columns, output.columns)
            row = _picked(row, picked)
        write_document(row, output.format)


def write_document(document: Any, format: str) -> None:
    """One document: `json` indented, `jsonl` on one line, `yaml`."""
    if format == "yaml":
        import yaml

        # The emitter in C is ten times as fast, which thousands of prices need.
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        write_text(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True))
    elif format == "jsonl":
        write_lines([dumps(document)])
    else:
        write_text(json.dumps(document, indent=2, ensure_ascii=False))


def dumps(document: Any) -> str:
    """JSON on one line."""
    return json.dumps(document, ensure_ascii=False)


def write_lines(lines: Iterable[str]) -> None:
    """Lines to standard output."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_text(text: str) -> None:
    """Text to standard output, ending in one line feed."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A message for the person: standard error."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


# ------------------------------------------------------------------ tables and CSV


def table_text(rows: Sequence[Row], columns: Sequence[Column], columns_max: int | None) -> str:
    """The rows as a table, `columns_max` cells wide at most; None: as wide as it needs."""
    heads = [
        Head(c.name.upper().replace("_", " "), c.right, c.shrink, c.drop, c.least, c.wrap, c.whole, c.easy)
        for c in columns
    ]
    texts = list(zip(*(map(clean, human(rows, column)) for column in columns), strict=True))
    lines = render(heads, texts, columns_max)
    painted = ["  ".join(paint(cell, "bold") for cell in lines[0]).rstrip()]
    for line in lines[1:]:
        styled = [paint(cell, STATE_STYLES.get(cell.strip())) for cell in line]
        painted.append("  ".join(styled).rstrip())
    return "\n".join(painted)


def write_table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """A table fitted to the terminal, or whole into a pipe."""
    write_text(table_text(rows, columns, terminal_columns()))


def csv_text(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """CSV with a header that has the units. Money is a bare number; its currency is the last column."""
    parts = [cell for column in columns for cell in column.cells()]
    values = [_aligned([_csv_value(row, column) for row in rows]) for column in parts]
    lines = list(zip(*values, strict=True)) if rows else []
    titles = [column.title or column.name for column in parts]
    priced = any(_is_money(value) for line in lines for value in line)
    with_currency = priced and "currency" not in titles
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*titles, "currency"] if with_currency else titles)
    for line in lines:
        currencies = sorted({value["currency"] for value in line if _is_money(value)})
        written = [csv_cell(value) for value in line]
        writer.writerow([*written, "/".join(currencies)] if with_currency else written)
    return buffer.getvalue()


def write_csv(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """CSV to standard output."""
    sys.stdout.write(csv_text(rows, columns))
    sys.stdout.flush()


def _csv_value(row: Row, column: Column) -> Any:
    """The value itself, but the human form of what has parts: a cell holds no document."""
    value = column.of(row)
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ",".join(map(str, value))
    compound = isinstance(value, dict | list) and not _is_money(value)
    return column.show(row) if compound and column.show is not None else value


def _aligned(values: list[Any]) -> list[Any]:
    """Numbers of one column with as many decimals as one of them needs; anything else as it is."""
    if not any(isinstance(value, float) for value in values):
        return values
    places = max(map(_decimals, values))
    return [Decimal(f"{value:.{places}f}") if _is_number(value) else value for value in values]


def _decimals(value: Any) -> int:
    """Decimals that a number needs, six at most."""
    return len(f"{value:.6f}".rstrip("0").partition(".")[2]) if _is_number(value) else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def csv_cell(value: Any) -> str:
    """One CSV cell. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if _is_money(value):
        return str(value["amount"])
    text = value if isinstance(value, str) else dumps(value)
    return "'" + text if text.startswith(_FORMULA) else text


def human(rows: Sequence[Row], column: Column) -> list[str]:
    """The cells of a column as a person reads them, with one number of decimals."""
    if column.show is not None:
        return [column.show(row) for row in rows]
    values = _aligned([column.of(row) for row in rows])
    places = min(max((money_places(value) for value in values if _is_money(value)), default=0), PLACES_MAX)
    cells = [_text(value, column, places) for value in values]
    if column.mark is None:
        return cells
    return ["~" * column.mark(row) + cell for row, cell in zip(rows, cells, strict=True)]


def _plain(value: Any) -> str:
    """What holds more than one thing, as people read it: a reason or an end by its words, others by their
    parts that say something.
    """
    if _is_money(value):
        return f"{_amount(value, 2, True)}"
    if isinstance(value, dict):
        if "message" in value and ("code" in value or "cause" in value):
            word = str(value.get("code") or value.get("cause") or "")
            return ": ".join(filter(None, (word, str(value["message"]))))
        said = ((key, _plain(item)) for key, item in value.items() if item not in (None, "", [], {}))
        return ",".join(f"{key}={item}" for key, item in said)
    if isinstance(value, list):
        mark = "; " if any(isinstance(item, dict) for item in value) else ","
        return mark.join(map(_plain, value))
    return str(value)


def _text(value: Any, column: Column, places: int) -> str:
    if value is None or value == "" or value in ([], {}):
        return column.missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_money(value):
        return _amount(value, places, column.left) + column.suffix
    if isinstance(value, list | dict):
        return _plain(value)
    if isinstance(value, str) and (column.path or column.name).endswith(_TIMES):
        return time_text(value)
    return str(value)


def _amount(value: dict[str, str], places: int, left: bool) -> str:
    """An amount with so many decimals; one that they would show as 0 is said to be less than they show."""
    least, size = Decimal(1).scaleb(-places), Decimal(value["amount"])
    if not size or abs(size) >= least:
        return left_text(value, places=places) if left else money_text(value, places=places)
    return f"{'>-' if size < 0 else '<'}{least:f} {value['currency']}"


# ------------------------------------------------------------------ sorting and picking


def lookup(row: Row, path: str) -> Any:
    """The value at a dotted path; None when it is not there."""
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _picked(row: Row, columns: Sequence[Column]) -> Row:
    """Only these columns, as programs read them."""
    return {cell.title or cell.name: cell.of(row) for column in columns for cell in column.cells()}


def pick(rows: Sequence[Row], columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """The columns called `names`: a declared one, or any field of the JSON object."""
    if not names:
        return list(columns) or [Column(name) for name in (rows[0] if rows else {})]
    return [_column(rows, columns, name, "--columns") for name in names]


def ordered(rows: list[Row], columns: Sequence[Column], sort_by: str) -> list[Row]:
    """Rows by the value of one column, `-name` from the largest; what has no value comes last."""
    if not sort_by:
        return rows
    name = sort_by.removeprefix("-")
    column = _column(rows, columns, name, "--sort-by")
    valued = [(column.of(row), row) for row in rows]
    known = [(_sort_key(value), row) for value, row in valued if value is not None]
    known.sort(key=lambda pair: pair[0], reverse=sort_by.startswith("-"))
    return [row for _, row in known] + [row for value, row in valued if value is None]


def _sort_key(value: Any) -> tuple[int, Decimal, str]:
    if _is_money(value):
        return 0, Decimal(value["amount"]), value["currency"]
    if isinstance(value, int | float):
        return 0, Decimal(str(value)), ""
    return 1, Decimal(0), value if isinstance(value, str) else dumps(value)


def _column(rows: Sequence[Row], columns: Sequence[Column], name: str, flag: str) -> Column:
    for column in columns:
        for cell in column.cells():
            if name in (cell.name, cell.title):
                return cell
    head = name.partition(".")[0]
    if not rows or any(head in row for row in rows):
        return Column(name)
    import difflib

    known = sorted({c.name for c in columns} | {key for row in rows for key in row})
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"
    raise InvalidRequest(f"{flag}: there is no column {name!r}{hint}")


def _is_money(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"amount", "currency"}
