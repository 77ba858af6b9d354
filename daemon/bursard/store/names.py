"""Do the files of an open database still have their names? What is done where somebody removed them.

Why     a file without a name takes every commit as before, and is gone with the process: all that was
        acknowledged since would be lost with the next start. As long as we have it open, nothing is lost yet.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

ENDINGS = ("", "-wal", "-shm")
_DRAFT = ".rescued"
_PAGES = 4096
"""Copied in one step; nothing is committed meanwhile."""


class Names:
    """The files of one open database, held by descriptors that touch no lock of SQLite's."""

    def __init__(self, database: Path) -> None:
        """Raises `OSError`."""
        self._database = database
        self._held: list[tuple[str, int]] = []
        for ending in ENDINGS:
            with contextlib.suppress(FileNotFoundError):
                self._held.append((ending, os.open(f"{database}{ending}", os.O_PATH | os.O_CLOEXEC)))

    def removed(self) -> str:
        """The file that has no name any more; empty while all have. One that was moved has one."""
        for ending, fd in self._held:
            if os.fstat(fd).st_nlink == 0:
                return f"{self._database.name}{ending}"
        return ""

    def database_is_there(self) -> bool:
        """Has the database itself kept its name?"""
        return bool(self._held) and os.fstat(self._held[0][1]).st_nlink > 0

    def close(self) -> None:
        """Let go of them."""
        for _, fd in self._held:
            os.close(fd)
        self._held.clear()


def write_again(writer: sqlite3.Connection, database: Path) -> str:
    """Write what an open connection sees of a removed database to its old place, whole and durable.

    Returns why not; empty when it is there. Never over what somebody has put there since.
    """
    directory, draft = database.parent, database.with_name(f"{database.name}{_DRAFT}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        if os.path.lexists(database):
            return "another file has been put in its place"
        for ending in ENDINGS:
            Path(f"{draft}{ending}").unlink(missing_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(draft)) as copy:
            writer.backup(copy, pages=_PAGES)
        _sync(draft)
        os.rename(draft, database)
        _sync(directory)
    except (OSError, sqlite3.Error) as problem:
        return str(problem)
    return ""


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
