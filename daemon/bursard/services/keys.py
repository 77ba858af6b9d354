"""Idempotency keys: what a key made, asked once for many, and one submit at a time for each key.

Why     the answer may be in the store alone (the job has ended), and the store is asked in a thread. While
        it is asked, nobody else may submit with the same key: their job could come and go unseen, and the
        same key would then make two jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

from bursard.engine import Engine
from bursard.store import KeyRow


class KeyGate:
    """The keys that somebody is submitting with now."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._busy: set[tuple[str, str]] = set()
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def asking(self, user: str, keys: Iterable[str]) -> AsyncIterator[Mapping[str, KeyRow]]:
        """What those of `keys` made that are in the store alone; they are the caller's until it leaves.

        Keys of jobs in memory are left out: `State.keys` has them.
        """
        taken = {(user, key) for key in keys if key}
        while taken & self._busy:
            # All or none: whoever waits holds no key, so nobody can wait for each other.
            await self._freed.wait()
        self._busy |= taken
        try:
            unknown = sorted(key for _, key in taken if (user, key) not in self._engine.state.keys)
            found: Mapping[str, KeyRow] = {}
            if unknown:
                found = await self._engine.read(lambda views: views.keys(user, unknown))
            yield found
        finally:
            self._busy -= taken
            self._freed.set()
            self._freed = asyncio.Event()
