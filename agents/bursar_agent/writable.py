"""Whether the agent can write its own directories: a few small files, made and removed again.

Owns    what is tried. Input: the state directory. Output: what is wrong, in words.
Why     a node whose disk is full, read-only or somebody else's ends one job after another without a start of
        any, and looks well. It is the machine that has to be mended, so the machine is asked, not the jobs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bursar_agent.runner.layout import ATTEMPTS, FREE

PROBE = ".probe"
PROBE_BYTES = 16 << 10
"""What a short job and its usage take."""

FOLDERS = (".", "spool", "signals", "devices", "checkpoints", "run", f"run/{ATTEMPTS}")
"""All that is written for a member. Those that are made when they are first needed may be missing."""
_MADE_LATE = frozenset(("signals", "devices"))

ANSWER_S_MAX = 10.0
"""A disk that takes longer to take a few small files takes none."""


class Writable:
    """The state directory, tried in a thread of its own: a disk may never answer.

    Args:
        run_fd: tells the run directory that launcher and supervisors have gone into.
    """

    def __init__(self, state: Path, run_fd: Callable[[], int], answer_s_max: float = ANSWER_S_MAX) -> None:
        self._state = state
        self._answer_s_max = answer_s_max
        self._run_fd = run_fd
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writable")
        self._try: asyncio.Future[str] | None = None

    async def trouble(self) -> str:
        """Why members cannot be started here; empty when they can. Who asks while it is tried gets the same
        answer.
        """
        trying = self._try
        if trying is None or trying.done():
            loop = asyncio.get_running_loop()
            # A copy: the runner may begin anew in another one while this one is looked at.
            fd = os.dup(self._run_fd())
            trying = self._try = loop.run_in_executor(self._thread, _trouble_and_close, self._state, fd)
        done, _ = await asyncio.wait((trying,), timeout=self._answer_s_max)
        if not done:
            return f"its state directory took no file within {self._answer_s_max:g} s"
        return trying.result()  # by now another may have begun to try anew

    def close(self) -> None:
        """Let go of the thread, unless it hangs."""
        self._thread.shutdown(wait=False)


def _trouble_and_close(state: Path, run_fd: int) -> str:
    try:
        return trouble(state, run_fd)
    finally:
        os.close(run_fd)


def trouble(state: Path, run_fd: int) -> str:
    """Why members cannot be started here; empty when they can. Blocking.

    Args:
        state: the agent's state directory.
        run_fd: of the run directory that launcher and supervisors have gone into.
    """
    for name in FOLDERS:
        folder = state / name
        if name in _MADE_LATE and not os.path.lexists(folder):
            continue
        try:
            _write(folder)
        except OSError as problem:
            where = "its state directory" if name == "." else f"{name} of its state directory"
            return f"its agent cannot write {where}: {problem.strerror or problem}"
    try:
        os.listdir(state / "run" / FREE)
        if not os.path.samestat(os.fstat(run_fd), os.stat(state / "run")):
            return (
                "run of its state directory is not the one it began with; put that back, or restart its agent"
            )
    except FileNotFoundError:
        pass  # the launcher makes it
    except OSError as problem:
        return f"its agent cannot read run/{FREE} of its state directory: {problem.strerror or problem}"
    return ""


def _write(folder: Path) -> None:
    """Make a directory with a file in it, as a member's is, durable, and remove both. Raises `OSError`."""
    place = folder / PROBE
    place.mkdir(mode=0o700, exist_ok=True)
    try:
        fd = os.open(place / "file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(bytes(PROBE_BYTES))
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
            os.unlink(place / "file")
    finally:
        place.rmdir()
