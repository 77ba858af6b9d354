"""A real runner in a directory of a test: starts, what it said, and an end that leaves nothing behind.

Why     several test files and benches play with real processes; each waits by a condition with a deadline,
        never by a guess.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bursar.codec.launch import launch_to_bytes
from bursar.errors import NotFound
from bursar.model import Launch
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import EXIT, START, UNWRITTEN_BYTES, marker_of, place_of
from bursar_agent.runner.model import Ended, ExitReport, RunnerEvent, StartRequest, StopRequest

DEADLINE_S = 120.0


class Bench:
    """One runner in one directory, and what it said."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.events: list[RunnerEvent] = []
        self.runner = ProcessRunner(directory, self.events.append, **settings)

    def dir(self, attempt: str) -> Path:
        """Where the attempt keeps its files."""
        return self.directory / "attempts" / f"{attempt}.0"

    async def start(self, attempt: str, script: str = "", **fields: Any) -> str:
        """Ask for a start; `starting`, `already` or `refused`."""
        return (await self.runner.start([request(attempt, script, **fields)]))[0].state

    async def ended(self, attempt: str) -> ExitReport:
        """Wait for its end."""

        def find() -> ExitReport | None:
            return next(
                (e.report for e in self.events if isinstance(e, Ended) and e.report.attempt_id == attempt),
                None,
            )

        report: ExitReport = await until(find)
        return report

    async def run(self, attempt: str, script: str = "", **fields: Any) -> ExitReport:
        """From its start to its end."""
        assert await self.start(attempt, script, **fields) == "starting"
        return await self.ended(attempt)

    async def log_has(self, attempt: str, text: bytes) -> None:
        """Wait until its log holds `text`."""
        await until(lambda: text in self.runner.read_log(attempt, 0, 0, 1 << 20)[0])

    async def log_line(self, attempt: str, line: int = 0) -> str:
        """Wait for a whole line of its log."""

        def read() -> str | None:
            try:
                lines = self.runner.read_log(attempt, 0, 0, 1 << 20)[0].decode().split("\n")
            except NotFound:
                return None  # the start is on its way
            return lines[line] if len(lines) > line + 1 else None

        found: str = await until(read)
        return found

    def recorded(self, attempt: str, record: str = START) -> bool:
        """Is a record of it written?"""
        try:
            return (self.dir(attempt) / record).stat().st_size > UNWRITTEN_BYTES
        except FileNotFoundError:
            return False

    def supervisor(self, attempt: str) -> int:
        """The pid of its supervisor, once that has recorded the start, or the end of a job of no length."""
        end = time.monotonic() + DEADLINE_S
        while not (written := [one for one in (START, EXIT) if self.recorded(attempt, one)]):
            assert time.monotonic() < end, "not in time"
            time.sleep(0.005)
        return int(json.loads((self.dir(attempt) / written[0]).read_text())["supervisor_pid"])

    async def launcher_pid(self) -> int:
        """The pid of the launcher, started if need be."""
        return int((await (await self.runner._launcher()).hello)["pid"])


def request(
    attempt: str,
    script: str = "",
    *,
    argv: Sequence[str] = (),
    setup: str = "",
    cwd: str = "",
    env: Mapping[str, str] | None = None,
    **more: Any,
) -> StartRequest:
    """A start with its launch: `more` are fields of the launch, or else go beside it."""
    told = {name: more.pop(name) for name in Launch.__struct_fields__ if name in more}
    launch = Launch(command=tuple(argv), script=script, setup=setup, workdir=cwd, env=env or {}, **told)
    return StartRequest(attempt, launch=launch_to_bytes(launch), **more)


def marker(directory: Path, member: str) -> str:
    """What processes and private directories of `member` are known by, with this run directory."""
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    try:
        return marker_of(member, place_of(fd))
    finally:
        os.close(fd)


async def until(probe: Callable[[], Any]) -> Any:
    """The first true value of `probe`, polled until the deadline."""
    end = time.monotonic() + DEADLINE_S
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def bench(directory: Path, **settings: Any) -> AsyncIterator[Bench]:
    """An open runner; afterwards everything it started is killed."""
    made = Bench(directory, **settings)
    await made.runner.open()
    try:
        yield made
    finally:
        for truth in await made.runner.adopt():
            if truth.state != "ended":
                await made.runner.stop(truth.attempt_id, truth.rank, StopRequest("cancelled", 0))
                await made.ended(truth.attempt_id)
        await made.runner.shutdown_launcher()
        await made.runner.close()


def name_of(pid: int) -> str:
    """What the kernel calls a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Is `pid` there and not a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def play(directory: Path, story: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
    """Run a story on a fresh loop; `settings` go to the runner."""

    async def main() -> None:
        async with bench(directory, **settings) as made:
            await story(made)

    asyncio.run(main())
