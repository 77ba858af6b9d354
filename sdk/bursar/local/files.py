"""The small files of a `bursar up`: what is wanted (`desired.json`), what runs (`cluster.json`), locks.

Owns    their form, their checks and their replacement as a whole.
Why     whatever stands in them was perhaps cut short or written by others; it is read once, here,
        into values that the keeper, `up`, `down` and `status` can trust. Standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bursar.aside import Damaged, clear_for_file, read_object, set_aside
from bursar.local.processes import Process, alive, from_json, place_of, same

DESIRED: Final = "desired.json"
CLUSTER: Final = "cluster.json"
KEEPER_LOCK: Final = "keeper.lock"
UP_LOCK: Final = "up.lock"
DAEMON_MODULE: Final = "bursard"
AGENT_MODULE: Final = "bursar_agent"
WEB_MODULE: Final = "bursar_web"
GATEWAY_MODULE: Final = "bursar_gateway"
LISTENING: Final = (WEB_MODULE, GATEWAY_MODULE)
"""Those that listen where `up` says: another address is another process."""


@dataclass(frozen=True)
class ChildSpec:
    """One process to keep: the module it runs, its directory, its whole command line."""

    name: str
    module: str
    state_dir: str
    command: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in `desired.json`."""
        return {
            "name": self.name,
            "module": self.module,
            "state_dir": self.state_dir,
            "command": list(self.command),
        }


CPUS_MAX: Final = 1024
"""Of one agent of `bursar up`."""


@dataclass(frozen=True)
class Desired:
    """What `bursar up` wants to run.

    Attributes:
        http: where its pages listen. gateway: where its gateway does. cloud: `demo`, or the file of a local
            cloud. Empty for none. cpus: of each agent; 0: the machine's, divided among them.
    """

    server: str = ""
    state_dir: str = ""
    run_dir: str = ""
    agents: int = 0
    policies: str = ""
    simulate_gpus: str = ""
    children: tuple[ChildSpec, ...] = ()
    http: str = ""
    cloud: str = ""
    gateway: str = ""
    cpus: int = 0

    @property
    def agent_names(self) -> tuple[str, ...]:
        """What of it is an agent."""
        return tuple(child.name for child in self.children if child.module == AGENT_MODULE)

    @property
    def socket(self) -> Path:
        """Where its daemon listens."""
        return Path(self.run_dir) / "bursar.sock"

    def to_json(self) -> dict[str, Any]:
        """As it stands in `desired.json`."""
        return {**vars(self), "children": [child.to_json() for child in self.children]}


@dataclass(frozen=True)
class Kept:
    """What the keeper runs, as it noted it last: a cache, never the only place where something is known.

    Attributes:
        failures: how often each child has ended by itself with an error, since the keeper began.
        ready: names of the children that have said that they are ready.
        served: a daemon was ready once, in this life of the keeper or an earlier one: there are books.
        place: the directory that it was noted in (`processes.place_of`); empty in notes of older releases.
    """

    desired: Desired = Desired()
    keeper: Process | None = None
    processes: Mapping[str, Process] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    ready: tuple[str, ...] = ()
    served: bool = False
    place: str = ""

    @property
    def served_gateway(self) -> bool:
        """The gateway runs, and has said that it listens."""
        return "gateway" in self.ready and alive(self.processes.get("gateway"))

    @property
    def served_pages(self) -> bool:
        """The pages run, and have said that they listen."""
        return "web" in self.ready and alive(self.processes.get("web"))

    def to_json(self) -> dict[str, Any]:
        """As it stands in `cluster.json`."""
        return {
            **self.desired.to_json(),
            "keeper": self.keeper.to_json() if self.keeper else None,
            "processes": {name: process.to_json() for name, process in self.processes.items()},
            "failures": dict(self.failures),
            "ready": list(self.ready),
            "served": self.served,
            "place": self.place,
        }


def read_desired(directory: Path) -> Desired:
    """`desired.json`; an empty one when there is none. Raises `Damaged`."""
    return _desired(read_object(directory / DESIRED))


def read_kept(directory: Path) -> Kept:
    """`cluster.json`; an empty one when there is none. Raises `Damaged`.

    Of a directory that is a copy it tells what was wanted and nothing of what runs: that is the original's.
    """
    found = read_object(directory / CLUSTER)
    running, failures = found.get("processes") or {}, found.get("failures") or {}
    ready = found.get("ready") or []
    if not isinstance(running, dict) or not isinstance(failures, dict) or not isinstance(ready, list):
        raise Damaged("its processes are no table")
    named = {name: from_json(value) for name, value in running.items()}
    desired, place = _desired(found), found.get("place")
    served = found.get("served") is True or "daemon" in ready
    if not _noted_in(directory, place if isinstance(place, str) else "", desired.state_dir):
        return Kept(desired, served=served)
    return Kept(
        desired,
        from_json(found.get("keeper")),
        {name: process for name, process in named.items() if process is not None},
        {name: count for name, count in failures.items() if type(count) is int},
        tuple(name for name in ready if isinstance(name, str)),
        served,
        place if isinstance(place, str) else "",
    )


def _noted_in(directory: Path, place: str, state_dir: str) -> bool:
    """Was it noted in this very directory, under whichever name, and not in one that this is a copy of?"""
    if place:
        return place == place_of(directory)
    return not state_dir or same(state_dir, str(directory))


def _desired(found: dict[str, Any]) -> Desired:
    if not found:
        return Desired()
    texts = {
        name: _typed(found, name, str)
        for name in ("server", "state_dir", "run_dir", "policies", "simulate_gpus")
    }
    children = tuple(_child(one) for one in _typed(found, "children", list))
    agents = _typed(found, "agents", int)
    http = _typed(found, "http", str) if "http" in found else ""  # before pages were kept there was none
    cloud = _typed(found, "cloud", str) if "cloud" in found else ""  # likewise
    gateway = _typed(found, "gateway", str) if "gateway" in found else ""
    cpus = _typed(found, "cpus", int) if "cpus" in found else 0
    if not 0 <= cpus <= CPUS_MAX:
        raise Damaged(f"its cpus are not 0 to {CPUS_MAX}")
    if not 1 <= agents <= 64 or len(children) != agents + 1 + bool(http) + bool(gateway):
        raise Damaged("it does not name one daemon and 1 to 64 agents")
    return Desired(
        **texts, agents=agents, http=http, cloud=cloud, gateway=gateway, cpus=cpus, children=children
    )


def _child(value: Any) -> ChildSpec:
    if not isinstance(value, dict):
        raise Damaged("a child is no table")
    command = _typed(value, "command", list)
    if not command or not all(isinstance(word, str) and "\0" not in word for word in command):
        raise Damaged("a command is no list of words")
    name = _typed(value, "name", str)
    if not name or "/" in name or name.startswith("."):
        raise Damaged("a child has no name")
    return ChildSpec(name, _typed(value, "module", str), _typed(value, "state_dir", str), tuple(command))


def _typed(found: dict[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if type(value) is not kind:
        raise Damaged(f"{name} is missing or no {kind.__name__}")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file at once, readable by its owner alone. Raises `OSError`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(json.dumps(value, indent=1) + "\n")
        if path.is_dir() and not path.is_symlink():
            set_aside(path)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def lock(path: Path, wait_s: float = 0) -> int | None:
    """Hold `path` exclusively; the descriptor, or None when somebody else keeps holding it."""
    clear_for_file(path)
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
