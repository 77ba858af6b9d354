"""One process that the keeper keeps: started or adopted, watched, started again.

Owns    when it starts again (0.2 s after an end, doubling to 5 s, from the start again after 10 s of
        health), and when it counts as hung: stopped for 5 s, silent for 30 s after it was ready, or
        idle for 60 s before.
Why     a process that stands still is as bad as a dead one, and nobody but the keeper would notice.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from bursar.aside import clear_for_file, own_directory
from bursar.local import processes
from bursar.local.files import ChildSpec
from bursar.local.processes import Process

BACKOFF_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
HEALTHY_AFTER_S: Final = 10.0
STOPPED_S: Final = 5.0
SILENT_S: Final = 30.0
"""As WatchdogSec of the units: a daemon that is ready says three times as often that it lives."""
STOP_S: Final = 8.0
"""Time each of the agents, then the daemon, has to end before it is killed."""
START_S: Final = 60.0
"""A process that is not ready yet, and has used no CPU for so long, will not become ready."""
LOG_BYTES_MAX: Final = 16 << 20
"""A log larger than this is set aside, once, when its process starts."""


class Child:
    """One process that is kept. `now_s` is the keeper's monotonic clock everywhere."""

    def __init__(self, spec: ChildSpec, log: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.log = log
        self.process: Process | None = None
        self.popen: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.ready = False
        self.start_at_s = 0.0
        self.failures = 0
        self._backoff_s = BACKOFF_S
        self._started_at_s = 0.0
        self._heard_at_s = 0.0
        self._stopped_at_s = -1.0
        self._cpu_ticks = -1

    def adopt(self, before: Process | None, ready: bool) -> bool:
        """Keep the process that runs already, if one does."""
        if before is None or not processes.alive(before) or not self._open(before):
            return False
        self.ready = ready
        return True

    def start(self, env: Mapping[str, str], directory: Path) -> None:
        """Start it, in a session of its own, with its output in its log. Raises `OSError`."""
        with self._output() as log:
            self.popen = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=env,
                start_new_session=True,
            )
        # One that has ended already is not reaped yet, so its pid is still its own.
        self._open(processes.noted(self.popen.pid) or Process(self.popen.pid, -1))

    def _output(self) -> BinaryIO:
        """Its log; nowhere when there can be none: what is kept matters more than what it says."""
        try:
            own_directory(self.log.parent)
            clear_for_file(self.log)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))
            return self.log.open("ab")
        except OSError:
            return Path(os.devnull).open("ab")

    def _open(self, process: Process) -> bool:
        try:
            self.pidfd = os.pidfd_open(process.pid)
        except OSError:
            if self.popen is None:
                return False
            self.pidfd = -1  # it ended before it could be watched; the keeper sees it dead
        self.process = process
        self.ready = False
        self._started_at_s = self._heard_at_s = time.monotonic()
        self._stopped_at_s, self._cpu_ticks = -1.0, -1
        return True

    def heard(self, message: bytes, now_s: float) -> None:
        """It said something on the notification socket, as to systemd."""
        self._heard_at_s = now_s
        self.ready = self.ready or b"READY=1" in message or b"WATCHDOG=1" in message

    def forgive(self, pause_s: float) -> None:
        """The keeper itself stood still for so long: nobody's silence in it counts."""
        self._heard_at_s += pause_s
        if self._stopped_at_s >= 0:
            self._stopped_at_s += pause_s

    def hung(self, now_s: float) -> str:
        """Why it counts as hung; empty while it lives."""
        seen = processes.glance(self.process.pid) if self.process else None
        if seen is None:
            return ""
        if seen.state == "T":
            self._stopped_at_s = self._stopped_at_s if self._stopped_at_s >= 0 else now_s
            return f"stopped for {STOPPED_S:g} s" if now_s - self._stopped_at_s >= STOPPED_S else ""
        self._stopped_at_s = -1.0
        if not self.ready and seen.cpu_ticks != self._cpu_ticks:
            self._cpu_ticks, self._heard_at_s = seen.cpu_ticks, now_s
        limit_s = SILENT_S if self.ready else START_S
        return f"no sign of life for {limit_s:g} s" if now_s - self._heard_at_s > limit_s else ""

    def ended(self, now_s: float) -> int | None:
        """Note its end and when it starts again; its exit code, None when it was adopted."""
        code: int | None = None
        if self.popen is not None:
            code = self.popen.wait()
            self.popen = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.process = None
        self.ready = False
        if now_s - self._started_at_s >= HEALTHY_AFTER_S:
            self._backoff_s = BACKOFF_S
        if code is not None and code > 0:  # a signal from outside is nobody's failure
            self.failures += 1
        self.start_at_s = now_s + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        return code

    def cannot_start(self, now_s: float) -> None:
        """It could not even be started; try again later."""
        self._started_at_s = now_s
        self.failures += 1
        self.ended(now_s)

    def hurry(self) -> None:
        """Somebody asked for it: what went wrong before is over."""
        self._backoff_s, self.start_at_s = BACKOFF_S, 0.0


def child_env() -> dict[str, str]:
    """The environment of the children: the keeper's, with absolute import paths, no client settings."""
    away = (
        "BURSAR_SERVER", "BURSAR_TOKEN", "BURSAR_KEPT_IN", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
    )  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k not in away}
    if env.get("PYTHONPATH"):
        parts = (os.path.abspath(part) for part in env["PYTHONPATH"].split(os.pathsep) if part)
        env["PYTHONPATH"] = os.pathsep.join(parts)
    return env
