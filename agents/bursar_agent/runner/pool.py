"""The launcher's supervisors: forked when none is idle, kept while they are clean.

Owns    each worker's channel, the attempt it has, and that attempt's lock and request until it is idle again.
Why     see `worker`: this is the half that must know, when one dies, whether its attempt was begun.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from bursar_agent.runner import worker
from bursar_agent.runner.spawning import Host

IDLE_MAX = 64
ATTEMPTS_MAX = 500
"""A worker ends after this many, so that nothing small can add up."""

GIVEN_MAX = 3
"""An attempt whose workers die before they take it is given up after this many: it may be why they die."""

PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36


class Attempt:
    """What a worker was given. `lock_fd` is the launcher's own handle of the attempt's lock."""

    __slots__ = ("directory", "given", "lock_fd", "number", "request")

    def __init__(self, number: int, directory: str, request: dict[str, Any], lock_fd: int) -> None:
        self.number = number
        self.directory = directory
        self.request = request
        self.lock_fd = lock_fd
        self.given = 0


class Worker:
    """One supervisor's process, as the launcher sees it."""

    __slots__ = ("attempt", "attempts", "channel", "pid", "slot")

    def __init__(self, pid: int, slot: int, channel: socket.socket) -> None:
        self.pid = pid
        self.slot = slot
        self.channel = channel
        self.attempt: Attempt | None = None
        self.attempts = 0


class Pool:
    """All workers of one launcher.

    Args:
        watch, unwatch: begin and stop to poll a descriptor; the launcher calls `heard` for it.
    """

    def __init__(
        self,
        host: Host,
        notify: socket.socket,
        libc: ctypes.CDLL,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._host = host
        self._notify = notify
        self._libc = libc
        self._watch = watch
        self._unwatch = unwatch
        self._notes = worker.TakenNotes()
        self._slots = list(range(worker.WORKERS_MAX))
        self._by_pid: dict[int, Worker] = {}
        self._by_fd: dict[int, Worker] = {}
        self._idle: list[Worker] = []
        self._numbers = 0

    def __contains__(self, pid: int) -> bool:
        return pid in self._by_pid

    @property
    def idle(self) -> int:
        """Workers that wait."""
        return len(self._idle)

    def give(self, directory: str, request: dict[str, Any], lock_fd: int) -> int:
        """Give an attempt to a worker, which owns `lock_fd` from here on; the worker's pid.

        Raises `OSError` when there is no idle worker and none can be made; the lock is then free again.
        """
        self._numbers += 1
        attempt = Attempt(self._numbers, directory, request, lock_fd)
        try:
            return self._give(attempt)
        except OSError:
            os.close(lock_fd)
            raise

    def _give(self, attempt: Attempt) -> int:
        while self._idle:
            found = self._idle.pop()
            if self._send(found, attempt):
                return found.pid
        made = self._fork()
        if not self._send(made, attempt):
            raise OSError("a new supervisor died at once")
        return made.pid

    def _send(self, found: Worker, attempt: Attempt) -> bool:
        found.attempt = attempt
        found.attempts += 1
        attempt.given += 1
        try:
            worker.send_attempt(
                found.channel, attempt.number, attempt.directory, attempt.request, attempt.lock_fd
            )
        except OSError:
            # Dead, or it does not read: it has not got the whole message, so it has begun nothing.
            found.attempt = None
            self._kill(found)
            return False
        return True

    def _fork(self) -> Worker:
        if not self._slots:
            raise OSError("too many attempts at once")
        ours, theirs = socket.socketpair()
        slot = self._slots.pop()
        try:
            pid = os.fork()
        except OSError:
            self._slots.append(slot)
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            self._become_worker(theirs, slot)
        theirs.close()
        ours.setblocking(False)
        made = Worker(pid, slot, ours)
        self._by_pid[pid] = made
        self._by_fd[ours.fileno()] = made
        self._watch(ours.fileno())
        return made

    def _become_worker(self, channel: socket.socket, slot: int) -> NoReturn:
        try:
            os.setsid()
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._libc.prctl(PR_SET_NAME, b"bursar-attempt", 0, 0, 0)
            os.dup2(channel.fileno(), worker.CHANNEL_FD, inheritable=False)
            os.closerange(worker.FIRST_FREE_FD, 1 << 20)
        except BaseException as problem:
            os.write(2, f"new supervisor: {problem!r}\n".encode())
            os._exit(1)
        worker.main(self._host, self._notify, self._notes, slot)

    # --- hearing --------------------------------------------------------------------------------

    def heard(self, fd: int) -> bool:
        """A worker's channel has news; False when the descriptor is no worker's."""
        found = self._by_fd.get(fd)
        if found is None:
            return False
        try:
            said = found.channel.recv(16)
        except BlockingIOError:
            return True
        except OSError:
            said = b""
        if not said:
            self._hang_up(found)  # it is ending; `died` does the rest
            return True
        if found.attempt is not None:
            os.close(found.attempt.lock_fd)
            found.attempt = None
        if found.attempts >= ATTEMPTS_MAX or len(self._idle) >= IDLE_MAX:
            self._hang_up(found)
        else:
            self._idle.append(found)
        return True

    def rest(self) -> None:
        """Nothing was asked for a while: let all idle workers go but one."""
        while len(self._idle) > 1:
            self._hang_up(self._idle.pop(0))

    def died(self, pid: int) -> bool:
        """A child can be reaped. Call before reaping it: its pid must not be anybody else's while its lock
        is held. True when its attempt was begun and not ended by itself, or the child was no worker.
        """
        found = self._by_pid.pop(pid, None)
        if found is None:
            return True
        self._hang_up(found)
        if found in self._idle:
            self._idle.remove(found)
        attempt, found.attempt = found.attempt, None
        taken = self._notes.get(found.slot)
        self._slots.append(found.slot)
        if attempt is None:
            return False
        if taken == attempt.number or attempt.given >= GIVEN_MAX:
            os.close(attempt.lock_fd)
            return True
        try:
            self._give(attempt)
        except OSError as problem:
            os.write(2, f"{attempt.directory} cannot be started again: {problem!r}\n".encode())
            os.close(attempt.lock_fd)
        return False

    def _hang_up(self, found: Worker) -> None:
        fd = found.channel.fileno()
        if fd >= 0:
            self._unwatch(fd)
            del self._by_fd[fd]
            found.channel.close()

    def _kill(self, found: Worker) -> None:
        self._hang_up(found)
        try:  # noqa: SIM105  contextlib is not loaded here
            os.kill(found.pid, 9)
        except OSError:
            pass
