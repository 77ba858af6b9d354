"""Files that a job's output goes to beside its log, written by a small process of the job's own user.

Owns    the copier: a child that becomes the job's user, opens the files, and stands between job and log.
Input   the job, which names the files (`bursar.model.OutputFiles`), and the pipe of its log.
Why     a file of a user's is opened and written with that user's rights, groups, quota and share of memory,
        and never through a link by us. And a file system that hangs may hold up the job; its supervisor must
        still end it in time. Jobs without such files have no copier.
Rule    what the job prints comes into the log first: a file that takes no more costs the log no line.
"""

from __future__ import annotations

import os
import select
from typing import NamedTuple, NoReturn

from bursar_agent.runner import spawning

OPEN_TIMEOUT_MS = 30_000
"""A file system that takes longer to open a file is taken for one that hangs."""
_CHUNK_BYTES = 1 << 16
_TOLD_BYTES = 4096
_STANDARD_FDS = 3
_FDS_MAX = 1 << 20
_OPENED = b"\0"


class Copier(NamedTuple):
    """One that runs: what standard output and error of the job are to be, for the caller to close."""

    pid: int
    output_fd: int
    error_fd: int


class _File:
    """One file, and what was said of it."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._failed = False

    def write(self, data: bytes) -> bytes:
        """All of it, as far as the disk takes it; returns a line for the log where that fails first."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as problem:
            if not self._failed:
                self._failed = True
                return f"\n[bursar: {self._path} lacks what follows: {problem.strerror}]\n".encode(
                    "utf-8", "surrogateescape"
                )
        return b""


def start(job: spawning.Job, log_fd: int, cgroup: spawning.JobCgroup | None) -> Copier:
    """Open the files and begin to copy. Raises `CannotStart` with the file that cannot be opened."""
    paths = [path for path in dict.fromkeys((job.output_path, job.error_path)) if path]
    pipes = {path: os.pipe2(os.O_CLOEXEC) for path in paths}
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become_copier(job, {pipe[0]: path for path, pipe in pipes.items()}, log_fd, told_write, cgroup)
    os.close(told_write)
    for read_fd, _ in pipes.values():
        os.close(read_fd)
    problem = _problem(told_read, pid)
    os.close(told_read)
    if problem is not None:
        for _, write_fd in pipes.values():
            os.close(write_fd)
        raise spawning.CannotStart(problem, spawning.NOT_STARTABLE)
    ends = {path: write_fd for path, (_, write_fd) in pipes.items()}
    output_fd = ends.get(job.output_path, log_fd)
    return Copier(pid, output_fd, ends[job.error_path] if job.error_path else output_fd)


def _problem(told_fd: int, pid: int) -> str | None:
    """Wait for the copier's word; None when all its files are open, else it is gone."""
    poll = select.poll()
    poll.register(told_fd, select.POLLIN)
    answered = bool(poll.poll(OPEN_TIMEOUT_MS))
    told = os.read(told_fd, _TOLD_BYTES) if answered else b"output file: its file system does not answer"
    if told == _OPENED:
        return None
    os.kill(pid, 9)
    os.waitpid(pid, 0 if answered else os.WNOHANG)
    return told.decode("utf-8", "replace") or "output file: the process that opens it was killed"


def _become_copier(
    job: spawning.Job, paths: dict[int, str], log_fd: int, told_fd: int, cgroup: spawning.JobCgroup | None
) -> NoReturn:
    """The child: `paths` by the pipe whose bytes they get."""
    import signal

    path = ""
    try:
        os.setsid()
        for number in spawning.SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # it ends when nobody can write to it any more
        _close_all_but({*paths, log_fd, told_fd})
        if cgroup is not None:
            cgroup.enter()
        spawning.change_user(job.uid, job.gid)
        spawning.enter(job)
        files = {}
        for fd, path in paths.items():
            files[fd] = _File(path, _open(path, job.appends))
        os.write(told_fd, _OPENED)
        os.close(told_fd)
        _copy(files, log_fd)
    except spawning.CannotStart as problem:
        os.write(told_fd, problem.message.encode("utf-8", "surrogateescape")[:_TOLD_BYTES])
    except OSError as problem:
        text = f"output file {spawning.shortened(path)!r}: {problem.strerror}"
        os.write(told_fd, text.encode("utf-8", "surrogateescape")[:_TOLD_BYTES])
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """Let go of what is the supervisor's, its locks before all; the standard descriptors lead nowhere."""
    low = _STANDARD_FDS
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, _FDS_MAX)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(_STANDARD_FDS):
        os.dup2(nowhere, number)


def _open(path: str, appends: bool) -> int:
    """For writing behind what is there. A pipe that nobody reads is an error, not something to wait for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags | (0 if appends else os.O_TRUNC), 0o666)
    os.set_blocking(fd, True)
    return fd


def _copy(files: dict[int, _File], log_fd: int) -> None:
    """Until every pipe is closed by all who could write to it."""
    poll = select.poll()
    for fd in files:
        poll.register(fd, select.POLLIN)
    while files:
        for fd, _ in poll.poll():
            data = os.read(fd, _CHUNK_BYTES)
            if not data:
                poll.unregister(fd)
                del files[fd]
                continue
            _tell_log(log_fd, data)
            said = files[fd].write(data)
            if said:
                _tell_log(log_fd, said)


def _tell_log(log_fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(log_fd, view) :]
    except OSError:
        pass  # its supervisor was killed: the job ends soon, and what it still says is in the file
