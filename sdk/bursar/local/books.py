"""Were there books? What lies around `DIR/daemon` says so when the daemon's own folder cannot.

Owns    the signs that a daemon has served from a state directory, and the refusal to begin anew beside them.
Why     an emptied or removed folder looks like a first start. New books would begin without a word: budgets
        unspent, jobs forgotten, numbers given out twice, and agents that know of another history.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bursar.aside import Damaged, read_object
from bursar.errors import StoreUnavailable
from bursar.local import files

DATABASE: Final = "bursard.db"


@dataclass(frozen=True)
class Signs:
    """What is remembered of a daemon's books outside its folder.

    Attributes:
        seq, cluster_id: the newest event that an agent was told of; 0 and "" when none was.
        told: who remembers, for a person; empty when nobody does.
    """

    seq: int = 0
    cluster_id: str = ""
    told: str = ""


def there(directory: Path) -> bool:
    """Are there books in `directory`, whole or not? The daemon itself judges what it finds."""
    daemon = directory / "daemon"
    try:
        if any(_size(daemon / name) for name in (DATABASE, "bursard.head")):
            return True
        return b"created" in (daemon / "bursard.lock").read_bytes()[:256]
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def signs(directory: Path) -> Signs:
    """What agents and keeper of `directory` remember; what cannot be read says nothing."""
    found = Signs()
    for agent in sorted((directory / "agents").glob("*/")):
        end = _object(agent / "log-end.json")
        seq, cluster_id = end.get("seq"), end.get("cluster_id")
        if type(seq) is int and seq > found.seq and isinstance(cluster_id, str):
            found = Signs(seq, cluster_id, f"agent {agent.name} was told of event {seq}")
        epoch = _object(agent / "agent.json").get("epoch")
        if not found.told and type(epoch) is int and epoch > 0:
            found = Signs(told=f"agent {agent.name} obeyed a daemon (epoch {epoch})")
    if not found.told and _served(directory):
        found = Signs(told=f"{files.CLUSTER} says that a daemon has served")
    return found


def missing(directory: Path) -> str:
    """Why no daemon may begin in `directory`: its books are gone. Empty when it may."""
    if there(directory):
        return ""
    told = signs(directory).told
    if not told:
        return ""
    daemon, named = directory / "daemon", shlex.quote(str(directory))
    return (
        f"{daemon} holds no books, but this cluster had some: {told}. Put {daemon} back; or restore a backup:"
        f" `bursar restore FILE --state-dir {named}`; or give its jobs, money and policies up for lost and"
        f" begin anew: `bursar audit accept-loss --state-dir {named}`"
    )


def refuse_missing(directory: Path) -> None:
    """Raises `StoreUnavailable` when the books of `directory` are gone."""
    if why := missing(directory):
        raise StoreUnavailable(why)


def sealed(directory: Path) -> str:
    """Why the secrets of `directory` stay sealed, as far as its key file shows; empty when it can be read."""
    key = directory / "daemon.secrets-key"
    if not os.path.lexists(key) or (key.is_file() and os.access(key, os.R_OK)):
        return ""
    if key.is_file():
        return f"secrets stay sealed: {key} cannot be read; open it: chmod 0600 {shlex.quote(str(key))}"
    return f"secrets stay sealed: {key} is no file; put the key file back in its place"


def _served(directory: Path) -> bool:
    try:
        return files.read_kept(directory).served
    except Damaged:
        return False


def _object(path: Path) -> dict[str, object]:
    try:
        return read_object(path)
    except Damaged:
        return {}
