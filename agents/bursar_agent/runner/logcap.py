"""The capped log of one attempt: all of a small log, the head and the tail of a large one.

Owns    moving bytes from the job's pipe into segment files, and what is dropped. Input: the pipe.
Why     a job that prints without end must neither fill the disk nor stop for want of a reader, and
        what helps to find the fault is the beginning and the end.

The head is the file `log`, up to half the cap. Later bytes go to segments of a quarter of the cap,
named by the logical offset of their first byte; at most two exist, so the tail holds a quarter to a
half of the cap. Whatever no segment covers was dropped: a reader sees every gap from the names and
sizes alone, also while the job runs, and also after a full disk left gaps elsewhere. For a person
with `cat`, one marker line after the head says how many bytes are missing.
"""

from __future__ import annotations

import fcntl
import os

from bursar_agent.runner.layout import LOG, log_segment_name
from bursar_agent.runner.logtimes import LogTimes

CHUNK_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
CHUNKS_PER_PUMP = 64
CAP_BYTES_MIN = 4096
_TAIL_SEGMENTS = 2


def head_bytes(cap_bytes: int) -> int:
    """Size of the head for a cap."""
    return max(cap_bytes, CAP_BYTES_MIN) // 2


def marker_line(dropped_bytes: int) -> bytes:
    """The line that stands for dropped bytes; of constant length, to be rewritten in place."""
    return b"\n[bursar: %020d bytes dropped here to keep the log under its cap]\n" % dropped_bytes


class LogCap:
    """Writes the segments into the current directory; `pipe_fd` must be non-blocking. `times`: told of what
    comes.
    """

    def __init__(self, pipe_fd: int, cap_bytes: int, times: LogTimes | None = None) -> None:
        self.total_bytes = 0
        self.dropped_bytes = 0
        self._pipe_fd = pipe_fd
        self._times = times
        self._head_bytes = head_bytes(cap_bytes)
        self._segment_bytes = self._head_bytes // 2
        self._head_room = self._head_bytes
        self._fd = -1
        self._room = 0
        self._tail: list[tuple[int, int]] = []  # (offset, bytes), the last one is being written
        self._grown = False

    def pump(self) -> bool:
        """Move what is in the pipe, within reason; False once every writer has closed it."""
        for _ in range(CHUNKS_PER_PUMP):
            try:
                moved = self._move()
            except BlockingIOError:
                return True
            if moved == 0:
                return False
            if self._times is not None:
                self._times.note(self.total_bytes)
            self.total_bytes += moved
            if moved == CHUNK_BYTES and not self._grown:
                self._grow_pipe()
        return True

    def close(self) -> None:
        """Nothing more will come."""
        self._close_segment()
        if self._times is not None:
            self._times.close()

    def _move(self) -> int:
        """Move one chunk: into the segment if it can be written, else nowhere; 0 at the end.

        The first bytes of a segment are read before its file is made, so a silent job has no log
        file at all; the rest is spliced inside the kernel, so a log bomb costs one copy.
        """
        if self._room > 0:
            try:
                moved = os.splice(
                    self._pipe_fd,
                    self._fd,
                    min(CHUNK_BYTES, self._room),
                    flags=os.SPLICE_F_NONBLOCK,
                )
            except BlockingIOError:
                raise
            except OSError:
                self._close_segment()  # a full disk: drop, and let the job go on
            else:
                self._wrote(moved)
                return moved
        data = os.read(self._pipe_fd, min(CHUNK_BYTES, self._segment_bytes))
        if data:
            self._begin(data)
        return len(data)

    def _begin(self, data: bytes) -> None:
        """Open the segment that starts with `data`; drop the data when the disk refuses."""
        offset = self.total_bytes
        self._close_segment()
        name = log_segment_name(offset)
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            self._drop(len(data))
            return
        try:
            written = os.write(fd, data)
        except OSError:
            written = 0
        if written < len(data):
            self._drop(len(data) - written)
        if written == 0:
            os.close(fd)
            os.unlink(name)
            return
        self._fd = fd
        self._room = (
            (self._segment_bytes if offset else self._head_bytes) if written == len(data) else written
        )
        if offset:
            self._tail.append((offset, 0))
            self._trim()
        self._wrote(written)

    def _wrote(self, count: int) -> None:
        self._room -= count
        if self._tail:
            offset, size = self._tail[-1]
            self._tail[-1] = (offset, size + count)
        else:
            self._head_room -= count

    def _trim(self) -> None:
        """Keep the last two segments. The oldest goes when a new one begins: a quarter stays."""
        while len(self._tail) > _TAIL_SEGMENTS:
            offset, size = self._tail.pop(0)
            try:  # noqa: SIM105  contextlib is not loaded here
                os.unlink(log_segment_name(offset))
            except OSError:
                pass
            self._drop(size)

    def _drop(self, count: int) -> None:
        """Count and, where the head is full, tell it in the head's marker line."""
        self.dropped_bytes += count
        if self._head_room:
            return  # a marker behind a short head (full disk) would read as a hole
        try:
            fd = os.open(LOG, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            os.pwrite(fd, marker_line(self.dropped_bytes), self._head_bytes)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._room = 0

    def _grow_pipe(self) -> None:
        """A chatty job gets a larger pipe: fewer turns. Best effort, a quota may refuse."""
        self._grown = True
        try:  # noqa: SIM105
            fcntl.fcntl(self._pipe_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass
