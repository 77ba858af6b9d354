"""The launcher: a tiny long-lived process that gives each attempt member to a supervisor.

Owns    the start of attempts on this machine, at most once each. Input: JSON on a unix socket.
Why     the agent has gRPC and threads loaded, so it must not fork, and what it starts must not die
        with it. A process that has loaded almost nothing forks in a fifth of a millisecond.

It is one thread without a garbage collector, blocks on poll(), and does not end when the agent
goes. Killed itself, it takes nothing with it: supervisors report through files and `agent.sock`,
stops go straight to supervisors, and the agent starts a new launcher for the next start.

Frames: 4 bytes little-endian length, then JSON. The launcher speaks first: `{"protocol", "pid"}`.
Requests, answered in order: `{"op": "start", "requests": [...]}`, `{"op": "ping"}` and
`{"op": "shutdown"}`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import json
import os
import select
import socket
import sys
import time
from typing import Any

from bursar_agent.runner import supervisor, tree, worker
from bursar_agent.runner.layout import (
    ATTEMPTS,
    DISK_REFUSES,
    EXIT,
    FRAME_BYTES_MAX,
    FREE,
    LAUNCHER_LOCK,
    LAUNCHER_SOCKET,
    PROTOCOL,
    RECORDS,
    SPARE,
    START,
    STARTING,
    UNWRITTEN_BYTES,
    boot_id,
    member_name,
)
from bursar_agent.runner.pool import PR_SET_CHILD_SUBREAPER, PR_SET_NAME, Pool
from bursar_agent.runner.spawning import Host

ALREADY_RUNNING = 3
"""Exit status of a launcher that found another one alive in its directory."""

_REST_MS = 10_000
"""Idle supervisors wait this long for company before they go."""

_ROUND_S = 0.02
"""After a start, for so long: nobody waits for the word that it was given, nor to hear that a supervisor is
idle again, before the next start. Told and heard one by one they cost a short job two wake-ups on each side.
"""

_MARKED = ("attempt_id", "rank", "epoch", "boot_id", "place", "log_cap_bytes", "time_limit_us", "grace_us")
_STOCK = 2
_STOCK_MS = 20
_MADE = "made."
"""So many directories are made ahead, once nothing was asked for so long: making one and its files is a tenth
of the time from a submission to the job's first instruction."""

_RENAME_NOREPLACE, _AT_FDCWD = 1, -100
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_SIG_BLOCK = 0
_SFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_RECEIVE_BYTES = 1 << 16
_ACCEPT_AGAIN_S = 0.2


class _Connection:
    """One agent. Its reads never block us; its answers are small and it is reading."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.owed = bytearray()

    def frames(self) -> list[dict[str, Any]]:
        """Whole messages received so far. Raises `ValueError` on what is not ours."""
        found = []
        buffer = self.buffer
        while len(buffer) >= 4:
            size = int.from_bytes(buffer[:4], "little")
            if size > FRAME_BYTES_MAX:
                raise ValueError(f"frame of {size} bytes")
            if len(buffer) < 4 + size:
                break
            found.append(json.loads(buffer[4 : 4 + size]))
            del buffer[: 4 + size]
        return found

    def owe(self, message: dict[str, Any]) -> None:
        """Answer with the next `tell`, in order."""
        data = json.dumps(message).encode()
        self.owed += len(data).to_bytes(4, "little") + data

    def send(self, message: dict[str, Any]) -> None:
        """Answer now."""
        self.owe(message)
        self.tell()

    def tell(self) -> None:
        """Send what is owed. An agent that does not read for 5 s is gone for us."""
        data, self.owed = self.owed, bytearray()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.sock.settimeout(5)
            self.sock.sendall(data[sent:])
            self.sock.setblocking(False)


class Launcher:
    """The poll loop and the forks. The current directory is the run directory."""

    def __init__(self, host: Host, libc: ctypes.CDLL) -> None:
        self._host = host
        self._libc = libc
        self._boot_id = boot_id()
        self._connections: dict[int, _Connection] = {}
        self._free: list[str] = []
        self._short = False
        self._made = 0
        self._renameat2: Any = getattr(libc, "renameat2", None)
        self._going = True
        self._poll = select.poll()
        self._calls = select.poll()
        """All but supervisors."""
        self._round_ends = 0.0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # One unbound datagram socket serves all supervisors: sendto() needs no state of its own.
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        os.dup2(notify.fileno(), supervisor.NOTIFY_FD, inheritable=False)
        notify.close()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0, supervisor.NOTIFY_FD)
        self._notify.setblocking(False)
        self._pool = Pool(
            host, self._notify, libc, lambda fd: self._poll.register(fd, select.POLLIN), self._poll.unregister
        )

    def listen(self) -> None:
        """Open the door. By a relative name: sun_path holds only 107 bytes."""
        try:  # noqa: SIM105  contextlib is not loaded here
            os.unlink(LAUNCHER_SOCKET)
        except FileNotFoundError:
            pass
        mask = os.umask(0o177)
        self._listener.bind(LAUNCHER_SOCKET)
        os.umask(mask)
        self._listener.listen(64)
        self._listener.setblocking(False)
        for fd in (self._listener.fileno(), supervisor.SIGNAL_FD):
            self._register(fd)

    def serve(self) -> None:
        """Until told to shut down."""
        while self._going:
            news = self._news()
            for fd, _ in news:
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == supervisor.SIGNAL_FD:
                    self._reap()
                elif fd in self._connections:
                    self._receive(self._connections[fd])
                else:
                    self._pool.heard(fd)
            if self._short and not news:
                self._stock()
            elif not news:
                self._pool.rest()
        self._end_round()
        os.unlink(LAUNCHER_SOCKET)

    def _news(self) -> list[tuple[int, int]]:
        """Wait for the next descriptors that have something; none: it took too long."""
        if self._round_ends:
            left_s = self._round_ends - time.monotonic()
            if left_s > 0:
                news = self._calls.poll(int(left_s * 1000) + 1)
                if news:
                    return news
            self._end_round()
            news = self._poll.poll(0)
            if news:
                return news
        return self._poll.poll(_STOCK_MS if self._short else _REST_MS if self._pool.idle > 1 else None)

    def _end_round(self) -> None:
        self._round_ends = 0.0
        for connection in list(self._connections.values()):
            if connection.owed:
                self._tell(connection)

    def _tell(self, connection: _Connection) -> None:
        try:
            connection.tell()
        except OSError as problem:
            _log(f"closing a connection: {problem!r}")
            self._close(connection)

    def _hear_supervisors(self) -> None:
        """Those that have become idle, or are about to end."""
        for fd, _ in self._poll.poll(0):
            self._pool.heard(fd)

    def _register(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)
        self._calls.register(fd, select.POLLIN)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as problem:
            # It stays at the door: for want of descriptors, say, and poll would ask at once for ever.
            _log(f"a connection cannot be taken yet: {problem!r}")
            time.sleep(_ACCEPT_AGAIN_S)
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        try:
            connection.send({"protocol": PROTOCOL, "pid": os.getpid(), "boot_id": self._boot_id})
        except OSError:
            sock.close()
            return
        self._connections[sock.fileno()] = connection
        self._register(sock.fileno())

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        self._poll.unregister(fd)
        self._calls.unregister(fd)
        del self._connections[fd]
        connection.sock.close()

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.buffer += data
        try:
            for message in connection.frames():
                answer = self._answer(message)
                connection.owe(answer)
                if not _can_wait(answer):
                    connection.tell()
                elif not self._round_ends:
                    self._round_ends = time.monotonic() + _ROUND_S
        except (OSError, ValueError, KeyError, TypeError) as problem:
            _log(f"closing a connection: {problem!r}")
            self._close(connection)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        operation = message["op"]
        if operation == "start":
            if self._pool.idle < len(message["requests"]):
                self._hear_supervisors()
            return {"results": [self._start(request) for request in message["requests"]]}
        if operation == "shutdown":
            self._going = False
        elif operation != "ping":
            return {"error": f"unknown operation {operation!r}"}
        return {"ok": True}

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Mark, then fork. The mark is never taken back: no crash can start it twice."""
        try:
            member = member_name(request["attempt_id"], request["rank"])
        except ValueError as problem:
            return {"state": "refused", "message": str(problem)}
        if request["boot_id"] != self._boot_id:
            return {
                "state": "refused",
                "message": f"{member} was meant for another boot of this machine",
            }
        directory = f"{ATTEMPTS}/{member}"
        try:
            lock_fd = self._mark(directory, request)
        except FileExistsError:
            return {"state": "already", "message": f"{member} was started before"}
        except OSError as problem:
            told = f"cannot write {directory}: {problem.strerror}"
            return {"state": "refused", "message": told, "disk": problem.errno in DISK_REFUSES}
        try:
            pid = self._pool.give(directory, request, lock_fd)
        except OSError as problem:
            return {"state": "refused", "message": f"cannot fork for {member}: {problem}"}
        return {"state": "starting", "supervisor_pid": pid}

    def _mark(self, directory: str, request: dict[str, Any]) -> int:
        """Make the attempt's directory and its `starting` file, locked, before anything runs.

        The lock passes to the supervisor and is free once it is dead, however it died: who can take it
        knows that the supervisor is gone, without trust in pids.
        """
        mark = {"taken": 0, **{name: request.get(name) for name in _MARKED}}
        data = json.dumps(mark).encode()
        used_again = self._mark_free(directory, data)
        if used_again is not None:
            return used_again
        try:
            os.mkdir(directory, 0o700)
        except FileNotFoundError:  # somebody has removed what they lie in
            os.makedirs(directory, 0o700)
        fd = os.open(f"{directory}/{STARTING}", _NEW_FILE, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, data)
            _make_unwritten(directory, START)  # which a job of no length leaves as it is
        except OSError:
            os.close(fd)
            raise
        return fd

    def _mark_free(self, directory: str, mark: bytes) -> int | None:
        """The same with the directory of a forgotten member, emptied here; None when there is none.

        The new name comes last, so what has it is marked and locked. Raises `FileExistsError`.
        """
        if self._renameat2 is None:
            return None
        self._free = self._free or _names_in(FREE)
        self._short = len(self._free) <= _STOCK
        while self._free:
            path = f"{FREE}/{self._free.pop()}"
            fd = -1
            try:
                fd = os.open(f"{path}/{STARTING}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in (START, EXIT):
                    os.truncate(f"{path}/{name}", UNWRITTEN_BYTES)
                os.pwrite(fd, mark, 0)
                os.ftruncate(fd, len(mark))
                self._rename(path, directory)
                return fd
            except OSError as problem:
                if fd >= 0:
                    os.close(fd)
                if problem.errno == errno.EEXIST:
                    raise
                if problem.errno == errno.EAGAIN:
                    continue  # its last supervisor has not let go yet: later
                _log(f"{path} cannot be used again: {problem.strerror}")
                _remove(path)
        return None

    def _stock(self) -> None:
        """Make directories that the next starts find free. A half made one is removed by whoever meets it."""
        self._short = False
        # Those used again come last in the list, and so are taken first.
        self._free = sorted(_names_in(FREE), key=lambda name: not name.startswith(_MADE))
        try:
            while len(self._free) < _STOCK:
                self._made += 1
                name = f"{_MADE}{os.getpid()}.{self._made}"
                os.mkdir(f"{FREE}/{name}", 0o700)
                for record in RECORDS:
                    _make_unwritten(f"{FREE}/{name}", record)
                self._free.insert(0, name)
        except OSError as problem:
            _log(f"cannot make a directory ahead: {problem.strerror}")

    def _rename(self, old: str, new: str) -> None:
        """Unlike os.rename, never over something that is there. Raises `FileExistsError`, `OSError`."""
        done = self._renameat2(_AT_FDCWD, old.encode(), _AT_FDCWD, new.encode(), _RENAME_NOREPLACE)
        if done != 0:
            problem = ctypes.get_errno()
            raise OSError(problem, os.strerror(problem), new)

    def _reap(self) -> None:
        """Collect dead supervisors. When one was killed, nothing of its job may live on.

        We are a subreaper too, so what a dead supervisor leaves behind becomes our child, and every
        child of ours that is no supervisor is such a leftover. This finds also what has cleared its
        environment; the agent's own search (leftovers.py) does without us, by environment only.
        """
        try:  # noqa: SIM105
            os.read(supervisor.SIGNAL_FD, 4096)
        except BlockingIOError:
            pass
        self._hear_supervisors()
        lost = False
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                break
            # Told before it is reaped: until then its pid cannot be another's.
            lost = self._pool.died(found.si_pid) or lost
            os.waitpid(found.si_pid, 0)
        if lost:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        orphans = [pid for pid in tree.children(os.getpid()) if pid not in self._pool]
        for pid in orphans:
            tree.send([pid, *tree.descendants(pid)], supervisor.SIGKILL)


def _can_wait(answer: dict[str, Any]) -> bool:
    """Does it say nothing but that all were given to supervisors?"""
    return all(one["state"] == "starting" for one in answer.get("results", ({"state": ""},)))


def prepare(libc: ctypes.CDLL) -> None:
    """Signals to a descriptor, fixed descriptors, no collector: all that children then inherit.

    Every signal that can wait is blocked: the launcher ends by `shutdown`, a supervisor by its job,
    and neither by a stray SIGHUP or SIGTERM. A signalfd reads the signals of whoever reads it, so
    one made here serves each supervisor without a further system call.
    """
    everything = (ctypes.c_ubyte * 128)(*([0xFF] * 8))
    libc.sigprocmask(_SIG_BLOCK, everything, None)
    wanted = (ctypes.c_ubyte * 128)()
    for number in (supervisor.SIGUSR1, supervisor.SIGCHLD):
        wanted[(number - 1) // 8] |= 1 << ((number - 1) % 8)
    fd = libc.signalfd(-1, wanted, _SFD_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    if fd != supervisor.SIGNAL_FD:
        os.dup2(fd, supervisor.SIGNAL_FD, inheritable=False)
        os.close(fd)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"bursar-launcher", 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Daemonise and serve `--dir RUN_DIR [--cgroup-root DIR]`; returns once it listens."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    directory = options.get("--dir")
    if directory is None or set(options) - {"--dir", "--cgroup-root"} or len(arguments) % 2:
        _log("usage: launcher --dir RUN_DIR [--cgroup-root DIR]")
        return 2
    os.closerange(3, 1 << 20)
    for fixed in (supervisor.SIGNAL_FD, supervisor.NOTIFY_FD, worker.CHANNEL_FD):
        assert os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) == fixed  # kept free for supervisors
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    os.chdir(directory)
    if os.fork():
        # The agent waits for this process only: no zombie is left, and 0 means "listening".
        os.close(ready_write)
        said = os.read(ready_read, 1)
        return said[0] if said else 1
    os.close(ready_read)
    os.setsid()
    lock = os.open(LAUNCHER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # A record lock, because flock() would pass to supervisors by fork and outlive us in them.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        os.write(ready_write, bytes([ALREADY_RUNNING]))
        return ALREADY_RUNNING
    _serve(options.get("--cgroup-root"), ready_write)
    return 0


def _serve(cgroup_root: str | None, ready_write: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    prepare(libc)
    host = Host(cgroup_root)
    host.protect()
    os.makedirs(ATTEMPTS, 0o700, exist_ok=True)
    os.makedirs(FREE, 0o700, exist_ok=True)
    _empty(SPARE)
    launcher = Launcher(host, libc)
    launcher.listen()
    os.write(ready_write, b"\0")
    os.close(ready_write)
    # Nothing here makes cycles, and a collection in a child would touch, and so copy, every page.
    gc.collect()
    gc.freeze()
    gc.disable()
    launcher.serve()


def _names_in(folder: str) -> list[str]:
    """What is there; nothing where somebody has removed it, which is made anew if that can be."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        try:
            os.mkdir(folder, 0o700)
        except OSError as problem:
            _log(f"{folder}: {problem.strerror}")
        return []


def _empty(folder: str) -> None:
    """Directories that killed supervisors kept for their next attempt."""
    os.makedirs(folder, 0o700, exist_ok=True)
    for name in os.listdir(folder):
        try:
            os.rmdir(f"{folder}/{name}")
        except OSError as problem:
            _log(f"{folder}/{name}: {problem.strerror}")


def _make_unwritten(folder: str, record: str) -> None:
    fd = os.open(f"{folder}/{record}", _NEW_FILE, 0o600)
    try:
        os.write(fd, b"\0" * UNWRITTEN_BYTES)
    finally:
        os.close(fd)


def _remove(folder: str) -> None:
    """A directory of plain files."""
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError as problem:
        _log(f"{folder}: {problem.strerror}")


def _log(text: str) -> None:
    """On stderr. A disk that is full, or nobody who reads, ends no launcher."""
    try:  # noqa: SIM105  contextlib is not loaded here
        os.write(2, (text + "\n").encode(errors="backslashreplace"))
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
