"""Seeing to it that there is a keeper: what each process does that one keeps.

Owns    noticing that the keeper of `bursar up` is dead, or stands still, and the start of another.
Input   `BURSAR_KEPT_IN`, which the keeper gives to what it keeps; elsewhere (systemd) nobody is guarded so.
Why     a keeper that was killed left daemon and agents to nobody until a person came. As long as one of them
        runs, somebody looks, and it takes no process more.

Never two keepers: `keeper.lock` is held by one alone. Nothing is done while an `up` or `down` works on the
directory (`up.lock`), once one has ended the cluster (`cluster.json` names no keeper then), or where the
directory was moved, removed or is a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bursar.aside import Damaged, clear_for_file
from bursar.local import files, processes
from bursar.local.child import child_env
from bursar.local.heartbeat import BEAT_LATE_S, BEAT_S

VARIABLE: Final = "BURSAR_KEPT_IN"
LOOK_S: Final = BEAT_S
LOOKS: Final = 2
"""So many looks in a row find no keeper, before another is started."""
TAKES_S: Final = 10.0
"""So long a new keeper may take until it has the lock."""
LOG: Final = "logs/keeper.log"


def start_keeper(directory: Path) -> int:
    """Start a keeper of `directory`, in a session of its own; its pid, for the caller to reap.

    By `posix_spawn`, which may be called beside gRPC's threads. Raises `OSError`.
    """
    clear_for_file(directory / LOG)
    log = os.open(directory / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", processes.KEEPER_MODULE, str(directory)],
            child_env(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE),
        )
    finally:
        os.close(log)


async def watch(environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Look for ever, in a process that has a loop; wait for ever where nobody keeps it. `say` logs a line."""
    import asyncio  # the keeper, which reads this file too, does without

    guard = Guard.of(environ)
    while guard is not None:
        await asyncio.sleep(LOOK_S)
        try:
            done = await asyncio.to_thread(guard.look)
        except OSError as problem:
            done = f"whether there is a keeper cannot be seen: {problem}"
        if done:
            say(done)
    await asyncio.Event().wait()


class Seen(NamedTuple):
    """What a process that is kept sees of its keeper. `silent_s`: since it looked around last."""

    is_there: bool
    silent_s: float


def look_for_keeper(environ: Mapping[str, str]) -> Seen | None:
    """Look once, and do nothing; None where nobody keeps this process, or it cannot be seen."""
    guard = Guard.of(environ)
    try:
        return guard.seen() if guard is not None else None
    except OSError:
        return None


class Guard:
    """One process's eye on its keeper. `look` blocks for a moment at most, but where it starts one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._place = processes.place_of(directory)
        self._gone = 0
        self._beat_ns = 0
        self._beat_seen_s = self._looked_s = time.monotonic()
        self._started = 0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Guard | None:
        """The guard of a process that is kept by a keeper of ours; None for any other."""
        directory = environ.get(VARIABLE, "")
        return cls(Path(directory)) if directory else None

    def look(self) -> str:
        """Look once; what was done about it, for the log. Raises `OSError`."""
        self._reap()
        if not self._place or processes.place_of(self._directory) != self._place:
            return ""
        gone = self._unheld()
        self._gone = self._gone + 1 if gone else 0
        if self._gone >= LOOKS or (not gone and self._hangs()):
            self._gone = 0
            return self._replace()
        return ""

    def seen(self) -> Seen:
        """Whether a keeper is there, and when it looked around last. Raises `OSError`."""
        there = not self._unheld()
        beat_ns = (self._directory / files.KEEPER_LOCK).stat().st_mtime_ns if there else time.time_ns()
        return Seen(there, (time.time_ns() - beat_ns) / 1e9)

    def _unheld(self) -> bool:
        """Does nobody hold the keeper's lock? Asked for together with other guards, and never made."""
        try:
            fd = os.open(self._directory / files.KEEPER_LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def _hangs(self) -> bool:
        """Has it not beaten for too long, on a disk that would take the beat?"""
        now_s, path = time.monotonic(), self._directory / files.KEEPER_LOCK
        paused = now_s - self._looked_s > BEAT_LATE_S / 2
        self._looked_s = now_s
        beat_ns = path.stat().st_mtime_ns
        if beat_ns != self._beat_ns or paused:  # we ourselves stood still, or the machine did
            self._beat_ns, self._beat_seen_s = beat_ns, now_s
            return False
        return now_s - self._beat_seen_s > BEAT_LATE_S and os.access(path, os.W_OK)

    def _replace(self) -> str:
        up = files.lock(self._directory / files.UP_LOCK)
        if up is None:
            return ""  # an `up` or `down` is at work, and sees to it
        try:
            if not self._is_wanted():
                return ""
            hung = not self._unheld()
            found = processes.keepers(str(self._directory))
            for keeper in found:
                if hung or processes.stopped(keeper):
                    processes.kill(keeper, signal.SIGKILL)
            if processes.wait_gone(found, 2.0) or not self._unheld():
                return ""  # one that begins, or whose lock file somebody removed
            self._started = start_keeper(self._directory)
            self._await_lock()
            self._beat_ns = 0
            state = "stood still" if hung else "was gone"
            return f"the keeper of {self._directory} {state}: started another, pid {self._started}"
        finally:
            os.close(up)

    def _is_wanted(self) -> bool:
        """Shall anything run here? Not where somebody has ended it, or nobody can tell."""
        try:
            desired = files.read_desired(self._directory)
        except Damaged:
            return False
        with contextlib.suppress(Damaged):
            noted = files.read_kept(self._directory)
            if noted.desired.agents and noted.keeper is None:
                return False
        return bool(desired.agents) and processes.same(desired.state_dir, str(self._directory))

    def _await_lock(self) -> None:
        """Until the new keeper has it: who looks meanwhile would start one as well."""
        stop_at_s = time.monotonic() + TAKES_S
        while time.monotonic() < stop_at_s and self._unheld() and not self._reap():
            time.sleep(0.02)

    def _reap(self) -> bool:
        """Let go of a keeper of ours that has ended."""
        if not self._started:
            return False
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self._started, os.WNOHANG)[0] == 0:
                return False
        self._started = 0
        return True
