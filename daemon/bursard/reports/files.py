"""Rows as files: CSV as it is made, Parquet through a temporary file; both in pieces of bytes.

Why     a month of a large cluster is gigabytes: a report is never in memory as a whole. A text that a
        spreadsheet would take for a formula is defused, because users choose names; numbers never are.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from bursar.clock import SECOND_US
from bursard.reports.focus import Cell, Row
from bursard.reports.focus_columns import INSTANTS, SCALES

PIECE_BYTES = 128 * 1024
_ROWS_PER_PIECE = 64
_ROWS_PER_GROUP = 20_000
_ROWS_PER_BATCH = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def defused(text: str) -> str:
    """A text cell that no spreadsheet runs."""
    return "'" + text if text.startswith(_FORMULA) else text


def cell_text(name: str, value: Cell) -> str:
    """One cell of CSV: null is empty, instants are RFC 3339, decimals are plain."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int):
        if name in INSTANTS:
            return datetime.fromtimestamp(value // SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return str(value)
    return defused(value)


def csv_pieces(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[bytes]:
    """A CSV file with a header, UTF-8."""
    lines = ([cell_text(name, row.get(name)) for name in columns] for row in rows)
    return csv_lines(columns, lines)


def csv_lines(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """Lines of cells that are already text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for count, line in enumerate(lines, 1):
        writer.writerow(line)
        # A row is some kilobytes at most, so a piece cannot grow far beyond its size.
        if count % _ROWS_PER_PIECE == 0 and buffer.tell() >= PIECE_BYTES:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def parquet_pieces(rows: Iterable[Row], columns: Sequence[str]) -> Iterator[bytes]:
    """A Parquet file: decimals as decimals, instants as UTC timestamps."""
    # Imported here: it takes a third of a second that only this needs.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, _arrow_type(pa, name)) for name in columns])
    iterator = iter(rows)
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batches := list(_batches(pa, schema, islice(iterator, _ROWS_PER_GROUP))):
                writer.write_table(pa.Table.from_batches(batches))
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _batches(pa: Any, schema: Any, rows: Iterator[Row]) -> Iterator[Any]:
    """Rows as columns, few at a time: a conversion holds the interpreter's lock throughout."""
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([_arrow_value(field.name, row.get(field.name)) for row in batch], field.type)
                for field in schema
            ],
            schema=schema,
        )


def _arrow_type(pa: Any, name: str) -> Any:
    if name in SCALES:
        return pa.decimal128(38, SCALES[name])
    return pa.timestamp("us", tz="UTC") if name in INSTANTS else pa.string()


def _arrow_value(name: str, value: Cell) -> Cell:
    """Decimals at their column's scale: a cost of 0 has none of its own."""
    return value if value is None or name not in SCALES else Decimal(value)


Pieces = Callable[[Iterable[Row], Sequence[str]], Iterator[bytes]]
FORMATS: dict[str, Pieces] = {"csv": csv_pieces, "parquet": parquet_pieces}
