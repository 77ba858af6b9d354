"""The way of a step to another node: one stream here, packets through the agents.

Owns    a process of its own at each end, its connection to this node's agent, and making that again.
Why     client and host know one stream each; that agents and daemon come and go is nothing to them. Who
        may not ask is refused by the agent, who knows each process of each attempt from the kernel.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import Final

from bursar.steps import frames, names
from bursar.steps.flow import Broken, Flow

SERVE, CONNECT, ACCEPT, DATA, OPEN, CLOSE = b"S", b"C", b"A", b"D", b"O", b"X"
"""First byte of a message between a process of a job and its agent."""
GONE: Final = 32
"""A frame to the client: the way, or the host at its end, is gone; the words say why."""

MESSAGE_BYTES_MAX: Final = 1 << 16
_SOCKET_BYTES: Final = 1 << 19
_RETRY_S, _RETRY_S_MAX = 0.1, 2.0
_ASK_AGAIN_US: Final = 3_000_000
OPEN_US: Final = 60_000_000
"""A step that could not be begun by then is given up: nothing of it has run."""


class NoAgent(Exception):
    """The agent is not there, or is somebody else's."""


def connect(directory: str) -> socket.socket:
    """A connection to this node's agent. Raises `NoAgent`."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    folder = -1
    try:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        channel.connect(f"/proc/self/fd/{folder}/{names.SOCKET}")  # an address is short, a path may be long
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], "little")
        if uid not in (0, os.geteuid()):
            raise NoAgent(f"{directory} belongs to another account")
        channel.setblocking(False)
    except OSError as problem:
        channel.close()
        raise NoAgent(f"the agent of this node does not listen at {directory}: {problem.strerror}") from None
    except NoAgent:
        channel.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return channel


class Bridge:
    """One end: between a stream and an agent, until one of them is gone for good."""

    def __init__(self, directory: str, stream: socket.socket, hello: dict[str, object], opens: bool) -> None:
        stream.setblocking(False)
        self._directory = directory
        self._stream = stream
        self._hello = hello
        self._opens = opens
        self._flow = Flow(_now_us())
        self._heard = False
        self._begun_at = self._asked_at = _now_us()
        self._agent: socket.socket | None = None
        self._retry_s, self._retry_at = _RETRY_S, 0.0
        self._queue: list[bytes] = []
        self._ending = False

    def run(self) -> str:
        """Carry; why it ended, in words for a person; empty: all was said."""
        while True:
            if self._agent is None and time.monotonic() >= self._retry_at:
                self._connect()
            problem = self._turn()
            if problem is not None:
                return problem
            if self._ending and self._flow.drained and not self._flow.inbox:
                return ""

    def tell_gone(self, why: str) -> None:
        """The last words to the client, as far as it listens."""
        self._stream.setblocking(True)
        try:
            self._stream.sendall(bytes(self._flow.inbox))
            self._stream.sendall(frames.encode(GONE, 0, why.encode()))
        except OSError:
            pass

    def _connect(self) -> None:
        try:
            self._agent = connect(self._directory)
        except NoAgent:
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_S_MAX)
            return
        self._retry_s = _RETRY_S
        self._queue = [self._greeting()]
        self._flow.again(_now_us())

    def _greeting(self) -> bytes:
        kind = CONNECT if self._opens else ACCEPT
        return kind + json.dumps({**self._hello, "resume": self._heard}).encode()

    def _lose_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()
        self._agent = None
        self._retry_at = time.monotonic() + self._retry_s

    def _turn(self) -> str | None:
        now = _now_us()
        if self._opens and not self._heard:
            if now - self._begun_at > OPEN_US:
                return (
                    "no answer from its node, or from the daemon on the way to it; nothing was started there"
                )
            if self._agent is not None and now - self._asked_at > _ASK_AGAIN_US:
                self._asked_at = now
                self._queue.append(self._greeting())
        if self._agent is not None:
            self._queue += [DATA + packet for packet in self._flow.packets(now)]
        poll = select.poll()
        wanted = select.POLLIN if self._flow.room > 0 and not self._ending else 0
        wanted |= select.POLLOUT if self._flow.inbox else 0
        if not self._ending or self._flow.inbox:
            poll.register(self._stream, wanted)
        if self._agent is not None:
            poll.register(self._agent, select.POLLIN | (select.POLLOUT if self._queue else 0))
            wait_us = min(self._flow.due_us() - now, _ASK_AGAIN_US)
        else:
            wait_us = int((self._retry_at - time.monotonic()) * 1_000_000)
        for fd, event in poll.poll(max(wait_us // 1000, 0) + 1):
            on = self._on_stream if fd == self._stream.fileno() else self._on_agent
            problem = on(event)
            if problem is not None:
                return problem
        return None

    def _on_stream(self, event: int) -> str | None:
        try:
            if event & select.POLLOUT and self._flow.inbox:
                self._flow.taken(self._stream.send(self._flow.inbox))
            if event & ~select.POLLOUT and not self._ending:
                data = self._stream.recv(max(self._flow.room, 1))
                if not data:
                    self._ending = True
                    self._flow.inbox.clear()
                    return "" if self._opens else None
                self._flow.put(data)
        except BlockingIOError:
            return None
        except OSError:
            return ""
        return None

    def _on_agent(self, event: int) -> str | None:
        assert self._agent is not None
        try:
            while self._queue and event & select.POLLOUT:
                self._agent.send(self._queue[0])
                del self._queue[0]
            if event & ~select.POLLOUT:
                return self._hear()
        except BlockingIOError:
            return None
        except OSError:
            self._lose_agent()
        return None

    def _hear(self) -> str | None:
        assert self._agent is not None
        message = self._agent.recv(MESSAGE_BYTES_MAX)
        if not message:
            self._lose_agent()
            return None
        kind, body = message[:1], message[1:]
        if kind == CLOSE:
            return body.decode("utf-8", "replace") or "lost"
        if kind == DATA:
            self._heard = True
            try:
                self._flow.take(body, _now_us())
            except Broken as broken:
                return str(broken)
        return None


def fork_to_member(directory: str, attempt: str, own: int, rank: int) -> socket.socket:
    """A stream to a new host on another member, over a child of the caller."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        code = 1
        try:
            keep_only((theirs.fileno(),))
            hello: dict[str, object] = {"attempt": attempt, "from": own, "to": rank}
            hello["channel"] = int.from_bytes(os.urandom(7), "little")
            bridge = Bridge(directory, theirs, hello, opens=True)
            bridge.tell_gone(bridge.run())
            code = 0
        except BaseException as problem:
            os.write(2, f"step: {problem!r}\n".encode())
        finally:
            os._exit(code)
    theirs.close()
    return ours


def keep_only(descriptors: tuple[int, ...]) -> None:
    """Close all but standard error and these: a pipe held open by accident would never end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    at = 3
    for fd in sorted(descriptors):
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, 1 << 20)


def _now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
