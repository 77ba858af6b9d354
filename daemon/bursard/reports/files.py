"""Rows as files: CSV as it is made, Parquet through a temporary file; both in pieces of bytes.

Why     a month of a large cluster is gigabytes: a report is never in memory as a whole, and most cells of a
        row are those of the row before, so they are brought into a file's form once for each owner. A text
        that a spreadsheet would take for a formula is defused, because users choose names; numbers never are.
"""

from __future__ import annotations

import csv
import functools
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import islice
from typing import Any

from bursar.clock import HOUR_US, SECOND_US
from bursard.reports.focus import Cell, Constant, Line
from bursard.reports.focus_columns import INSTANTS, SCALES

PIECE_BYTES = 128 * 1024
_ROWS_PER_PIECE = 64
_ROWS_PER_GROUP = 20_000
_ROWS_PER_BATCH = 4_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUOTED = frozenset(',"\r\n')
_EXACT = Context(prec=60)

_VARYING = (
    "BilledCost",
    "ListCost",
    "PricingQuantity",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeDescription",
    "x_JobId",
    "x_AttemptId",
    "x_GpuHours",
    "x_EnergyKWh",
    "x_CarbonGrams",
    "x_EnergySource",
    "x_Late",
)
"""Columns whose cells are a line's own, in the order of `_own`."""
_ALIKE = {
    "EffectiveCost": "BilledCost",
    "PricingCurrencyEffectiveCost": "BilledCost",
    "ContractedCost": "ListCost",
    "ConsumedQuantity": "PricingQuantity",
}
"""Columns that say what another says."""
_COMMITTED = (*_VARYING, "EffectiveCost", "ConsumedQuantity", "CommitmentDiscountQuantity")
_ALIKE_COMMITTED = {"PricingCurrencyEffectiveCost": "EffectiveCost", "ContractedCost": "ListCost"}
"""The same where there are commitments, whose rows differ in these."""


def defused(text: str) -> str:
    """A text cell that no spreadsheet runs."""
    return "'" + text if text.startswith(_FORMULA) else text


def decimal_text(value: int, places: int) -> str:
    """A plain decimal with all its places."""
    digits = f"{abs(value):0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def hours(us: int) -> str:
    """Rounded, half away from 0: 2310.755 s are 0.642."""
    size = (2000 * abs(us) + HOUR_US) // (2 * HOUR_US)
    return decimal_text(-size if us < 0 else size, 3)


@functools.lru_cache(maxsize=4096)
def _instant_text(at: int) -> str:
    return datetime.fromtimestamp(at // SECOND_US, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _own(line: Line) -> tuple[Cell, ...]:
    return (
        line.nanos,
        line.product,
        line.quantity,
        line.start,
        line.end,
        line.description,
        line.job_id or None,
        line.attempt_id or None,
        line.gpu_hours,
        line.energy,
        line.carbon,
        line.energy_source,
        "true" if line.late else "false",
    )


def _own_committed(line: Line) -> tuple[Cell, ...]:
    effective = line.nanos if line.effective is None else line.effective
    return (*_own(line), effective, None if line.unused else line.quantity, line.committed)


def csv_pieces(lines: Iterable[Line], columns: Sequence[str], committed: bool = False) -> Iterator[bytes]:
    """A CSV file with a header, UTF-8. `committed`: rows of commitments may be among them."""
    names, alike, own = _layout(committed)
    places: dict[str, list[int]] = {name: [] for name in names}
    for position, name in enumerate(columns):
        if (source := alike.get(name, name)) in places:
            places[source].append(position)
    filled = [(_form_of(name), at) for name, at in places.items()]
    made, size = [",".join(columns)], 0
    for line in lines:
        constant = line.constant
        cells = (constant.texts or _texts(constant, columns)).copy()
        for value, (form, positions) in zip(own(line), filled, strict=True):
            text = "" if value is None else form(value)
            for position in positions:
                cells[position] = text
        row = ",".join(cells)
        made.append(row)
        size += len(row)
        if size >= PIECE_BYTES:
            yield ("\n".join(made) + "\n").encode()
            made, size = [], 0
    if made:
        yield ("\n".join(made) + "\n").encode()


_Layout = tuple[tuple[str, ...], dict[str, str], Callable[[Line], tuple[Cell, ...]]]


def _layout(committed: bool) -> _Layout:
    """Which columns are a line's own, which say what another says, and the cells of the former."""
    return (_COMMITTED, _ALIKE_COMMITTED, _own_committed) if committed else (_VARYING, _ALIKE, _own)


def _form_of(name: str) -> Callable[[Any], str]:
    """How a column writes a value that is not null."""
    if name in INSTANTS:
        return _instant_text
    if name in SCALES:
        places = SCALES[name]
        return lambda value: decimal_text(value, places)
    return _quoted


def cell_text(name: str, value: Cell) -> str:
    """One cell of CSV: null is empty, instants are RFC 3339, decimals are plain."""
    return "" if value is None else _form_of(name)(value)


def _quoted(text: str) -> str:
    text = defused(text)
    return '"' + text.replace('"', '""') + '"' if not _QUOTED.isdisjoint(text) else text


def _texts(constant: Constant, columns: Sequence[str]) -> list[str]:
    constant.texts = [cell_text(name, constant.cells.get(name)) for name in columns]
    return constant.texts


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


def parquet_pieces(lines: Iterable[Line], columns: Sequence[str], committed: bool = False) -> Iterator[bytes]:
    """A Parquet file: decimals as decimals, instants as UTC timestamps. `committed`: as of CSV."""
    # Imported here: it takes a third of a second that only this needs.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, _arrow_type(pa, name)) for name in columns])
    iterator = iter(lines)
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            layout = _layout(committed)
            while batches := list(_batches(pa, schema, islice(iterator, _ROWS_PER_GROUP), layout)):
                writer.write_table(pa.Table.from_batches(batches))
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _batches(pa: Any, schema: Any, lines: Iterator[Line], layout: _Layout) -> Iterator[Any]:
    """Rows as columns, few at a time: a conversion holds the interpreter's lock throughout."""
    names, alike, own = layout
    while batch := list(islice(lines, _ROWS_PER_BATCH)):
        numbers: dict[int, int] = {}
        # What rows have in common is converted once, and taken by number.
        owners = {id(line.constant): line.constant.cells for line in batch}
        for key in owners:
            numbers[key] = len(numbers)
        which = pa.array([numbers[id(line.constant)] for line in batch], pa.int32())
        made = dict(zip(names, zip(*map(own, batch), strict=True), strict=True))
        columns: dict[str, Any] = {}
        for field in schema:
            name = alike.get(field.name, field.name)
            if name in columns:
                continue
            if name in made:
                columns[name] = pa.array(_arrow_values(name, made[name]), field.type)
            else:
                values = [cells.get(name) for cells in owners.values()]
                columns[name] = pa.array(_arrow_values(name, values), field.type).take(which)
        arrays = [columns[alike.get(field.name, field.name)] for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _arrow_type(pa: Any, name: str) -> Any:
    if name in SCALES:
        return pa.decimal128(38, SCALES[name])
    return pa.timestamp("us", tz="UTC") if name in INSTANTS else pa.string()


def _arrow_values(name: str, values: Sequence[Cell]) -> Sequence[Any]:
    """Decimals at their column's scale."""
    if name not in SCALES:
        return values
    places = -SCALES[name]
    return [None if value is None else Decimal(value).scaleb(places, _EXACT) for value in values]


Pieces = Callable[[Iterable[Line], Sequence[str], bool], Iterator[bytes]]
FORMATS: dict[str, Pieces] = {"csv": csv_pieces, "parquet": parquet_pieces}
