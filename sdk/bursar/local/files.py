"""The small files of a state directory: read with a plan for damage, replaced at once, locked.

Why     a file that was cut short, or that somebody wrote into, must not keep a cluster from starting
        or ending. Standard library alone, for the keeper.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; empty when it is absent or broken."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file at once, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(json.dumps(value, indent=1) + "\n")
    draft.replace(path)


def lock(path: Path, wait_s: float = 0) -> int | None:
    """Hold `path` exclusively; the descriptor, or None when somebody else keeps holding it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stop_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= stop_at:
                os.close(fd)
                return None
            time.sleep(0.05)
        else:
            return fd
