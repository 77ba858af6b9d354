"""Connections to ports of this node's loopback, for who is outside of the job: many over one stream.

Owns    the sockets. Input: frames of the caller over one stream; its end closes all.
Why     as the host of a program it is a process of the job, so it reaches what the job's own processes reach,
        and no port is opened for it anywhere. It reads no more from a connection than its caller takes.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from bursar.steps import frames

CONNECT, DATA, TAKEN, CLOSED, END, KNOWS = 64, 65, 66, 67, 68, 69
"""With the number of a connection. To the node: a port, as text. Both ways: bytes; so many were taken, as
text; it is over, with why: empty for an end in order; nothing more comes this way, the other goes on; and of
none, what else is known: `END` is said to who says so alone, for older releases end both ways at once.
"""
KNOWN: Final = b"end"
CONNECTIONS_MAX: Final = 64
WINDOW_BYTES: Final = 1 << 16
"""Of one connection on their way, each way, that the other end has not taken."""
OUTBOX_BYTES_MAX: Final = 1 << 18
HOST: Final = "127.0.0.1"


class Connection:
    """One socket, at either end, and what is owed to both sides of it.

    Attributes:
        credit: bytes that may be said of it before more were taken.
        rest: what came for it and it has not taken. ends: nothing more comes for it.
        said_end: it says nothing more, which was told. told_end: nothing more comes for it, and it may still
            speak. shut: it knows.
    """

    __slots__ = ("connecting", "credit", "ends", "rest", "said_end", "shut", "sock", "taken", "told_end")

    def __init__(self, sock: socket.socket, connecting: bool = False) -> None:
        self.sock = sock
        self.connecting = connecting
        self.credit = WINDOW_BYTES
        self.rest = bytearray()
        self.ends = False
        self.taken = 0
        self.said_end = self.told_end = self.shut = False

    def wanted(self, may_read: bool) -> int:
        """What to poll for."""
        reads = may_read and self.credit > 0 and not self.connecting and not self.said_end
        writes = self.rest or self.connecting or (self.told_end and not self.shut)
        return (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0)

    def shut_if_done(self) -> None:
        """Tell it that nothing more comes, once it has all that came. Raises `OSError`."""
        if self.told_end and not (self.rest or self.shut or self.connecting):
            self.sock.shutdown(socket.SHUT_WR)
            self.shut = True

    def send(self) -> None:
        """Give it what came for it. Raises `OSError`."""
        if self.rest:
            sent = self.sock.send(self.rest)
            del self.rest[:sent]
            self.taken += sent

    def read(self) -> bytes | None:
        """What it says, empty at its end; None: nothing now. Raises `OSError`."""
        try:
            data = self.sock.recv(min(self.credit, frames.CHUNK_BYTES))
        except BlockingIOError:
            return None
        self.credit -= len(data)
        return data


class Connections:
    """All of one end: the same here and there, but for who connects. `halves`: the other end knows `END`."""

    def __init__(self) -> None:
        self.halves = False
        self.open: dict[int, Connection] = {}

    def number_of(self, fd: int) -> int | None:
        """Which one has this descriptor."""
        return next((number for number, one in self.open.items() if one.sock.fileno() == fd), None)

    def hear(self, kind: int, number: int, data: bytes) -> str | None:
        """A frame about one that is open; why it is over now, None while it is not. Raises `ValueError`."""
        if kind == KNOWS:
            self.halves = KNOWN in data.split()
            return None
        one = self.open.get(number)
        if one is None:
            return None  # it was closed here, and the other side does not know yet
        if kind == DATA:
            if len(one.rest) + len(data) > 2 * WINDOW_BYTES:
                raise ValueError("more than was asked for")
            one.rest += data
        elif kind == TAKEN:
            one.credit += int(data)
            if one.credit > WINDOW_BYTES:
                raise ValueError("more was taken than was said")
        elif kind == END:
            one.told_end = True
            return self._after_end(one)
        elif kind == CLOSED:
            one.ends = True
            if data or not one.rest:
                return data.decode("utf-8", "replace")
        else:
            raise ValueError("no word of a connection")
        return None

    def _after_end(self, one: Connection) -> str | None:
        try:
            one.shut_if_done()
        except OSError as problem:
            return problem.strerror or str(problem)
        return "" if one.shut and one.said_end else None

    def turn(self, number: int, event: int) -> list[tuple[int, int, bytes]]:
        """What its socket is ready for; frames to say of it. It is gone from `open` once it is over."""
        one = self.open[number]
        found: list[tuple[int, int, bytes]] = []
        try:
            if one.connecting and event & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                if problem := one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(problem, os.strerror(problem))
                one.connecting = False
            if event & select.POLLOUT:
                one.send()
                if one.taken:
                    found.append((TAKEN, number, str(one.taken).encode()))
                    one.taken = 0
                one.shut_if_done()
                if (one.ends and not one.rest) or (one.shut and one.said_end):
                    return [*found, *self.close(number)]
            if event & ~select.POLLOUT and one.credit > 0 and not (one.connecting or one.said_end):
                data = one.read()
                if data is not None:
                    found += [(DATA, number, data)] if data else self._said_all(number, one)
        except BlockingIOError:
            pass
        except OSError as problem:
            found += self.close(number, problem.strerror or str(problem))
        return found

    def _said_all(self, number: int, one: Connection) -> list[tuple[int, int, bytes]]:
        """It says nothing more: the other way goes on, where the other end knows what that is."""
        if not self.halves:
            return self.close(number)
        one.said_end = True
        return [(END, number, b""), *(self.close(number) if one.shut else [])]

    def close(self, number: int, why: str = "") -> list[tuple[int, int, bytes]]:
        """End one; what to say of it."""
        one = self.open.pop(number, None)
        if one is None:
            return []
        one.sock.close()
        return [(CLOSED, number, why.encode())]


class Forwarder:
    """The node's end, until its caller is gone."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._reader = frames.Reader()
        self._outbox = bytearray()
        self._all = Connections()
        self._caller = True
        self._say([(KNOWS, 0, KNOWN)])

    def run(self) -> None:
        """Until nobody asks any more."""
        while self._caller:
            self._turn()
        for number in list(self._all.open):
            self._all.close(number)
        self._channel.close()

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        for one in self._all.open.values():
            if wanted := one.wanted(len(self._outbox) < OUTBOX_BYTES_MAX):
                poll.register(one.sock, wanted)
        for fd, event in poll.poll():
            if fd == self._channel.fileno():
                self._on_channel(event)
            elif (number := self._all.number_of(fd)) is not None:
                self._say(self._all.turn(number, event))

    def _on_channel(self, event: int) -> None:
        try:
            if event & select.POLLOUT and self._outbox:
                del self._outbox[: self._channel.send(self._outbox[: frames.CHUNK_BYTES])]
            if event & ~select.POLLOUT:
                data = self._channel.recv(frames.CHUNK_BYTES)
                self._caller = bool(data)
                for kind, number, body in self._reader.feed(data):
                    self._hear(kind, number, body)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._caller = False

    def _hear(self, kind: int, number: int, data: bytes) -> None:
        if kind == CONNECT:
            self._connect(number, data)
            return
        why = self._all.hear(kind, number, data)
        if why is not None:
            self._all.close(number)

    def _connect(self, number: int, data: bytes) -> None:
        """Raises `ValueError`."""
        port = int(data)
        if number in self._all.open or not 0 < port < 1 << 16:
            raise ValueError("no connection")
        if len(self._all.open) >= CONNECTIONS_MAX:
            self._say([(CLOSED, number, b"too many connections at once")])
            return
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._all.open[number] = Connection(sock, connecting=True)
        problem = sock.connect_ex((HOST, port))
        if problem not in (0, 115):  # EINPROGRESS
            self._say(self._all.close(number, os.strerror(problem)))

    def _say(self, said: list[tuple[int, int, bytes]]) -> None:
        for kind, number, data in said:
            self._outbox += frames.encode(kind, number, data)


def fork_forwarder() -> socket.socket:
    """A forwarder as a child of the caller, which keeps one end of its stream."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        code = 1
        try:
            ours.close()
            Forwarder(theirs).run()
            code = 0
        except BaseException as problem:
            os.write(2, f"step forwarder: {problem!r}\n".encode())
        finally:
            os._exit(code)
    theirs.close()
    return ours
