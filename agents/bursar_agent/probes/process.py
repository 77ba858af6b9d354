"""CPU and memory of a member's process tree, from /proc.

Owns    walking one tree and adding up. Input: the pid of the member's main process.
Why     cumulative CPU time belongs into each usage report; a file read per process costs a tenth of
        what a general library takes, and this runs for every member every second.

The tree hangs below the main process's parent, the supervisor, which adopts whatever the job
daemonises. CPU time of children already waited for is inside their parent's counters; the supervisor's
hold that of every attempt it has had, so what they were when this one began is taken off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class TreeReading:
    """One process tree at one moment; `cpu_us` is cumulative since its start, `pids` are the job's."""

    cpu_us: int
    memory_bytes: int
    pids: tuple[int, ...]

    @property
    def processes(self) -> int:
        """How many there are."""
        return len(self.pids)


class ProcessTrees:
    """Reads trees; remembers which supervisor belongs to which main process, which may end first."""

    def __init__(self) -> None:
        self._roots: dict[int, tuple[int, int]] = {}  # main pid -> supervisor pid, its start

    def read(self, pid: int, reaped_before_us: int | None) -> TreeReading | None:
        """The tree of main process `pid`; None when nothing of it is left.

        Args:
            reaped_before_us: CPU time of children in the supervisor's counters when the attempt began. None,
                not known: only what still lives is counted, for the rest may be another job's.
        """
        root = self._root(pid)
        if root is None:
            return None
        stat = _stat(root)
        if stat is None:
            return None
        cpu_us = 0
        if reaped_before_us is not None:
            # The supervisor's own time is ours, that of children it has waited for since is the job's.
            cpu_us = max((int(stat[13]) + int(stat[14])) * _TICK_US - reaped_before_us, 0)
        memory = 0
        pids: list[int] = []
        queue = _children(root)
        while queue:
            child = queue.pop()
            fields = _stat(child)
            if fields is None:
                continue
            cpu_us += sum(map(int, fields[11:15])) * _TICK_US
            memory += int(fields[21]) * _PAGE_BYTES
            pids.append(child)
            queue += _children(child)
        return TreeReading(cpu_us, memory, tuple(pids))

    def keep(self, pids: set[int]) -> None:
        """Forget all other main processes."""
        for pid in self._roots.keys() - pids:
            del self._roots[pid]

    def _root(self, pid: int) -> int | None:
        known = self._roots.get(pid)
        if known is not None:
            fields = _stat(known[0])
            return known[0] if fields is not None and int(fields[19]) == known[1] else None
        fields = _stat(pid)
        if fields is None:
            return None
        parent = int(fields[1])
        above = _stat(parent)
        if parent <= 1 or above is None:
            return None
        self._roots[pid] = (parent, int(above[19]))
        return parent


def _stat(pid: int) -> list[bytes] | None:
    """/proc/PID/stat from the state on; the name before it may hold anything, its last bracket ends it."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    return text[text.rindex(b")") + 2 :].split()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found
