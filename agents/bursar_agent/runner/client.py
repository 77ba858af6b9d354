"""The agent's end of the launcher's socket, and the start of a launcher where none answers.

Owns    framing, connecting, spawning the launcher. Input: a run directory.
Why     spawning must not fork Python code in a process that runs gRPC: posix_spawn (vfork inside)
        starts a clean interpreter, which daemonises itself and says through its exit status that it
        listens, so no zombie and no polling is left here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any

from bursar.errors import ServerUnavailable
from bursar_agent.runner.launcher import ALREADY_RUNNING
from bursar_agent.runner.layout import LAUNCHER_LOG, LAUNCHER_SOCKET, PROTOCOL

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from bursar_agent.runner.launcher import main; sys.exit(main(sys.argv[2:]))"
)
_LAUNCHER_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_ATTEMPTS = 4
_ANSWER_TIMEOUT_S = 30.0


class LauncherConnection(asyncio.Protocol):
    """One connection: requests out, answers back in the same order."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: deque[asyncio.Future[dict[str, Any]]] = deque()
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(self.hello)
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) < 4 + size:
                return
            message = json.loads(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the launcher went; who waits for it must ask again."""
        self.lost = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionResetError("the launcher closed the connection"))
                future.exception()  # mark as seen: nobody may be waiting any more
        self._waiting.clear()

    async def request(self, body: bytes) -> dict[str, Any]:
        """Send one JSON message and wait for its answer. Raises `ConnectionError`."""
        if self.lost or self._transport is None:
            raise ConnectionResetError("the launcher closed the connection")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(len(body).to_bytes(4, "little") + body)
        try:
            return await asyncio.wait_for(future, _ANSWER_TIMEOUT_S)
        except TimeoutError:
            # A later answer would be taken for the next one's: this connection is spoilt.
            self.close()
            raise ConnectionResetError("the launcher did not answer") from None

    def close(self) -> None:
        """Leave; the launcher stays."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


async def connect(run_fd: int, run_dir: str, cgroup_root: str | None) -> LauncherConnection:
    """Reach the launcher of `run_dir`; start one when none is there, replace an old protocol's.

    Raises `ServerUnavailable` with where to look when it will not start.
    """
    for _ in range(_ATTEMPTS):
        connection = await connect_running(run_fd)
        if connection is None:
            status = await _spawn_launcher(run_fd, run_dir, cgroup_root)
            if status not in (0, ALREADY_RUNNING):
                break
            if status == ALREADY_RUNNING:
                await asyncio.sleep(0.05)  # it holds the lock but does not listen yet
            continue
        if (await connection.hello)["protocol"] == PROTOCOL:
            return connection
        # An upgrade: the old launcher goes, its supervisors stay.
        await connection.request(b'{"op":"shutdown"}')
        connection.close()
    raise ServerUnavailable(
        f"the launcher of {run_dir} does not start; its reason is in {run_dir}/{LAUNCHER_LOG}"
    )


async def connect_running(run_fd: int) -> LauncherConnection | None:
    """Connect to a live launcher, or None."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Through the descriptor: sun_path holds 107 bytes, the run directory's path may be longer.
        sock.connect(f"/proc/self/fd/{run_fd}/{LAUNCHER_SOCKET}")
    except OSError:
        sock.close()
        return None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(LauncherConnection, sock=sock)
    try:
        await asyncio.wait_for(asyncio.shield(connection.hello), _ANSWER_TIMEOUT_S)
    except (ConnectionError, TimeoutError):
        connection.close()
        return None
    return connection


async def _spawn_launcher(run_fd: int, run_dir: str, cgroup_root: str | None) -> int:
    log = os.open(LAUNCHER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=run_fd)
    arguments = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, _ROOT, "--dir", run_dir]
    if cgroup_root is not None:
        arguments += ["--cgroup-root", cgroup_root]
    try:
        pid = os.posix_spawn(  # noqa: ASYNC221  returns at once
            sys.executable,
            arguments,
            # Symbols bound once in the launcher are not looked up again in each supervisor.
            {"LD_BIND_NOW": "1"}
            | {name: os.environ[name] for name in _LAUNCHER_ENVIRONMENT if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(log)
    await _death_of(os.pidfd_open(pid))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  it is dead


async def _death_of(pidfd: int) -> None:
    """Wait until the process ends, then close the descriptor."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
