"""What client and host of a step say to each other, over one stream.

Owns    the kinds, their form, and cutting a stream into them.
Why     the stream may lead through two agents and the daemon, which carry it unopened; so it is one thing on
        one node and on many.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

SPEC, STDIN, STDIN_END, SIGNAL, END, SIZE = 1, 2, 3, 4, 5, 6
"""To the host: what to run; input, of the first task or of all; its end; a signal for all; kill them all; the
size of the terminal, as `rows << 16 | columns`."""
OUT, ERR, EXIT, CREDIT, DONE = 16, 17, 18, 19, 20
"""To the client: output; an exit, as two bytes of `code, signal`; input that was taken; nothing is left."""

HEEDED: Final = 1 << 8
"""Added to the number of a signal that goes to those processes alone that have a handler for it, and to tasks
that have none yet when they do."""
LATE: Final = 1 << 9
"""Added to that: those that have a handler now were told by somebody else."""

FRAME_BYTES_MAX: Final = 4 << 20
CHUNK_BYTES: Final = 1 << 16
INPUT_BYTES_MAX: Final = 1 << 18
"""Input on its way that its task has not taken."""
TO_ALL: Final = "all"
"""What a description says of input that every task gets."""

_HEAD: Final = struct.Struct("!BII")


def encode(kind: int, task: int = 0, data: bytes = b"") -> bytes:
    """One frame; `task`: its rank in the step, or the number of a signal, or of bytes."""
    return _HEAD.pack(kind, task, len(data)) + data


class Reader:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Frames (kind, task, data) that are whole by now. Raises `ValueError` for one that is too long."""
        self._rest += data
        while len(self._rest) >= _HEAD.size:
            kind, task, size = _HEAD.unpack_from(self._rest)
            if size > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {size} bytes")
            end = _HEAD.size + size
            if len(self._rest) < end:
                return
            body = bytes(self._rest[_HEAD.size : end])
            del self._rest[:end]
            yield kind, task, body
