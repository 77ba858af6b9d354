"""The tasks of one step on one node: started, heard, signalled, and gone with whoever asked for them.

Owns    the processes and their pipes. Input: frames of the client over one stream; its end kills all.
Why     it is the parent of the tasks and inherits what they leave, so a step that is over leaves nothing; and
        it reads no more than the client takes, so a task that prints more waits in its own pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from bursar.steps import frames, kernel, names, patterns
from bursar.steps.feeds import Feeds

OUTBOX_BYTES_MAX: Final = 1 << 18
SIZE_MAX: Final = (1 << 16) - 1
"""Of rows and of columns."""
HANG_UP_S: Final = 1.0
"""So long has a program to end whose terminal hung up, before it is killed."""
_END_OF_INPUT: Final = b"\x04"
WARN_AGAIN_S: Final = 0.25
"""A task that did not heed a warning yet, since its program still starts, is warned when it does."""


class _Task:
    __slots__ = ("pid", "pidfd", "rank", "status")

    def __init__(self, rank: int, pid: int) -> None:
        self.rank = rank
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None


class Host:
    """One step on one node, until none of its processes is left."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._reader = frames.Reader()
        self._outbox = bytearray()
        self._poll = select.epoll()
        self._poll.register(channel.fileno(), select.EPOLLIN)
        self._tasks: dict[int, _Task] = {}
        self._pipes: dict[int, tuple[int, int]] = {}
        self._stdin, self._stdin_left = -1, bytearray()
        self._stdin_ends = False
        self._feeds = Feeds(self._poll)
        """Of a step whose input goes to all of its tasks; `_stdin` is that of the first task alone."""
        self._to_all = False
        self._terminal = -1
        self._paused = False
        self._client = True
        self._begun = False
        self._telling: dict[int, dict[int, tuple[int, int]]] = {}
        """By signal: processes that were told, each with when it began and when that was, in clock ticks."""
        self._tell_at = 0.0

    def run(self) -> None:
        """Until the step is over and told, or its client is gone."""
        kernel.inherit_orphans()
        kernel.raise_file_limit()
        while True:
            for fd, event in self._poll.poll(WARN_AGAIN_S if self._telling else None):
                self._on(fd, event)
            if self._telling and time.monotonic() >= self._tell_at:
                self._tell_again()
            if not self._client:
                self._hang_up()
                kill_below(os.getpid())
                return
            if self._begun and not self._tasks:
                self._leave()
                return
            self._flow()

    def _on(self, fd: int, event: int) -> None:
        if fd == self._channel.fileno():
            if event & ~select.EPOLLOUT:
                self._hear()
        elif fd in self._pipes:
            self._read(fd)
        elif fd == self._stdin:
            self._feed()
        elif fd in self._feeds:
            self._feeds.feed(fd)
            self._grant()
        elif fd in self._tasks:
            self._reap(self._tasks[fd])

    # --- the client

    def _hear(self) -> None:
        try:
            data = self._channel.recv(frames.CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._client = False
            return
        for kind, number, body in self._reader.feed(data):
            if kind == frames.SPEC:
                self._start(json.loads(body.decode("utf-8", "surrogateescape")))
            elif kind in (frames.STDIN, frames.STDIN_END) and self._to_all:
                self._feeds.take(body, end=kind == frames.STDIN_END)
                self._grant()
            elif kind == frames.STDIN:
                self._stdin_left += body
                self._feed()
            elif kind == frames.STDIN_END:
                self._stdin_ends = True
                self._feed()
            elif kind == frames.SIGNAL:
                self._signal(number)
            elif kind == frames.SIZE and self._terminal >= 0:
                _resize(self._terminal, number)
            elif kind == frames.END:
                self._client = False

    def _say(self, kind: int, task: int = 0, data: bytes = b"") -> None:
        self._outbox += frames.encode(kind, task, data)

    def _flow(self) -> None:
        """Send what can go, and read from tasks only while it does."""
        while self._outbox:
            try:
                sent = self._channel.send(self._outbox[: frames.CHUNK_BYTES])
            except BlockingIOError:
                break
            except OSError:
                self._client = False
                return
            del self._outbox[:sent]
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._outbox else 0)
        self._poll.modify(self._channel.fileno(), wanted)
        full = len(self._outbox) >= OUTBOX_BYTES_MAX
        if full != self._paused:
            self._paused = full
            for fd in self._pipes:
                if full:
                    self._poll.unregister(fd)
                else:
                    self._poll.register(fd, select.EPOLLIN)

    # --- tasks

    def _start(self, spec: dict[str, Any]) -> None:
        self._begun = True
        if spec.get("own"):  # asked for outside of the job: all that it has is the member's own
            env = {**os.environ, **spec["env"]}
            spec["argv"] = spec["argv"] or [_shell(env)]
        else:
            node_env = {name: os.environ[name] for name in names.OF_THE_NODE if name in os.environ}
            env = {**spec["env"], **node_env, **spec["node_env"]}
            here = env.get(names.DIRECTORY, spec["steps"])
            for name in ("PATH", "BASH_ENV"):
                if name in env or name == "PATH":
                    env[name] = env.get(name, os.defpath).replace(spec["steps"], here)
        _own_secrets(env, spec.get("secrets", ""))
        patterns.empty(spec, env)
        self._to_all = spec.get("stdin") == frames.TO_ALL
        for local, rank in enumerate(spec["ranks"]):
            self._spawn(spec, env, local, rank)

    def _spawn(self, spec: dict[str, Any], env: dict[str, str], local: int, rank: int) -> None:
        env = {**env, **patterns.task_environment(spec, env, local, rank)}
        fed = self._to_all or (rank == 0 and spec["stdin"])
        if size := spec.get("terminal"):
            ours, theirs, ours_in = self._open_terminal(size)
        else:
            stdin, ours_in = os.pipe2(os.O_CLOEXEC) if fed else (-1, -1)
            out, task_out = os.pipe2(os.O_CLOEXEC)
            err, task_err = os.pipe2(os.O_CLOEXEC)
            ours, theirs = [(out, frames.OUT), (err, frames.ERR)], (stdin, task_out, task_err)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(spec, env, parent, local, rank, theirs)
        for fd in {*theirs} - {-1}:
            os.close(fd)
        if self._to_all and ours_in >= 0:
            self._feeds.add(ours_in)
        elif ours_in >= 0:
            os.set_blocking(ours_in, False)
            self._stdin = ours_in
        task = _Task(rank, pid)
        self._tasks[task.pidfd] = task
        self._poll.register(task.pidfd, select.EPOLLIN)
        for fd, kind in ours:
            os.set_blocking(fd, False)
            self._pipes[fd] = (kind, rank)
            if not self._paused:
                self._poll.register(fd, select.EPOLLIN)

    def _open_terminal(self, size: int) -> tuple[list[tuple[int, int]], tuple[int, int, int], int]:
        """A terminal: where its output is read, what the task has, where its input is written."""
        self._terminal, theirs = os.openpty()
        _resize(self._terminal, size)
        ours_in = os.dup(self._terminal)
        return [(self._terminal, frames.OUT)], (theirs, theirs, theirs), ours_in

    def _read(self, fd: int) -> bool:
        """One piece of output; False at the end of a pipe, or when there is none now."""
        kind, rank = self._pipes[fd]
        try:
            data = _read_piece(fd)
        except BlockingIOError:
            return False
        if data:
            self._say(kind, rank, data)
            return True
        if not self._paused:
            self._poll.unregister(fd)
        os.close(fd)
        del self._pipes[fd]
        if fd == self._terminal:
            self._terminal = -1
        return False

    def _feed(self) -> None:
        """Give the first task what has come for it; what it takes is told, so that more comes."""
        if self._stdin < 0:
            if self._stdin_left:
                self._say(frames.CREDIT, len(self._stdin_left))
                self._stdin_left.clear()
            return
        try:
            taken = os.write(self._stdin, self._stdin_left[: frames.CHUNK_BYTES]) if self._stdin_left else 0
        except BlockingIOError:
            taken = 0
        except OSError:  # it reads no more
            taken, self._stdin_ends = len(self._stdin_left), True
        if taken:
            del self._stdin_left[:taken]
            self._say(frames.CREDIT, taken)
        if self._stdin_ends and not self._stdin_left:
            if self._terminal >= 0:  # its end is a character there
                with contextlib.suppress(OSError):
                    os.write(self._stdin, _END_OF_INPUT)
            self._watch_stdin(False)
            os.close(self._stdin)
            self._stdin = -1
        else:
            self._watch_stdin(bool(self._stdin_left))

    def _grant(self) -> None:
        if more := self._feeds.granted():
            self._say(frames.CREDIT, more)

    def _watch_stdin(self, wanted: bool) -> None:
        try:
            if wanted:
                self._poll.register(self._stdin, select.EPOLLOUT)
            else:
                self._poll.unregister(self._stdin)
        except OSError:
            pass  # so it was already

    def _signal(self, number: int) -> None:
        if number & frames.HEEDED:
            if not number & frames.LATE:  # on its own node the supervisor sees to it
                self._warn(number & ~frames.HEEDED)
            return
        for task in self._tasks.values():
            try:
                os.killpg(task.pid, number)
            except OSError:
                continue

    def _warn(self, number: int) -> None:
        """Tell who heeds it now, and until the end who comes to heed it, each process once. What one that was
        told starts afterwards is its own to tell.
        """
        self._telling[number] = {}
        self._tell_again()

    def _tell_again(self) -> None:
        children = kernel.children()
        parents = {child: parent for parent, many in children.items() for child in many}
        at = kernel.now_ticks()
        below = kernel.descendants(os.getpid(), children)
        for number, told in self._telling.items():
            for pid in below:
                if kernel.heeds(pid, number) and not _knows(pid, told, parents):
                    with contextlib.suppress(OSError):
                        os.kill(pid, number)
                        told[pid] = (kernel.began(pid), at)
        self._tell_at = time.monotonic() + WARN_AGAIN_S

    def _reap(self, task: _Task) -> None:
        _, status = os.waitpid(task.pid, 0)
        self._poll.unregister(task.pidfd)
        os.close(task.pidfd)
        del self._tasks[task.pidfd]
        # What it wrote comes before its end.
        for fd in [fd for fd, (_, rank) in self._pipes.items() if rank == task.rank]:
            while len(self._outbox) < 4 * OUTBOX_BYTES_MAX and self._read(fd):
                pass
        code = os.waitstatus_to_exitcode(status)
        self._say(frames.EXIT, task.rank, bytes((max(code, 0), max(-code, 0))))

    # --- ends

    def _hang_up(self) -> None:
        """Who looked at the terminal is gone: its programs are told as on any other."""
        if self._terminal < 0:
            return
        for fd in {self._terminal, self._stdin} - {-1}:
            os.close(fd)
        until = time.monotonic() + HANG_UP_S
        ends = select.poll()
        for fd in self._tasks:
            ends.register(fd, select.POLLIN)
        while self._tasks and (left := until - time.monotonic()) > 0:
            for fd, _ in ends.poll(left * 1000):
                ends.unregister(fd)
                os.waitpid(self._tasks.pop(fd).pid, 0)

    def _leave(self) -> None:
        """All tasks have ended: what they left goes too, and the rest of their output is told."""
        kill_below(os.getpid())
        self._channel.setblocking(True)
        try:
            self._channel.sendall(self._outbox)
            for fd, (kind, rank) in list(self._pipes.items()):
                os.set_blocking(fd, True)
                while data := _read_piece(fd):
                    self._channel.sendall(frames.encode(kind, rank, data))
            self._channel.sendall(frames.encode(frames.DONE))
        except OSError:
            pass  # nobody listens


def _read_piece(fd: int) -> bytes:
    """Output of a task; empty at its end, which a terminal tells by an error. Raises `BlockingIOError`."""
    try:
        return os.read(fd, frames.CHUNK_BYTES)
    except BlockingIOError:
        raise
    except OSError:
        return b""


def _resize(terminal: int, size: int) -> None:
    """`size`: rows << 16 | columns. What runs there is told by the kernel."""
    with contextlib.suppress(OSError):
        told = struct.pack("HHHH", size >> 16 & SIZE_MAX, size & SIZE_MAX, 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, told)


def _shell(env: dict[str, str]) -> str:
    """What a person gets who names no program."""
    known = (env.get("SHELL", ""), "/bin/bash", "/bin/sh")
    return next((one for one in known if one.startswith("/") and os.access(one, os.X_OK)), "/bin/sh")


def _knows(pid: int, told: Mapping[int, tuple[int, int]], parents: Mapping[int, int]) -> bool:
    """Was a process told, or one above it before this one began?"""
    began = kernel.began(pid)
    if told.get(pid, (-1, 0))[0] == began:
        return True
    below, above = began, parents.get(pid, 0)
    for _ in range(len(parents)):
        if above <= 1:
            break
        known, at = told.get(above, (-1, 0))
        above_began = kernel.began(above)
        if known == above_began and below >= at:
            return True
        below, above = above_began, parents.get(above, 0)
    return False


def kill_below(pid: int) -> None:
    """Kill everything below `pid` (the caller), until nothing is."""
    while found := kernel.descendants(pid):
        for one in found:
            try:
                os.kill(one, signal.SIGKILL)
            except OSError:
                continue
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _own_secrets(env: dict[str, str], theirs: str) -> None:
    """Paths of secrets that are files, of whoever started the step, become those of this node."""
    own = env.get(names.SECRETS)
    if not own or not theirs:
        return
    for name, value in env.items():
        if value.startswith(f"{theirs}/"):
            env[name] = own + value.removeprefix(theirs)


def _become(
    spec: dict[str, Any],
    env: dict[str, str],
    parent: int,
    local: int,
    rank: int,
    pipes: tuple[int, int, int],
) -> NoReturn:
    """The forked child becomes the task; what prevents it is said on its standard error."""
    code = 126
    argv = spec.get("programs", {}).get(str(rank), spec["argv"])
    started = False
    try:
        os.setsid()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        stdin, out, err = pipes
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(stdin if stdin >= 0 else os.open(os.devnull, os.O_RDONLY), 0)
        if spec.get("terminal"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if spec["cwd"]:
            os.chdir(spec["cwd"])
        patterns.redirect(spec, env, local, rank)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.get_exec_path(env)  # which loads a module: no file can be opened below the limit that comes next
        kernel.restore_file_limit()
        started = True
        _execute(argv, env, here=spec.get("program") == "srun")
    except FileNotFoundError as problem:
        code = 127
        _tell(spec, f"{argv[0] if started else problem.filename}: no such file or command")
    except (OSError, ValueError) as problem:
        where = argv[0] if started else getattr(problem, "filename", None) or argv[0]
        _tell(spec, f"{where}: {getattr(problem, 'strerror', None) or problem}")
    finally:
        os._exit(code)


def _execute(argv: list[str], env: dict[str, str], *, here: bool) -> None:
    """Become a program. `here`: one that PATH does not have may lie in the working directory, as in Slurm."""
    try:
        os.execvpe(argv[0], argv, env)
    except FileNotFoundError:
        if not here or "/" in argv[0] or not (os.path.isfile(argv[0]) and os.access(argv[0], os.X_OK)):
            raise
        os.execve(f"./{argv[0]}", argv, env)


def _tell(spec: dict[str, Any], text: str) -> None:
    os.write(2, f"{spec['program']}: error: {spec['node']}: {text}\n".encode("utf-8", "surrogateescape"))


def fork_host(other: socket.socket | None = None) -> socket.socket:
    """A host as a child of the caller, which keeps one end of its stream.

    Args:
        other: closed in the child.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        code = 1
        try:
            ours.close()
            if other is not None:
                other.close()
            Host(theirs).run()
            code = 0
        except BaseException as problem:
            os.write(2, f"step host: {problem!r}\n".encode())
            kill_below(os.getpid())
        finally:
            os._exit(code)
    theirs.close()
    return ours
