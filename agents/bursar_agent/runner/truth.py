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
from typing import Any

from bursar_agent.runner.layout import ATTEMPTS, EXIT, START, STARTING, member_name
from bursar_agent.runner.model import AttemptTruth, ExitReport

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
    """A small JSON file, or None when it is not there or not whole."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        try:
            value = json.loads(file.read())
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def exit_report(dir_fd: int) -> ExitReport | None:
    """`exit.json`, if the member has ended."""
    data = read_json(dir_fd, EXIT)
    return None if data is None else ExitReport.from_json(data)


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


def member_truth(dir_fd: int, attempt_id: str, rank: int) -> AttemptTruth:
    """State of one member; `starting` and `running` hold only if `supervisor_lives`."""
    mark = read_json(dir_fd, STARTING) or {}
    start = read_json(dir_fd, START)
    # The report last: an end between the two reads is then seen.
    report = exit_report(dir_fd)
    return AttemptTruth(
        attempt_id=attempt_id,
        rank=rank,
        epoch=int(mark.get("epoch") or 0),
        state="ended" if report else "running" if start else "starting",
        pid=start["pid"] if start else None,
        start_boot_us=start["start_boot_us"] if start else None,
        exit=report,
    )


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
