"""The state directory: private to one user, held by one daemon.

Why     two writers on one log would each believe the other's money free. The lock is a kernel lock
        (flock), so it cannot outlive its holder: no stale lock files to remove after kill -9.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from pathlib import Path

from bursar.aside import set_aside
from bursar.errors import StoreUnavailable
from bursard.store.base import LogHead
from bursard.store.headfile import NAME as HEAD
from bursard.store.headfile import HeadFile
from bursard.store.names import is_at

log = logging.getLogger(__name__)

DATABASE = "bursard.db"
LOCK = "bursard.lock"
CREATED = "created"
"""In the lock file: a database was made here."""


class Home:
    """A held state directory. `close` lets go of it."""

    def __init__(self, directory: Path, anew: bool = False) -> None:
        """Create or adopt the directory, take its lock. Raises `StoreUnavailable`.

        `anew`: somebody gave the books that were here up for lost.
        """
        self.directory = directory
        self.database = directory / DATABASE
        self._lock = -1
        self.head_file: HeadFile | None = None
        try:
            _private(directory)
            _refuse_odd(directory / LOCK, "remove it: a start makes it anew")
            if _leads_elsewhere(directory / LOCK):
                raise StoreUnavailable(
                    f"{directory / LOCK} leads to another file, which would be written over; remove it:"
                    " a start makes it anew"
                )
            self._lock = _hold(directory / LOCK)
            for name in (DATABASE, f"{DATABASE}-wal"):
                _refuse_odd(directory / name, f"move it away and put the file back, or {_RESTORE}")
            _clear(directory / HEAD)
            for ending in ("-shm", "-journal"):  # SQLite looks for either, and would wait at a pipe
                _clear(directory / f"{DATABASE}{ending}")
            self._database(anew)
            if anew:
                (directory / HEAD).unlink(missing_ok=True)
            self.head_file = HeadFile(directory)
        except OSError as error:
            self.close()
            raise refused(error, directory) from error
        except BaseException:
            self.close()
            raise

    @staticmethod
    def check_free(directory: Path) -> None:
        """Raises `StoreUnavailable` when a daemon holds the directory."""
        os.close(_hold(directory / LOCK))

    def _database(self, anew: bool) -> None:
        """Make the file 0600 before SQLite does; -wal and -shm inherit its mode."""
        note = os.pread(self._lock, 256, 0).decode(errors="replace")
        handle = os.open(self.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(handle, 0o600)
            if CREATED in note and not anew and not os.fstat(handle).st_size:
                # An empty file would quietly begin a new history: budgets unspent, jobs forgotten.
                raise StoreUnavailable(
                    f"{self.database} is missing or empty, but this directory held a cluster; "
                    "restore a backup (`bursar restore FILE --state-dir DIR`), or give all that was in it up "
                    f"for lost and begin anew: `bursar audit accept-loss --state-dir {self.directory}`"
                )
        finally:
            os.close(handle)
        self._write(note=CREATED in note)

    def created(self) -> None:
        """The database exists from now on: an empty one is a loss, not a beginning."""
        try:
            self._write(note=True)
        except OSError as error:
            raise refused(error, self.directory) from error

    def made_again(self, head: LogHead) -> str:
        """The database was written anew after somebody removed it: so are the notes beside it. Why not;
        empty when they are there.
        """
        try:
            if os.fstat(self._lock).st_nlink == 0:
                handle = _hold(self.directory / LOCK)
                os.close(self._lock)
                self._lock = handle
                self._write(note=True)
            file = HeadFile(self.directory)
            file.write(head, sync=True)
            file.close()
        except (OSError, StoreUnavailable) as error:
            return str(error)
        return ""

    def keep_notes(self, head: LogHead) -> None:
        """Lock and head are files that their names lead to, or are made anew; what stands there is set aside.

        Raises `StoreUnavailable` when another daemon holds the directory by now.
        """
        lock, file = self.directory / LOCK, self.head_file
        if not is_at(lock, self._lock):
            log.warning("the lock file was removed; it is held anew", extra={"path": str(lock)})
            _clear(lock)
            handle = _hold(lock)
            os.close(self._lock)
            self._lock = handle
            self._write(note=True)
        if file is not None and not is_at(self.directory / HEAD, file.fileno()):
            log.warning("the head file was removed; it is made anew", extra={"path": str(lock)})
            _clear(self.directory / HEAD)
            file.close()
            self.head_file = HeadFile(self.directory)
            self.head_file.write(head, sync=True)

    def _write(self, note: bool) -> None:
        text = f"{os.getpid()}\n" + (f"{CREATED}\n" if note else "")
        os.pwrite(self._lock, text.encode(), 0)
        os.ftruncate(self._lock, len(text))

    def close(self) -> None:
        """Release the lock."""
        if self.head_file is not None:
            self.head_file.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


_RESTORE = "restore a backup: `bursar restore FILE --state-dir DIR`"


def _refuse_odd(path: Path, remedy: str) -> None:
    """A folder, or a link that leads nowhere, where a file of ours should be."""
    if os.path.lexists(path) and not path.is_file():
        what = "a link that leads nowhere" if path.is_symlink() else "no file"
        raise StoreUnavailable(f"{path} is {what}; {remedy}", {"path": str(path)})


def _leads_elsewhere(path: Path) -> bool:
    """Is it a link, or another name of a file? What we write into it would be written into that one."""
    return path.is_symlink() or (path.exists() and path.stat().st_nlink > 1)


def _clear(path: Path) -> None:
    """What is made anew at each start is set aside when it is no file."""
    if os.path.lexists(path) and (not path.is_file() or _leads_elsewhere(path)):
        log.warning(
            "set aside: it is no file of its own", extra={"path": str(path), "now": str(set_aside(path))}
        )


def _private(directory: Path) -> None:
    """0700 when we make it. An existing one is closed to others only if it is ours alone."""
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnavailable(f"{directory} is not a directory; choose another state directory")
    open_to = stat.S_IMODE(status.st_mode) & 0o077
    if not open_to:
        return
    # Closing a shared directory such as /tmp would break everybody else in it.
    ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    if ours and (not any(directory.iterdir()) or (directory / LOCK).exists()):
        directory.chmod(0o700)
    elif open_to & 0o022:
        raise StoreUnavailable(
            f"{directory} can be written by other users (mode {stat.S_IMODE(status.st_mode):04o}): "
            "they could replace the ledger; chmod 700 it, or choose another state directory"
        )
    else:
        log.warning("state directory is readable by others", extra={"directory": str(directory)})


def _hold(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 256, 0).decode(errors="replace").partition("\n")[0]
        os.close(handle)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise StoreUnavailable(
            f"{path.parent} is in use by another bursard (pid {holder or 'unknown'}); "
            "stop it, or choose another state directory",
            {"pid": holder, "directory": str(path.parent)},
        ) from None
    return handle


def refused(error: OSError, directory: Path) -> StoreUnavailable:
    """What the system's refusal means to an operator."""
    remedy = {
        errno.ENOSPC: "the disk is full; free some space, then start again",
        errno.EDQUOT: "the quota is used up; free some space, then start again",
        errno.EROFS: "its disk is mounted read-only; mount it writable, then start again",
    }.get(
        error.errno or 0,
        f"make it readable and writable for the user bursard runs as: chmod -R u+rwX {directory}",
    )
    place = error.filename or directory
    return StoreUnavailable(
        f"state directory {directory}: {place}: {error.strerror}; {remedy}",
        {"directory": str(directory)},
    )


def free_bytes(directory: Path) -> int:
    """What this user may still write there; 0 when the directory is gone."""
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize
    return 0
