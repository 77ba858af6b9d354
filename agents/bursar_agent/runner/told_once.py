"""Whom a signal has been given to, so that each process gets it once.

Why     a program may set its handler late, so who has one is looked for again and again until the limit. What
        a process that was told starts afterwards is its own to tell: a writer of checkpoints that it forks
        has its handler too, and would be told to write another.
"""

from __future__ import annotations

import os

from bursar_agent.runner import tree

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ToldOnce:
    """Processes that were told, by pid: when each began and when it was told, in clock ticks since boot."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def clear(self) -> None:
        """Another warning: all may be told again."""
        self._told.clear()

    def tell(self, pids: list[int], number: int, now_us: int) -> bool:
        """Give the signal to those that have a handler for it and were not told; was any there to get it?"""
        sent = False
        at = now_us * _TICKS_PER_S // 1_000_000
        for pid in pids:
            if not tree.catches(pid, number):
                continue
            line = tree.lineage(pid, os.getpid())
            if not line or self._knows(line):
                continue
            if tree.send([pid], number):
                self._told[pid] = (line[0][1], at)
                sent = True
        return sent

    def _knows(self, line: list[tuple[int, int]]) -> bool:
        """Was it told, or one above it before this one began?"""
        pid, began = line[0]
        if self._told.get(pid, (-1, 0))[0] == began:
            return True
        for (above, above_began), (_, below_began) in zip(line[1:], line, strict=False):
            known, at = self._told.get(above, (-1, 0))
            if known == above_began and below_began >= at:
                return True
        return False
