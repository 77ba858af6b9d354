"""A run directory of the agent whose members are made by hand, and a launcher that answers as it is told.

Why     what the runner asks, finds, follows and buries is seen without a launcher, a supervisor or a job.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import handle, leftovers, pulse
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import EXIT, START, STARTING
from bursar_agent.runner.model import StartRequest

NOW_US = 9_000_000
GONE = 2**22 + 1  # no pid is so large
HERE = os.getpid()
STARTED = {"pid": 41, "pid_start_ticks": 3, "start_boot_us": 5_000_000, "supervisor_pid": HERE}
REPORT: dict[str, Any] = {
    "attempt_id": "att_1", "rank": 0, "epoch": 4, "end_cause": "completed", "exit_code": 0, "signal": None,
    "message": "", "phase": "run", "boot_id": "b", "start_boot_us": 5, "end_boot_us": 8, "held_us": 3,
    "cpu_user_us": 1, "cpu_system_us": 2, "max_rss_bytes": 6, "log_bytes": 0, "log_dropped_bytes": 0,
}  # fmt: skip


class Connection:
    """A launcher's end of the line: it answers start requests with what it was given, in order."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.messages: list[dict[str, Any]] = []
        self.lost = False
        self.closed = 0

    async def request(self, body: bytes) -> dict[str, Any]:
        message = json.loads(body)
        self.messages.append(message)
        if message["op"] != "start":
            return {}
        results = []
        for _ in message["requests"]:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            results.append(answer)
        return {"results": results}

    def close(self) -> None:
        self.closed += 1

    def asked(self) -> list[list[str]]:
        """Attempt ids by message."""
        return [[one["attempt_id"] for one in each.get("requests", ())] for each in self.messages]


class Site:
    """A run directory whose members are made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Any] = []
        self.signals: list[tuple[int, int]] = []
        self.locks: list[int] = []
        self.runner = ProcessRunner(folder, self.events.append, inherited_variables=("PATH",), look_s=3600)

    def play(self, story: Callable[[ProcessRunner], Awaitable[None]]) -> None:
        async def whole() -> None:
            await self.runner.open()
            try:
                await story(self.runner)
            finally:
                await self.runner.close()

        asyncio.run(whole())

    def uses(self, *answers: dict[str, Any] | Exception) -> Connection:
        made = Connection(*answers)
        self.runner._connection = made  # type: ignore[assignment]
        return made

    def member(
        self,
        name: str = "att_1.0",
        mark: Any = None,
        start: Any = None,
        report: Any = None,
        lives: bool = False,
    ) -> Path:
        made = self.folder / "attempts" / name
        made.mkdir(parents=True)
        (made / STARTING).write_text(json.dumps({"taken": 2, "epoch": 4} if mark is None else mark))
        for file, record in ((START, start), (EXIT, report)):
            if record is not None:
                (made / file).write_text(json.dumps(record))
        if lives:
            self.locks.append(os.open(made / STARTING, os.O_RDONLY))
            fcntl.flock(self.locks[-1], fcntl.LOCK_EX)
        return made


def request(attempt_id: str = "att_1", **changes: Any) -> StartRequest:
    return StartRequest(attempt_id, **changes)


def starting(pid: int = HERE) -> dict[str, Any]:
    return {"state": "starting", "supervisor_pid": pid}


def sent(site: Site) -> list[int]:
    return [number for _, number in site.signals]


async def turns(many: int = 20) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def until(so: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to pass")


def patched(made: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still, nothing is killed, and signals are written down."""
    monkeypatch.setattr(handle, "_boot_us", lambda: NOW_US)
    monkeypatch.setattr(pulse, "boot_us", lambda: NOW_US)
    monkeypatch.setattr(handle, "_LOST_POLL_S", 0.0)
    monkeypatch.setattr(leftovers, "kill", lambda *_: 0)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: made.signals.append((fd, number)))
