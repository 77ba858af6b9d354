"""Steps between nodes: from processes of members here to members elsewhere, and back.

Owns    the socket that processes of jobs connect to, who each of them is, what is on its way to whom.
Why     the agent carries what the ends of a step say and opens nothing. It keeps nothing that matters either:
        what it loses (by a restart, by a reader that is slow) the ends send again (`bursar.steps.flow`). Who
        asks is not said by them but by the kernel: a process is of the attempt whose supervisor is above it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from bursar.aside import set_aside
from bursar.errors import BursarError, NotFound
from bursar.steps import bridge, modules, names
from bursar.steps.install import install
from bursar_agent.link.wire import Frame
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import stat_fields
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 1024
CHANNELS_MAX = 256
MEMBER_CONNECTIONS_MAX = CHANNELS_MAX + 16
"""Of one member: what one job can take from the others of its node is bounded."""
UNKNOWN_MAX = 32
"""Connections of one account that wait to be known: whoever is no job's takes none from the others."""
ACCEPTED_MAX = 32
"""In one turn of the loop, however many come."""
WARN_AGAIN_S = 10.0
"""A warning that processes of others cause is said once in so long."""
ACCEPT_AGAIN_S = 0.2
"""Who cannot be let in, for want of descriptors say, is tried again after so long."""
BACKLOG_BYTES_MAX = 4 << 20
"""While so much waits for the daemon, no process is read."""
FRAMES_BURST, FRAMES_PER_S = 8_000, 400
"""Pieces that processes of this node send: more would fill the room that a node's other words have at the
daemon, its heartbeats among them, and however small they are.
"""
_PAUSE_S = 0.02
OPENING_S = 30.0
OPENING_PACKETS_MAX = 8
_BEGINNING_S = 0.05
"""Between two looks whether a member has begun whose order came a moment before the step for it."""
GRACE_S = 15.0
"""After our start, so long may an end take to connect again before it counts as gone."""
_LOST_LOOK_S = 0.02
"""Between two looks whether the process of an end that hung up is gone, or has connected again."""
_IDENTITY_TRIES, _IDENTITY_PAUSE_S = 20, 0.05
_SOCKET_BYTES = 1 << 19
_UNREAD_MAX = 64
_CREDENTIALS = struct.Struct("iII")


class _Hello(msgspec.Struct, frozen=True):
    attempt: str
    to: int
    channel: int
    resume: bool = False


End = tuple[str, int, int, bool]
"""(attempt id, its rank here, channel, is it the client?)"""


class _Connection:
    """One process of a job."""

    def __init__(self, channel: socket.socket, member: Key, pid: int = 0) -> None:
        self.channel = channel
        self.member = member
        self.pid = pid
        self.end: End | None = None
        self.other = 0


class _Opening:
    """A host that is being made, and what has come for it."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.until = time.monotonic() + OPENING_S
        self.packets: list[bytes] = []
        self.waits = False


class Steps:
    """All steps that lead from or to this node. Belongs to one event loop.

    Args:
        send: takes each frame for the daemon; may drop it.
        backlog_bytes: how much waits to leave.
    """

    def __init__(
        self,
        directory: Path,
        runner: ProcessRunner,
        send: Callable[[Frame], None],
        backlog_bytes: Callable[[], int],
        server: str,
    ) -> None:
        self._directory = directory
        self._runner = runner
        self._send = send
        self._backlog_bytes = backlog_bytes
        self._server = server
        self._socket: socket.socket | None = None
        self._connections: dict[int, _Connection] = {}
        self._ends: dict[End, _Connection] = {}
        self._lost: dict[End, float] = {}
        """Ends that hung up and whose process may connect again, with when they are given up."""
        self._servers: dict[Key, _Connection] = {}
        self._opening: dict[End, _Opening] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown: Counter[int] = Counter()
        """By account."""
        self._warned: dict[str, tuple[float, int]] = {}
        """Of each warning, when it may be said again, and how often it was not."""
        self._begun_at = 0.0
        self._pieces_left, self._counted_at = float(FRAMES_BURST), time.monotonic()

    def mend(self) -> None:
        """Make anew what somebody removed of the directory. Raises `OSError`."""
        wanted = (names.SOCKET, names.SERVE, names.SHIMS, names.TOOLS, names.BASH_ENV)
        if self._socket is None or all(os.path.lexists(self._directory / name) for name in wanted):
            return
        log.warning("had been removed, made anew", extra={"directory": str(self._directory)})
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.open()

    def open(self) -> None:
        """Write the programs and listen. Raises `OSError`."""
        install(self._directory, self._server, modules.find(os.environ))
        path = self._directory / names.SOCKET
        listening = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if path.is_dir():
                set_aside(path)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            listening.bind(f"/proc/self/fd/{folder}/{names.SOCKET}")
        finally:
            os.close(folder)
        path.chmod(0o666)  # whoever is no process of a job is refused by name of the kernel
        listening.listen(128)
        self._socket = listening
        self._begun_at = time.monotonic()
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Let go: steps go on, and find the next agent."""
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            task.cancel()
        for fd, connection in self._connections.items():
            loop.remove_reader(fd)
            connection.channel.close()
        self._connections.clear()
        self._opening.clear()
        if self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # --- processes of jobs

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(ACCEPTED_MAX):
            try:
                channel, _ = self._socket.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as problem:
                # They stay at the door: asking at once would ask for ever.
                self._warn("a process cannot be let in yet", problem=str(problem))
                self._deaf(self._socket)
                return
            channel.setblocking(False)
            pid, uid, _ = _CREDENTIALS.unpack(
                channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if len(self._connections) + len(self._tasks) >= CONNECTIONS_MAX:
                channel.close()
            elif (member := self._whose(pid, uid)) is not None:
                self._take_in(channel, member, pid)
            elif self._unknown[uid] >= UNKNOWN_MAX:
                channel.close()
            else:
                self._unknown[uid] += 1
                task = asyncio.get_running_loop().create_task(self._identify(channel, pid, uid))
                self._tasks.add(task)
                task.add_done_callback(partial(self._looked, channel, uid))

    def _deaf(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        loop.call_later(ACCEPT_AGAIN_S, self._hears_again, listening)

    def _hears_again(self, listening: socket.socket) -> None:
        if self._socket is listening:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def _whose(self, pid: int, uid: int) -> Key | None:
        member = self._runner.member_of(pid)
        return member if member is not None and _owner(pid) == uid else None

    async def _identify(self, channel: socket.socket, pid: int, uid: int) -> None:
        """Of a job that has just been started we may not have heard yet; a process of none is hung up on."""
        for _ in range(_IDENTITY_TRIES):
            await asyncio.sleep(_IDENTITY_PAUSE_S)
            if (member := self._whose(pid, uid)) is not None:
                self._take_in(channel, member, pid)
                return
        self._warn("not a process of a job; its step is refused", pid=pid, uid=uid)
        _hang_up(channel, "the agent knows of no job that this process is of")

    def _warn(self, what: str, **about: object) -> None:
        """One line in `WARN_AGAIN_S`, with how often since the last: whoever connects cannot fill our log."""
        now, (again_at, count) = time.monotonic(), self._warned.get(what, (0.0, 0))
        if now < again_at:
            self._warned[what] = (again_at, count + 1)
            return
        self._warned[what] = (now + WARN_AGAIN_S, 0)
        log.warning(what, extra={**about, "times": count + 1})

    def _looked(self, channel: socket.socket, uid: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._unknown[uid] -= 1
        if task.cancelled():
            channel.close()

    def _take_in(self, channel: socket.socket, member: Key, pid: int) -> None:
        if sum(one.member == member for one in self._connections.values()) >= MEMBER_CONNECTIONS_MAX:
            _hang_up(channel, f"more than {CHANNELS_MAX} steps between nodes at once")
            return
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._connections[channel.fileno()] = _Connection(channel, member, pid)
        asyncio.get_running_loop().add_reader(channel.fileno(), self._read, channel.fileno())

    def _read(self, fd: int) -> None:
        connection = self._connections[fd]
        if self._backlog_bytes() > BACKLOG_BYTES_MAX or not self._may_read():
            loop = asyncio.get_running_loop()
            loop.remove_reader(fd)
            loop.call_later(_PAUSE_S, self._resume, fd, connection)
            return
        try:
            message = connection.channel.recv(bridge.MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._hang_up(connection, tell=True)
            return
        try:
            self._hear(connection, message[:1], message[1:])
        except (ValueError, msgspec.MsgspecError) as problem:
            self._refuse(connection, f"not understood: {problem}")

    def _may_read(self) -> bool:
        """One more piece, which its process is made to wait for otherwise."""
        now = time.monotonic()
        earned = (now - self._counted_at) * FRAMES_PER_S
        self._pieces_left, self._counted_at = min(self._pieces_left + earned, FRAMES_BURST), now
        if self._pieces_left < 1:
            return False
        self._pieces_left -= 1
        return True

    def _resume(self, fd: int, connection: _Connection) -> None:
        if self._connections.get(fd) is connection:
            asyncio.get_running_loop().add_reader(fd, self._read, fd)

    def _hear(self, connection: _Connection, kind: bytes, body: bytes) -> None:
        if kind == bridge.DATA and connection.end is not None:
            self._say(connection, "data", body)
        elif kind == bridge.SERVE:
            self._servers[connection.member] = connection
            for end, opening in self._opening.items():
                if end[:2] == connection.member:
                    self._tell(connection, bridge.OPEN + opening.message)
        elif kind in (bridge.CONNECT, bridge.ACCEPT):
            hello = msgspec.json.decode(body, type=_Hello)
            self._take_end(connection, hello, client=kind == bridge.CONNECT)
        else:
            raise ValueError("no word of a step")

    def _take_end(self, connection: _Connection, hello: _Hello, client: bool) -> None:
        attempt, rank = connection.member
        if hello.attempt != attempt or not 0 <= hello.channel < 1 << 63 or not 0 <= hello.to < 1 << 16:
            self._refuse(connection, f"it is of attempt {attempt}, not {hello.attempt}")
            return
        end = (attempt, rank, hello.channel, client)
        older = self._ends.get(end)
        if older is None and sum(one[:2] == connection.member for one in self._ends) >= CHANNELS_MAX:
            self._refuse(connection, f"more than {CHANNELS_MAX} steps between nodes at once")
            return
        if older is not None and older is not connection:
            if not older.pid or older.pid != connection.pid:
                self._refuse(connection, "another process has this end of the step")
                return
            self._hang_up(older, tell=False)  # it connects again before we read that it had hung up
        self._lost.pop(end, None)
        connection.end, connection.other = end, hello.to
        self._ends[end] = connection
        if client:
            self._say(connection, "resume" if hello.resume else "open")
            return
        opening = self._opening.pop(end, None)
        for packet in opening.packets if opening is not None else ():
            self._tell(connection, bridge.DATA + packet)

    def _say(self, connection: _Connection, kind: str, data: bytes = b"") -> None:
        assert connection.end is not None
        attempt, rank, channel, client = connection.end
        self._send(
            Frame(
                attempt_id=attempt,
                from_rank=rank,
                to_rank=connection.other,
                channel=channel,
                kind=kind,
                data=data,
                to_client=not client,
            )
        )

    def _tell(self, connection: _Connection, message: bytes) -> None:
        """To a process; one that does not read loses it, and asks again."""
        with contextlib.suppress(OSError):
            connection.channel.send(message)

    def _refuse(self, connection: _Connection, why: str) -> None:
        self._tell(connection, bridge.CLOSE + why.encode())
        self._hang_up(connection, tell=False)

    def _hang_up(self, connection: _Connection, tell: bool) -> None:
        fd = connection.channel.fileno()
        if self._connections.pop(fd, None) is None:
            return
        asyncio.get_running_loop().remove_reader(fd)
        _hang_up(connection.channel)
        if self._servers.get(connection.member) is connection:
            del self._servers[connection.member]
        if connection.end is not None and self._ends.get(connection.end) is connection:
            del self._ends[connection.end]
            if tell:
                self._lost[connection.end] = time.monotonic() + GRACE_S
                self._look_after(connection, connection.end)

    def _look_after(self, connection: _Connection, end: End) -> None:
        """An end that hung up is over once its process is gone; one that lives may have lost its connection
        alone, and connects again: its peer is told of no end meanwhile.
        """
        until = self._lost.get(end)
        if until is None:
            return
        if (
            time.monotonic() < until
            and _lives(connection.pid)
            and self._runner.member_of(connection.pid) == end[:2]
        ):
            asyncio.get_running_loop().call_later(_LOST_LOOK_S, self._look_after, connection, end)
            return
        del self._lost[end]
        self._say(connection, "close", b"the other end has ended")

    # --- the daemon

    def take(self, frame: Frame) -> None:
        """A frame for a process of a member here."""
        end = (frame.attempt_id, frame.to_rank, frame.channel, frame.to_client)
        connection = self._ends.get(end)
        if frame.kind == "open" and not frame.to_client:
            if connection is None:
                self._begin(end, frame)
        elif frame.kind == "close":
            self._opening.pop(end, None)
            if connection is not None:
                self._refuse(connection, frame.data.decode("utf-8", "replace") or "lost")
        elif connection is not None:
            if frame.kind == "data":
                self._tell(connection, bridge.DATA + frame.data)
        elif end in self._opening:
            if frame.kind == "data" and len(self._opening[end].packets) < OPENING_PACKETS_MAX:
                self._opening[end].packets.append(frame.data)
        elif end not in self._lost and time.monotonic() - self._begun_at > GRACE_S:
            self._answer_close(frame, "its process has ended")

    def _begin(self, end: End, frame: Frame) -> None:
        now = time.monotonic()
        self._opening = {one: opening for one, opening in self._opening.items() if opening.until > now}
        member, opening = end[:2], self._opening.get(end)
        if opening is None:
            if sum(one[:2] == member for one in self._opening) >= CHANNELS_MAX:
                self._answer_close(frame, f"more than {CHANNELS_MAX} steps between nodes at once")
                return
            told: dict[str, object] = {"attempt": end[0], "from": end[1]}
            told |= {"to": frame.from_rank, "channel": end[2]}
            if frame.data:  # from outside of the job; its own processes open with nothing
                told["kind"] = frame.data.decode("ascii", "replace")
            self._opening[end] = opening = _Opening(json.dumps(told).encode())
        # Said again, it is asked for again: a server that was about to end may not have heard of it.
        server = self._servers.get(member)
        if server is not None:
            self._tell(server, bridge.OPEN + opening.message)
            return
        if not opening.waits:
            self._ask(end, opening, frame)

    def _ask(self, end: End, opening: _Opening, frame: Frame) -> None:
        """Ask for a host. The daemon carries a step to live members alone, and the first of them runs as soon
        as its own node has started it: a member that is not known here is being started, or will be said to
        have ended.
        """
        opening.waits = False
        if self._opening.get(end) is not opening or end[:2] in self._servers:
            return
        try:
            self._runner.ask_for_steps(*end[:2])
        except (BursarError, OSError) as problem:
            if isinstance(problem, NotFound) and time.monotonic() < opening.until:
                opening.waits = True
                asyncio.get_running_loop().call_later(_BEGINNING_S, self._ask, end, opening, frame)
                return
            del self._opening[end]
            self._answer_close(frame, str(problem))

    def _answer_close(self, frame: Frame, why: str) -> None:
        self._send(
            Frame(
                attempt_id=frame.attempt_id,
                from_rank=frame.to_rank,
                to_rank=frame.from_rank,
                channel=frame.channel,
                kind="close",
                data=why.encode(),
                to_client=not frame.to_client,
            )
        )


def _hang_up(channel: socket.socket, why: str = "") -> None:
    """Close it so that our last words are read: what it said and nobody read would void them."""
    with contextlib.suppress(OSError):
        if why:
            channel.send(bridge.CLOSE + why.encode())
        for _ in range(_UNREAD_MAX):
            if not channel.recv(bridge.MESSAGE_BYTES_MAX):
                break
    channel.close()


def _lives(pid: int) -> bool:
    """Is it there, and has it not ended?"""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def _owner(pid: int) -> int:
    """Account of the process that has this number now; -1: there is none."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1
