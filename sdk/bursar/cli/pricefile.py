"""Tables of prices, as clouds and sites export them, turned into price books.

Owns    reading a CSV (`.gz` as it is) of one price a line, and writing it as PriceBook documents of a
        bounded size. Input: the table's bytes. Output: texts that the daemon reads as if a person wrote them.
Why     a price of 0, of another currency or of another machine would make work look free or dear for years,
        so every cell is looked at here, where its line is known. One price that is wrong refuses the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bursar.clock import SECOND_US, format_instant, parse_instant
from bursar.errors import InvalidRequest
from bursar.model import MARKETS
from bursar.money import NANOS_MAX, format_nanos
from bursar.resources import parse_gpu_type, parse_milli, parse_size
from bursar.smallfile import check_columns, utf8_text
from bursar.words import decimal_of

BYTES_MAX: Final = 64 << 20
"""Of a table, unpacked."""
ROWS_MAX: Final = 100_000
BOOK_BYTES: Final = 60_000
"""Of the rows of one book: a document is at most 64 kB."""
FAULTS_SHOWN: Final = 5
OLDEST_US: Final = 946_684_800 * SECOND_US
"""2000-01-01: what is older is a slip."""
HEADERS: Final = {
    "provider": ("provider", "cloud"),
    "region": ("region",),
    "instance_type": ("instance_type", "machine_type", "vm_size"),
    "market": ("market",),
    "price": ("price", "price_per_hour", "usd_per_hour", "usd_hour"),
    "currency": ("currency",),
    "valid_from": ("valid_from", "as_of", "seen_on", "generated"),
    "valid_until": ("valid_until",),
    "cpus": ("cpus", "vcpus"),
    "memory": ("memory",),
    "gpu_type": ("gpu_type",),
    "gpus": ("gpus", "gpu_count"),
    "gpu_memory": ("gpu_memory",),
}
"""What a price is made of, and by which headers it is found unless `--column` names another."""
FIXED: Final = ("provider", "region", "market", "currency", "valid_from")
"""What may be said once for all lines."""
NAME_MAX: Final = 57
"""Of a book's name, before the number that tells books of one place apart."""
_T = TypeVar("_T")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_UNNAMED = re.compile(r"[^A-Za-z0-9._-]+")


class Book(NamedTuple):
    """One document, and how many prices are in it."""

    name: str
    text: str
    rows: int


class Row(NamedTuple):
    """One price, all of its words checked. `line`: of the table."""

    line: int
    place: tuple[str, str, str, str]  # provider, region, market, currency
    instance_type: str
    nanos: int
    valid_from: str
    rest: str


class Imported(NamedTuple):
    """What a table holds. `unpriced`: lines left out that name no price. `rounded`: prices, to the nano."""

    books: tuple[Book, ...]
    rows: int
    unpriced: int
    rounded: int


def read_table(
    file: str, fixed: Mapping[str, str], columns: Mapping[str, str], *, source: str, skip_unpriced: bool
) -> Imported:
    """The books of a table, named after the file. Raises `InvalidRequest` with lines and columns."""
    text = _text(file)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    stem = _UNNAMED.sub("-", Path(file).name.partition(".")[0]).strip("-._")[:20] or "prices"
    try:
        found = _headers(reader.fieldnames or (), fixed, columns)
        rows, unpriced, rounded = _rows(reader, found, fixed, skip_unpriced)
    except csv.Error as error:
        raise InvalidRequest(f"{file}:{reader.line_num}: is not CSV: {error}") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{file}: {error}") from None
    if not rows:
        raise InvalidRequest(f"{file}: holds no price")
    _once(file, rows)
    return Imported(tuple(_books(stem, rows, source)), len(rows), unpriced, rounded)


def _text(file: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(BYTES_MAX + 1)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(BYTES_MAX + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidRequest(f"{file} is a damaged gzip file") from None
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror or error}") from None
    if len(data) > BYTES_MAX:
        raise InvalidRequest(f"{file} has more than {BYTES_MAX >> 20} MiB; import it in parts")
    return utf8_text(data, file, "utf-8-sig")


def _headers(there: Iterable[str], fixed: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """By part of a price, the header of its column."""
    there = list(there)
    check_columns(there)
    if twice := next((name for name, count in Counter(there).items() if count > 1), None):
        raise InvalidRequest(f"the column {twice[:60]!r} is there twice")
    found = {}
    for part, names in HEADERS.items():
        if part in columns:
            if columns[part] not in there:
                raise InvalidRequest(
                    f"there is no column {columns[part][:60]!r}; there are: {_listed(there)}"
                )
            found[part] = columns[part]
        elif part not in fixed and (name := next((one for one in names if one in there), None)):
            found[part] = name
    for part in ("instance_type", "price", *FIXED):
        if part not in found and part not in fixed and part != "valid_from":
            how = f"say it once with --{part}" if part in FIXED else f"name it with --column {part}=HEADER"
            raise InvalidRequest(f"there is no column for {part}; {how}; there are: {_listed(there)}")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(name[:40] for name in names[:30]) or "none, the file is empty"


def _rows(
    reader: csv.DictReader[str], found: Mapping[str, str], fixed: Mapping[str, str], skip_unpriced: bool
) -> tuple[list[Row], int, int]:
    rows: list[Row] = []
    faults: list[str] = []
    wrong = unpriced = rounded = 0
    for cells in reader:
        if len(rows) == ROWS_MAX:
            raise InvalidRequest(f"more than {ROWS_MAX:,} prices; import it in parts")
        line = reader.line_num
        try:
            if None in cells:
                raise InvalidRequest("has more cells than the first line")
            words = {**fixed, **{part: (cells[name] or "").strip() for part, name in found.items()}}
            nanos, exact = _price(words["price"])
            if not nanos and skip_unpriced:
                unpriced += 1
                continue
            rows.append(_row(line, words, nanos))
            rounded += not exact
        except InvalidRequest as error:
            wrong += 1
            faults += [f"line {line}: {error}"] if wrong <= FAULTS_SHOWN else []
    if faults:
        more = f"\n  and {wrong - len(faults)} more lines" if wrong > len(faults) else ""
        raise InvalidRequest("\n  ".join(["cannot be imported", *faults]) + more)
    return rows, unpriced, rounded


def _price(text: str) -> tuple[int, bool]:
    """Nanos an hour, to the nearest, and whether that is all of it; 0 where there is no price."""
    value = decimal_of(text or "0")
    if value is None or not 0 <= value <= NANOS_MAX // 10**9:
        raise InvalidRequest(f"price: {text[:40]!r} is not an amount an hour, such as 55.04")
    nanos = value.scaleb(9)
    whole = int(nanos.to_integral_value())
    return whole, whole == nanos


def _row(line: int, words: Mapping[str, str], nanos: int) -> Row:
    if not nanos:
        raise InvalidRequest("price: there is none; leave such lines out with --skip-unpriced")
    provider, region = _token("provider", words["provider"]), _token("region", words["region"])
    market, currency = words["market"], words["currency"]
    if market not in MARKETS:
        raise InvalidRequest(f"market: {market[:40]!r} is none of {', '.join(MARKETS)}")
    if re.fullmatch("[A-Z]{3}", currency) is None:
        raise InvalidRequest(f"currency: {currency[:40]!r} is not a currency code such as USD")
    since = _instant("valid_from", words)
    until = _instant("valid_until", words)
    if until and until <= (since or ""):
        raise InvalidRequest(f"valid_until: {until} is not after valid_from")
    rest = f", valid_until: {until}" if until else ""
    return Row(
        line,
        (provider, region, market, currency),
        _token("instance_type", words["instance_type"]),
        nanos,
        since,
        rest + _shape(words),
    )


def _token(part: str, text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise InvalidRequest(f"{part}: {text[:40]!r} is not a name of letters, digits, '.', '_' and '-'")
    return text


def _instant(part: str, words: Mapping[str, str]) -> str:
    text = words.get(part, "")
    if not text:
        return ""
    at = _said(part, parse_instant, text)
    if at < OLDEST_US:
        raise InvalidRequest(f"{part}: {text[:40]!r} is before any price of a cloud")
    return format_instant(at)


def _shape(words: Mapping[str, str]) -> str:
    """What machine it is, as far as the line says."""
    made = ""
    if cpus := words.get("cpus"):
        made += f", cpus: {_said('cpus', parse_milli, cpus) / 1000:g}"
    for part in ("memory", "gpu_memory"):
        if size := words.get(part):
            made += f", {part}: {_said(part, parse_size, size)}"
    count, kind = words.get("gpus", ""), words.get("gpu_type", "")
    if count in ("", "0") and not kind:
        return made
    if re.fullmatch("[1-9][0-9]{0,3}", count or "1") is None:
        raise InvalidRequest(f"gpus: {count[:40]!r} is not a number of GPUs")
    return f"{made}, gpus: {_said('gpu_type', parse_gpu_type, kind)}:{count or 1}"


def _said(part: str, parse: Callable[[str], _T], text: str) -> _T:
    """With the part's name before what is wrong with it."""
    try:
        return parse(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{part}: {error}") from None


def _once(file: str, rows: Iterable[Row]) -> None:
    """Raises `InvalidRequest` where one machine has two prices from one instant on."""
    seen: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = (*row.place[:3], row.instance_type, row.valid_from)
        first = seen.setdefault(key, row)
        if first is not row:
            of = f"{row.place[2]} {row.instance_type} in {row.place[1]}"
            since = f" from {row.valid_from}" if row.valid_from else ""
            raise InvalidRequest(
                f"{file}: lines {first.line} and {row.line} both price {of}{since};"
                " tell them apart by valid_from"
            )


def _books(stem: str, rows: Iterable[Row], source: str) -> Iterator[Book]:
    places: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        places.setdefault(row.place, []).append(row)
    numbers: Counter[str] = Counter()
    for place, here in sorted(places.items()):
        name = "-".join((stem, *place[:3]))[:NAME_MAX]
        for part in _parts(here):
            numbers[name] += 1
            mine = name if numbers[name] == 1 else f"{name}-{numbers[name]}"
            yield Book(mine, _document(mine, place, part, source), len(part))


def _parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    part: list[Row] = []
    size = 0
    for row in rows:
        length = len(_line(row))
        if part and size + length > BOOK_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    yield part


def _line(row: Row) -> str:
    since = f", valid_from: {row.valid_from}" if row.valid_from else ""
    price = f"{format_nanos(row.nanos)} {row.place[3]}/h"
    return f'    - {{instance_type: "{row.instance_type}", price: {price}{since}{row.rest}}}\n'


def _document(name: str, place: tuple[str, str, str, str], rows: Sequence[Row], source: str) -> str:
    provider, region, market, currency = place
    dates = sorted(row.valid_from[:10] for row in rows if row.valid_from)
    dated = ", dated " + " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else ""
    said = "".join(letter if letter.isprintable() and letter not in '"\\' else "?" for letter in source)
    return (
        f'kind: PriceBook\nname: "{name}"\nspec:\n  source: "{said[:160]}{dated}"\n  currency: {currency}\n'
        f'  defaults: {{provider: "{provider}", region: "{region}", market: {market}}}\n  prices:\n'
        + "".join(map(_line, rows))
    )
