"""The agent's end of the launcher's socket, and the start of a launcher where none answers.

Owns    framing, connecting, spawning the launcher. Input: a run directory.
Why     spawning must not fork Python code in a process that runs gRPC: posix_spawn (vfork inside)
        starts a clean interpreter, which daemonises itself and says through its exit status that it
        listens, so no zombie and no polling is left here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Any

from bursar.errors import ServerUnavailable
from bursar_agent.runner import pulse
from bursar_agent.runner.launcher import ALREADY_RUNNING
from bursar_agent.runner.layout import LAUNCHER_LOG, LAUNCHER_SOCKET, PROTOCOL

log = logging.getLogger(__name__)

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from bursar_agent.runner.launcher import main; sys.exit(main(sys.argv[2:]))"
)
_LAUNCHER_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_ATTEMPTS = 4
ANSWER_S = 10.0
"""A launcher that has not answered by then is woken, in case it was stopped; by twice that it is killed."""

_SPAWN_S = 30.0
_DEATH_S = 5.0
_LISTEN_POLL_S = 0.05


class LauncherConnection(asyncio.Protocol):
    """One connection: requests out, answers back in the same order."""

    def __init__(self, run_fd: int, answer_s: float) -> None:
        self._run_fd = run_fd
        self._answer_s = answer_s
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: deque[asyncio.Future[dict[str, Any]]] = deque()
        self.hello: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(self.hello)
        self._remedies: set[asyncio.Task[None]] = set()
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
        return await self.answer(future)

    async def answer(self, future: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """Wait for what `future` will hold. A launcher that does not give it is woken, then killed: its
        supervisors and their jobs stay, and what it marked and did not give away can be started again.

        Raises `ConnectionError`.
        """
        timer = asyncio.get_running_loop().call_later(self._answer_s, self._overdue, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _overdue(self, future: asyncio.Future[dict[str, Any]]) -> None:
        task = asyncio.get_running_loop().create_task(self._remedy(future))
        self._remedies.add(task)
        task.add_done_callback(self._remedies.discard)

    async def _remedy(self, future: asyncio.Future[dict[str, Any]]) -> None:
        await _signal_launcher(self._run_fd, signal.SIGCONT)
        await asyncio.wait({future}, timeout=self._answer_s)
        if future.done():
            return
        await _signal_launcher(self._run_fd, signal.SIGKILL)
        self.close()
        if not future.done():
            future.set_exception(ConnectionResetError("the launcher did not answer"))

    def close(self) -> None:
        """Leave; the launcher stays."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


async def connect(
    run_fd: int, run_dir: str, cgroup_root: str | None, answer_s: float = ANSWER_S
) -> LauncherConnection:
    """Reach the launcher of `run_dir`; start one when none is there, replace an old protocol's.

    Raises `ServerUnavailable` with where to look when it will not start.
    """
    for _ in range(_ATTEMPTS):
        connection = await connect_running(run_fd, answer_s)
        if connection is None:
            status = await _spawn_launcher(run_fd, run_dir, cgroup_root)
            if status not in (0, ALREADY_RUNNING):
                break
            if status == ALREADY_RUNNING:
                await _until_it_listens(run_fd, answer_s)
            continue
        if (await connection.hello)["protocol"] == PROTOCOL:
            return connection
        # An upgrade: the old launcher goes, its supervisors stay.
        await connection.request(b'{"op":"shutdown"}')
        connection.close()
    raise ServerUnavailable(
        f"the launcher of {run_dir} does not start; its reason is in {run_dir}/{LAUNCHER_LOG}"
    )


async def connect_running(run_fd: int, answer_s: float = ANSWER_S) -> LauncherConnection | None:
    """Connect to a live launcher, or None: there is none, or no more."""
    sock = _knock(run_fd)
    if sock is None:
        return None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(lambda: LauncherConnection(run_fd, answer_s), sock=sock)
    try:
        await connection.answer(connection.hello)
    except ConnectionError:
        connection.close()
        return None
    return connection


async def await_end(run_fd: int, answer_s: float) -> None:
    """Wait until no launcher is left that was told to go, or came too late to hear it: one that still lives
    after `answer_s` is killed. Its idle supervisors go with it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + answer_s
    while pulse.launcher_pid(run_fd) is not None:
        if loop.time() >= end:
            await _signal_launcher(run_fd, signal.SIGKILL)
            return
        await asyncio.sleep(_LISTEN_POLL_S)


def _knock(run_fd: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Through the descriptor: sun_path holds 107 bytes, the run directory's path may be longer.
        sock.connect(f"/proc/self/fd/{run_fd}/{LAUNCHER_SOCKET}")
    except OSError:
        sock.close()
        return None
    return sock


async def _until_it_listens(run_fd: int, answer_s: float) -> None:
    """Another launcher holds the lock and does not listen yet. One that never does is woken, then killed."""
    loop = asyncio.get_running_loop()
    for remedy in (signal.SIGCONT, signal.SIGKILL):
        end = loop.time() + answer_s
        while loop.time() < end:
            sock = _knock(run_fd)
            if sock is not None:
                sock.close()
                return
            if pulse.launcher_pid(run_fd) is None:
                return
            await asyncio.sleep(_LISTEN_POLL_S)
        await _signal_launcher(run_fd, remedy)


async def _signal_launcher(run_fd: int, remedy: signal.Signals) -> None:
    """Wake or kill the launcher; after a kill, wait until it is gone."""
    log.warning("launcher does not answer", extra={"signal": remedy.name})
    pidfd = pulse.signal_launcher(run_fd, remedy)
    if pidfd is None:
        return
    if remedy is signal.SIGCONT:
        os.close(pidfd)
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_death_of(pidfd), _DEATH_S)


async def _spawn_launcher(run_fd: int, run_dir: str, cgroup_root: str | None) -> int:
    errors = os.open(
        LAUNCHER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=run_fd
    )
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
                (os.POSIX_SPAWN_DUP2, errors, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(errors)
    try:
        await asyncio.wait_for(_death_of(os.pidfd_open(pid)), _SPAWN_S)
    except TimeoutError:
        log.warning("launcher does not start", extra={"pid": pid})
        _kill_whole(pid)
    except asyncio.CancelledError:
        # Nobody would ever tell it to go, and it has started nothing: it does not listen yet.
        _kill_whole(pid)
        os.waitpid(pid, 0)  # noqa: ASYNC222  it is dead
        raise
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  it is dead


def _kill_whole(pid: int) -> None:
    """A launcher of ours that nobody has waited for, with all that it started."""
    pulse.kill_below(pid)
    os.kill(pid, signal.SIGKILL)


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
