"""Process trees: who descends from whom, who catches a signal.

Owns    reading /proc for the supervisor (its own tree) and for the cleaner of lost attempts.
Why     a job may daemonise, start new sessions and drop its process group; only the parent chain,
        which the supervisor holds as a subreaper, leads to all of it.
"""

from __future__ import annotations

import os

from bursar_agent.runner.layout import stat_fields


def children(pid: int) -> list[int]:
    """Direct children of `pid`, of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if not _HAS_CHILDREN_FILE:
                return [child for child, parent in parents().items() if parent == pid]
        except OSError:
            continue
    return found


def parents() -> dict[int, int]:
    """Parent of every process, from /proc/PID/stat: the slow way, where there are no `children` files."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if fields:
                table[int(name)] = int(fields[1])
    return table


def descendants(pid: int) -> list[int]:
    """Everything below `pid`, parents before children."""
    found: list[int] = []
    queue = children(pid)
    while queue:
        found += queue
        queue = [grandchild for child in queue for grandchild in children(child)]
    return found


def inner_pid(pid: int) -> int:
    """Its number in a process namespace below ours, such as a container's; 0: it is in ours, or gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    numbers = line.split()[1:]
                    return int(numbers[-1]) if len(numbers) > 1 else 0
    except (OSError, ValueError):
        pass
    return 0


def in_namespace(pids: list[int]) -> list[int]:
    """Those of a namespace below ours."""
    return [pid for pid in pids if inner_pid(pid)]


def inside(pids: list[int]) -> list[int]:
    """Of a container's, what its job started: without a first process that only looks after others."""
    found = in_namespace(pids)
    return [pid for pid in found if not (inner_pid(pid) == 1 and _name(pid) in _INITS)]


def first(pids: list[int]) -> list[int]:
    """What was started first in a container, of those that `inside` found; none: nothing is there."""
    numbered = sorted((inner_pid(pid), pid) for pid in pids)
    return [numbered[0][1]] if numbered else []


def group_of(leader: list[int], pids: list[int]) -> list[int]:
    """Those of the process group of the one process in `leader`."""
    if not leader:
        return []
    fields = stat_fields(leader[0])
    if fields is None:
        return []
    group = fields[2]
    return [pid for pid in pids if (found := stat_fields(pid)) is not None and found[2] == group]


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


_INITS = ("catatonit", "docker-init", "tini", "podman-init", "appinit", "sinit", "init")
"""What runtimes start first in a container with `--init`."""


def catches(pid: int, signal_number: int) -> bool:
    """Does `pid` have a handler for the signal (neither default nor ignored)?"""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signal_number - 1) & 1)
    except (OSError, ValueError):
        pass
    return False


def left_in_background(pids: list[int], steps: int) -> str:
    """How many of them do work of their own, as `bursar.model.ends.LEFT` reads it; empty for none.

    What reads a pipe, as `tee` does, ends with who fills it. `steps`: what started steps, which tells of them
    itself; 0: none.
    """
    theirs = {steps, *descendants(steps)} if steps else set()
    count = sum(not _fed(pid) for pid in pids if pid not in theirs)
    return f"{count} left in the background" if count else ""


def _fed(pid: int) -> bool:
    """Does it read a pipe, or is it gone?"""
    try:
        return os.readlink(f"/proc/{pid}/fd/0").startswith("pipe:")
    except OSError:
        return True


def lineage(pid: int, root: int) -> list[tuple[int, int]]:
    """A process and those above it, below `root`: each with its start in clock ticks since boot."""
    found: list[tuple[int, int]] = []
    while pid > 1 and pid != root and len(found) < DEPTH_MAX:
        fields = stat_fields(pid)
        if fields is None:
            break
        found.append((pid, int(fields[19])))
        pid = int(fields[1])
    return found


def send(pids: list[int], signal_number: int) -> int:
    """Signal each; returns how many were there to get it."""
    reached = 0
    for pid in pids:
        try:
            os.kill(pid, signal_number)
            reached += 1
        except OSError:
            continue
    return reached


DEPTH_MAX = 1000
_HAS_CHILDREN_FILE = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
"""CONFIG_PROC_CHILDREN, asked once."""
