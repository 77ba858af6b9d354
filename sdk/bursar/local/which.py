"""Which cluster `status` and `down` mean when nobody says it.

Owns    the order: `--state-dir`, `--server`, `BURSAR_SERVER`, the `bursar up` that runs, the default
        directory (contract section 1).
Why     a bare `down` on a machine with two clusters must not stop the one that nobody thought of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from bursar.client import address
from bursar.client.address import Address
from bursar.errors import InvalidRequest
from bursar.local.cluster import LocalCluster


class Meant(NamedTuple):
    """A cluster of `bursar up`, or a server that is none; and what to say about the choice."""

    cluster: LocalCluster | None
    server: Address | None
    note: str = ""


def to_show(state_dir: str | None, server: str | None) -> Meant:
    """What `status` shows. Raises `InvalidRequest` for an empty path or a wrong address."""
    named = _named(state_dir, server)
    if named is not None:
        return named
    running = _running()
    if len(running) > 1:
        others = ", ".join(str(cluster.directory) for cluster in running[1:])
        return Meant(running[0], None, f"also running: {others}; name one with --state-dir")
    return Meant(running[0] if running else _idle(), None)


def to_end(state_dir: str | None, server: str | None) -> LocalCluster:
    """What `down` stops. Raises `InvalidRequest` when that is in doubt."""
    named = _named(state_dir, server)
    if named is not None and named.cluster is not None:
        return named.cluster
    if named is not None and named.server is not None:
        raise InvalidRequest(
            f"{named.server.origin} names {named.server.url}, which no `bursar up` of this user runs; "
            "say which one to stop: bursar down --state-dir DIR"
        )
    running = _running()
    if len(running) > 1:
        commands = "\n".join(f"  bursar down --state-dir {cluster.directory}" for cluster in running)
        raise InvalidRequest(f"{len(running)} clusters run here; say which one to stop:\n{commands}")
    return running[0] if running else _idle()


def _named(state_dir: str | None, server: str | None) -> Meant | None:
    if state_dir is not None:
        return Meant(LocalCluster(directory_of(state_dir)), None)
    if not server and not os.environ.get("BURSAR_SERVER"):
        return None
    found = address.resolve(server)
    for entry in address.known_clusters():
        if entry["server"] == found.url or _same_socket(entry["server"], found):
            return Meant(LocalCluster(Path(entry["state_dir"])), None)
    return Meant(None, found)


def _same_socket(url: str, found: Address) -> bool:
    if found.socket is None:
        return False
    return os.path.realpath(url.removeprefix("unix://")) == os.path.realpath(found.socket)


def _running() -> list[LocalCluster]:
    """The noted clusters of which anything runs, newest first."""
    clusters = [LocalCluster(Path(entry["state_dir"])) for entry in address.known_clusters()]
    return [c for c in clusters if c.directory.is_dir() and (c.processes() or c.keeper())]


def _idle() -> LocalCluster:
    """Where nothing runs: the one directory that was used, else the default one."""
    used = [Path(entry["state_dir"]) for entry in address.known_clusters()]
    used = [directory for directory in used if directory.is_dir()]
    return LocalCluster(used[0] if len(used) == 1 else address.state_home())


def directory_of(given: str) -> Path:
    """`--state-dir` as a path. Raises `InvalidRequest` when it is empty."""
    if not given:
        raise InvalidRequest("--state-dir: the path is empty")
    return Path(given).expanduser()
