"""Whether the kernel killed something in a container's own cgroup for want of memory.

Owns    the watch of one cgroup, version 1 or 2. Input: a process in it.
Why     the cgroup goes with its container, and what a runtime remembers of it is not reliable (podman 4 says
        nothing where a child of the first process was killed). So the kernel is asked to wake us.
"""

from __future__ import annotations

import os
import select

_ROOT = "/sys/fs/cgroup"


class OomWatch:
    """Watches from the moment it is made; where there is nothing to watch, it sees nothing."""

    def __init__(self, pid: int) -> None:
        self.seen = False
        self._events = self._file = -1
        self._version_1 = False
        try:
            self._open(pid)
        except (OSError, ValueError):
            self.close()

    def wait(self, pidfd: int) -> None:
        """Until a process has ended."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if self._events >= 0:
            poll.register(self._events, select.POLLIN if self._version_1 else select.POLLPRI)
        while True:
            woken = [fd for fd, _ in poll.poll()]
            if self._events in woken and not self._look():
                poll.unregister(self._events)  # it is gone, and would wake us for ever
            if pidfd in woken:
                return

    def close(self) -> None:
        """Watch no more."""
        for fd in {self._events, self._file} - {-1}:
            os.close(fd)
        self._events = self._file = -1

    def _open(self, pid: int) -> None:
        folder = _folder(pid)
        if os.path.exists(f"{folder}/memory.events"):
            self._events = self._file = os.open(f"{folder}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            os.read(self._file, 4096)
            return
        self._version_1 = True
        self._file = os.open(f"{folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with open(f"{folder}/cgroup.event_control", "w") as file:
            file.write(f"{self._events} {self._file}")

    def _look(self) -> bool:
        """Something happened; False when that was the end of the cgroup."""
        try:
            if self._version_1:
                os.eventfd_read(self._events)
            text = os.pread(self._file, 4096, 0).decode()
        except OSError:
            return False
        # Version 1 wakes us before it kills.
        killed = any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())
        self.seen = self.seen or self._version_1 or killed
        return True


def _folder(pid: int) -> str:
    """The memory cgroup of a process. Raises `OSError`, `ValueError` where it is nowhere, or the top."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(",") and path != "/":
                return f"{_ROOT}/memory{path}"
            if not controllers and path != "/" and os.path.exists(f"{_ROOT}{path}/memory.events"):
                return f"{_ROOT}{path}"
    raise ValueError("no memory cgroup")
