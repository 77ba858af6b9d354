"""Where a daemon keeps its books, from the directory that people name.

Why     `bursar up` has the daemon's directory inside its own, `bursard` under systemd is given it directly;
        whoever restores should not have to know which.
"""

from __future__ import annotations

import os
from pathlib import Path

from bursar.errors import InvalidRequest
from bursard.store.headfile import NAME as HEAD
from bursard.store.home import DATABASE, LOCK

UP = "up"
"""Layout of `bursar up`: `DIR/daemon`, beside `DIR/agents`."""
PLAIN = "plain"
"""Layout of `bursard --state-dir DIR`."""
_INSIDE = "daemon"
_SIGNS = ("agents", "cluster.json", "desired.json")
"""What lies beside `daemon` in a directory of `bursar up`."""


def daemon_directory(directory: Path) -> Path:
    """The directory with the database. Raises `InvalidRequest` when there is none."""
    for found in (directory, directory / _INSIDE):
        if (found / DATABASE).exists():
            return found
    raise InvalidRequest(
        f"{directory} holds no {DATABASE}, nor does {directory / _INSIDE}: it is no state directory of a"
        " bursard; name one with --state-dir"
    )


def held_in(directory: Path) -> Path:
    """Where the books of a daemon are, or were: `directory`, or the place of `bursar up` inside it, which a
    restored backup may be alone in.
    """
    if not _held(directory) and _held(directory / _INSIDE):
        return directory / _INSIDE
    return target(directory, PLAIN)


def _held(directory: Path) -> bool:
    return any(os.path.lexists(directory / name) for name in (DATABASE, LOCK, HEAD))


def layout_of(directory: Path) -> str:
    """How the daemon's directory `directory` is embedded."""
    beside = any((directory.parent / sign).exists() for sign in _SIGNS)
    return UP if directory.name == _INSIDE and beside else PLAIN


def target(directory: Path, layout: str) -> Path:
    """Where a backup of `layout` goes when it is restored to `directory`."""
    if layout == UP and layout_of(directory) == PLAIN:
        return directory / _INSIDE
    if layout == PLAIN and any((directory / sign).exists() for sign in _SIGNS):
        return directory / _INSIDE
    return directory
