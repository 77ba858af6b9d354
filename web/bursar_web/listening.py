"""How the pages take connections: so many at once, and each must come with its request in time.

Why     uvicorn waits for the head of a request for ever, and takes as many connections as come: some hundred
        that send a byte now and then leave a process without descriptors, which answers nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from bursar.heads import Heads

REQUEST_S: Final = 15.0
"""From a connection's beginning, or the first byte of its next request, to the end of that request."""
CONNECTIONS_MAX: Final = 1_024
KEPT: Final = 128
"""Descriptors for the pages' own files and for what they ask the daemon with."""
BACKLOG: Final = 64
"""So many are accepted in one turn of the loop before any of them is counted."""


def connections_max() -> int:
    """How many connections there may be, by the descriptors that this process may have: it takes them all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft < 0:
        return CONNECTIONS_MAX
    return min(max(soft - KEPT - 2 * BACKLOG, 16), CONNECTIONS_MAX)


STREAM: Final = "/live"
"""The page that is never answered whole."""


class Listener(H11Protocol):
    """One connection. Of too many, the one that has owed its request longest goes."""

    heads: Heads[Listener] | None = None
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It owes a request from now on."""
        super().connection_made(transport)
        if Listener.heads is not None:
            Listener.heads.opened(self)
        self._owe()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._here()
        if Listener.heads is not None:
            Listener.heads.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request: the last of it stops the clock, each other lets it run on."""
        if self._late is None and not self._busy():
            self._owe()
        super().data_received(data)
        if self._busy():
            self._here()
            if Listener.heads is not None:
                Listener.heads.here(self)

    def on_response_complete(self) -> None:
        """It may send the next."""
        if Listener.heads is not None:
            Listener.heads.answered(self)
        super().on_response_complete()

    def shutdown(self) -> None:
        """The server stops: what is being answered may come to its end, which a stream has none of."""
        super().shutdown()
        if self._busy() and self.scope["path"] == STREAM:
            self.cut()

    def cut(self) -> None:
        """Close it at once."""
        if self.transport is not None:
            self.transport.abort()

    def _busy(self) -> bool:
        """Is a whole request here that is being answered?"""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _owe(self) -> None:
        self._late = asyncio.get_running_loop().call_later(REQUEST_S, self.cut)

    def _here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listener(most: int) -> type[Listener]:
    """What uvicorn makes of each connection."""
    Listener.heads = Heads(most, Listener.cut)
    return Listener
