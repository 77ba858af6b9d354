"""A file that a verb writes: whole, or as it was before."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bursar.cli.output import say
from bursar.errors import InvalidRequest

_OF_THE_PATH: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )
)
"""Faults of the path that was asked for; any other, such as a full disk, is the machine's."""


def write_whole(out: str, pieces: Iterable[bytes]) -> None:
    """Write pieces as they come, and put the file in place once all have; then say so.

    Raises:
        InvalidRequest: nothing can be written there. OSError: of `out`, for any other reason.
    """
    path, total = Path(out), 0
    if os.path.isdir(out) or not path.name:
        raise InvalidRequest(f"{out!r} is a directory; name a file in it")
    if os.path.exists(out) and not os.path.isfile(out):  # a device or a pipe: what is written goes into it
        with path.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as stream:
            for piece in pieces:
                total += stream.write(piece)
        draft.replace(path)
    except OSError as error:
        _drop(draft)
        if error.filename not in (None, str(draft), draft):
            raise
        # The draft is nobody's business: what was asked for is what cannot be written.
        why = error.strerror or str(error)
        if error.errno in _OF_THE_PATH:
            raise InvalidRequest(f"{out!r} cannot be written: {why}") from None
        raise OSError(error.errno, why, out) from None
    except BaseException:
        _drop(draft)
        raise
    say(f"wrote {out}, {total} bytes")


def _drop(draft: Path) -> None:
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
