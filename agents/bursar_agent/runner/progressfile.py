"""Files in which a job tells how far it has come, and of its steps; read without trusting whose they are.

Owns    where they lie, and the one careful read. Input: the member's name.
Why     a job of our own account writes into its attempt's directory. Another user cannot come in there, so
        that one has a private directory beside the machine's temporary files while it runs, and its last word
        is copied to the same place as everybody's when it is gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from bursar_agent.runner.layout import PROGRESS, STEP_RECORDS, write_atomically

VARIABLE = "BURSAR_PROGRESS_FILE"
BYTES_MAX = 4096
"""`bursar.model.FILE_BYTES_MAX`, which is not loaded here: supervisors have the standard library alone."""
STEPS_BYTES_MAX = 1 << 20
"""Of the records of steps (`bursar.steps.records.RECORDS_MAX`) so much is read."""
_KEPT = ((PROGRESS, BYTES_MAX), (STEP_RECORDS, STEPS_BYTES_MAX))
_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def directory_of_another(name: str) -> str:
    """Where another user's file lies while its job runs (`spawning.Job.new_name`)."""
    return f"/tmp/bursar-{name}.progress"


def identity(directory: str) -> tuple[int, int]:
    """Device and inode of a directory that was just made, before its job runs. Raises `OSError`."""
    found = os.lstat(directory)
    return found.st_dev, found.st_ino


def read(path: str, dir_fd: int | None = None, bytes_max: int = BYTES_MAX) -> bytes | None:
    """Its content, at most one byte more than it may have; None: there is no such file.

    What is no plain file is none: a link is not followed, a pipe not waited for. Raises `OSError`.
    """
    try:
        fd = os.open(path, _CAREFULLY, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, bytes_max + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def open_directory(directory: str, made: tuple[int, int] | None = None, uid: int = -1) -> int | None:
    """A descriptor of the directory that was made for a job; None: something else has its name.

    The job owns it, and may put a link to another job's there: a link is not followed, and what `made`
    (`identity`) does not name is not read. Without one, of a job that an older release started, its owner
    must be `uid`. Raises `OSError`.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = os.fstat(fd)
    if found.st_uid == uid if made is None else (found.st_dev, found.st_ino) == made:
        return fd
    os.close(fd)
    return None


def read_of_another(start: Mapping[str, Any], marker: str, name: str, bytes_max: int) -> bytes | None:
    """A file of another user's job that runs, found by its `start.json`. Raises `OSError`."""
    said = start.get("progress_dir")
    if isinstance(said, list) and len(said) == 3 and isinstance(said[0], str):
        dir_fd = open_directory(said[0], (said[1], said[2]))
    else:  # of an older release
        try:
            uid = os.stat(f"/proc/{start['pid']}").st_uid
        except OSError:
            return None
        dir_fd = open_directory(directory_of_another(marker), uid=uid)
    if dir_fd is None:
        return None
    try:
        return read(name, dir_fd, bytes_max)
    finally:
        os.close(dir_fd)


def keep(directory: str, made: tuple[int, int]) -> None:
    """Copy the last words of another user's job into the current directory; without room there are none."""
    try:
        dir_fd = open_directory(directory, made)
    except OSError as problem:
        _say(directory, problem)
        return
    if dir_fd is None:
        return
    for name, bytes_max in _KEPT:
        try:
            data = read(name, dir_fd, bytes_max)
            if data is not None and (name == STEP_RECORDS or len(data) <= bytes_max):
                write_atomically(name, data[:bytes_max])
        except OSError as problem:
            _say(directory, problem)
    os.close(dir_fd)


def _say(directory: str, problem: OSError) -> None:
    os.write(2, f"{directory}: {problem!r}\n".encode("utf-8", "surrogateescape"))
