"""Were there books? What lies around `DIR/daemon` says so when the daemon's own folder cannot.

Owns    the signs that a daemon has served from a state directory, and the refusal to begin anew beside them.
Why     an emptied or removed folder looks like a first start. New books would begin without a word: budgets
        unspent, jobs forgotten, numbers given out twice, and agents that know of another history.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bursar.aside import Damaged, read_object
from bursar.errors import StoreUnavailable
from bursar.local import files
from bursar.logend import LogEnd, is_cluster_id, read_log_end

DAEMON: Final = "daemon"
"""The daemon's folder in the directory of a `bursar up`."""
DATABASE: Final = "bursard.db"
EPOCH_MAX: Final = 1 << 53
"""No agent obeys more: a higher one is damage."""


@dataclass(frozen=True)
class Signs:
    """What is remembered of a daemon's books outside its folder.

    Attributes:
        seq: the newest event that an agent was told of; 0 when none was.
        cluster_id: whose event that was, or else which cluster's members an agent holds; "" when none says.
        told: who remembers, for a person; empty when nobody does.
    """

    seq: int = 0
    cluster_id: str = ""
    told: str = ""


@dataclass(frozen=True)
class Told:
    """What one agent remembers of the books beside it.

    Attributes:
        end: the newest event that it was told of; None when it was never told, or its note is damaged.
        epoch: the highest that it obeyed; 0 for none.
        cluster_id: whose members it holds or held; "" when it does not say.
    """

    agent: str
    end: LogEnd | None
    epoch: int
    cluster_id: str = ""


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
    for agent in told(directory):
        if agent.end is not None and agent.end.seq > found.seq:
            seq, cluster_id = agent.end.seq, agent.end.cluster_id
            found = Signs(seq, cluster_id, f"agent {agent.agent} was told of event {seq}")
        if not found.told and agent.epoch:
            found = Signs(told=f"agent {agent.agent} obeyed a daemon (epoch {agent.epoch})")
        if not found.cluster_id and agent.cluster_id:
            found = replace(found, cluster_id=agent.cluster_id)
    if not found.told and _served(directory):
        found = Signs(told=f"{files.CLUSTER} says that a daemon has served")
    return found


def told(directory: Path) -> list[Told]:
    """What each agent of `directory` remembers; of what cannot be read, nothing."""
    found = []
    for agent in sorted((directory / "agents").glob("*/")):
        kept = _object(agent / "agent.json")
        epoch, cluster_id = kept.get("epoch"), kept.get("cluster_id")
        end = read_log_end(_object(agent / "log-end.json"))
        # In the order in which the agent itself believes them.
        named = cluster_id if is_cluster_id(cluster_id) else end.cluster_id if end is not None else ""
        obeyed = epoch if type(epoch) is int and 0 < epoch <= EPOCH_MAX else 0
        found.append(Told(agent.name, end, obeyed, named))
    return found


def missing(directory: Path) -> str:
    """Why no daemon may begin in `directory`: its books are gone. Empty when it may."""
    if there(directory):
        return ""
    remembered = signs(directory).told
    if not remembered:
        return ""
    daemon, named = directory / "daemon", shlex.quote(str(directory))
    return (
        f"{daemon} holds no books, but this cluster had some: {remembered}. Put {daemon} back; or"
        f" restore a backup: `bursar restore FILE --state-dir {named}`; or give its jobs, money and policies"
        f" up for lost and begin anew: `bursar audit accept-loss --state-dir {named}`"
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
