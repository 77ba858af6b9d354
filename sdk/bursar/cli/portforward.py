"""`port-forward`: ports of this machine's loopback that lead to ports of a running job's node.

Owns    the listening sockets, and the connections that are made to them.
"""

from __future__ import annotations

import re
import select
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from bursar.cli.attached import RANK_MAX, Attached
from bursar.cli.common import changing
from bursar.cli.output import say
from bursar.cli.terminal import clean
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.steps.forward import (
    CLOSED,
    CONNECT,
    CONNECTIONS_MAX,
    KNOWN,
    KNOWS,
    Connection,
    Connections,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bursar.client import WireClient

PORTS_MAX: Final = 16
_ACCEPT_AGAIN_MS: Final = 200
"""A connection that cannot be taken, for want of descriptors say, is tried again after so long."""
_PORTS = re.compile(r"(?:(\d{1,5})?:)?(\d{1,5})", re.ASCII)


class Ports(NamedTuple):
    """One pair. `local` 0: any that is free."""

    local: int
    remote: int


@click.command("port-forward")
@click.option("--rank", type=click.IntRange(0, RANK_MAX), default=0, help="Which member of a gang.")
@click.argument("job")
@click.argument("ports", nargs=-1, required=True, metavar="[LOCAL:]REMOTE...")
@changing
def port_forward(client: WireClient, rank: int, job: str, ports: tuple[str, ...]) -> None:
    """Let ports of 127.0.0.1 here lead to those of a running job, until ctrl-C.

    REMOTE is a port of 127.0.0.1 on its node; LOCAL the port here: the same unless said, any free one when
    empty. For the owner of the job alone.

    Example: bursar port-forward last 8888:8888
    """
    pairs = [read_ports(text) for text in ports]
    if len(pairs) > PORTS_MAX:
        raise InvalidRequest(f"{len(pairs)} ports; at most {PORTS_MAX} at once")
    listening = listen(pairs)
    try:
        with Attached(client, job, rank, "ports") as stream:
            Forward(stream, listening).run()
    finally:
        for sock in listening:
            sock.close()


def read_ports(text: str) -> Ports:
    """`8888`, `9000:8888`, `:8888`. Raises `InvalidRequest`."""
    match = _PORTS.fullmatch(text)
    if match is None or not 0 < int(match.group(2)) < 1 << 16 or int(match.group(1) or 0) >= 1 << 16:
        raise InvalidRequest(f"{text[:40]!r} is no pair of ports; write 8888, 9000:8888, or :8888")
    remote = int(match.group(2))
    return Ports(int(match.group(1) or 0) if ":" in text else remote, remote)


def listen(pairs: Sequence[Ports]) -> dict[socket.socket, int]:
    """Sockets that listen, with the port there that each leads to. Raises `BursarError`."""
    found: dict[socket.socket, int] = {}
    try:
        for pair in pairs:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            found[sock] = pair.remote
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", pair.local))
            sock.listen(CONNECTIONS_MAX)
    except OSError as problem:
        for sock in found:
            sock.close()
        raise BursarError(
            f"port {pair.local} here: {problem.strerror}; name another, {pair.local + 1}:{pair.remote}"
        ) from None
    return found


class Forward:
    """All connections of one call."""

    def __init__(self, stream: Attached, listening: dict[socket.socket, int]) -> None:
        self._stream = stream
        self._listening = {sock.fileno(): (sock, remote) for sock, remote in listening.items()}
        self._all = Connections()
        self._next = 0
        self._deaf_until = 0.0
        self._told = False
        self._lost = False

    def run(self) -> None:
        """Until the job or ctrl-C ends it. Raises `BursarError`, `KeyboardInterrupt`."""
        try:
            while self._stream.closed is None:
                self._turn()
        finally:
            for number in list(self._all.open):
                self._all.close(number)
        raise ServerUnavailable(
            f"{self._stream.closed or 'the way to the job is gone'}; its ports are closed here"
        )

    def _turn(self) -> None:
        far = self._stream.far
        poll = select.poll()
        poll.register(self._stream.fd, select.POLLIN)
        is_deaf = time.monotonic() < self._deaf_until
        if self._stream.opened is not None and len(self._all.open) < CONNECTIONS_MAX and not is_deaf:
            for fd in self._listening:
                poll.register(fd, select.POLLIN)
        for one in self._all.open.values():
            if wanted := one.wanted(not far.full):
                poll.register(one.sock, wanted)
        wait_ms = self._stream.flush()
        for fd, event in poll.poll(min(wait_ms, _ACCEPT_AGAIN_MS) if is_deaf else wait_ms):
            if fd in self._listening:
                self._accept(*self._listening[fd])
            elif (number := self._all.number_of(fd)) is not None:
                for frame in self._all.turn(number, event):
                    far.say(*frame)
        for kind, number, data in self._stream.frames():
            self._hear(kind, number, data)
        if bool(self._stream.lost) is not self._lost:
            self._lost = not self._lost
            say("the daemon does not answer; trying again" if self._lost else "the daemon is back")
        if self._stream.opened is not None and not self._told:
            self._stream.far.say(KNOWS, 0, KNOWN)
            self._tell()

    def _accept(self, sock: socket.socket, remote: int) -> None:
        try:
            made, _ = sock.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as problem:
            # It stays at the door: asking at once would ask for ever.
            if not self._deaf_until:
                say(f"no connection can be taken now: {problem.strerror}; trying again")
            self._deaf_until = time.monotonic() + _ACCEPT_AGAIN_MS / 1000
            return
        self._deaf_until = 0.0
        made.setblocking(False)
        self._next += 1
        self._all.open[self._next] = Connection(made)
        self._stream.far.say(CONNECT, self._next, str(remote).encode())

    def _hear(self, kind: int, number: int, data: bytes) -> None:
        try:
            why = self._all.hear(kind, number, data)
        except ValueError as problem:
            raise ServerUnavailable(f"the other end is none of ours: {problem}") from None
        if why is not None:
            if kind == CLOSED and why:
                say(f"a connection ended: {clean(why)}")
            self._all.close(number)

    def _tell(self) -> None:
        self._told = True
        for sock, remote in self._listening.values():
            opened, port = self._stream.opened, sock.getsockname()[1]
            say(f"127.0.0.1:{port} leads to port {remote} of job {opened.number} on {opened.node}")
