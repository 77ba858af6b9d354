"""Processes that answer no more: a launcher or a supervisor that was stopped, or hangs.

Owns    finding them, and what is done to them, step by step. Input: the run directory, the members watched.
Why     a dead process is noticed by its pidfd and its lock; one that is stopped keeps both, and with it every
        promise it made: the time limit, the stop, the true end.

What is only stopped is woken (SIGCONT) at the next look, since it goes on as if nothing had been: no job
pays for it. What hangs is judged by its promises alone. A supervisor whose job should have been over for
`OVERDUE_US` is asked once more; then the processes of its job are killed (it may yet tell the true end);
then it is killed itself, and the agent writes the report. One that has broken no promise is left alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
from collections.abc import Mapping
from typing import Any

from bursar_agent.runner import tree, truth
from bursar_agent.runner.layout import LAUNCHER_LOCK, STARTING, stat_fields, written_limit
from bursar_agent.runner.supervisor import TERM_TO_KILL_US, boot_us

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks at all processes."""

OVERDUE_US = 10_000_000
"""After the last moment at which a supervisor that works has ended its job."""

START_OVERDUE_US = 60_000_000
"""A supervisor that took an attempt and has not started its job by then (a dead file server) is given up."""

_KILL_ROUNDS = 100
"""A tree that forks while it is killed is looked at so often, then again at the next look."""

_FLOCK = "hhqqi4x"


def launcher_pid(run_fd: int) -> int | None:
    """The process that holds the launcher's lock, so it lives; None: no launcher does."""
    try:
        fd = os.open(LAUNCHER_LOCK, os.O_RDWR | os.O_CLOEXEC, dir_fd=run_fd)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return int(pid) if kind != fcntl.F_UNLCK and pid > 0 else None


def signal_launcher(run_fd: int, number: int) -> int | None:
    """Signal the launcher; its pidfd, for the caller to close, or None when there is none."""
    pid = launcher_pid(run_fd)
    if pid is None:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        # Asked again: the pid we opened before is still the holder's.
        if launcher_pid(run_fd) == pid:
            signal.pidfd_send_signal(pidfd, number)
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def wake(pids: set[int]) -> list[int]:
    """Let those of `pids` go on that are stopped; which they were."""
    found = []
    for pid in pids:
        fields = stat_fields(pid)
        if fields is not None and fields[0] == "T":
            tree.send([pid], signal.SIGCONT)
            found.append(pid)
    return found


def cause_of(dir_fd: int) -> str:
    """Why a member ended whose supervisor cannot say it: what was asked, its time limit, or `failed`."""
    stop = truth.read_stop(dir_fd)
    if stop is not None and isinstance(stop.get("cause"), str) and stop["cause"]:
        return str(stop["cause"])
    due = due_us(dir_fd)
    return "time_limit" if due is not None and boot_us() > due else "failed"


def due_us(dir_fd: int) -> int | None:
    """Boot time by which the member's job is over if its supervisor works; None: it may run for ever."""
    due = []
    stop = truth.read_stop(dir_fd)
    if stop is not None and _numbers(stop, "asked_at", "grace_us"):
        due.append(int(stop["asked_at"]) + int(stop["grace_us"]))
    mark, start = truth.read_json(dir_fd, STARTING) or {}, truth.read_start(dir_fd)
    if start is not None and _numbers(mark, "time_limit_us", "grace_us"):
        limit_us = written_limit(dir_fd) or int(mark["time_limit_us"])
        due.append(int(start["start_boot_us"]) + limit_us + int(mark["grace_us"]))
    return min(due) + TERM_TO_KILL_US if due else None


def _numbers(record: Mapping[str, Any], *names: str) -> bool:
    return all(type(record.get(name)) is int and record[name] >= 0 for name in names)


class Overdue:
    """What has been done about each member whose supervisor broke its promise."""

    def __init__(self, overdue_us: int = OVERDUE_US) -> None:
        self._overdue_us = overdue_us
        self._steps: dict[str, int] = {}
        self._waited: dict[str, int] = {}

    def forget(self, live: set[str]) -> None:
        """Only members in `live` are watched now."""
        for table in (self._steps, self._waited):
            for name in table.keys() - live:
                del table[name]

    def look(self, name: str, dir_fd: int, pid: int, now_us: int) -> None:
        """Take the next step against the supervisor `pid` of an unended member, if it is overdue.

        Call it while the member's lock is held, so that `pid` is still the supervisor's.
        """
        since = self._waited.setdefault(name, now_us)
        due = due_us(dir_fd)
        late = due is not None and now_us > due + self._overdue_us
        if not late and truth.read_start(dir_fd) is None:
            late = now_us > since + START_OVERDUE_US
        if not late:
            self._steps.pop(name, None)
            return
        step = self._steps[name] = self._steps.get(name, 0) + 1
        log.warning("supervisor overdue", extra={"member": name, "pid": pid, "step": step})
        if step == 1:
            # After a suspend it may look at the clock half a minute late.
            tree.send([pid], signal.SIGUSR1)
            tree.send([pid], signal.SIGCONT)
            return
        kill_below(pid)
        if step > 2:
            tree.send([pid], signal.SIGKILL)


def kill_below(pid: int) -> None:
    """KILL all processes below `pid`, and what they fork meanwhile; it alone is left."""
    for _ in range(_KILL_ROUNDS):
        living = [child for child in tree.descendants(pid) if (stat_fields(child) or "Z")[0] not in "ZX"]
        if not tree.send(living, signal.SIGKILL):
            return
