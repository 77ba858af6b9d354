"""Attempts whose supervisor died without a report: kill what is left, then say so.

Owns    finding processes by their marker, and the exit report nobody else can write any more.
Why     a device is free only when its processes are gone (invariant R2), also when the one process
        that watched them was killed.

A process belongs to a member when its environment carries the member's marker, or when it is in
the session of the job's leader and that leader is alive with the recorded start time. What has
cleared its environment *and* left the session is found by the launcher alone (it is a subreaper);
with the launcher dead too, nothing on the machine can tell such a process from a stranger.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from bursar_agent.runner.layout import MARKER_VARIABLE, marker_of, stat_fields


def another_has(member: str, place: str, here: str, start: Mapping[str, Any] | None) -> bool:
    """Is this record a copy, and what runs of it another run directory's, which is still there?

    `place`: of its run directory, as it was marked; `here`: of the one that it lies in. Where a directory was
    moved to another disk, nobody but the copy can end what ran: its supervisor works in one that is removed.
    """
    if not place or place == here or not find(member, place, start):
        return False
    try:
        return start is None or os.stat(f"/proc/{int(start['supervisor_pid'])}/cwd").st_nlink > 0
    except (OSError, KeyError, TypeError, ValueError):
        return True


def find(member: str, place: str, start: Mapping[str, Any] | None) -> list[int]:
    """Pids of living processes of `member` (zombies are dead).

    `place`: of its run directory, as it was marked; another agent may have a member of the same name.
    """
    marker = f"{MARKER_VARIABLE}={marker_of(member, place)}".encode()
    session = _session(start)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = stat_fields(name)
        if not fields or fields[0] in "ZX":
            continue
        if (session is not None and int(fields[3]) == session) or _has_marker(name, marker):
            found.append(int(name))
    return found


def kill(member: str, place: str, start: Mapping[str, Any] | None) -> int:
    """KILL every process of the member; returns how many there were. Call again until it says 0."""
    marker = f"{MARKER_VARIABLE}={marker_of(member, place)}".encode()
    pids = find(member, place, start)
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at again through a handle that a reused pid cannot fool.
            fields = stat_fields(pid)
            session = _session(start)
            ours = fields is not None and session is not None and int(fields[3]) == session
            if ours or _has_marker(str(pid), marker):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            continue
        finally:
            os.close(pidfd)
    return len(pids)


def _session(start: Mapping[str, Any] | None) -> int | None:
    """The job's session, if its leader still is the process that was started."""
    if start is None:
        return None
    fields = stat_fields(int(start["pid"]))
    if fields is None or int(fields[19]) != start["pid_start_ticks"]:
        return None
    return int(start["pid"])


def _has_marker(pid: str, marker: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError:
        return False
