"""Fresh usage for whoever reads money: asked of the agents once, for all readers of these seconds.

Why     to ask is to write: each agent that answers makes a metering event. Readers must not be able to make
        events at will, so there is one refresh at a time, shared by all who wait for it, at most one every
        few seconds, and none when no job lives whose usage could be news, unless idle time is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bursar.clock import SECOND_US
from bursard.engine import Engine
from bursard.turns import for_all

AGE_MIN_US = 3 * SECOND_US
"""What was metered so recently is fresh."""


class Refresh:
    """The one door between readers and `settle`."""

    def __init__(self, engine: Engine, settle: Callable[[bool], Awaitable[None]]) -> None:
        """`settle(whole)` has agents meter now, and returns once that is in the ledger: those that hold
        something, or the whole site, whose idle time is then owned too.
        """
        self._engine = engine
        self._settle = settle
        self._began_us: dict[bool, int] = {}
        self._running: dict[bool, asyncio.Task[None]] = {}

    async def __call__(self, whole: bool = False) -> None:
        """Return once everything used until a few seconds ago is charged; `whole`: idle time included.

        Raises what `settle` raises.
        """
        # What is asked of the whole site serves those who ask for less.
        for kind in (True,) if whole else (True, False):
            if kind in self._running:
                # A reader that goes away leaves the others their refresh.
                await asyncio.shield(self._running[kind])
                return
            if self._is_fresh(kind):
                return
        if not whole and not self._engine.state.attempts:
            return
        self._running[whole] = asyncio.create_task(for_all(self._refresh(whole)), name="refresh")
        await asyncio.shield(self._running[whole])

    def _is_fresh(self, whole: bool) -> bool:
        now_us = self._engine.clock.boot_us()
        return whole in self._began_us and now_us - self._began_us[whole] < AGE_MIN_US

    async def _refresh(self, whole: bool) -> None:
        began_us = self._engine.clock.boot_us()
        try:
            await self._settle(whole)
            self._began_us[whole] = began_us
        finally:
            del self._running[whole]
