"""The cgroup in which jobs may be limited: the one delegated to this agent, or the one it was told.

Owns    finding it (`/proc/self/cgroup`, version 2 and version 1), making its controllers available to the
        groups of jobs, and saying which limits hold there. Input: the setting, /proc, /sys/fs/cgroup.
Why     a memory limit that is accepted and not enforced is a promise broken at the worst moment; where it
        cannot hold, the node says so, and `plan`, `node show` and `doctor` repeat it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

PROC: Final = Path("/proc")
CGROUP: Final = Path("/sys/fs/cgroup")
SUBGROUP: Final = "agent"
"""DelegateSubgroup= of the unit: the agent itself, since a group of version 2 that has processes can have no
limited groups below it."""
_CONTROLLERS: Final = ("memory", "cpu", "pids")
_FILES_V1: Final = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us", "pids": "pids.max"}
_DELEGATED: Final = ("user.delegate", "trusted.delegate")


class Limited(NamedTuple):
    """Where groups of jobs are made (version 1: in each hierarchy), and what they limit."""

    roots: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


def limited(setting: str, proc: Path = PROC, cgroup: Path = CGROUP) -> Limited:
    """The cgroups to use: `setting` (folders, separated by `:`), else what was delegated to this process."""
    if setting:
        roots = [Path(word) for word in setting.split(os.pathsep) if word]
    else:
        roots = _delegated(proc, cgroup)
    limits: set[str] = set()
    for root in roots:
        limits |= _held(root)
    if roots and not limits:
        log.warning("the cgroup holds no limits", extra={"folders": os.pathsep.join(map(str, roots))})
        return Limited()
    return Limited(tuple(map(str, roots)), tuple(name for name in _CONTROLLERS if name in limits))


def _delegated(proc: Path, cgroup: Path) -> list[Path]:
    try:
        lines = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
        paths = {controllers: path.lstrip("/") for _, controllers, path in lines}
    except (OSError, ValueError):
        return []
    legacy = [
        cgroup / controllers / path
        for controllers, path in paths.items()
        if set(controllers.split(",")) & set(_CONTROLLERS)
    ]
    if legacy:
        return legacy if _is_delegated(cgroup / "systemd" / paths.get("name=systemd", "")) else []
    own = cgroup / paths.get("", "")
    if own.name == SUBGROUP and _is_delegated(own.parent):
        return [own.parent]
    if _is_delegated(own):
        log.warning(
            "limits of jobs cannot hold: the agent needs a group of its own below the delegated one, "
            "DelegateSubgroup=agent (systemd 254)",
            extra={"folder": str(own)},
        )
    return []


def _is_delegated(folder: Path) -> bool:
    """Has systemd marked it as ours? A cgroup that happens to be writable is still somebody else's."""
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False


def _held(root: Path) -> set[str]:
    """What groups below `root` can limit, after whatever can be made available has been."""
    if not os.access(root, os.W_OK | os.X_OK):
        log.warning("the cgroup cannot be written", extra={"folder": str(root)})
        return set()
    control = root / "cgroup.subtree_control"
    if not control.exists():
        return {name for name, file in _FILES_V1.items() if (root / file).exists()}
    for name in _CONTROLLERS:
        with contextlib.suppress(OSError):  # not available here: it shows below
            enable(control, name)
    return set(control.read_text().split()) & set(_CONTROLLERS)


def enable(control: Path, name: str) -> None:
    """Let groups below have a controller of version 2. Raises `OSError`."""
    control.write_text(f"+{name}")
