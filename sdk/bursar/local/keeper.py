"""The keeper: the process that keeps one local cluster alive, `python -m bursar.local.keeper DIR`.

Owns    the daemon, agents and pages of one state directory while it runs: it starts them, restarts those
        that die, kills and restarts those that hang, and, when told to end, stops the agents and then
        the daemon. It never gives up.
Input   `DIR/desired.json`, written by `bursar up`; read again at SIGHUP. Output: `DIR/cluster.json`.
Why     `up` returns and shells close, so somebody must stay. It is the standard library alone: a
        small process that never loads gRPC may start others safely, and has little to go wrong.

A keeper that was killed leaves its children running, and they start the next one (`guard`), which finds them,
by what `cluster.json` notes (pid and start time) or by their command lines, and keeps them.
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
from typing import Final

from bursar import lastword, strays
from bursar.aside import Damaged, own_directory
from bursar.local import books, files, guard, heartbeat, processes
from bursar.local.child import SILENT_S, STOP_S, Child, child_env
from bursar.local.files import ChildSpec, Desired, Kept

JOBS_S: Final = 20.0
"""So long the jobs of one agent may take to end whose directory was removed."""
PAUSE_S: Final = 2.0
"""A wait this much longer than asked for means that the keeper itself stood still."""


class Keeper:
    """One run of the keeper over one state directory. `lock_fd` carries its beat."""

    _has_log = False
    """Is what it says written to its log?"""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self._directory = directory
        self._place = processes.place_of(directory)
        self._here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            self._has_log = os.path.samestat(os.fstat(2), os.stat(directory / guard.LOG))
        self._lock_fd = lock_fd
        self._desired = Desired()
        self._children: dict[str, Child] = {}
        self._door: heartbeat.Door | None = None
        self._env = self._base_env()
        self._served = False
        self._wake, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        self._stop = self._reread = False
        strays.overhear()
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reread)

    def _base_env(self) -> dict[str, str]:
        """What all children get; with it they see to it that there is a keeper."""
        return {**child_env(), guard.VARIABLE: str(self._directory)}

    def _on_stop(self, *_: object) -> None:
        self._stop = True

    def _on_reread(self, *_: object) -> None:
        self._reread = True

    def run(self) -> int:
        """Keep until told to stop; 1 when `desired.json` says nothing that could be kept."""
        try:
            self._load(files.read_desired(self._directory))
        except Damaged as problem:
            say(f"{files.DESIRED} cannot be used: {problem}; `bursar up` writes it anew")
            return 1
        while not self._stop:
            if self._reread:
                self._reread = False
                self._reload()
            self._start_due()
            self._wait()
        self._shut_down()
        return 0

    # ------------------------------------------------------------------ what is wanted

    def _reload(self) -> None:
        try:
            self._load(files.read_desired(self._directory))
        except Damaged as problem:
            say(f"{files.DESIRED} cannot be used: {problem}; keeping what was wanted before")
        for child in self._children.values():
            child.hurry()

    def _load(self, desired: Desired) -> None:
        """New children are adopted or started, surplus ones stopped. Raises `Damaged`."""
        if desired.state_dir and not processes.same(desired.state_dir, str(self._directory)):
            raise Damaged(f"it is a copy of that of {desired.state_dir}")
        self._desired = desired
        self._open_door(Path(desired.run_dir))
        wanted = {spec.name: spec for spec in desired.children}
        for name in [name for name in self._children if name not in wanted]:
            self._end([self._children.pop(name)])
        fresh = [spec for name, spec in wanted.items() if name not in self._children]
        before = self._running() if fresh else Kept()
        self._served = self._served or before.served
        for spec in fresh:
            self._end_unlike(spec)
            child = Child(spec, self._directory / "logs" / f"{spec.name}.log")
            if child.adopt(before.processes.get(spec.name), spec.name in before.ready) and child.process:
                say(f"{spec.name}: adopted pid {child.process.pid}")
            self._children[spec.name] = child
        for name, spec in wanted.items():
            child = self._children[name]
            unlike = spec.module in files.LISTENING and child.spec.command != spec.command
            child.spec = spec  # from its next start on, which of the pages is now: they listen elsewhere
            if unlike:
                self._end([child])
        self._note()

    def _end_unlike(self, spec: ChildSpec) -> None:
        """Pages that listen elsewhere than is wanted are none to adopt; agents stay as they were started."""
        if spec.module in files.LISTENING:
            for one in processes.running_below(str(self._directory)):
                if one.name == spec.name and one.words[1:] != spec.command[1:]:
                    processes.end_all([one.process], STOP_S)

    def _running(self) -> Kept:
        """What runs already: as `cluster.json` notes it, else as the command lines say."""
        try:
            before = files.read_kept(self._directory)
        except Damaged as problem:
            say(f"{files.CLUSTER} cannot be used: {problem}; looking for the processes themselves")
            before = Kept()
        by_name = {one.name: one.process for one in processes.running_below(str(self._directory))}
        by_name |= {name: p for name, p in before.processes.items() if processes.alive(p)}
        return Kept(processes=by_name, ready=before.ready, served=before.served)

    def _open_door(self, run_dir: Path) -> None:
        if self._door is not None and self._door.path.parent == run_dir:
            return
        try:
            self._door = heartbeat.Door(run_dir)
        except OSError as problem:
            say(f"{run_dir}: signs of life cannot be heard: {problem}; a process that hangs stays")
            self._door = None
            self._env = self._base_env()
            return
        self._env = {
            **self._base_env(),
            "NOTIFY_SOCKET": str(self._door.path),
            "WATCHDOG_USEC": str(int(SILENT_S * 1_000_000)),
        }

    # ------------------------------------------------------------------ keeping

    def _start_due(self) -> None:
        now_s = time.monotonic()
        due = [c for c in self._children.values() if c.process is None and now_s >= c.start_at_s]
        for child in due:
            try:
                if not self._is_here():
                    raise OSError(f"{self._directory} is not this cluster's any more: moved, or removed")
                if child.name == "daemon" and (why := books.missing(self._directory)):
                    raise OSError(why)
                child.start(self._env, self._directory)
                say(f"{child.name}: started pid {child.process.pid if child.process else '?'}")
            except OSError as error:
                say(f"{child.name}: cannot start: {error}")
                child.cannot_start(time.monotonic())
        if due:
            self._note()

    def _is_here(self) -> bool:
        """Is the directory still where it was? What stands there else is another cluster's, or will be."""
        return processes.place_of(self._directory) == self._place

    def _wait(self) -> None:
        """Sleep until a child ends or speaks, a signal comes, a start is due, or it is time to look."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._door is not None:
            poller.register(self._door, select.POLLIN)
        before_s = time.monotonic()
        wait_s = heartbeat.BEAT_S
        for child in self._children.values():
            if child.process is None:
                wait_s = min(wait_s, max(0.0, child.start_at_s - before_s))
            elif child.pidfd >= 0:
                poller.register(child.pidfd, select.POLLIN)
            else:
                wait_s = 0.0
        poller.poll(wait_s * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)
        heartbeat.beat(self._lock_fd)
        self._mend()
        self._look(before_s, wait_s)

    def _mend(self) -> None:
        """Make anew what somebody removed of the directory; of a directory that is gone, end what is left.

        One that was moved keeps its place, and what runs goes on in it.
        """
        if os.fstat(self._here).st_nlink == 0:
            say(f"{self._directory} was removed: ending what ran in it")
            self._stop = True
        if self._stop or not self._is_here():
            return
        try:
            for name in ("agents", "logs"):
                if not os.path.lexists(self._directory / name):
                    own_directory(self._directory / name)
                    say(f"{self._directory / name} had been removed: made anew")
            if self._has_log and os.fstat(2).st_nlink == 0:
                with (self._directory / guard.LOG).open("ab") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
            if os.fstat(self._lock_fd).st_nlink == 0:
                self._lock_anew()
            if self._door is not None and not os.path.lexists(self._door.path):
                own_directory(self._door.path.parent)
                self._door.close()
                self._door = heartbeat.Door(self._door.path.parent)
        except OSError as problem:
            say(f"{problem.filename or self._directory}: cannot be made anew: {problem.strerror}")

    def _look(self, before_s: float, wait_s: float) -> None:
        now_s = time.monotonic()
        pause_s = now_s - before_s - wait_s
        if pause_s > PAUSE_S:
            for child in self._children.values():
                child.forgive(pause_s)
        changed = self._hear(now_s)
        for child in self._children.values():
            reason = child.hung(now_s)
            if reason:
                say(f"{child.name}: {reason}: killed")
                processes.kill(child.process, signal.SIGKILL)
        dead = [c for c in self._children.values() if c.process and not processes.alive(c.process)]
        for child in dead:
            code = child.ended(now_s)
            how = "ended" if code is None else f"exit code {code}"
            say(f"{child.name}: {how}; starts again in {max(0.0, child.start_at_s - now_s):.1f} s")
        if dead or changed:
            self._note()

    def _hear(self, now_s: float) -> bool:
        """Take what the children said; True when one has become ready."""
        before = [child.ready for child in self._children.values()]
        for pid, message in self._door.messages() if self._door is not None else ():
            for child in self._children.values():
                if child.process is not None and child.process.pid == pid:
                    child.heard(message, now_s)
                    self._served = self._served or (child.ready and child.name == "daemon")
        return [child.ready for child in self._children.values()] != before

    def _note(self) -> None:
        """Write `cluster.json`: address, configuration, pids."""
        children = self._children.items()
        kept = Kept(
            self._desired,
            processes.noted(os.getpid()),
            {name: child.process for name, child in children if child.process},
            {name: child.failures for name, child in children},
            tuple(name for name, child in children if child.ready),
            self._served,
            self._place,
        )
        self._write(kept)

    def _write(self, kept: Kept) -> None:
        try:
            if not self._is_here():
                raise OSError(f"{self._directory} was moved, or removed")
            files.write_json(self._directory / files.CLUSTER, kept.to_json())
        except OSError as error:  # a full disk must not end the keeping
            say(f"{files.CLUSTER} cannot be written: {error}")

    def _lock_anew(self) -> None:
        """Somebody has removed the lock: who finds none would take us for dead."""
        lock = files.lock(self._directory / files.KEEPER_LOCK)
        if lock is not None:
            os.dup2(lock, self._lock_fd, inheritable=False)
            os.close(lock)

    # ------------------------------------------------------------------ the end

    def _shut_down(self) -> None:
        """Agents first, so that they report their last usage to a daemon that listens."""
        children = list(self._children.values())
        self._end([child for child in children if child.name != "daemon"])
        self._end([child for child in children if child.name == "daemon"])
        if os.fstat(self._here).st_nlink == 0:
            self._end_jobs([child.spec for child in children if child.spec.module == files.AGENT_MODULE])
        self._children.clear()
        if self._door is not None:
            self._door.close()
            with contextlib.suppress(OSError):
                self._door.path.unlink()
        self._write(Kept(self._desired, served=self._served, place=self._place))
        say("stopped")

    def _end_jobs(self, agents: list[ChildSpec]) -> None:
        """Nobody will ever be able to find the jobs of a cluster whose directory is gone."""
        for spec in agents:
            command = [*spec.command[:4], "--state-dir", spec.state_dir, "--terminate-all"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    command, env=child_env(), cwd="/", stdin=subprocess.DEVNULL, timeout=JOBS_S, check=False
                )

    def _end(self, children: list[Child]) -> None:
        for late in processes.end_all([child.process for child in children], STOP_S):
            say(f"pid {late.pid} did not end in {STOP_S:g} s: killed")
        for child in children:
            if child.popen is not None:
                child.popen.poll()


def say(text: str) -> None:
    """One line of the keeper's own log, dated; nothing where that cannot be written."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lastword.say(f"{stamp} {text}")


@contextlib.contextmanager
def _kept(directory: Path) -> Iterator[int | None]:
    fd = files.lock(directory / files.KEEPER_LOCK, wait_s=2.0)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def main(arguments: Sequence[str]) -> int:
    """Keep the cluster of the one directory given; 1 when another keeper does."""
    directory = Path(os.path.abspath(arguments[0]))
    with _kept(directory) as lock_fd:
        if lock_fd is None:
            say("another keeper keeps this directory")
            return 1
        os.chdir(directory)
        return Keeper(directory, lock_fd).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
