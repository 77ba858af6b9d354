"""Idempotency keys: what a key made, asked once for many, and one submit at a time for each key.

Why     the answer is in the store, as of a job in memory it is not known whether it has been changed since,
        and the store is asked in a thread. While it is asked, nobody else may submit with the same key: their
        job could come and go unseen, and the same key would then make two jobs. Most keys are new, and a
        thread costs more than a submit: so the gate remembers which keys may be in the store, and asks for
        those alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Final

from bursar.errors import BursarError
from bursard.engine import Engine
from bursard.store import KeyRow, Views
from bursard.turns import for_all

log = logging.getLogger(__name__)

_PAGE: Final = 1_000
"""Keys learnt between two turns of the loop: a millisecond or two."""
_BITS: Final = 1 << 25
"""4 MiB, taken as they fill. Beside a million keys one new one in 7,000 is asked for in vain, beside ten
million every fourth.
"""
_PLACES: Final = 4


class KeyFilter:
    """Keys that were ever added, and by chance a few others; never is one missed that was (a Bloom filter).

    The hash is Python's own, seeded anew in each process: nobody can choose keys that collide.
    """

    def __init__(self) -> None:
        self._bits = bytearray(_BITS // 8)

    def add(self, user: str, key: str) -> None:
        """Remember a key of a user."""
        for place in _places(user, key):
            self._bits[place >> 3] |= 1 << (place & 7)

    def may_have(self, user: str, key: str) -> bool:
        """Was it perhaps added? False is certain."""
        return all(self._bits[place >> 3] >> (place & 7) & 1 for place in _places(user, key))


def _next(last: tuple[str, str], views: Views) -> list[tuple[str, str]]:
    return views.keys_after(last, _PAGE)


def _places(user: str, key: str) -> list[int]:
    mixed = hash((user, key))
    step = (mixed >> 32) | 1
    return [(mixed + step * number) % _BITS for number in range(_PLACES)]


class KeyGate:
    """The keys that somebody is submitting with now, and those that may be in the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._busy: set[tuple[str, str]] = set()
        self._freed = asyncio.Event()
        self._filter = KeyFilter()
        self._learning: asyncio.Task[None] | None = None
        self._learnt = False

    @contextlib.asynccontextmanager
    async def asking(self, user: str, keys: Iterable[str]) -> AsyncIterator[Mapping[str, KeyRow]]:
        """What those of `keys` made that are known; they are the caller's until it leaves.

        The store says what each is bound to. Memory does not: a job there may have been changed since.
        """
        taken = {(user, key) for key in keys if key}
        if not taken:
            yield {}
            return
        while taken & self._busy:
            # All or none: whoever waits holds no key, so nobody can wait for each other.
            await self._freed.wait()
        self._busy |= taken
        try:
            yield await self._stored(user, taken)
        finally:
            self._busy -= taken
            self._freed.set()
            self._freed = asyncio.Event()

    async def _stored(self, user: str, taken: set[tuple[str, str]]) -> Mapping[str, KeyRow]:
        wanted = sorted(key for _, key in taken if not self._learnt or self._filter.may_have(user, key))
        for _, key in taken:
            # Before the job is there: whatever this daemon writes is known from then on.
            self._filter.add(user, key)
        if not wanted:
            return {}
        if any(one in self._engine.state.keys for one in taken):
            await self._engine.durable()
        if self._learning is None:
            self._learning = asyncio.create_task(for_all(self._learn()), name="submit-keys")
        return await self._engine.read(lambda views: views.keys(user, wanted))

    async def _learn(self) -> None:
        """Learn the keys of before this daemon; until all of them are known the store is asked for each."""
        last = ("", "")
        try:
            while page := await self._engine.read(partial(_next, last)):
                for user, key in page:
                    self._filter.add(user, key)
                last = page[-1]
        except BursarError as error:
            log.warning("the keys of earlier jobs cannot be read", extra={"error": error.message})
            self._learning = None
            return
        self._learnt = True
