"""The socket directory: held by one daemon, whose sockets nobody else takes away.

Why     a second daemon with another state directory but the same socket directory would bind the same
        names, and the first one's clients and agents would speak to the wrong books. The lock is a
        kernel lock (flock), so it cannot outlive its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from bursar.aside import clear_for_file, set_aside
from bursar.errors import StoreUnavailable

LOCK: Final = "socket.lock"
_NOTE_BYTES_MAX: Final = 8192
_PROBE_S: Final = 0.5


class SocketDir:
    """A directory of sockets, made 0700 when it is not there, and held until `close`."""

    def __init__(self, folder: Path, state_dir: Path) -> None:
        """Make and lock it. Raises `StoreUnavailable` naming the holder, `OSError` when it cannot be used."""
        self.folder = folder
        self._own: dict[Path, tuple[int, int]] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        path = folder / LOCK
        clear_for_file(path)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note = os.pread(self._lock, _NOTE_BYTES_MAX, 0).decode(errors="replace")
            os.close(self._lock)
            os.close(self._here)
            pid, _, directory = note.partition("\n")
            raise self._taken(pid.strip(), directory.strip()) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n{state_dir}\n".encode(), 0)

    def free(self, name: str) -> Path:
        """Make `name` free to bind: a dead socket goes, anything else is set aside.

        Raises `StoreUnavailable` when somebody listens on it, lock or no lock.
        """
        path = self.folder / name
        if not os.path.lexists(path):
            return path
        if not stat.S_ISSOCK(path.lstat().st_mode):
            set_aside(path)
            return path
        if _answers(path):
            raise self._taken("", "")
        path.unlink()
        return path

    def bound(self, path: Path, mode: int) -> None:
        """`path` is ours now: open it to `mode`, and remember which socket it is."""
        path.chmod(mode)
        found = path.lstat()
        self._own[path] = (found.st_dev, found.st_ino)

    def removed(self) -> str:
        """The socket that has gone from the directory, wherever that was moved to; empty while all are there.
        Nobody would find us any more.
        """
        for path, known in self._own.items():
            try:
                found = os.stat(path.name, dir_fd=self._here, follow_symlinks=False)
            except FileNotFoundError:
                return str(path)
            if (found.st_dev, found.st_ino) != known:
                return str(path)
        return ""

    def close(self) -> None:
        """Remove our sockets, and only ours, and let another daemon in."""
        for path, known in self._own.items():
            with contextlib.suppress(OSError):
                found = path.lstat()
                if (found.st_dev, found.st_ino) == known:
                    path.unlink()
        os.close(self._lock)
        os.close(self._here)

    def _taken(self, pid: str, directory: str) -> StoreUnavailable:
        who = f"pid {pid}, state directory {directory}" if pid and directory else "pid unknown"
        return StoreUnavailable(
            f"socket directory {self.folder} is in use by another bursard ({who}): its clients would reach "
            "this one; stop it, or give this one another --socket-dir",
            {"pid": pid, "directory": directory},
        )


def _answers(path: Path) -> bool:
    """Does somebody accept connections there?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
