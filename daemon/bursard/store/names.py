"""Do the files of an open database still have their names? What is done where somebody removed them.

Why     a file without a name takes every commit as before, and is gone with the process: all that was
        acknowledged since would be lost with the next start. As long as we have it open, nothing is lost yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from bursar.aside import set_aside

ENDINGS = ("", "-wal", "-shm")
_DRAFT = ".rescued"
_SAVED = ".saved"
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE)
_PASSING_OF_SQLITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY)
_PAGES = 4096
"""Copied in one step; nothing is committed meanwhile."""


class Names:
    """The files of one open database, held by descriptors that touch no lock of SQLite, and their folder."""

    def __init__(self, database: Path) -> None:
        """Raises `OSError`."""
        self._database = database
        self._folder = os.open(database.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held: list[tuple[str, int]] = []
        for ending in ENDINGS:
            with contextlib.suppress(FileNotFoundError):
                self._held.append((ending, os.open(f"{database}{ending}", os.O_PATH | os.O_CLOEXEC)))

    def removed(self) -> str:
        """The file that its name in the folder, wherever that was moved to, does not lead to any more; empty
        while all do.
        """
        for ending, fd in self._held:
            if not self._leads_to(ending, fd):
                return f"{self._database.name}{ending}"
        return ""

    def _leads_to(self, ending: str, fd: int) -> bool:
        try:
            found = os.stat(f"{self._database.name}{ending}", dir_fd=self._folder)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def left(self) -> list[str]:
        """The endings of the files that have kept their names: the database's own is empty."""
        return [ending for ending, fd in self._held if self._leads_to(ending, fd)]

    def is_where_it_was(self) -> bool:
        """Is the folder in its place, too?"""
        return bool(self._held) and is_at(self._database, self._held[0][1])

    def close(self) -> None:
        """Let go of them."""
        for _, fd in self._held:
            os.close(fd)
        self._held.clear()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def is_at(path: Path, handle: int) -> bool:
    """Does the name lead to the file that is open?"""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def folded(writer: sqlite3.Connection) -> bool:
    """Have all of the log in the database's own file, which has its name. False: a reader is in the way."""
    busy, pages, done = writer.execute("pragma wal_checkpoint(truncate)").fetchone()
    return not busy and pages == done


def write_again(writer: sqlite3.Connection, database: Path, left: Sequence[str]) -> Path:
    """Write what an open connection sees of a database to its old place, whole and durable. Returns where it
    is: never over what somebody has put there since, but beside it.

    Args:
        left: what has kept its name. The database itself is written anew then; SQLite must not add to
            it what its log said, since all of that is in the copy, nor to a file that is not ours.

    Raises `OSError`, `sqlite3.Error`: it cannot be.
    """
    directory, draft = database.parent, database.with_name(f"{database.name}{_DRAFT}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    for ending in ENDINGS:
        Path(f"{draft}{ending}").unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(draft)) as copy:
        writer.backup(copy, pages=_PAGES)
    _sync(draft)
    place = database if "" in left or not os.path.lexists(database) else _beside(database)
    for ending in ENDINGS[1:]:
        beside = Path(f"{database}{ending}")
        if os.path.lexists(beside) and (ending in left or place == database):
            set_aside(beside)
    os.rename(draft, place)
    _sync(directory)
    return place


def can_pass(problem: Exception) -> bool:
    """Is it worth to try again: is the disk full, or may nobody write there now?"""
    if isinstance(problem, OSError):
        return problem.errno in _PASSING
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF in _PASSING_OF_SQLITE


def saved_beside(database: Path) -> list[Path]:
    """Books that were saved beside a file which stood in their place."""
    with contextlib.suppress(OSError):
        return sorted(database.parent.glob(f"{database.name}{_SAVED}*"))
    return []


def _beside(database: Path) -> Path:
    number, place = 1, database.with_name(f"{database.name}{_SAVED}")
    while os.path.lexists(place):
        number += 1
        place = database.with_name(f"{database.name}{_SAVED}-{number}")
    return place


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
