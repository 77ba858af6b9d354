"""A file that a verb writes: whole, or as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bursar.cli.output import say


def write_whole(out: str, pieces: Iterable[bytes]) -> None:
    """Write pieces as they come, and put the file in place once all have; then say so."""
    path, total = Path(out), 0
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as stream:
            for piece in pieces:
                total += stream.write(piece)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    say(f"wrote {out}, {total} bytes")
