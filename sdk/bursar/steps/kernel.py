"""The few calls of Linux that Python has no name for.

Why     a task must die with its host, a host must inherit what its tasks leave, a client must know who
        sent it a signal.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import time
from collections.abc import Iterable, Mapping

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_RECORD_BYTES = 128
_SENDER_AT = 12

_libc = ctypes.CDLL(None, use_errno=True)
_files: tuple[int, int] | None = None


def die_with_parent(signal_number: int) -> None:
    """The caller gets this signal when the thread that forked it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def inherit_orphans() -> None:
    """What any descendant leaves behind becomes a child of the caller."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def raise_file_limit() -> None:
    """As many open files as the caller may have: a host needs three for each task, a client one a node."""
    global _files
    if _files is None:  # else it has the limit of its client
        _files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_files[1], _files[1]))


def restore_file_limit() -> None:
    """What it was: programs that use select() must not be given higher numbers."""
    if _files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _files)


def heeds(pid: int, signal_number: int) -> bool:
    """Has a process a handler for a signal?"""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signal_number - 1) & 1)
    except (OSError, ValueError):
        pass
    return False


def began(pid: int) -> int:
    """When a process began, in clock ticks since boot; -2: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return -2


def now_ticks() -> int:
    """Clock ticks since boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 1_000_000_000


def signal_fd(numbers: Iterable[int]) -> int:
    """A descriptor to read signals from, which must be blocked already. Raises `OSError`."""
    mask = ctypes.c_uint64(sum(1 << (number - 1) for number in numbers))
    fd: int = _libc.signalfd(-1, ctypes.byref(mask), _SFD_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return fd


def read_signals(fd: int) -> list[tuple[int, int]]:
    """(number, pid of the sender; 0: the kernel) of each that waits."""
    try:
        data = os.read(fd, 16 * _RECORD_BYTES)
    except BlockingIOError:
        return []
    return [
        (struct.unpack_from("I", data, at)[0], struct.unpack_from("I", data, at + _SENDER_AT)[0])
        for at in range(0, len(data), _RECORD_BYTES)
    ]


def children() -> dict[int, list[int]]:
    """The children of each process of this machine that has some."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            found.setdefault(int(fields[1]), []).append(int(name))
    return found


def descendants(pid: int, of: Mapping[int, list[int]] | None = None) -> list[int]:
    """Everything below `pid`, parents before children. `of`: `children` of a moment ago."""
    parents = children() if of is None else of
    found: list[int] = []
    queue = [pid]
    while queue:
        queue = [child for parent in queue for child in parents.get(parent, ())]
        found += queue
    return found
