"""Every folder of an agent's directory, removed while the agent runs: it comes back, what ran in it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster import processes

from bursar.codec.launch import launch_to_bytes
from bursar.model import Launch
from bursar.v1 import agents_pb2 as pb
from bursar_agent import agent as core
from bursar_agent import app
from bursar_agent.app import App
from bursar_agent.link.fake import FakeDaemon
from bursar_agent.probes.machine import boot_id
from bursar_agent.runner import removed
from bursar_agent.settings import Settings
from bursar_agent.terminate import terminate

KEPT_BY_JOBS = ("run", "run/attempts")
"""Where supervisors work: without it a member can be neither stopped nor found."""


MARK = "sleep 271828.18"
"""What jobs of this file run, and nothing else does."""


class Site:
    """An agent in this process, its state directory, and a daemon that only listens."""

    def __init__(self, folder: Path) -> None:
        self.daemon = FakeDaemon(folder)
        self.daemon.welcome.meter_interval_us = 50_000
        self.state = folder / "here" / "agent"
        self.state.parent.mkdir()
        self.counted = 0

    async def enter(self) -> None:
        """Its agent comes, and says what it knows."""
        daemon, told = self.daemon, len(self.daemon.hellos)
        settings = Settings(server=daemon.address, name="n1", state_dir=self.state, simulate_gpus="H100:1")
        self.agent = asyncio.create_task(App(settings).run())
        await daemon.until(lambda: len(daemon.hellos) > told)

    async def leave(self) -> None:
        """It goes; its jobs stay."""
        self.agent.cancel()
        await asyncio.gather(self.agent, return_exceptions=True)

    def assign(self, script: str, epoch: int = 1) -> str:
        self.counted += 1
        name = f"att_{self.counted}"
        launch = launch_to_bytes(Launch(script=script, workdir="/"))
        one = pb.Assignment(
            attempt_id=name, boot_id=boot_id(), launch=launch, job_id=f"job_{self.counted}", grace_us=10**7
        )
        one.checkpoint_signal = "USR1"
        one.devices.add(index=0, milli=1000)
        self.daemon.send(pb.DaemonMessage(assign=pb.AssignBatch(epoch=epoch, assignments=[one])))
        return name

    async def heard(self, kind: str, name: str) -> Any:
        def found() -> list[Any]:
            return [one for one in self.daemon.bodies(kind) if one.attempt_id == name]

        await self.until(lambda: bool(found()))
        return found()[0]

    async def until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not so():  # noqa: ASYNC110  a disk has no event
                await asyncio.sleep(0.01)

    async def runs(self) -> str:
        """A job that goes on until it is told."""
        name = self.assign(f"echo begun; trap 'exit 7' TERM; {MARK} & wait")
        await self.heard("started", name)
        await self.until(lambda: (self.state / "run" / "attempts" / f"{name}.0" / "log").exists())
        return name

    def stop(self, name: str, epoch: int = 1) -> None:
        self.daemon.send(pb.DaemonMessage(stop=pb.Stop(epoch=epoch, attempt_id=name, cause="cancelled")))


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    made = Site(folder)
    await made.daemon.start()
    try:
        await made.enter()
        yield made
    finally:
        await made.leave()
        await terminate(made.state, members=True)
        await made.daemon.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "FOLDERS_S", 0.02)
    monkeypatch.setattr(core, "PROBE_INTERVAL_US", 20_000)


def folders(state: Path) -> list[str]:
    """All of them, by listing: what is for one member alone is not the agent's."""
    found = [Path(place) / name for place, names, _ in os.walk(state) for name in names]
    below = {path.relative_to(state) for path in found}
    owned = [path for path in below if path.parent not in (Path("run/attempts"), Path("run/free"))]
    return [".", *sorted(str(path) for path in owned if path.parent != Path("checkpoints"))]


def test_whatever_folder_is_removed_while_it_runs_the_agent_goes_on_by_itself(tmp_path: Path) -> None:
    """1. What ran in it ends, told once and charged for what was seen; all else goes on and can be stopped.
    2. The next job runs, and has its log. 3. The folder is there again. 4. Nothing is left of what ran.
    """

    async def story() -> None:
        async with site(tmp_path) as made:
            name = await made.runs()
            tried = folders(made.state)
            assert {".", "run", "run/attempts", "run/free", "run/spare", "spool", "signals"} < set(tried)
            for folder in tried:
                await made.until((made.state / folder).is_dir)
                shutil.rmtree(made.state / folder)
                if folder in (".", *KEPT_BY_JOBS):
                    end = await made.heard("exited", name)
                    assert (end.cause, end.message) == ("failed", removed.MESSAGE), folder
                    assert 0 < end.held_us < 60_000_000
                else:
                    made.stop(name)
                    end = await made.heard("exited", name)
                    assert end.cause == "cancelled", (folder, end)
                after = made.assign("echo said")
                end = await made.heard("exited", after)
                assert (end.cause, end.exit_code, end.log_bytes) == ("completed", 0, 5), (folder, end)
                name = await made.runs()
                await made.until((made.state / folder).is_dir)
            made.stop(name)
            await made.heard("exited", name)
            ends = [end.attempt_id for end in made.daemon.bodies("exited")]
            assert len(ends) == len(set(ends)) == made.counted

    asyncio.run(story())
    assert not processes(str(tmp_path))


@pytest.mark.parametrize("folder", KEPT_BY_JOBS)
def test_what_was_removed_while_no_agent_ran_leaves_nothing_that_the_next_one_does_not_know(
    tmp_path: Path, folder: str
) -> None:
    """It would be run a second time beside itself: the daemon hears of no such member and places it anew."""

    async def story() -> None:
        async with site(tmp_path) as made:
            name = await made.runs()
            runs = processes(MARK)
            assert runs
            await made.leave()
            assert processes(MARK) == runs
            shutil.rmtree(made.state / folder)
            await made.enter()
            assert processes(MARK) == []
            assert name not in [each.attempt_id for each in made.daemon.hellos[-1].attempts]
            end = await made.heard("exited", made.assign("echo said"))
            assert (end.cause, end.log_bytes) == ("completed", 5)

    asyncio.run(story())
