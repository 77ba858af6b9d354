"""The file in which a job tells how far it has come, and reading it without trusting whose it is.

Owns    where it lies, and the one careful read. Input: the member's name.
Why     a job of our own account writes into its attempt's directory. Another user cannot come in there, so
        that one has a private directory beside the machine's temporary files while it runs, and its last word
        is copied to the same place as everybody's when it is gone.
"""

from __future__ import annotations

import os
import stat

from bursar_agent.runner.layout import PROGRESS, write_atomically

VARIABLE = "BURSAR_PROGRESS_FILE"
BYTES_MAX = 4096
"""`bursar.model.FILE_BYTES_MAX`, which is not loaded here: supervisors have the standard library alone."""
_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def directory_of_another(marker: str) -> str:
    """Where another user's file lies while its job runs (`layout.marker_of`)."""
    return f"/tmp/bursar-{marker}.progress"


def read(path: str, dir_fd: int | None = None) -> bytes | None:
    """Its content, at most one byte more than it may have; None: there is no such file.

    What is no plain file is none: a link is not followed, a pipe not waited for. Raises `OSError`.
    """
    try:
        fd = os.open(path, _CAREFULLY, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, BYTES_MAX + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def read_of_another(marker: str) -> bytes | None:
    """The file of another user's job that runs. Raises `OSError`."""
    return read(f"{directory_of_another(marker)}/{PROGRESS}")


def keep(directory: str) -> None:
    """Copy the last word of another user's job into the current directory; without room there is none."""
    try:
        data = read(f"{directory}/{PROGRESS}")
        if data is not None and len(data) <= BYTES_MAX:
            write_atomically(PROGRESS, data)
    except OSError as problem:
        os.write(2, f"{directory}: {problem!r}\n".encode("utf-8", "surrogateescape"))
