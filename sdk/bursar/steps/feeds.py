"""Standard input that every task of a node gets, as `srun` gives it: held once, whoever takes it.

Owns    the pipes to the tasks, what has come, and how much of it each has taken.
Why     tasks take it at their own pace: what the slowest lacks is held, up to a bound, so that one that never
        reads keeps nobody waiting for what fits into it. Beyond, all wait for it, as with Slurm.
"""

from __future__ import annotations

import os
import select
from typing import Final

from bursar.steps import frames

AHEAD_BYTES_MAX: Final = 1 << 22
"""So much more than the slowest task has taken may be there for others."""


class Feeds:
    """The input of all tasks of a step on one node."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self._taken: dict[int, int] = {}
        """Bytes by pipe, since the beginning."""
        self._watched: set[int] = set()
        self._held, self._begins = bytearray(), 0
        """What somebody lacks, and how much came before it."""
        self._granted = 0
        self._ends = False

    def __contains__(self, fd: int) -> bool:
        return fd in self._taken

    def add(self, fd: int) -> None:
        """One more task, by the end of its pipe that is written to; nothing has come yet."""
        os.set_blocking(fd, False)
        self._taken[fd] = 0

    def take(self, data: bytes, *, end: bool = False) -> None:
        """Input, or its end, for all of them."""
        self._held += data
        self._ends = self._ends or end
        for fd in list(self._taken):
            self.feed(fd)

    def feed(self, fd: int) -> None:
        """Give one task what it takes now."""
        at = self._taken[fd] - self._begins
        try:
            while at < len(self._held):
                with memoryview(self._held) as held:
                    at += os.write(fd, held[at : at + frames.CHUNK_BYTES])
        except BlockingIOError:
            pass
        except OSError:  # it reads no more
            self._close(fd)
            return
        self._taken[fd] = self._begins + at
        if at < len(self._held):
            if fd not in self._watched:
                self._watched.add(fd)
                self._poll.register(fd, select.EPOLLOUT)
        elif self._ends:
            self._close(fd)
        elif fd in self._watched:
            self._watched.discard(fd)
            self._poll.unregister(fd)

    def granted(self) -> int:
        """How many bytes more may come, since it was asked last."""
        came = self._begins + len(self._held)
        slowest = min(self._taken.values(), default=came)
        del self._held[: slowest - self._begins]
        self._begins = slowest
        before, self._granted = self._granted, min(came, slowest + AHEAD_BYTES_MAX)
        return self._granted - before

    def _close(self, fd: int) -> None:
        del self._taken[fd]
        if fd in self._watched:
            self._watched.discard(fd)
            self._poll.unregister(fd)
        os.close(fd)
