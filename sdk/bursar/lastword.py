"""What a process says of itself on its log, where that can be written at all.

Why     a log on a full or failing disk must end nobody, nor change the exit code by which whoever keeps the
        process tells a refusal from a crash; and a pipe that nobody reads must stop nobody, as it did the
        daemon. Standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any, Final

FDS_MAX: Final = 1_024
"""What `select` can look at; standard error is 2."""
PIECE_BYTES: Final = 4_096
"""What a pipe takes whole, or says that it does not (PIPE_BUF)."""


class Unblocked:
    """A text stream that waits for no reader: what would have to wait is lost, and told of later.

    Args:
        stream: where it goes, as a rule `sys.stderr`; None: nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lost = 0
        self._torn = False

    def write(self, text: str) -> None:
        """Whole lines, or nothing of them. Never fails."""
        if self._stream is None:
            return
        try:
            fd = self._stream.fileno()
        except (OSError, ValueError, AttributeError):
            # None of the system's: it cannot be full.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                self._stream.write(text)
            return
        if self._lost:
            lost = f"{self._lost} lines were lost here: nobody took them\n"
            text = ("\n" if self._torn else "") + lost + text
        data = text.encode("utf-8", "backslashreplace")
        for start in range(0, len(data), PIECE_BYTES):
            if not _takes(fd, data[start : start + PIECE_BYTES]):
                self._lost += 1
                self._torn = self._torn or start > 0
                return
        self._lost, self._torn = 0, False

    def flush(self) -> None:
        """Nothing waits here."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._stream is not None:
                self._stream.flush()


def _takes(fd: int, data: bytes) -> bool:
    """Write it, if that can be done at once."""
    try:
        if fd < FDS_MAX and not select.select([], [fd], [], 0)[1]:
            return False
        os.write(fd, data)
    except OSError:
        return False
    return True


def say(text: str) -> None:
    """One line on standard error, or nothing."""
    stream = Unblocked(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()


def hold() -> None:
    """See to it that standard input, output and error are open, before anything else is: the next file would
    be one of them otherwise, and what a library says there would be written into it.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
