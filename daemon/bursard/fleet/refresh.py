"""Fresh usage for whoever reads money: asked of the agents once, for all readers of these seconds.

Why     to ask is to write: each agent that answers makes a metering event. Readers must not be able to make
        events at will, so there is one refresh at a time, shared by all who wait for it, at most one every
        few seconds, and none when no job lives whose usage could be news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bursar.clock import SECOND_US
from bursard.engine import Engine

AGE_MIN_US = 3 * SECOND_US
"""What was metered so recently is fresh."""


class Refresh:
    """The one door between readers and `settle`."""

    def __init__(self, engine: Engine, settle: Callable[[], Awaitable[None]]) -> None:
        """`settle()` has the agents meter now, and returns once that is in the ledger."""
        self._engine = engine
        self._settle = settle
        self._began_us: int | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return once everything used until a few seconds ago is charged. Raises what `settle` raises."""
        if self._running is None:
            if not self._engine.state.attempts or self._is_fresh():
                return
            self._running = asyncio.create_task(self._refresh(), name="refresh")
        # A reader that goes away leaves the others their refresh.
        await asyncio.shield(self._running)

    def _is_fresh(self) -> bool:
        now_us = self._engine.clock.boot_us()
        return self._began_us is not None and now_us - self._began_us < AGE_MIN_US

    async def _refresh(self) -> None:
        began_us = self._engine.clock.boot_us()
        try:
            await self._settle()
            self._began_us = began_us
        finally:
            self._running = None
