"""Reading the small text files that people write for Bursar, or saying why one cannot be one.

Why     the CLI and the SDK read the same files, and refuse the same ones in the same words.
"""

from __future__ import annotations

import sys
from collections.abc import Sized
from pathlib import Path
from typing import Final

from bursar.errors import InvalidRequest

FILE_BYTES_MAX: Final = 64 * 1024
"""The largest file people write for Bursar."""
FILES_PER_CALL_MAX: Final = 256
"""How many of them the daemon takes at once."""


def read_small_file(file: str) -> str:
    """A small text file, whole; `-` is standard input. Raises `InvalidRequest` for what cannot be one."""
    name = "<stdin>" if file == "-" else file
    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read: {error.strerror or error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidRequest(f"{name} has more than {FILE_BYTES_MAX // 1024} kB; such files are small")
    return utf8_text(data, name)


def utf8_text(data: bytes, name: str, encoding: str = "utf-8") -> str:
    """The text of a file. Raises `InvalidRequest` with the line of what is none."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(
            f"{name}:{line}: byte {data[error.start]:#04x} is not UTF-8 text; is it a binary file?"
        ) from None


COLUMNS_MAX: Final = 2_000
"""Of a table that somebody gives us: exports of bills have some hundreds."""


def check_columns(head: Sized, where: str = "") -> None:
    """Raises `InvalidRequest` for a first line of more columns than any table has: each is looked at."""
    if len(head) > COLUMNS_MAX:
        raise InvalidRequest(
            f"{where}the first line has {len(head):,} columns, a table has at most {COLUMNS_MAX:,}; is it the"
            " right file, and are its lines ended?"
        )
