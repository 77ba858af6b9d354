"""The keeper: the process that keeps one local cluster alive, `python -m bursar.local.keeper DIR`.

Owns    the daemon and the agents of one state directory while it runs: it starts them, restarts those
        that die (0.2 s, doubling to 5 s, from the start again after 10 s of health) and, when told
        to end, stops the agents and then the daemon.
Input   `DIR/desired.json`, written by `bursar up`; read again at SIGHUP. Output: `DIR/cluster.json`.
Why     `up` returns and shells close, so somebody must stay. It is the standard library alone: a
        small process that never loads gRPC may start others safely, and has little to go wrong.

A keeper that was killed leaves its children running. The next one finds them, by what
`cluster.json` notes (pid and start time) or by their command lines, and keeps them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bursar.local import files, processes

BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
HEALTHY_AFTER_S: Final = 10.0
STOP_S: Final = 8.0
"""Time each of the agents, then the daemon, has to end before it is killed."""
LOG_BYTES_MAX: Final = 16 << 20
"""A log larger than this is set aside, once, when its process starts."""


class Child:
    """One process that is kept: its command, and when it may start again."""

    def __init__(self, name: str, command: list[str], log: Path, state_dir: str) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.state_dir = state_dir
        self.process: dict[str, Any] | None = None
        self.popen: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.started_at = 0.0
        self.start_at = 0.0
        self.backoff_s = BACKOFF_S
        self.failures = 0

    def adopt(self, noted_before: dict[str, Any] | None) -> bool:
        """Keep the process that runs already, if one does."""
        if not processes.alive(noted_before):
            others = processes.find(self.command[self.command.index("-m") + 1], self.state_dir)
            noted_before = processes.noted(others[0]) if others else None
        if noted_before is None or not self._open(noted_before):
            return False
        say(f"{self.name}: adopted pid {noted_before['pid']}")
        return True

    def start(self, env: dict[str, str], directory: Path) -> None:
        """Start it, in a session of its own, with its output in its log."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=env,
                start_new_session=True,
            )
        say(f"{self.name}: started pid {self.popen.pid}")
        self._open(processes.noted(self.popen.pid) or {"pid": self.popen.pid, "start": None})

    def _open(self, process: dict[str, Any]) -> bool:
        try:
            self.pidfd = os.pidfd_open(int(process["pid"]))
        except OSError:
            if self.popen is None:
                return False
            self.pidfd = -1  # it ended before it could be watched; reaped below
        self.process = process
        self.started_at = time.monotonic()
        return True

    def ended(self) -> None:
        """Note its end and when it starts again."""
        code: int | None = None
        if self.popen is not None:
            code = self.popen.wait()
            self.popen = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.process = None
        if time.monotonic() - self.started_at >= HEALTHY_AFTER_S:
            self.backoff_s, self.failures = BACKOFF_S, 0
        self.failures += 1
        how = "ended" if code is None else f"exit code {code}"
        say(f"{self.name}: {how}; starts again in {self.backoff_s:g} s")
        self.start_at = time.monotonic() + self.backoff_s
        self.backoff_s = min(2 * self.backoff_s, BACKOFF_MAX_S)


class Keeper:
    """One run of the keeper over one state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._desired: dict[str, Any] = {}
        self._children: dict[str, Child] = {}
        self._env = child_env()
        self._wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        self._stop = self._reread = False
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reread)

    def _on_stop(self, *_: object) -> None:
        self._stop = True

    def _on_reread(self, *_: object) -> None:
        self._reread = True

    def run(self) -> int:
        """Keep until told to stop."""
        self._load()
        while not self._stop:
            if self._reread:
                self._reread = False
                self._load()
            self._start_due()
            self._wait()
        self._shut_down()
        return 0

    def _load(self) -> None:
        """Read what is desired: new children are adopted or started, surplus ones stopped."""
        self._desired = files.read_json(self._directory / "desired.json")
        before = files.read_json(self._directory / "cluster.json").get("processes", {})
        wanted = {child["name"]: child for child in self._desired.get("children", [])}
        for name in [name for name in self._children if name not in wanted]:
            self._end([self._children.pop(name)])
        for name, child in wanted.items():
            if name in self._children:
                self._children[name].command = child["command"]  # from its next start on
                continue
            log = self._directory / "logs" / f"{name}.log"
            fresh = Child(name, child["command"], log, child["state_dir"])
            fresh.adopt(before.get(name))
            self._children[name] = fresh
        self._note()

    def _start_due(self) -> None:
        due = [
            child
            for child in self._children.values()
            if child.process is None and time.monotonic() >= child.start_at
        ]
        for child in due:
            try:
                child.start(self._env, self._directory)
            except OSError as error:
                say(f"{child.name}: cannot start: {error}")
                child.started_at = time.monotonic()
                child.ended()
        if due:
            self._note()

    def _wait(self) -> None:
        """Sleep until a child ends, a signal comes or a start is due."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        waits = []
        for child in self._children.values():
            if child.process is None:
                waits.append(max(0.0, child.start_at - time.monotonic()))
            elif child.pidfd >= 0:
                poller.register(child.pidfd, select.POLLIN)
            else:
                waits.append(0.0)
        poller.poll(min(waits) * 1000 if waits else None)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        dead = [c for c in self._children.values() if c.process and not processes.alive(c.process)]
        for child in dead:
            child.ended()
        if dead:
            self._note()

    def _note(self) -> None:
        """Write `cluster.json`: address, configuration, pids."""
        kept = {name: child.process for name, child in self._children.items() if child.process}
        value = {
            **self._desired,
            "keeper": processes.noted(os.getpid()),
            "processes": kept,
            "failures": {name: child.failures for name, child in self._children.items()},
        }
        try:
            files.write_json(self._directory / "cluster.json", value)
        except OSError as error:  # a full disk must not end the keeping
            say(f"cluster.json cannot be written: {error}")

    def _shut_down(self) -> None:
        """Agents first, so that they report their last usage to a daemon that listens."""
        children = list(self._children.values())
        self._end([child for child in children if child.name != "daemon"])
        self._end([child for child in children if child.name == "daemon"])
        self._children.clear()
        value = {**self._desired, "keeper": None, "processes": {}}
        with contextlib.suppress(OSError):
            files.write_json(self._directory / "cluster.json", value)
        say("stopped")

    def _end(self, children: list[Child]) -> None:
        running = [child.process for child in children]
        for process in running:
            processes.kill(process, signal.SIGTERM)
        late = processes.wait_gone(running, STOP_S)
        for process in late:
            say(f"pid {process['pid']} did not end in {STOP_S:g} s: killed")
            processes.kill(process, signal.SIGKILL)
        processes.wait_gone(late, 2.0)
        for child in children:
            if child.popen is not None:
                child.popen.poll()


def child_env() -> dict[str, str]:
    """The environment of the children: the keeper's, with absolute import paths, no client settings."""
    env = {k: v for k, v in os.environ.items() if k not in ("BURSAR_SERVER", "BURSAR_TOKEN")}
    if env.get("PYTHONPATH"):
        parts = (os.path.abspath(part) for part in env["PYTHONPATH"].split(os.pathsep) if part)
        env["PYTHONPATH"] = os.pathsep.join(parts)
    return env


def say(text: str) -> None:
    """One line of the keeper's own log, dated."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _kept(directory: Path) -> Iterator[bool]:
    fd = files.lock(directory / "keeper.lock", wait_s=2.0)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def main(arguments: Sequence[str]) -> int:
    """Keep the cluster of the one directory given; 1 when another keeper does."""
    directory = Path(arguments[0])
    with _kept(directory) as mine:
        if not mine:
            say("another keeper keeps this directory")
            return 1
        return Keeper(directory).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
