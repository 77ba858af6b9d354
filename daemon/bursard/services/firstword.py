"""The first word of callers that are known: each has so long to say it, by one timer for all of them.

Why     nearly every word is there already. A timer of its own for each call is set for nothing, and stays in
        the loop's heap until its time has come: a twentieth of what a submission costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Word = TypeVar("Word")


class FirstWords:
    """Who has not said it yet. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[Any], float] = {}
        """In the order of their coming, which is that of their ends: all have equally long."""
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def hear(self, read: Callable[[], Awaitable[Word]], patience_s: float) -> Word:
        """What `read` answers. Raises `TimeoutError` when that takes longer than `patience_s`."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._until[task] = until = loop.time() + patience_s
        if self._timer is None:
            self._timer = loop.call_at(until, self._look)
        before = task.cancelling()
        try:
            return await read()
        except asyncio.CancelledError:
            # Who is ended by somebody else at the same time is ended.
            if task in self._late and task.cancelling() <= before + 1:
                raise TimeoutError from None
            raise
        finally:
            del self._until[task]
            if task in self._late:
                self._late.remove(task)
                task.uncancel()

    def _look(self) -> None:
        """End the waiting of those whose time is over, and come back for the next one."""
        self._timer, loop = None, asyncio.get_running_loop()
        for task, until in self._until.items():
            if until > loop.time():
                self._timer = loop.call_at(until, self._look)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()
