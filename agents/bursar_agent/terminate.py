"""Ending everything under one state directory: jobs, supervisors, launcher.

Owns    `bursar-agent --terminate-all`, the second half of `bursar down`, and `--terminate-idle`, that of an
        `up` that failed; `--forsake`, after which nothing there is of its cluster any more. Input: the state
        directory.
Why     jobs outlive their agent on purpose, so somebody must be able to say: now really all of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bursar.clock import SystemClock
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursar_agent.mps import PROGRAM
from bursar_agent.runner import removed
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.model import AttemptTruth, RunnerEvent, StopRequest
from bursar_agent.sharing import Sharing
from bursar_agent.statedir import Forgotten, StateDir

log = logging.getLogger(__name__)

LOCK_WAIT_S = 10.0
END_WAIT_S = 15.0
ROOM_BYTES = 64 * 1024
"""What an end takes on a disk is less."""
_POLL_S = 0.05
_LOOK_S = 1.0
_OVERDUE_US = 3_000_000
"""A supervisor that hangs is given up within `END_WAIT_S`, in the three steps of `runner.pulse`."""


async def terminate(state_dir: Path, members: bool, forsaking: bool = False) -> int:
    """End every member at once, then the launcher; without `members` the launcher alone, unless one runs. How
    many there were. `forsaking`: then forget how they ended, and whose they were.

    Raises `InvalidRequest` while an agent still runs there, `StoreUnavailable` when some do not end.
    """
    if not (state_dir / "run").is_dir() and not forsaking:
        removed.kill_strays(str(state_dir / "run"))
        return 0
    state = await _lock(state_dir)
    heard = asyncio.Event()

    def on_event(_: RunnerEvent) -> None:
        heard.set()

    runner = ProcessRunner(state.run_directory(), on_event, look_s=_LOOK_S, overdue_us=_OVERDUE_US)
    await runner.open()
    try:
        running = {(t.attempt_id, t.rank) for t in await runner.adopt() if t.state != "ended"}
        if running and not members:
            return len(running)
        for key in running:
            try:
                await runner.stop(*key, StopRequest("cancelled", 0))
            except (BursarError, OSError) as problem:  # the others are to end all the same
                log.warning("stop failed", extra={"attempt_id": key[0], "problem": str(problem)})
        try:
            async with asyncio.timeout(END_WAIT_S):
                while any(_is_left(runner, one, state_dir) for one in await runner.adopt()):
                    heard.clear()
                    try:
                        await asyncio.wait_for(heard.wait(), 1.0)
                    except TimeoutError:
                        continue
        except TimeoutError:
            raise StoreUnavailable(
                f"some members under {state_dir} do not end; look for their processes with ps"
            ) from None
        sharing = Sharing(state.mps_dir, (), shutil.which(PROGRAM))
        sharing.resume()
        await sharing.end_all()
        sharing.close()
        await runner.shutdown_launcher()
        if forsaking:
            _forget_all(state, await runner.adopt())
        return len(running)
    finally:
        await runner.close()
        state.close()


async def forsake(state_dir: Path, cluster_id: str) -> int:
    """End every member of a cluster that is gone for good, and tell no daemon of any: what they used since it
    was told last is billed by nobody. Logs stay as long as they ever do. How many still ran.

    Raises `InvalidRequest` when what lies there is of another cluster, or while an agent runs there, else as
    `terminate`.
    """
    state = await _lock(state_dir)
    try:
        known = state.cluster_id()
    finally:
        state.close()
    if known != cluster_id:
        of = f"of cluster {known}" if known else "of no cluster"
        raise InvalidRequest(f"what lies under {state_dir} is {of}, not of {cluster_id}; nothing was done")
    return await terminate(state_dir, members=True, forsaking=True)


def _forget_all(state: StateDir, found: Sequence[AttemptTruth]) -> None:
    """No end of these is told to anybody any more. Raises `OSError`."""
    forgotten = Forgotten(state.path / "forgotten", SystemClock())
    try:
        for one in found:
            if (one.attempt_id, one.rank) not in forgotten:
                forgotten.add((one.attempt_id, one.rank), one.exit.log_bytes if one.exit else 1)
    finally:
        forgotten.close()
    state.forsake()


def _is_left(runner: ProcessRunner, member: AttemptTruth, state_dir: Path) -> bool:
    """Is there still something to wait for? On a disk that is full or read-only its supervisor cannot write
    down how it ended, and goes on trying until it can: then its processes must be gone.
    """
    if member.state == "ended":
        return False
    disk = os.statvfs(state_dir)
    full = disk.f_bavail * disk.f_frsize < ROOM_BYTES or bool(disk.f_flag & os.ST_RDONLY)
    return not full or runner.has_processes(member.attempt_id, member.rank)


async def _lock(state_dir: Path) -> StateDir:
    """Wait a little: the agent may just be on its way out."""
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
    while True:
        try:
            return StateDir(state_dir)
        except InvalidRequest:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_POLL_S)
