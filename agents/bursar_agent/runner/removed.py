"""What somebody removed of a run directory while it was in use: made anew, and what ran there ended.

Owns    seeing that the directory, a folder of it or a member's own is gone, and killing what ran in that.
Why     a supervisor whose directory was removed can be neither stopped nor found again, and nobody would hear
        of its end: its job would be charged for ever, or be run a second time beside itself.

A directory that was only moved away is none of this: its records are whole, and what runs there goes on.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from bursar.model.ends import RECORDS_REMOVED
from bursar_agent.runner import containers, leftovers, places, pulse, scratch, tree
from bursar_agent.runner.layout import ATTEMPTS, FREE, SPARE, stat_fields
from bursar_agent.runner.model import ExitReport

log = logging.getLogger(__name__)

MESSAGE = f"{RECORDS_REMOVED}; the job's processes were killed"
_LAUNCHER = "bursar_agent.runner.launcher"


def is_removed(run_fd: int) -> bool:
    """Has the run directory no name any more?"""
    return os.fstat(run_fd).st_nlink == 0


def member_is_removed(run_fd: int, member: str) -> bool:
    """Is the directory of a member that was begun gone?"""
    return not os.path.lexists(f"/proc/self/fd/{run_fd}/{ATTEMPTS}/{member}")


def remake(run_fd: int) -> list[str]:
    """Make the folders that are missing; which. Raises `OSError`."""
    made = []
    for name in (ATTEMPTS, FREE, SPARE):
        try:
            os.mkdir(name, 0o700, dir_fd=run_fd)
        except FileExistsError:
            continue
        made.append(name)
    return made


def kill_strays(run_dir: str) -> list[int]:
    """Kill launchers and supervisors of a directory that was `run_dir` and is not any more, with all that
    they started; their pids.

    Theirs is a working directory without a name, or one that was set aside beside ours: one of a state
    directory that was moved as a whole has another home, and goes on there.
    """
    found = [pid for pid in _launchers(run_dir) if _is_stray(pid, os.path.realpath(run_dir))]
    for pid in found:
        pulse.kill_below(pid)
    tree.send(found, signal.SIGKILL)
    return found


def _launchers(run_dir: str) -> list[int]:
    """Launchers that were started for `run_dir`, and their supervisors, which have the same command line."""
    words = os.fsencode(os.path.abspath(run_dir))
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read().split(b"\0")
        except OSError:
            continue
        named = b"--dir" in line and line[line.index(b"--dir") + 1 :][:1] == [words]
        if named and any(_LAUNCHER.encode() in word for word in line):
            found.append(int(name))
    return found


def _is_stray(pid: int, ours: str) -> bool:
    try:
        if os.stat(f"/proc/{pid}/cwd").st_nlink == 0:
            return True
        place = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    beside = place.startswith(f"{os.path.dirname(ours)}/")
    return beside and place != ours and not place.startswith(f"{ours}/")


def kill_member(member: str, place: str, supervisor: tuple[int, int | None] | None) -> int:
    """Kill a member whose directory is gone; how many processes there were. Call it until it says 0.

    `supervisor`: its pid and start time; None when it is dead.
    """
    there = 0
    if supervisor is not None and _lives(*supervisor):
        pulse.kill_below(supervisor[0])
        there = tree.send([supervisor[0]], signal.SIGKILL)
    return there + leftovers.kill(member, place, None)


def _lives(pid: int, ticks: int | None) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX" and int(fields[19]) == ticks


def clear_outside(marker: str, container: dict[str, Any] | None) -> None:
    """What a member leaves outside of its directory."""
    if container is not None and (problem := containers.remove(container)):
        log.warning("container stays", extra={"member": marker, "problem": problem})
    for path in places.of(marker):
        scratch.remove(path)


def report(attempt_id: str, rank: int, boot_id: str, started_us: int, ended_us: int) -> ExitReport:
    """The end of a member that nobody wrote down. `started_us`: 0 when nobody has heard of its start."""
    return ExitReport(
        attempt_id=attempt_id,
        rank=rank,
        epoch=0,
        end_cause="failed",
        exit_code=None,
        signal=None,
        message=MESSAGE,
        phase="run",
        boot_id=boot_id,
        start_boot_us=started_us or None,
        end_boot_us=ended_us,
        held_us=ended_us - started_us if started_us else None,
        cpu_user_us=0,
        cpu_system_us=0,
        max_rss_bytes=0,
        log_bytes=0,
        log_dropped_bytes=0,
    )
