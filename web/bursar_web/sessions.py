"""Who is logged in: a cookie that says nothing, and the client that speaks for whoever has it.

Why     the browser gets a number that is good here alone. The token of the daemon stays in this process, so
        that it stands in no page, no address and no browser's memory. Kept in memory: a restart logs out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bursar.client.aio import AsyncWireClient
from bursar.clock import HOUR_US, SECOND_US, Clock
from bursar.errors import RateLimited
from bursar.local.pages import take_link

LIFE_US = 12 * HOUR_US
IDLE_US = HOUR_US
SESSIONS_MAX = 1_000


@dataclass
class Session:
    """One browser of one user.

    Attributes:
        user, role: as the daemon knows whoever logged in.
        form_token: stands in every form, and is asked for with each.
        opened_at, used_at: instants.
        refresh: with which its token is had again; "" where it cannot be, or lives as long as it is listed.
        ends_at: when its token ends; 0 where it does not.
    """

    client: AsyncWireClient
    user: str
    role: str
    form_token: str
    opened_at: int
    used_at: int
    digest: str = field(repr=False)
    refresh: str = field(default="", repr=False)
    ends_at: int = 0
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


class Sessions:
    """All that are open. Numbers are kept as digests: reading this process's memory log gives none away."""

    def __init__(self, clock: Clock, secret: Callable[[], str]) -> None:
        self._clock = clock
        self._secret = secret
        self._open: dict[str, Session] = {}

    async def open(self, client: AsyncWireClient, user: str, role: str) -> tuple[str, Session]:
        """A new session and its cookie. Raises `RateLimited` when too many are open."""
        await self.sweep()
        if len(self._open) >= SESSIONS_MAX:
            raise RateLimited(f"{SESSIONS_MAX} sessions are open; log out somewhere, or come again later")
        cookie, now = self._secret(), self._clock.boot_us()
        session = Session(client, user, role, self._secret(), now, now, _digest(cookie))
        self._open[session.digest] = session
        return cookie, session

    def of(self, cookie: str) -> Session | None:
        """Whose cookie it is; None of one that is unknown or too old. Counts as use."""
        found, now = self._open.get(_digest(cookie)), self._clock.boot_us()
        if found is None or _over(found, now):
            return None
        found.used_at = now
        return found

    def all(self) -> list[Session]:
        """Those that are open, in the order in which they were opened."""
        now = self._clock.boot_us()
        return [one for one in self._open.values() if not _over(one, now)]

    async def close(self, session: Session) -> None:
        """Log out."""
        if self._open.pop(session.digest, None) is not None:
            await session.client.close()

    async def sweep(self) -> None:
        """Close what is too old."""
        now = self._clock.boot_us()
        for session in [one for one in self._open.values() if _over(one, now)]:
            await self.close(session)

    async def close_all(self) -> None:
        """At the end of the process."""
        for session in list(self._open.values()):
            await self.close(session)


class Links(Protocol):
    """What knows the words of login links."""

    def take(self, word: str) -> bool:
        """Whether it is one of them, which is good no more from then on."""
        ...


class FolderLinks:
    """The words of the links that `bursar web url` made beside these pages."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def take(self, word: str) -> bool:
        """Whether it is one of them, which is good no more from then on."""
        return take_link(self._folder, word, self._clock.now() // SECOND_US)


class LoginLink:
    """The word of a link that logs whoever runs this process in, once."""

    def __init__(self, word: str) -> None:
        self._word = word

    def take(self, word: str) -> bool:
        """Whether it is the word, which is good no more from then on."""
        good = bool(self._word) and hmac.compare_digest(word.encode(), self._word.encode())
        if good:
            self._word = ""
        return good


def same(given: str, expected: str) -> bool:
    """Whether two secrets are the same, without telling by the time it takes how far they are."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _over(session: Session, now: int) -> bool:
    return now - session.opened_at >= LIFE_US or now - session.used_at >= IDLE_US


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
