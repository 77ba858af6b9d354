"""When the bytes of a log came: marks of (offset, time) beside it, written and read.

Why     people ask what a job said since noon. Lines are spliced to the log unread, so their times are kept
        apart: one mark for each tenth of a second in which something came, and none in the first tenth, so a
        short job makes no other file. Imports only what the launcher can afford.

A mark is 16 bytes: the logical offset, and microseconds since the start. What comes from an offset on came at
its time or later, up to the next mark's. Past so many marks every second one is dropped, and they are made
half as often.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from bursar_agent.runner.layout import LOG_TIMES

Marks = list[tuple[int, int]]
"""(logical offset, microseconds since the start), ascending in both."""

STEP_US = 100_000
MARKS_MAX = 65_536
MARK_BYTES = 16
OFFSET_MAX = 1 << 60
WHEN_US_MAX = 100 * 366 * 86_400 * 1_000_000
"""What a daemon believes of a log; the file lies where a job of the agent's own account can write."""
_NEW = LOG_TIMES + ".new"


class LogTimes:
    """Writes the marks into the current directory. `clock`: microseconds since the start."""

    def __init__(self, clock: Callable[[], int], marks_max: int = MARKS_MAX) -> None:
        self._clock = clock
        self._max = marks_max
        self._step_us = STEP_US
        self._due_us = STEP_US
        self._count = 0
        self._fd = -1
        self._broken = False

    def note(self, offset: int) -> None:
        """Bytes have come from this offset on."""
        now = self._clock()
        if now < self._due_us or self._broken:
            return
        self._due_us = now + self._step_us
        try:
            if self._count >= self._max:
                self._thin()
            if self._fd < 0:
                self._fd = os.open(LOG_TIMES, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._fd, offset.to_bytes(8, "big") + now.to_bytes(8, "big"))
            self._count += 1
        except OSError:
            self._broken = True  # a full disk: the log matters more

    def close(self) -> None:
        """Nothing more will come."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _thin(self) -> None:
        data = os.pread(self._fd, self._count * MARK_BYTES, 0)
        kept = b"".join(data[at : at + MARK_BYTES] for at in range(0, len(data), 2 * MARK_BYTES))
        fd = os.open(_NEW, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(fd, kept)
        os.rename(_NEW, LOG_TIMES)  # a reader sees the old marks or the new ones
        os.close(self._fd)
        self._fd, self._count = fd, len(kept) // MARK_BYTES
        self._step_us *= 2


def read_marks(dir_fd: int) -> Marks:
    """All marks, the start first; of a damaged file those that ascend."""
    marks = [(0, 0)]
    try:
        fd = os.open(LOG_TIMES, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError:
        return marks
    try:
        data = os.read(fd, MARKS_MAX * MARK_BYTES)
    except OSError:
        data = b""
    finally:
        os.close(fd)
    for at in range(0, len(data) - MARK_BYTES + 1, MARK_BYTES):
        offset = int.from_bytes(data[at : at + 8], "big")
        when = int.from_bytes(data[at + 8 : at + MARK_BYTES], "big")
        if marks[-1][0] <= offset <= OFFSET_MAX and marks[-1][1] <= when <= WHEN_US_MAX:
            marks.append((offset, when))
    return marks


def offset_since(marks: Marks, since_us: int) -> int | None:
    """Where what came at this time or later begins; None: nothing did."""
    at = bisect_left(marks, since_us, key=lambda mark: mark[1])
    return marks[at][0] if at < len(marks) else None


def marks_of(marks: Marks, start: int, end: int) -> Marks:
    """Those that tell the times of the bytes from `start` up to `end`: one a byte at most."""
    first = max(bisect_right(marks, start, key=lambda mark: mark[0]) - 1, 0)
    last = bisect_left(marks, end, lo=first, key=lambda mark: mark[0])
    return marks[first : min(max(last, first + 1), first + 1 + end - start)]
