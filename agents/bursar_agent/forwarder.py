"""Replicas of this node, for gateways on other machines: TLS in, the loopback out.

Owns    one port, opened once a gateway elsewhere may come, and what passes through it.
Why     no port of a replica is on an address that others reach, since whoever reaches one pays nothing. Here
        only gateways come in that the daemon named, by their certificates, and only to replicas that it asked
        to look at.
Limits  whoever has not yet shown a certificate is one of few and has little time: strangers cannot use up
        what the agent itself needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from bursar.aside import clear_for_file
from bursar.model.service import NOWHERE, Way
from bursar.pinned import Pair, context, digest_of, make_pair

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
HANDSHAKE_S: Final = 5.0
FLUSH_S: Final = 30.0
"""For what a replica said last to reach who asked."""
STRANGERS_MAX: Final = 64
"""Connections that have shown no certificate yet; one more is closed."""
CONNECTIONS_MAX: Final = 2_048
PIECE_BYTES: Final = 1 << 16


class Forwarder:
    """Belongs to the event loop.

    Args:
        folder: where its key is kept, which is another one at each start.
        address: of this node; where that is none of its own, as behind a translation of addresses, it listens
            at all. port: 0: any.
        port_of: the port of a replica that is ready, by its attempt; 0: it is not.
    """

    def __init__(self, folder: Path, address: str, port: int, port_of: Callable[[str], int]) -> None:
        self._file = folder / "forward.pem"
        self._address = address
        self._port = port
        self._port_of = port_of
        self._pair: Pair | None = None
        self._server: asyncio.Server | None = None
        self._context: ssl.SSLContext | None = None
        self._admitted: tuple[str, ...] = ()
        self._turn = asyncio.Lock()
        self._strangers = 0
        self._wanted: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        self._open: set[asyncio.Task[Any]] = set()
        self.way: Way = NOWHERE

    async def admit(self, gateways: tuple[str, ...]) -> None:
        """These may come, and no others; none at all changes nothing, since a daemon that has just begun
        knows none yet. What cannot be is logged, and then nobody comes.
        """
        async with self._turn:
            if not gateways or gateways == self._admitted:
                return
            try:
                if self._pair is None:
                    clear_for_file(self._file)
                pair = self._pair = self._pair or make_pair(self._file)
                made = context(pair, gateways, server=True)
                made.sni_callback = self._asked
                self._context = made
                if self._server is None:
                    self._server = await self._listen()
            except (ImportError, OSError) as problem:
                log.error("gateways on other machines cannot reach replicas here: %s", problem)
                return
            self._admitted = gateways
            port = int(self._server.sockets[0].getsockname()[1])
            self.way = Way(port, pair.certificate, tuple(sorted(map(digest_of, gateways))))

    async def _listen(self) -> asyncio.Server:
        with contextlib.suppress(OSError):
            return await asyncio.start_server(self._came, self._address, self._port, backlog=STRANGERS_MAX)
        both = socket.has_dualstack_ipv6()  # one port, whichever of the two it is asked by
        family = socket.AF_INET6 if both else socket.AF_INET
        listening = socket.create_server(("", self._port), family=family, dualstack_ipv6=both)
        return await asyncio.start_server(self._came, sock=listening, backlog=STRANGERS_MAX)

    async def close(self) -> None:
        """Nobody comes in any more, and who is in goes."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._strangers >= STRANGERS_MAX or len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            port = await self._admitted_to(writer)
            if port:
                await _pass(reader, writer, port)
        except (OSError, TimeoutError, EOFError):
            pass  # either end went away, or a stranger showed nothing that is good
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _admitted_to(self, writer: asyncio.StreamWriter) -> int:
        """The port of the replica that whoever came asks for; 0: none. Raises `OSError` for a stranger."""
        assert self._context is not None
        self._strangers += 1
        try:
            await writer.start_tls(self._context, ssl_handshake_timeout=HANDSHAKE_S)
        finally:
            self._strangers -= 1
        wanted = self._wanted.pop(writer.get_extra_info("ssl_object"), "")
        return self._port_of(wanted) if wanted else 0

    def _asked(self, connection: ssl.SSLObject, name: str | None, made: ssl.SSLContext) -> None:
        """Which replica, said with the first words of a handshake."""
        self._wanted[connection] = name or ""


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Both ways, until either end is at an end; what the replica said before reaches the other. Raises
    `OSError`, `TimeoutError`.
    """
    inner, outer = await asyncio.open_connection(LOOPBACK, port)
    ways = {asyncio.create_task(_pump(reader, outer)), asyncio.create_task(_pump(inner, writer))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(FLUSH_S):
            writer.close()
            await writer.wait_closed()
    finally:
        outer.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The next piece is read once there is room for the last."""
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
