"""Reading CSV strictly: every fault with its file, line and column, and nothing guessed.

Owns    opening (`-`, gzip by its magic bytes), the header, and cells as exact numbers.
Why     a misspelt column that is silently ignored makes a simulation answer another question.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from bursar.errors import Fault, InvalidRequest
from bursar.smallfile import check_columns
from bursar.words import decimal_of
from bursar.yamlfile import nearest

FAULTS_SHOWN = 20
FAULTS_MAX = 10_000
"""A file with so many is not read on."""
SECONDS_MAX = 100 * 365 * 86_400
"""A century: instants then stay far inside what calendars can say."""
QUANTITY_MAX = 10**12

T = TypeVar("T")


class BadCell(Exception):
    """A cell is wrong; the message says why."""


def read_bytes(path: str) -> bytes:
    """A file or standard input, unpacked when it is gzip, whatever its name says."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as problem:
        raise InvalidRequest(f"{path}: {problem.strerror or problem}") from None
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as problem:
        raise InvalidRequest(f"{path}: is not a whole gzip file: {problem}") from None


class Table:
    """One CSV file: iterate over rows, ask for cells, and raise all faults at the end."""

    def __init__(self, path: str, columns: Sequence[str], required: Sequence[str]) -> None:
        """Read the file and check its header. Raises `InvalidRequest`."""
        self.name = "<stdin>" if path == "-" else path
        self.faults: list[Fault] = []
        self._line = 1
        self._cells: list[str] = []
        try:
            text = read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as problem:
            raise InvalidRequest(f"{self.name}: is not UTF-8 (byte {problem.start})") from None
        self._reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(self._rows(), None)
        if header is None:
            raise InvalidRequest(f"{self.name}: is empty; its first line must name the columns")
        check_columns(header, f"{self.name}:1: ")
        self._place = {name.strip(): place for place, name in enumerate(header)}
        self._check_header(header, columns, required)
        self._width = len(header)

    def _check_header(self, header: Sequence[str], columns: Sequence[str], required: Sequence[str]) -> None:
        seen: set[str] = set()
        for place, raw in enumerate(header):
            name = raw.strip()
            if name in seen:
                self.fault(place, name, f"the column {name!r} is there twice")
            elif name not in columns:
                near = nearest(name, columns)
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(columns)}"
                self.fault(place, "", f"{name[:60]!r} is not a column of this file; {hint}")
            seen.add(name)
        for name in required:
            if name not in seen:
                self.fault(0, "", f"the column {name!r} is missing; it has no default")
        self.finish()

    def _rows(self) -> Iterator[list[str]]:
        while True:
            self._line = self._reader.line_num + 1
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as problem:
                self.fault(0, "", f"is not CSV: {problem}")
                self.finish()
                return
            if cells and any(cells):
                yield cells

    def rows(self) -> Iterator[None]:
        """Step through the rows; empty lines are passed over."""
        for cells in self._rows():
            if len(cells) != self._width:
                self.fault(
                    min(len(cells), self._width) - 1, "", f"has {len(cells)} cells, the header {self._width}"
                )
                continue
            self._cells = cells
            yield

    def cell(self, name: str, default: T, read: Callable[[str], T]) -> T:
        """One cell of this row; the default when it is empty or the column is not there."""
        place = self._place.get(name)
        if place is None:
            return default
        text = self._cells[place].strip()
        if not text:
            return default
        try:
            return read(text)
        except (BadCell, InvalidRequest) as problem:
            self.fault(place, name, str(problem))
            return default

    def require(self, name: str, default: T, read: Callable[[str], T]) -> T:
        """A cell that must not be empty."""
        place = self._place[name]
        if not self._cells[place].strip():
            self.fault(place, name, "is empty and has no default")
            return default
        return self.cell(name, default, read)

    def wrong(self, name: str, message: str) -> None:
        """Note a fault of this row's cell, found by comparing cells."""
        self.fault(self._place.get(name, 0), name, message)

    def fault(self, place: int, field: str, message: str) -> None:
        """Note a fault of this line."""
        self.faults.append(Fault(self.name, self._line, place + 1, field, message))
        if len(self.faults) >= FAULTS_MAX:
            self.finish()

    def finish(self) -> None:
        """Raise `InvalidRequest` with every fault there was."""
        if not self.faults:
            return
        shown = [str(fault) for fault in self.faults[:FAULTS_SHOWN]]
        if len(self.faults) > FAULTS_SHOWN:
            shown.append(f"and {len(self.faults) - FAULTS_SHOWN} more")
        error = InvalidRequest("\n".join(shown))
        error.faults = tuple(self.faults)
        raise error


# ------------------------------------------------------------------ cells


def number(text: str) -> Decimal:
    """A finite decimal number, exactly."""
    value = decimal_of(text)
    if value is None:
        raise BadCell(f"{text[:60]!r} is not a number")
    return value


def seconds_us(text: str) -> int:
    """Seconds >= 0 as microseconds; finer than that is rounded half to even."""
    value = number(text)
    if not 0 <= value <= SECONDS_MAX:
        raise BadCell(f"{text[:60]} s is out of range; it must be between 0 and {SECONDS_MAX} (100 years)")
    return round(value * 1_000_000)


def positive_us(text: str) -> int:
    """Seconds > 0 as microseconds."""
    found = seconds_us(text)
    if found <= 0:
        raise BadCell(f"{text[:60]} s must be more than 0")
    return found


def integer(least: int, most: int = QUANTITY_MAX) -> Callable[[str], int]:
    """A whole number between two bounds."""

    def read(text: str) -> int:
        value = number(text)
        if value != value.to_integral_value():
            raise BadCell(f"{text[:60]} is not a whole number")
        if not least <= value <= most:
            raise BadCell(f"{text[:60]} is out of range; it must be between {least} and {most}")
        return int(value)

    return read


def flag(text: str) -> bool:
    """0 or 1, true or false."""
    known = {"0": False, "1": True, "false": False, "true": True}
    if text.lower() not in known:
        raise BadCell(f"{text[:60]!r} is neither 0 nor 1")
    return known[text.lower()]


def one_of(words: Mapping[str, int], otherwise: Callable[[str], int]) -> Callable[[str], int]:
    """One of these words, or what `otherwise` reads."""
    return lambda text: words[text] if text in words else otherwise(text)


def name(text: str) -> str:
    """A word to be shown again: printable, not endless."""
    if len(text) > 200 or not text.isprintable():
        raise BadCell("must be printable text of at most 200 characters")
    return text


def joined(parts: Iterable[str]) -> str:
    """Several names in one cell."""
    return "|".join(parts)
