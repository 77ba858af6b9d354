"""Reading a capped log, also while it is written.

Owns    the mapping from logical offsets to segment files (written by `logcap`). Pure file reading.
Why     a reader that follows a log must see every gap as a number, not as a jump.
"""

from __future__ import annotations

import os

from bursar_agent.runner.layout import LOG
from bursar_agent.runner.logcap import head_bytes


def read_log(dir_fd: int, cap_bytes: int, offset: int, limit: int) -> tuple[bytes, int, int]:
    """Up to `limit` bytes from the logical `offset` on.

    Returns:
        The bytes, the offset to ask for next, and how many bytes between `offset` and the first
        returned byte were dropped. Data ends at a gap, so one answer never hides one. Empty data
        with the same next offset: nothing there yet (or ever, once the attempt has ended).
    """
    dropped = 0
    parts: list[bytes] = []
    at = max(offset, 0)
    for start, name in _segments(dir_fd):
        if limit <= 0:
            break
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd)
        except FileNotFoundError:
            continue  # rotated away since we listed: a gap, told by the next segment
        try:
            size = os.fstat(fd).st_size
            if start == 0:
                size = min(size, head_bytes(cap_bytes))  # behind it stands the marker line
            if start + size <= at:
                continue
            if start > at:
                if parts:
                    break
                dropped, at = start - at, start
            data = os.pread(fd, min(limit, start + size - at), at - start)
        finally:
            os.close(fd)
        parts.append(data)
        at += len(data)
        limit -= len(data)
    return b"".join(parts), at, dropped


def _segments(dir_fd: int) -> list[tuple[int, str]]:
    found = []
    for name in os.listdir(dir_fd):
        if name == LOG:
            found.append((0, name))
        elif name.startswith(LOG + ".") and name[len(LOG) + 1 :].isdigit():
            found.append((int(name[len(LOG) + 1 :]), name))
    return sorted(found)
