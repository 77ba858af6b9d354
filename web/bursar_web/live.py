"""`/live`: a word to open pages that something has changed, so that they ask anew before their ten seconds.

Owns    how many streams there are, how often each is told, and the one question that all of them live by.
Why     a stream says nothing of what has changed: the page asks for that as whoever it is of. So one question
        a second, which anybody may ask (how far the log is), serves every open page. What they ask then is
        bounded too: the more pages are open, the longer each waits for its next word. A stream ends after a
        few minutes and the browser opens another, which is let in anew: who was logged out gets none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bursar.client.aio import AsyncWireClient
from bursar.errors import BursarError, RateLimited
from bursar_web.asking import session_of
from bursar_web.sessions import Session

STREAMS_MAX: Final = 400
EACH_MAX: Final = 20
"""Streams of one session: a browser has one for each page that is seen."""
LOOK_S: Final = 1.0
BEAT_S: Final = 15.0
LIFE_S: Final = 300.0
TOLD_EACH_S: Final = 3
"""Pages that are told in one second, of all that are open."""
RETRY_MS: Final = 3_000

Wait = Callable[[float], Awaitable[None]]


class Pulse:
    """Who listens, and the one task that asks for them, while there are any. wait: between two questions."""

    def __init__(self, wait: Wait = asyncio.sleep) -> None:
        self._wait = wait
        self._open: dict[int, Session] = {}
        self._numbers = 0
        self._seq = 0
        self._changed = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._open)

    async def answer(self, request: Request) -> Response:
        """GET `/live`. Raises `RateLimited`: the page asks every ten seconds still."""
        session = session_of(request)
        own = sum(one is session for one in self._open.values())
        if len(self._open) >= STREAMS_MAX or own >= EACH_MAX:
            raise RateLimited("too many pages are open; this one asks every ten seconds")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        last = request.headers.get("last-event-id", "")
        heard = int(last) if last.isascii() and last.isdigit() and len(last) < 20 else 0
        told = self._told(session, heard)
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    async def close(self) -> None:
        """At the end of the process."""
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking

    async def _told(self, session: Session, heard: int) -> AsyncIterator[str]:
        """heard: how far the log was when this page was last told; 0: it has just been drawn."""
        loop = asyncio.get_running_loop()
        self._numbers += 1
        number, ends_at = self._numbers, loop.time() + LIFE_S
        self._open[number] = session
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="live")
        try:
            yield f"retry: {RETRY_MS}\n\n"
            while (left_s := ends_at - loop.time()) > 0:
                heard = heard or self._seq
                if heard != self._seq and self._seq:
                    heard = self._seq
                    yield f"id: {heard}\nevent: change\ndata: {heard}\n\n"
                    await self._wait(max(LOOK_S, self.streams / TOLD_EACH_S))
                    continue
                try:
                    async with asyncio.timeout(min(left_s, BEAT_S)):
                        await self._changed.wait()
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            del self._open[number]

    async def _ask(self) -> None:
        """Until nobody listens any more. Whose question it is makes no difference."""
        while self._open:
            for client in self._clients():
                with contextlib.suppress(BursarError):
                    seq = (await client.server()).last_seq
                    if seq != self._seq:
                        self._seq = seq
                        self._changed.set()
                        self._changed = asyncio.Event()
                    break
            await self._wait(LOOK_S)
        self._seq = 0

    def _clients(self) -> list[AsyncWireClient]:
        """Of the newest sessions, of which one may be over by now."""
        newest = {id(session): session for session in reversed(self._open.values())}
        return [session.client for session in newest.values()][:3]
