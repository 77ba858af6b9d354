"""Processes of this machine, as /proc tells them.

Owns    the name of a process: its pid and its start time together, so that a recycled pid is never
        taken for one of ours, and what may be done to it: look, signal, wait.
Why     the keeper, `up`, `down` and `status` must mean the same process, also one that none of them
        started. Standard library alone, for the keeper.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; with the pid it names one process for ever.

    None when there is none, or when it is dead and only waits to be reaped.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(process: dict[str, Any] | None) -> bool:
    """Does the process noted as `{pid, start}` still run?"""
    if not process or not process.get("pid") or process.get("start") is None:
        return False
    return bool(start_time(int(process["pid"])) == process["start"])


def noted(pid: int) -> dict[str, Any] | None:
    """`{pid, start}` of a process that runs."""
    start = start_time(pid)
    return None if start is None else {"pid": pid, "start": start}


def find(module: str, state_dir: str) -> list[int]:
    """Processes of this user whose command line is `… -m module … --state-dir state_dir …`."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            words = Path(f"/proc/{entry.name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if _runs(words, os.fsencode(module), os.fsencode(state_dir)):
            found.append(int(entry.name))
    return sorted(pid for pid in found if start_time(pid) is not None)


def _runs(words: Sequence[bytes], module: bytes, state_dir: bytes) -> bool:
    pairs = set(itertools.pairwise(words))
    return (
        (b"-m", module) in pairs and (b"--state-dir", state_dir) in pairs and b"--terminate-all" not in words
    )


def kill(process: dict[str, Any] | None, number: int) -> None:
    """Send a signal, to exactly the process noted."""
    if process and alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process["pid"]), number)


def wait_gone(wanted: Iterable[dict[str, Any] | None], limit_s: float) -> list[dict[str, Any]]:
    """Wait for processes to end, children or not; those that still run after `limit_s`."""
    stop_at = time.monotonic() + limit_s
    left = [p for p in wanted if p and alive(p)]
    while left and (rest := stop_at - time.monotonic()) > 0:
        poller = select.poll()
        fds = []
        for process in left:
            with contextlib.suppress(OSError):
                fds.append(os.pidfd_open(int(process["pid"])))
                poller.register(fds[-1], select.POLLIN)
        if fds:
            poller.poll(rest * 1000)
        for fd in fds:
            os.close(fd)
        left = [p for p in left if alive(p)]
    return left
