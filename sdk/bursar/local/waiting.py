"""Waiting for a cluster that was started: for how long, and what to say when it does not come up.

Why     only what fails ends a start. A daemon that reads a long log, or a machine that is busy, is slow and
        nothing else: it is waited for while it works, and left to go on when patience has ended.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.client import address
from bursar.errors import BursarError, ServerUnavailable
from bursar.local import files, processes
from bursar.local.cluster import DOWN_REASON, LocalCluster, connected
from bursar.local.files import Desired, Kept
from bursar.local.processes import Process
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

READY_S: Final = 60.0
"""How long `up` waits since the daemon last used the CPU, and from when it listens until all is connected."""
LONG_S: Final = 10.0
"""A daemon that does not listen for so long has much to read."""
FAILURES_MAX: Final = 3
"""Ends with an error, of one process during one `up`, after which it will not come up."""
_LINES: Final = 12
_REFUSAL = re.compile(r"bursar(?:d|-agent|-web|-gateway): (.+)")
"""The last word of a program that would not begin."""
_RECORD = re.compile(r"\{|\d{4}-\d\d-\d\d")
"""How a line of a log begins, the daemon's and the agents'."""


class Patience:
    """How long a daemon that does not listen yet is waited for: `READY_S` after it last used the CPU."""

    def __init__(self, now_s: float) -> None:
        self._stop_at_s = now_s + READY_S
        self._seen: set[Process] = set()
        self._cpu_ticks = -1

    def look(self, daemon: Process | None, now_s: float) -> bool:
        """Take a look at the daemon; False when there is nothing more to wait for."""
        seen = processes.glance(daemon.pid) if daemon else None
        if daemon and seen and seen.start == daemon.start and seen.cpu_ticks != self._cpu_ticks:
            self._cpu_ticks = seen.cpu_ticks
            self._seen.add(daemon)
            if len(self._seen) <= FAILURES_MAX:  # one that is killed each time makes no progress
                self._stop_at_s = now_s + READY_S
        return now_s <= self._stop_at_s


class Start:
    """One start of `cluster` towards `desired`, watched."""

    def __init__(self, cluster: LocalCluster, desired: Desired, progress: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._desired = desired
        self._progress = progress
        self._said = ""
        self._beside = {child.name for child in desired.children if child.module in files.LISTENING}
        self._given_up: dict[str, str] = {}
        """Of these, why it does not start. Nobody else is ended for it."""

    def wait(self) -> str:
        """Until the daemon is ready and every agent connected: "". What is missing, when neither failed and
        yet time is over, or pages or gateway do not start: all of it goes on.

        Raises:
            ServerUnavailable: something refuses to begin or keeps failing; with the log's end.
        """
        return self._listens() or self._connected() or "; ".join(self._given_up.values())

    def _listens(self) -> str:
        began_s = time.monotonic()
        patience = Patience(began_s)
        while not address.probe(self._desired.socket):
            kept = self._check()
            now_s = time.monotonic()
            long = now_s - began_s > LONG_S
            self._say("the daemon is still starting: it reads its log" if long else "starting the daemon")
            if not patience.look(kept.processes.get("daemon"), now_s):
                return "the daemon does not listen"
            time.sleep(0.02)
        return ""

    def _connected(self) -> str:
        names = set(self._desired.agent_names)
        stop_at = time.monotonic() + READY_S
        with connected(self._desired.server) as client:
            while what := _missing(client, names) or self._unserved():
                self._say(what)
                self._check()
                if time.monotonic() > stop_at:
                    return what
                time.sleep(0.05)
        return ""

    def _unserved(self) -> str:
        """What the pages still lack; empty when they are served where they are wanted, or none are. Only the
        keeper's word counts: somebody else may listen there, and would get the link.
        """
        kept = self._cluster.kept()
        served = kept.desired.http == self._desired.http and kept.served_pages
        if not served and self._desired.http and "web" not in self._given_up:
            return "the pages are not served yet"
        listens = kept.desired.gateway == self._desired.gateway and kept.served_gateway
        wanted = self._desired.gateway and "gateway" not in self._given_up
        return "the gateway does not listen yet" if wanted and not listens else ""

    def _say(self, text: str) -> None:
        if text != self._said:
            self._progress(text)
        self._said = text

    def _check(self) -> Kept:
        """What the keeper notes. Raises `ServerUnavailable` when there is no sense in waiting."""
        cluster, kept = self._cluster, self._cluster.kept()
        keeps = processes.alive(kept.keeper)
        mine = keeps and (cluster.spawned is None or kept.keeper.pid == cluster.spawned.pid)  # type: ignore[union-attr]
        failed = {
            name: count - cluster.failures_before.get(name, 0)
            for name, count in (kept.failures.items() if mine else ())
        }
        for name, count in failed.items():
            why = ""
            if count and name not in self._given_up and (said := self._refusal(name)):
                why = f"{said}\n  so says {cluster.log(name)}"
            elif count >= FAILURES_MAX and name not in self._given_up:
                why = self._failure(name, f"the {name} keeps failing")
            if why and name not in self._beside:
                raise ServerUnavailable(f"the cluster did not start: {why}")
            if why:
                self._given_up[name] = f"the {name} does not start: {why}"
        # One that found another keeper ends at once; that other one is as good.
        if not keeps and cluster.spawned is not None and cluster.spawned.poll() is not None:
            why = self._failure("keeper", "the keeper ended")
            raise ServerUnavailable(f"the cluster did not start: {why}")
        return kept

    def _refusal(self, name: str) -> str:
        """Why a process would not begin, in its own words, when they are the end of its log."""
        said: list[str] = []
        for line in reversed(_last_lines(self._cluster.log(name))):
            if match := _REFUSAL.fullmatch(line):
                return "\n".join([match[1], *reversed(said)])
            if _RECORD.match(line):
                break
            said.append(line)
        return ""

    def _failure(self, name: str, why: str) -> str:
        """Why it did not come up: the end of the log, and what to do."""
        log = self._cluster.log(name)
        lines = _last_lines(log)
        remedy = f"see {log}"
        if any("No module named" in line for line in lines):
            extra = {"daemon": "daemon", "web": "web"}.get(name, "agent")
            remedy = f"a module is missing: pip install 'bursar[{extra}]'"
        shown = "".join(f"\n  {_readable(line)}" for line in lines)
        return f"{why}; {remedy}{shown}"


def _last_lines(log: Path) -> list[str]:
    try:
        return log.read_text("utf-8", "replace").splitlines()[-_LINES:]
    except OSError:
        return []


def _readable(line: str) -> str:
    """A line of a log for people: the daemon's are JSON."""
    try:
        record = json.loads(line)
        at, level, event = record.pop("at"), record.pop("level"), record.pop("event")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return line
    record.pop("logger", None)
    return " ".join([f"{at} {level}: {event}", *(f"{key}={value}" for key, value in record.items())])


def _missing(client: WireClient, names: set[str]) -> str:
    """What is still to come; empty when all is ready. Nodes that `down` emptied are resumed."""
    try:
        if not client.server(timeout_s=2.0).ready:
            return "the daemon is not ready"
        nodes = {node.facts.name: node for node in client.nodes()}
        for name in names & nodes.keys():
            if nodes[name].reason == DOWN_REASON and nodes[name].state != "up":
                client.resume(name)
        up = {name for name in names & nodes.keys() if nodes[name].state not in ("silent",)}
        emptied = {name for name in up if nodes[name].reason == DOWN_REASON}
        ready = len(up - emptied)
        return "" if ready == len(names) else f"{ready} of {plural(len(names), 'agent')} connected"
    except BursarError as error:
        return f"the daemon is not ready: {error.message}"
