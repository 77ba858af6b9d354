"""A program inside a running job, for a program that asks: what is said to it, and what it answered.

Owns    the course of one call of `Jobs.Attach`: what opens it, packets out and in, output, the end.
Why     both clients do the same, one in a thread and one in an event loop (`aexecution`). What differs
        between them is how they wait; that is all that the two pumps have of their own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from bursar.errors import InvalidRequest, RateLimited, ServerUnavailable
from bursar.steps import frames
from bursar.steps.far import Far, program
from bursar.steps.flow import Broken
from bursar.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from bursar.results import Executed

_WAIT_US: Final = 1_000_000


class Execution:
    """One program. Not to be used by two threads at once; times are microseconds of any steady clock.

    Attributes:
        over: its end is known, or the stream ended.
    """

    def __init__(
        self, job: str, command: Sequence[str], rank: int, given: bytes, output_bytes_max: int
    ) -> None:
        if not command:
            raise InvalidRequest("command: is empty; name a program and its words")
        self._command = tuple(command)
        self._open = pb.AttachRequest(open=pb.AttachOpen(job=job, rank=rank, kind="program"))
        self._given, self._credit = given, frames.INPUT_BYTES_MAX
        self._input_over = not given
        self._most = output_bytes_max
        self._far = Far(steady_us())
        self._begun = self._asked = False
        self._out: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._code: int | None = None
        self._closed: str | None = None
        self.over = False

    def requests(self, now_us: int) -> list[pb.AttachRequest]:
        """What has to go now."""
        found = [] if self._asked else [self._open]
        self._asked = True
        if self._begun:
            self._say_input()
            found += [pb.AttachRequest(packet=packet) for packet in self._far.packets(now_us)]
        return found

    def due_us(self, now_us: int) -> int:
        """So long until `requests` is to be asked again at the latest."""
        return max(self._far.due_us() - now_us, 0) + 1_000 if self._begun else _WAIT_US

    def take(self, answer: pb.AttachAnswer, now_us: int) -> None:
        """What came. Raises `BursarError`."""
        if answer.HasField("opened"):
            self._begin(answer.opened.node)
        elif answer.HasField("packet"):
            try:
                for kind, number, data in self._far.take(answer.packet, now_us):
                    self._hear(kind, number, data)
            except (Broken, ValueError) as problem:
                raise ServerUnavailable(f"the stream of the member broke: {problem}") from None
        else:
            self._closed, self.over = answer.closed, True

    def result(self) -> Executed:
        """How it ended, and what it wrote. Raises `ServerUnavailable` where that is not known."""
        from bursar.results import Executed

        if self._code is None:
            why = self._closed or "the way to the job is gone"
            raise ServerUnavailable(f"{why}; the program there was ended")
        streams = {kind: b"".join(data for of, data in self._out if of == kind) for kind in (1, 2)}
        return Executed(exit_code=self._code, stdout=streams[1], stderr=streams[2])

    def _begin(self, node: str) -> None:
        told = program(self._command, {}, node=node, reads=not self._input_over)
        data = json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if len(data) > frames.FRAME_BYTES_MAX:
            raise InvalidRequest(f"command: has {len(data)} bytes; at most {frames.FRAME_BYTES_MAX} go")
        self._far.say(frames.SPEC, 0, data)
        self._begun = True

    def _say_input(self) -> None:
        while self._given and self._credit > 0 and not self._far.full:
            part = self._given[: min(self._credit, frames.CHUNK_BYTES)]
            self._given = self._given[len(part) :]
            self._credit -= len(part)
            self._far.say(frames.STDIN, 0, part)
        if not self._given and not self._input_over:
            self._input_over = True
            self._far.say(frames.STDIN_END)

    def _hear(self, kind: int, number: int, data: bytes) -> None:
        if kind in (frames.OUT, frames.ERR):
            self._bytes += len(data)
            if self._bytes > self._most:
                raise RateLimited(
                    f"it wrote more than {self._most} bytes (output_bytes_max), and was ended; let it write"
                    " to a file"
                )
            self._out.append((2 if kind == frames.ERR else 1, data))
        elif kind == frames.CREDIT:
            self._credit += number
        elif kind == frames.EXIT and len(data) == 2:
            self._code = data[0] or (128 + data[1] if data[1] else 0)
        elif kind == frames.DONE:
            self.over = True


class Pump:
    """Carries one execution for a thread that waits; requests are asked for by another one."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._changed = threading.Condition()
        self._ended = False

    @property
    def over(self) -> bool:
        """Nothing more is to be taken."""
        return self._execution.over

    def requests(self) -> Iterator[pb.AttachRequest]:
        """What goes, until it is over."""
        while True:
            with self._changed:
                found = self._execution.requests(steady_us())
                if not found:
                    if self._ended or self._execution.over:
                        return
                    self._changed.wait(self._execution.due_us(steady_us()) / 1e6)
            yield from found

    def take(self, answer: pb.AttachAnswer) -> None:
        """What came. Raises `BursarError`."""
        with self._changed:
            self._execution.take(answer, steady_us())
            self._changed.notify_all()

    def result(self) -> Executed:
        """How it ended. Raises `ServerUnavailable` where that is not known."""
        return self._execution.result()

    def end(self) -> None:
        """Nobody waits for it any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def steady_us() -> int:
    """Microseconds of a clock that never jumps."""
    return time.monotonic_ns() // 1000
