"""Processes of this machine, as /proc tells them.

Owns    the name of a process: its pid and its start time together, so that a recycled pid is never
        taken for one of ours, and what may be done to it: look, signal, wait.
Why     the keeper, `up`, `down` and `status` must mean the same process, also one that none of them
        started and no file names. Standard library alone, for the keeper.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bursar.aside import Damaged, read_object

KEEPER_MODULE: Final = "bursar.local.keeper"
_BELOW: Final = {
    "bursard": (0, "daemon"),
    "bursar_agent": (1, ""),
    "bursar_web": (0, "web"),
    "bursar_gateway": (0, "gateway"),
}
"""All that `bursar up` keeps, by module: how many folders lie between the cluster's directory and its own,
and what it is called; empty for the name of its own directory."""


class Process(NamedTuple):
    """One process for ever: its pid, and the clock ticks since boot at which it started."""

    pid: int
    start: int

    def to_json(self) -> dict[str, int]:
        """As it stands in `cluster.json`."""
        return {"pid": self.pid, "start": self.start}


class Glance(NamedTuple):
    """One look at a process: its state letter (`T`: stopped), when it started, the CPU it has used."""

    state: str
    start: int
    cpu_ticks: int


class Ours(NamedTuple):
    """A daemon, an agent, the pages or the gateway that run below some state directory of `bursar up`."""

    name: str
    process: Process
    words: tuple[str, ...]


def glance(pid: int) -> Glance | None:
    """None when there is none, or when it is dead and only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    return Glance(fields[0].decode("ascii", "replace"), int(fields[19]), int(fields[11]) + int(fields[12]))


def noted(pid: int) -> Process | None:
    """The process that has this pid now."""
    seen = glance(pid)
    return None if seen is None else Process(pid, seen.start)


def alive(process: Process | None) -> bool:
    """Does it still run?"""
    return process is not None and noted(process.pid) == process


def stopped(process: Process | None) -> bool:
    """Does it stand still, by SIGSTOP or the like?"""
    seen = glance(process.pid) if process else None
    return seen is not None and seen.state == "T"


def running_below(directory: str) -> list[Ours]:
    """What runs of the cluster of this directory (`_BELOW`), by command lines."""
    found = []
    for pid, words in _command_lines():
        flags = dict(itertools.pairwise(words))
        state_dir = Path(flags.get("--state-dir", ""))
        folders, name = _BELOW.get(flags.get("-m", ""), (-1, ""))
        if (
            not 0 <= folders < len(state_dir.parents)
            or "--terminate-all" in words
            or "--terminate-idle" in words
        ):
            continue
        if not same(str(state_dir.parents[folders]), directory) or _left(pid, directory):
            continue
        process = noted(pid)
        if process is not None:
            found.append(Ours(name or state_dir.name, process, tuple(words)))
    return sorted(found, key=lambda one: one.process)


def running_with(state_dir: Path) -> Process | None:
    """The agent that has this state directory, by its command line."""
    for pid, words in _command_lines():
        flags = dict(itertools.pairwise(words))
        ends = "--terminate-all" in words or "--terminate-idle" in words
        if (
            flags.get("-m") == "bursar_agent"
            and not ends
            and same(flags.get("--state-dir", ""), str(state_dir))
        ):
            return noted(pid)
    return None


def keepers(directory: str) -> list[Process]:
    """Keepers of the state directory, by their command lines."""
    found = []
    for pid, words in _command_lines():
        if (
            len(words) > 2
            and words[-2] == KEEPER_MODULE
            and words[-3] == "-m"
            and same(words[-1], directory)
            and not _left(pid, directory)
        ):
            found.append(noted(pid))
    return [process for process in found if process is not None]


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    """Every process of this user but this one."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            raw = Path(f"/proc/{entry.name}/cmdline").read_bytes()
        except OSError:
            continue
        yield int(entry.name), [os.fsdecode(word) for word in raw.rstrip(b"\0").split(b"\0")]


def same(path: str, other: str) -> bool:
    """Do both lead to one place?"""
    return path == other or os.path.realpath(path) == os.path.realpath(other)


def place_of(directory: Path) -> str:
    """What tells a directory from every other, also from its copies, under whichever name; empty for none."""
    try:
        found = directory.stat()
    except OSError:
        return ""
    return f"{found.st_dev:x}-{found.st_ino:x}"


def works_in(pid: int, directory: Path) -> bool:
    """Is this directory, and no copy of it, the one that the process works in?"""
    here = place_of(directory)
    return bool(here) and place_of(Path(f"/proc/{pid}/cwd")) == here


def _left(pid: int, directory: str) -> bool:
    """Does it work in a cluster's directory that had this name when it began, and has another one now?

    Those of `bursar up` work in the directory that they serve, so their command line is that of before.
    """
    if works_in(pid, Path(directory)):
        return False
    try:
        named = read_object(Path(f"/proc/{pid}/cwd/desired.json")).get("state_dir")
    except Damaged:
        return False
    return isinstance(named, str) and same(named, directory)


def kill(process: Process | None, number: int) -> None:
    """Send a signal, to exactly the process meant."""
    if process and alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_gone(wanted: Iterable[Process | None], limit_s: float) -> list[Process]:
    """Wait for processes to end, children or not; those that still run after `limit_s`."""
    stop_at = time.monotonic() + limit_s
    left = [p for p in wanted if p and alive(p)]
    while left and (rest := stop_at - time.monotonic()) > 0:
        poller = select.poll()
        fds = []
        for process in left:
            with contextlib.suppress(OSError):
                fds.append(os.pidfd_open(process.pid))
                poller.register(fds[-1], select.POLLIN)
        if fds:
            poller.poll(rest * 1000)
        for fd in fds:
            os.close(fd)
        left = [p for p in left if alive(p)]
    return left


def end_all(running: Sequence[Process | None], limit_s: float) -> list[Process]:
    """SIGTERM, then SIGKILL for what does not end in time; at once for what stands still. Who was late."""
    for process in running:
        kill(process, signal.SIGKILL if stopped(process) else signal.SIGTERM)
    late = wait_gone(running, limit_s)
    for process in late:
        kill(process, signal.SIGKILL)
    wait_gone(late, 2.0)
    return late


def from_json(value: Any) -> Process | None:
    """A process noted as `{pid, start}`; None for none, and for what is no such note."""
    if isinstance(value, dict) and type(value.get("pid")) is int and type(value.get("start")) is int:
        return Process(value["pid"], value["start"])
    return None
