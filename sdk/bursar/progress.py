"""Tell how far this job has come: two lines in any program, and nothing where it does not run under Bursar.

    from bursar import progress
    progress.report(step, total=10_000, samples=step * 64)

Owns    the writing of the progress file (docs/progress.md): as a whole, at most once a second, and at the end
        of the program what was told last.
Why     `bursar show` can then say what a step costs and how long the rest takes. A training must never end
        because this could not be written.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Mapping

import msgspec

from bursar.clock import SECOND_US, SystemClock
from bursar.errors import InvalidRequest
from bursar.model import ProgressFile

VARIABLE = "BURSAR_PROGRESS_FILE"
"""Where the file is; only a job of Bursar has it."""

EVERY_US = SECOND_US
"""The agent reads once a second: more often nobody would see."""


class Reporter:
    """Writes one progress file."""

    def __init__(self, path: str, boot_us: Callable[[], int]) -> None:
        """`path` empty: nowhere."""
        self._path = path
        self._boot_us = boot_us
        self._due_us = 0
        self._unwritten: ProgressFile | None = None

    @property
    def listens(self) -> bool:
        """Whether anybody will read it."""
        return bool(self._path)

    def due(self) -> bool:
        """Whether a report made now would be written at once."""
        return bool(self._path) and self._boot_us() >= self._due_us

    def report(self, told: ProgressFile) -> None:
        """Write it, or keep it for `flush` where the last was written within this second."""
        if not self._path:
            return
        self._unwritten = told
        if self.due():
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet. A full disk or a directory that is gone only means: not told."""
        if self._unwritten is None:
            return
        temporary = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            with open(temporary, "wb") as file:
                file.write(msgspec.json.encode(self._unwritten))
            os.replace(temporary, self._path)
        self._unwritten = None
        self._due_us = self._boot_us() + EVERY_US


def reporter(environ: Mapping[str, str]) -> Reporter:
    """The reporter of this process: of several on one node (torchrun), the first one alone tells."""
    first = environ.get("LOCAL_RANK", "0") == "0"
    made = Reporter(environ.get(VARIABLE, "") if first else "", SystemClock().boot_us)
    if made.listens:
        atexit.register(made.flush)
    return made


_own: Reporter | None = None


def report(step: int, *, total: int = 0, samples: int = 0, tokens: int = 0) -> None:
    """Say that so many steps are done, since the job's first attempt began. Cheap enough for every step.

    Args:
        total: that it wants to do. samples, tokens: done in these steps, by all processes together.

    Raises `InvalidRequest` for what is no count.
    """
    global _own
    try:
        told = msgspec.convert(
            {"step": step, "total": total, "samples": samples, "tokens": tokens}, ProgressFile, strict=True
        )
    except msgspec.ValidationError as problem:
        raise InvalidRequest(f"progress.report: {problem}") from None
    if _own is None:
        _own = reporter(os.environ)
    _own.report(told)
