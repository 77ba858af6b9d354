"""Where a step's output goes: never more in memory than the reader is behind by a little.

Owns    writing without waiting, whole lines per task, labels.
"""

from __future__ import annotations

import os
import select
import stat
from typing import Final

FULL_BYTES: Final = 1 << 18
LINE_BYTES_MAX: Final = 1 << 16
"""A longer line is written in pieces."""
_PIPE_BYTES: Final = 4096
"""So much a pipe takes whole once it takes anything."""


class Sink:
    """One descriptor to write to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = bytearray()
        self._broken = False
        self._step = _PIPE_BYTES
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode):
                # Opened anew it is ours alone, so that not waiting changes nothing for others who hold it.
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISREG(mode) or self._fd != fd:
                self._step = 1 << 16
        except OSError:
            self._broken = mode_unknown(fd)
        self._poll = select.poll()
        if not self._broken:
            self._poll.register(self._fd, select.POLLOUT)

    @property
    def waits(self) -> bool:
        """Is there something to write?"""
        return bool(self._rest)

    @property
    def full(self) -> bool:
        """Is there more than should be?"""
        return len(self._rest) >= FULL_BYTES

    def put(self, data: bytes) -> None:
        """Take it, and write what can be written now."""
        if not self._broken:
            self._rest += data

    def flush(self) -> bool:
        """Write what can be written without waiting; False: nobody reads any more."""
        at = 0
        view = memoryview(bytes(self._rest))
        try:
            while at < len(view) and self._poll.poll(0):
                at += os.write(self._fd, view[at : at + self._step])
        except BlockingIOError:
            pass
        except OSError:
            self._broken = True
            self._rest.clear()
            return False
        del self._rest[:at]
        return True


def mode_unknown(fd: int) -> bool:
    """Is it no open descriptor at all?"""
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


class Lines:
    """Output of tasks on its way to a sink.

    Args:
        whole: lines of different tasks do not mix.
        width: of the rank before each line; 0: none.
    """

    def __init__(self, sink: Sink, whole: bool, width: int) -> None:
        self._sink = sink
        self._whole = whole
        self._width = width
        self._rest: dict[int, bytes] = {}

    def take(self, rank: int, data: bytes) -> None:
        """A piece of a task's output."""
        if not self._whole:
            self._sink.put(data)
            return
        lines, mark, rest = (self._rest.pop(rank, b"") + data).rpartition(b"\n")
        if mark:
            self._put(rank, lines + mark)
        if len(rest) >= LINE_BYTES_MAX:
            self._put(rank, rest)
        elif rest:
            self._rest[rank] = rest

    def end(self, rank: int) -> None:
        """No more comes from it."""
        rest = self._rest.pop(rank, b"")
        if rest:
            self._put(rank, rest)

    def _put(self, rank: int, data: bytes) -> None:
        if self._width:
            label = f"{rank:>{self._width}}: ".encode()
            data = b"".join(label + line for line in data.splitlines(keepends=True))
        self._sink.put(data)
