"""What an attempt's directory says, read through directory descriptors.

Owns    liveness (the lock), the state of a member, its removal. Input: the run directory.
Why     after a restart the agent knows nothing; the directories are the truth it adopts. A
        descriptor with O_NOFOLLOW cannot be led elsewhere by a link put where a directory was.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Mapping
from typing import Any

from bursar_agent.runner.layout import (
    ATTEMPTS,
    BEAT_US,
    EXIT,
    FREE,
    LOG,
    RECORDS,
    SPARE,
    SPAWNING,
    START,
    STARTING,
    STOP,
    UNWRITTEN_BYTES,
    linked_stop,
    member_name,
)
from bursar_agent.runner.model import AttemptTruth, ExitReport

_RECORD_BYTES_MAX = 1 << 20
_START_NUMBERS = ("pid", "start_boot_us")
_EXIT_TEXTS = ("attempt_id", "end_cause", "message", "phase", "boot_id", "image_digest")
_EXIT_NUMBERS = (
    "rank",
    "epoch",
    "cpu_user_us",
    "cpu_system_us",
    "max_rss_bytes",
    "log_bytes",
    "log_dropped_bytes",
    "pull_us",
)
_EXIT_TIMES = ("signal", "start_boot_us", "end_boot_us", "held_us", "main_end_boot_us")
FREE_MAX = 512
"""Directories kept to be used again."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_member(run_fd: int, attempt_id: str, rank: int) -> int:
    """Descriptor of a member's directory. Raises `FileNotFoundError`, `ValueError` for a bad id."""
    member = member_name(attempt_id, rank)
    attempts = os.open(ATTEMPTS, _DIRECTORY, dir_fd=run_fd)
    try:
        return os.open(member, _DIRECTORY, dir_fd=attempts)
    finally:
        os.close(attempts)


def members(run_fd: int) -> list[str]:
    """Names of all attempt directories, oldest id first."""
    try:
        attempts = os.open(ATTEMPTS, _DIRECTORY, dir_fd=run_fd)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(attempts))
    finally:
        os.close(attempts)


def read_json(dir_fd: int, name: str) -> dict[str, Any] | None:
    """A small JSON file, or None when it is not there, not whole, or not ours."""
    try:
        # Non-blocking: a pipe in its place must not make us wait for a writer.
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        data = b""
        while (chunk := os.read(fd, _RECORD_BYTES_MAX)) and len(data) <= _RECORD_BYTES_MAX:
            data += chunk
        value = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return value if isinstance(value, dict) else None


def read_stop(dir_fd: int) -> dict[str, Any] | None:
    """What a member was asked to stop by, or None."""
    return read_json(dir_fd, STOP) or linked_stop(dir_fd)


def read_start(dir_fd: int) -> dict[str, Any] | None:
    """`start.json`, if the job was started; None also for one that says nothing of use."""
    start = read_json(dir_fd, START)
    if start is None or not all(_number(start.get(name)) for name in _START_NUMBERS):
        return None
    # Null for a process that had ended before anybody could look.
    return start if "pid_start_ticks" in start else None


def ended_at(start: Mapping[str, Any]) -> int | None:
    """When the last process of a job had ended, as its supervisor saw; None where it has not seen that."""
    told = _instant(start, "ended_us")
    return told if told is not None and told >= max(int(start["start_boot_us"]), 1) else None


def ended_by(start: Mapping[str, Any] | None, now: int) -> int:
    """By when a job had ended of which nothing is left, nor of its supervisor: that has told every `BEAT_US`
    that it lived. Now, where it could not.
    """
    if start is None:
        return now
    if (ended := ended_at(start)) is not None:
        return min(ended, now)
    told = _instant(start, "alive_us")
    return now if told is None or told < int(start["start_boot_us"]) else min(told + BEAT_US, now)


def _instant(start: Mapping[str, Any], name: str) -> int | None:
    told = start.get(name)
    return int(told) if told is not None and _number(told) else None


def exit_report(dir_fd: int) -> ExitReport | None:
    """`exit.json`, if the member has ended; None also for one that is no report."""
    data = read_json(dir_fd, EXIT)
    if data is None:
        return None
    try:
        report = ExitReport.from_json(data)
    except TypeError:
        return None
    texts = all(isinstance(getattr(report, name), str) for name in _EXIT_TEXTS)
    numbers = all(_number(getattr(report, name)) for name in _EXIT_NUMBERS)
    times = all(getattr(report, name) is None or _number(getattr(report, name)) for name in _EXIT_TIMES)
    code = report.exit_code is None or type(report.exit_code) is int
    return report if texts and numbers and times and code else None


def _number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def open_up(run_fd: int) -> list[str]:
    """Give the owner's rights back to directories of ours that lack them; which did. A member that cannot be
    looked at would be taken for one that was never here, and run a second time elsewhere.
    """
    found = [name for name in (ATTEMPTS, FREE, SPARE) if _give_back(name, run_fd)]
    return found + [
        f"{ATTEMPTS}/{name}" for name in members(run_fd) if _give_back(f"{ATTEMPTS}/{name}", run_fd)
    ]


def _give_back(name: str, dir_fd: int) -> bool:
    """True when a directory or plain file of ours had lost rights of its owner, and has them again."""
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        wanted = {stat.S_IFDIR: stat.S_IRWXU, stat.S_IFREG: stat.S_IRUSR | stat.S_IWUSR}.get(
            stat.S_IFMT(found.st_mode), 0
        )
        if found.st_uid != os.geteuid() or found.st_mode & wanted == wanted:
            return False
        os.chmod(name, stat.S_IMODE(found.st_mode) | wanted, dir_fd=dir_fd)
    except OSError:
        return False  # gone meanwhile, or refused: whoever opens it says so
    return True


def mend_member(run_fd: int, dir_fd: int, member: str) -> list[str]:
    """Set aside, in the run directory, what stands in a record's place and is none; the new names.

    Not beside it: the member's directory goes when its end is in the ledger.
    """
    moved = []
    for name in (*sorted(RECORDS), STOP, LOG):
        _give_back(name, dir_fd)
    for name, read in ((STARTING, None), (START, read_start), (EXIT, exit_report)):
        try:
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        # One so small is not written yet (`layout.write_record`), or emptied, which says as little.
        plain = stat.S_ISREG(found.st_mode)
        if plain and (read is None or found.st_size <= UNWRITTEN_BYTES or read(dir_fd) is not None):
            continue
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = f"{member}.{name}.damaged-{stamp}"
        os.rename(name, target, src_dir_fd=dir_fd, dst_dir_fd=run_fd)
        moved.append(target)
    return moved


def supervisor_lives(dir_fd: int) -> bool:
    """Does anybody hold the lock that only the supervisor (or the launcher starting it) holds?"""
    lock = take_lock(dir_fd, fcntl.LOCK_SH)
    if lock is None:
        return True
    os.close(lock)
    return False


def take_lock(dir_fd: int, kind: int = fcntl.LOCK_EX) -> int | None:
    """The supervisor's lock, as a descriptor to close; None while somebody else holds it."""
    fd = os.open(STARTING, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(fd)
        if problem.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return None
    return fd


def never_begun(dir_fd: int) -> bool:
    """Was it marked, and taken by no supervisor? Call it with the lock held: it is decided then."""
    mark = read_json(dir_fd, STARTING)
    return mark is not None and mark.get("taken") == 0 and exit_report(dir_fd) is None


def never_ran(dir_fd: int) -> bool:
    """Was no process of it ever made, whatever became of its supervisor? Call it with the lock held."""
    mark = read_json(dir_fd, STARTING)
    taken = mark.get("taken") if mark is not None else None
    return type(taken) is int and taken < int(SPAWNING) and read_start(dir_fd) is None


def member_truth(dir_fd: int, attempt_id: str, rank: int) -> AttemptTruth:
    """State of one member; `starting` and `running` hold only if `supervisor_lives`."""
    mark = read_json(dir_fd, STARTING) or {}
    start = read_start(dir_fd)
    # The report last: an end between the two reads is then seen.
    report = exit_report(dir_fd)
    return AttemptTruth(
        attempt_id=attempt_id,
        rank=rank,
        epoch=mark["epoch"] if _number(mark.get("epoch")) else 0,
        state="ended" if report else "running" if start else "starting",
        pid=start["pid"] if start else None,
        start_boot_us=start["start_boot_us"] if start else None,
        exit=report,
        reaped_before_us=reaped_before(start) if start else None,
    )


def reaped_before(start: Mapping[str, Any]) -> int | None:
    """CPU time of what a supervisor had waited for before this attempt; None where none is told."""
    told = start.get("reaped_before_us")
    return told if _number(told) else None


def remove_member(run_fd: int, attempt_id: str, rank: int) -> None:
    """Remove a member's directory. Plain files only, so nothing is followed or descended."""
    member = member_name(attempt_id, rank)
    attempts = os.open(ATTEMPTS, _DIRECTORY, dir_fd=run_fd)
    try:
        fd = os.open(member, _DIRECTORY, dir_fd=attempts)
        try:
            # The exit report last: a crash half way leaves an ended attempt, never a lost one.
            names = sorted(os.listdir(fd), key=lambda name: name == EXIT)
            for name in names:
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(member, dir_fd=attempts)
    finally:
        os.close(attempts)


def left_nothing(dir_fd: int) -> bool:
    """Has a member ended and left no output? Its report is not read again: the agent had it from there."""
    if set(os.listdir(dir_fd)) != RECORDS:
        return False
    return os.stat(EXIT, dir_fd=dir_fd, follow_symlinks=False).st_size > UNWRITTEN_BYTES


def free_room(run_fd: int) -> int:
    """How many directories more may wait to be used again."""
    try:
        return FREE_MAX - len(os.listdir(f"/proc/self/fd/{run_fd}/{FREE}"))
    except FileNotFoundError:
        os.mkdir(FREE, 0o700, dir_fd=run_fd)
        return FREE_MAX


def release_member(run_fd: int, attempt_id: str, rank: int) -> None:
    """Let the directory of a member that left nothing be used again.

    Raises `FileNotFoundError`, `ValueError` for a bad id.
    """
    member = member_name(attempt_id, rank)
    os.rename(f"{ATTEMPTS}/{member}", f"{FREE}/{member}", src_dir_fd=run_fd, dst_dir_fd=run_fd)
