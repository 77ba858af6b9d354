"""CPU time of everything that a benchmark starts, by kind of process.

Owns    the books: own and reaped CPU of each process below this one. Input: nothing but /proc.
Why     half of what a job costs is in processes that live for milliseconds. Counting only those that
        can be named beforehand (daemon, agents) hides it. A process that was waited for leaves its time
        with its parent, so the sum over the living, own and reaped, misses nothing.
"""

from __future__ import annotations

import compileall
import ctypes
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")

JOBS = "supervisors' children"
"""What supervisors started and reaped: the jobs themselves."""


def compile_as_installed() -> None:
    """Write the bytecode that pip writes for what it installs, but not for a checkout it points to: where
    Python is told to write none, 40 % of a command's CPU goes into compiling it once more.
    """
    for package in ("sdk", "policies", "daemon", "agents", "web"):
        compileall.compile_dir(Path(__file__).parents[1] / package, quiet=2)


def become_subreaper() -> None:
    """Whatever detaches itself below this process stays below it, so that `cpu_ms` finds it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def cpu_ms() -> Counter[str]:
    """Milliseconds of CPU so far by kind, of this process and all below it, dead ones included.

    A supervisor that has ended is in its launcher's books together with its job, as `ended supervisors`.
    """
    found: Counter[str] = Counter()
    for pid, fields in _tree(os.getpid()):
        kind = _kind(pid)
        own, reaped = (int(fields[11]) + int(fields[12])), (int(fields[13]) + int(fields[14]))
        found[kind] += own * _TICK_MS
        match kind:
            case "launcher":
                found["ended supervisors"] += reaped * _TICK_MS
            case "supervisors":
                found[JOBS] += reaped * _TICK_MS
            case _:
                found[f"children of {kind}"] += reaped * _TICK_MS
    return found


def used_ms(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """What was used between two looks. Kinds that used nothing are left out."""
    return Counter({kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]})


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """Pid and the fields of /proc/PID/stat behind the name, of `root` and everything below it."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                table[int(name)] = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
    for pid, fields in table.items():
        at = pid
        while at in table and at != root:
            at = int(table[at][1])
        if at == root:
            yield pid, fields


def _kind(pid: int) -> str:
    """What a process is, by its name and command line."""
    if pid == os.getpid():
        return "client"
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
    except OSError:
        return "others"
    by_name = {"bursar-launcher": "launcher", "bursar-attempt": "supervisors"}
    if name in by_name:
        return by_name[name]
    for mark, kind in (("bursar_agent", "agent"), ("bursar-agent", "agent"), ("keeper", "keeper")):
        if mark in words:
            return kind
    return "daemon" if "bursard" in words else "others"
