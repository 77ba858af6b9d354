"""Setting damaged files aside: what cannot be used is moved away, never trusted, never deleted.

Owns    the name that a damaged file gets, `NAME.damaged-TIME`, and how a place that should be a
        directory, or a file, is made usable again.
Why     the small files of a state directory are caches and notes; one that was cut short or
        overwritten must keep neither a cluster nor a node away, and somebody may want to look at it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

MARK: Final = ".damaged-"
JSON_BYTES_MAX: Final = 8 << 20
"""No file that we write is larger; what is, is not ours."""


class Damaged(Exception):
    """A file is there and cannot be used; the text says why."""


def set_aside(path: Path) -> Path:
    """Rename `path`, whatever it is, to `NAME.damaged-TIME` beside it; the new path. Raises `OSError`."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}{MARK}{stamp}")
    number = 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}{MARK}{stamp}-{number}")
    path.rename(target)
    return target


def found_aside(directory: Path, *below: str) -> list[Path]:
    """What lies aside in `directory` and in the folders below it that match the patterns `below`."""
    folders = [directory, *(folder for pattern in below for folder in directory.glob(pattern))]
    return sorted(path for folder in folders for path in folder.glob(f"*{MARK}*"))


def own_directory(path: Path, mode: int = 0o700) -> None:
    """Make `path` a directory with this mode; what is none is set aside. Raises `OSError`.

    A link that leads nowhere is left alone: what it led to may only be away.
    """
    if os.path.lexists(path) and not path.is_dir() and not path.is_symlink():
        set_aside(path)
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if path.stat().st_uid == os.geteuid():
        path.chmod(mode)


def clear_for_file(path: Path) -> None:
    """Set aside what cannot be opened as a file, such as a directory. A mode that shuts us out of a file of
    our own is put right: nothing is wrong with what is in it. Raises `OSError`.
    """
    if not os.path.lexists(path):
        return
    if path.is_file() and os.access(path, os.R_OK | os.W_OK):
        return
    if not open_to_its_owner(path):
        set_aside(path)


def open_to_its_owner(path: Path) -> bool:
    """Give the owner's rights to a plain file of our own back; False where it is none."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return False
    path.chmod(stat.S_IMODE(found.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
    return True


def _opened(path: Path) -> BinaryIO:
    try:
        return _plain(path)
    except PermissionError:
        if not open_to_its_owner(path):
            raise
        return _plain(path)


def _plain(path: Path) -> BinaryIO:
    """A plain file, open to be read. Whatever else is in its place has nobody to be waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return os.fdopen(fd, "rb")


def read_own(path: Path, bytes_max: int = JSON_BYTES_MAX) -> bytes:
    """A file that we wrote, whole. Raises `OSError`: it is not there, or none that we would write (a pipe,
    a device, more than so much).
    """
    with _plain(path) as stream:
        data = stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"it has more than {bytes_max} bytes", str(path))
    return data


def read_object(path: Path) -> dict[str, Any]:
    """One JSON object; empty when there is no such file.

    Raises:
        Damaged: something is there that is no JSON object, or cannot be read.
    """
    try:
        with _opened(path) as stream:
            data = stream.read(JSON_BYTES_MAX + 1)
        found = json.loads(data) if len(data) <= JSON_BYTES_MAX else None
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise Damaged(problem.strerror or str(problem)) from None
    except (ValueError, RecursionError):
        raise Damaged("it is not JSON") from None
    if not isinstance(found, dict):
        raise Damaged("it is not one JSON object")
    return found
