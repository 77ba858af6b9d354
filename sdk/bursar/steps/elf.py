"""Which libraries a program names, read from its file: whether it is one of MPI.

Input   the path of a program. Output: the names of its `DT_NEEDED`, as its own loader will look for them.
Why     `srun` starts no MPI world. A program that wants one would run as many times as there are tasks, each
        alone, and end well; so it is told before it starts. What loads MPI by itself, as Python does, is not
        seen here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

_TABLE_BYTES_MAX: Final = 1 << 20
_HEADERS_MAX: Final = 256
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_DYNAMIC: Final = struct.Struct("<QQ")
_LOAD, _DYNAMIC_TABLE, _NEEDED, _STRINGS, _STRINGS_SIZE = 1, 2, 1, 5, 10


def mpi_of(program: str, env: Mapping[str, str]) -> str:
    """The library of MPI that a program of PATH, or of the working directory, names; empty for none."""
    for path in _places(program, env):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return next((name for name in needed(path) if name.startswith("libmpi")), "")
    return ""


def _places(program: str, env: Mapping[str, str]) -> Sequence[str]:
    if "/" in program:
        return [program]
    return [*(os.path.join(one or ".", program) for one in env.get("PATH", "").split(":")), f"./{program}"]


def needed(path: str) -> list[str]:
    """Names of libraries; none of what is no 64-bit ELF file of this byte order, or cannot be read."""
    try:
        with open(path, "rb") as file:
            return _needed(file)
    except (OSError, struct.error, ValueError):
        return []


def _needed(file: BinaryIO) -> list[str]:
    head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":
        return []
    (offset,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
    if size < _PROGRAM.size or count > _HEADERS_MAX:
        return []
    file.seek(offset)
    table = file.read(size * count)
    parts = [_PROGRAM.unpack_from(table, at * size) for at in range(count)]
    dynamic = next((part for part in parts if part[0] == _DYNAMIC_TABLE), None)
    if dynamic is None:
        return []
    file.seek(dynamic[2])
    data = file.read(min(dynamic[5], _TABLE_BYTES_MAX))
    entries = list(_DYNAMIC.iter_unpack(data[: len(data) // _DYNAMIC.size * _DYNAMIC.size]))
    values = dict(reversed(entries))
    begin = values.get(_STRINGS, 0)
    loaded = (part for part in parts if part[0] == _LOAD and 0 <= begin - part[3] < part[5])
    at = next((begin - part[3] + part[2] for part in loaded), -1)
    if at < 0:
        return []
    file.seek(at)
    strings = file.read(min(values.get(_STRINGS_SIZE, 0), _TABLE_BYTES_MAX))
    found = [strings[value : strings.find(b"\0", value)] for tag, value in entries if tag == _NEEDED]
    return [name.decode(errors="replace") for name in found]
