"""What a job's steps leave of themselves beside its progress file: which there were, and how each ended.

Owns    the file of records, one of a fixed size for each step: begun with it, and written again at its end.
Why     a script may go on after a step that failed, to an end that looks well. A step is no event and has no
        row; its member's end tells of it, once, so that a script of 10,000 steps costs one message.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bursar.steps import names

FILE: Final = "step-records"
"""Beside the progress file, in a directory that the job's account may write in."""
VARIABLE: Final = "BURSAR_PROGRESS_FILE"
RECORDS_MAX: Final = 16_384
"""So many are read; those of more steps are not told of."""
COMPLETED, FAILED, CANCELLED, TIME_LIMIT, CUT_OFF = (
    "completed",
    "failed",
    "cancelled",
    "time_limit",
    "cut_off",
)
STATES: Final = (CUT_OFF, COMPLETED, FAILED, CANCELLED, TIME_LIMIT)
"""By their number in a record. Cut off: its job ended before it, or it was killed."""
NAME_BYTES_MAX: Final = 28
_VERSION: Final = 1
_NOBODY: Final = 0xFFFF_FFFF
_RECORD: Final = struct.Struct("<BBBBIIIqq28sI")
BYTES: Final = _RECORD.size
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Told(NamedTuple):
    """One record. Times: microseconds of CLOCK_BOOTTIME; `ended_us` 0: it has not ended.

    Attributes:
        name: the last part of the program's own. rank: of its task that failed first; None: none did.
        exit_code: -1: none. signal: 0: none.
    """

    number: int
    name: str
    state: str
    exit_code: int
    signal: int
    rank: int | None
    tasks: int
    nodes: int
    begun_us: int
    ended_us: int


class Record:
    """The record of one step of the calling job. Where there is no room for one, it is not told of.

    Attributes:
        number: of the step in its member, from 0.
    """

    def __init__(self, env: Mapping[str, str], program: str, tasks: int, nodes: int) -> None:
        self.number = 0
        name = os.path.basename(program).encode("utf-8", "replace")[:NAME_BYTES_MAX]
        self._fields = (tasks, nodes, _now_us()), name
        folder = os.path.dirname(env.get(VARIABLE, ""))
        self._path = f"{folder}/{FILE}" if folder else ""
        try:
            # A record that is appended as a whole is nobody else's; at the end it is written where it stands.
            fd = os.open(self._path, _FLAGS | os.O_APPEND, 0o600)
        except OSError:
            self._path = ""
            return
        try:
            os.write(fd, self._packed(CUT_OFF, 0, 0, None, 0))
            self.number = os.lseek(fd, 0, os.SEEK_CUR) // BYTES - 1
        except OSError:
            self._path = ""
        finally:
            os.close(fd)

    def end(self, state: str, code: int, signal: int, rank: int | None) -> None:
        """How it ended; said once."""
        path, self._path = self._path, ""
        if not path:
            return
        with contextlib.suppress(OSError):  # a full disk costs the record, and nothing else
            fd = os.open(path, _FLAGS, 0o600)
            try:
                os.pwrite(fd, self._packed(state, code, signal, rank, _now_us()), self.number * BYTES)
            finally:
                os.close(fd)

    def _packed(self, state: str, code: int, signal: int, rank: int | None, ended_us: int) -> bytes:
        (tasks, nodes, begun_us), name = self._fields
        place = _NOBODY if rank is None else rank
        head = (_VERSION, STATES.index(state), code & 255, signal & 127)
        return _RECORD.pack(*head, place, tasks, nodes, begun_us, ended_us, name, 0)


def refused(env: Mapping[str, str], program: str, code: int) -> None:
    """Record a step that could not be: the script may go on after it as after any other."""
    Record(env, program, 1, 1).end(FAILED, code, 0, None)


def read(data: bytes) -> Iterator[Told]:
    """What records tell, in order. What is none, of whoever wrote into the file, is passed over."""
    whole = min(len(data) // BYTES, RECORDS_MAX) * BYTES
    for number, fields in enumerate(_RECORD.iter_unpack(data[:whole])):
        version, state, code, signal, rank, tasks, nodes, begun_us, ended_us, name, _ = fields
        sizes = 0 < nodes <= tasks <= names.STEP_TASKS_MAX and (rank < tasks or rank == _NOBODY)
        if version != _VERSION or state >= len(STATES) or signal > 64 or not sizes or begun_us < 0:
            continue
        text = name.rstrip(b"\0").decode("utf-8", "replace")
        text = "".join(char if char.isprintable() else "?" for char in text)
        if STATES[state] == CUT_OFF:
            ended_us = 0
        ended_us = max(ended_us, begun_us) if ended_us else 0
        known = ended_us and not signal
        yield Told(
            number,
            text,
            STATES[state],
            code if known else -1,
            signal,
            None if rank == _NOBODY else rank,
            tasks,
            nodes,
            begun_us,
            ended_us,
        )


def _now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
