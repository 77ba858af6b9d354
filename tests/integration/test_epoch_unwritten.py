"""A daemon that restarted speaks for a new epoch, which an agent on a read-only disk cannot keep: its jobs go
on and end as they end, and nothing is started there until it can.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_removed_folders import Site, site

from bursar_agent import agent as core
from bursar_agent.runner import stopping
from bursar_agent.statedir import StateDir


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PROBE_INTERVAL_US", 20_000)


async def restart(made: Site, epoch: int) -> None:
    """The daemon dies and comes back."""
    daemon, told = made.daemon, len(made.daemon.hellos)
    await daemon.kill()
    daemon.welcome.epoch = epoch
    await daemon.start()
    await daemon.until(lambda: len(daemon.hellos) > told)


def condition(made: Site) -> str:
    found: list[Any] = made.daemon.bodies("condition")
    return str(found[-1].trouble) if found else ""


def test_jobs_outlive_a_daemon_whose_epoch_their_read_only_disk_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, takes = StateDir._replace, True

    def replaced(state: StateDir, name: str, data: bytes) -> None:
        if not takes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        replace(state, name, data)

    leave_stop = stopping.leave_stop

    def left(*words: Any) -> None:
        if not takes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        leave_stop(*words)

    monkeypatch.setattr(StateDir, "_replace", replaced)
    monkeypatch.setattr(stopping, "leave_stop", left)

    async def story() -> None:
        nonlocal takes
        async with site(tmp_path) as made:
            one, two = await made.runs(), await made.runs()
            takes = False
            await restart(made, 2)
            await made.until(lambda: "agent.json" in condition(made))
            assert condition(made) == (
                "its agent cannot write which daemon it obeys (agent.json): Read-only file system"
            )
            never = made.assign("echo never", 2)
            end = await made.heard("exited", never)
            assert (end.started, "Read-only file system" in end.message) == (False, True)
            # The daemon that was replaced is refused all the same, as long as this agent lives.
            made.stop(two)
            made.stop(one, 2)
            end = await made.heard("exited", one)
            # Its processes were ended, since its supervisor could not be told; the daemon knows its order.
            assert (end.cause, end.started) == ("failed", True)
            assert not [each for each in made.daemon.bodies("exited") if each.attempt_id == two]
            # A second restart, whose daemon is told of the highest epoch that is obeyed here.
            await restart(made, 3)
            hello = made.daemon.hellos[-1]
            assert (hello.epoch, [(each.attempt_id, each.running) for each in hello.attempts]) == (
                2,
                [(two, True)],
            )
            assert hello.trouble
            takes = True
            await made.until(lambda: condition(made) == "")
            assert json.loads((made.state / "agent.json").read_text())["epoch"] == 3
            made.stop(two, 3)
            assert (await made.heard("exited", two)).cause == "cancelled"
            last = await made.heard("exited", made.assign("true", 3))
            assert last.cause == "completed"

    asyncio.run(story())
