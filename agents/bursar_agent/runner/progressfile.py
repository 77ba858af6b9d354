"""Files in which a job tells how far it has come, and of its steps; read without trusting whose they are.

Owns    where they lie, and the one careful read. Input: the member's name.
Why     a job of our own account writes into its attempt's directory. Another user cannot come in there, so
        that one has a private directory beside the machine's temporary files while it runs, and its last word
        is copied to the same place as everybody's when it is gone.
"""

from __future__ import annotations

import os
import stat

from bursar_agent.runner.layout import PROGRESS, STEP_RECORDS, write_atomically

VARIABLE = "BURSAR_PROGRESS_FILE"
BYTES_MAX = 4096
"""`bursar.model.FILE_BYTES_MAX`, which is not loaded here: supervisors have the standard library alone."""
STEPS_BYTES_MAX = 1 << 20
"""Of the records of steps (`bursar.steps.records.RECORDS_MAX`) so much is read."""
_KEPT = ((PROGRESS, BYTES_MAX), (STEP_RECORDS, STEPS_BYTES_MAX))
_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def directory_of_another(marker: str) -> str:
    """Where another user's file lies while its job runs (`layout.marker_of`)."""
    return f"/tmp/bursar-{marker}.progress"


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


def read_of_another(marker: str, name: str = PROGRESS, bytes_max: int = BYTES_MAX) -> bytes | None:
    """A file of another user's job that runs. Raises `OSError`."""
    return read(f"{directory_of_another(marker)}/{name}", bytes_max=bytes_max)


def keep(directory: str) -> None:
    """Copy the last words of another user's job into the current directory; without room there are none."""
    for name, bytes_max in _KEPT:
        try:
            data = read(f"{directory}/{name}", bytes_max=bytes_max)
            if data is not None and (name == STEP_RECORDS or len(data) <= bytes_max):
                write_atomically(name, data[:bytes_max])
        except OSError as problem:
            os.write(2, f"{directory}: {problem!r}\n".encode("utf-8", "surrogateescape"))
