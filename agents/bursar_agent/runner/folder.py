"""Directories used again: a job's checkpoint directory while it is empty, and a member's when all is told.

Owns    which directory becomes whose. Input: paths in one file system.
Why     making a directory or a file is what costs most in a short job's life (a new inode each, and on some
        file systems a search past all that were deleted lately); giving one another name is a tenth of it.
        Jobs that keep nothing also leave nothing behind.
"""

from __future__ import annotations

import os
import stat


class CheckpointFolder:
    """At most one empty directory, handed from one attempt of this process to the next."""

    def __init__(self, spare: str) -> None:
        """`spare`: absolute path at which the directory waits."""
        self._spare = spare
        self._waits = False
        self._untouched_ns = -1
        """When the directory in use was changed last, while no job has put anything into it; -1: unknown."""

    def enter(self, path: str, uid: int | None, gid: int | None) -> None:
        """Make `path` for a job, mode 0700, unless an earlier attempt has. Raises `OSError`."""
        if not path:
            return
        if self._waits and uid is None:
            try:
                os.rename(self._spare, path)
                self._waits = False
                return
            except OSError:
                pass  # there already, with something in it
        self._untouched_ns = -1
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return
        except FileNotFoundError:  # somebody has removed what they all lie in
            _make_passable(os.path.dirname(path))
            os.mkdir(path, 0o700)
        if uid is not None:
            os.chown(path, uid, -1 if gid is None else gid)

    def leave(self, path: str, uid: int | None) -> None:
        """The job is gone: what it left stays, an empty directory goes."""
        if not path:
            return
        try:
            found = os.lstat(path)
            if found.st_mtime_ns != self._untouched_ns and os.listdir(path):
                return
            if self._waits or uid is not None or stat.S_IMODE(found.st_mode) != 0o700:
                os.rmdir(path)
                return
            os.rename(path, self._spare)
            self._waits, self._untouched_ns = True, found.st_mtime_ns
            # A time can be set by whoever has the directory: it only spares a first look.
            if os.listdir(self._spare):
                self._waits, self._untouched_ns = False, -1
                os.rename(self._spare, path)
        except OSError:
            pass  # it is not ours to judge

    def close(self) -> None:
        """This process takes no further attempt."""
        if self._waits:
            try:  # noqa: SIM105  contextlib is not loaded here
                os.rmdir(self._spare)
            except OSError:
                pass


def _make_passable(folder: str) -> None:
    """Make what every account may pass through, and nobody list. Who needs it says where that cannot be."""
    try:
        os.mkdir(folder, 0o711)
        os.chmod(folder, 0o711)
    except OSError:
        pass
