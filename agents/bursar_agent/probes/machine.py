"""CPU and memory of this machine as jobs may use them: affinity and cgroup limits included.

Owns    reading /proc and /sys/fs/cgroup. Input: their roots, so that tests bring their own.
Why     a container on a 128-core host that may use 4 must not offer 128.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def boot_id(proc: Path = PROC) -> str:
    """The kernel's id of this boot."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def cpu_milli(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """CPUs this process may use, in thousandths: affinity, cut by the tightest cgroup quota."""
    allowed = len(os.sched_getaffinity(0)) * 1000
    for folder in _cgroup_folders(proc, cgroup):
        quota = _quota_milli(folder)
        if quota:
            allowed = min(allowed, quota)
    return allowed


def memory_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Memory this process may use: the machine's, cut by the tightest cgroup limit."""
    allowed = meminfo(proc).get("MemTotal", 0)
    for folder in _cgroup_folders(proc, cgroup):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit:
                allowed = min(allowed, limit)
    return allowed


def meminfo(proc: Path = PROC) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if len(words) > 1 else 1)
    return found


class MachineLoad:
    """CPU utilisation between two readings, and memory in use now."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._busy, self._total = self._ticks()

    def read(self) -> tuple[float, int]:
        """Share of all CPUs' time since the last call (0 to 1), and bytes in use."""
        busy, total = self._ticks()
        span = total - self._total
        ratio = (busy - self._busy) / span if span > 0 else 0.0
        self._busy, self._total = busy, total
        memory = meminfo(self._proc)
        used = memory.get("MemTotal", 0) - memory.get("MemAvailable", 0)
        return min(max(ratio, 0.0), 1.0), max(used, 0)

    def _ticks(self) -> tuple[int, int]:
        line = (self._proc / "stat").read_text().split("\n", 1)[0]
        # user nice system idle iowait irq softirq steal; guest time is inside user already.
        ticks = [int(word) for word in line.split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _cgroup_folders(proc: Path, cgroup: Path) -> list[Path]:
    """Our cgroup and all above it, of version 2 and of the version 1 controllers we read."""
    folders: list[Path] = []
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return [cgroup]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        bases = [cgroup / name for name in controllers.split(",")] if controllers else [cgroup]
        for base in bases:
            folder = base / path.lstrip("/")
            while folder != base and base in folder.parents:
                folders.append(folder)
                folder = folder.parent
            folders.append(base)
    return folders


def _quota_milli(folder: Path) -> int:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return 0 if quota == "max" else int(quota) * 1000 // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us * 1000 // period_us if quota_us and period_us else 0


def _number(path: Path) -> int:
    """The number in a file; 0 for none, `max` and -1."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
