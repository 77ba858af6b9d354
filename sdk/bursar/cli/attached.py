"""One call of `Jobs.Attach`, for a program that waits on descriptors: frames of a host there, and back.

Owns    the thread that carries the call, the packets, and when they are due.
Why     a terminal and connections are waited for by `poll`, a call of gRPC is not: its thread says by a pipe
        that something came. What is not taken here is not sent there: the stream holds 128 KiB. A daemon or a
        connection that is lost ends nothing of it: it is called again, with the number of the stream.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from bursar.errors import BursarError, ServerUnavailable, WrongState
from bursar.steps.far import Far
from bursar.steps.flow import Broken
from bursar.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from bursar.client import WireClient

Frame = tuple[int, int, bytes]

RANK_MAX: Final = 65_535
AGAIN_S: Final = 1.0
"""Between two calls of a daemon that was lost."""


class Attached:
    """The stream. All but `_carry` is called by one thread.

    Attributes:
        fd: readable when `frames` has something, or a signal came (`signal.set_wakeup_fd(wake_fd)`).
        opened: what was said of the member, once it was.
        closed: why it is over; None while it is not.
        lost: what is wrong with the way to the daemon; empty while nothing is.
    """

    def __init__(self, client: WireClient, job: str, rank: int, kind: str) -> None:
        self.opened: Any = None
        self.closed: str | None = None
        self.lost = ""
        self.far = Far(_now_us())
        self.fd, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._client = client
        self._asked = pb.AttachOpen(job=job, rank=rank, kind=kind, resumes=True)
        self._came: deque[pb.AttachAnswer | BursarError | None] = deque()
        self._again_at: float | None = None
        self._call()

    def _call(self) -> None:
        """Of a daemon; of one that was lost, the next."""
        self._again_at = None
        self._out: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._out.put(pb.AttachRequest(open=self._asked))
        self._thread = threading.Thread(target=self._carry, args=(self._out,), name="attach", daemon=True)
        self._thread.start()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        if self.opened is not None and self.closed is None:
            self._out.put(pb.AttachRequest(leave=True))
        self._out.put(None)
        self._thread.join(timeout=2.0)

    def _carry(self, out: queue.SimpleQueue[pb.AttachRequest | None]) -> None:
        last: BursarError | None = None
        try:
            for answer in self._client.attach(iter(out.get, None)):
                self._tell(answer)
        except BursarError as error:
            last = error
        except Exception as error:  # a defect: the loop must end all the same
            last = BursarError(f"the call broke: {error!r}")
        self._tell(last)

    def _tell(self, what: pb.AttachAnswer | BursarError | None) -> None:
        self._came.append(what)
        with contextlib.suppress(BlockingIOError):  # then it is awake
            os.write(self.wake_fd, b"\0")

    def flush(self) -> int:
        """Send what has to go; milliseconds until there may be more."""
        if self.opened is None or self.closed is not None:
            return 1000
        if self.lost:
            if self._again_at is not None and time.monotonic() >= self._again_at:
                self._call()
            return int(AGAIN_S * 1000)
        now = _now_us()
        for packet in self.far.packets(now):
            self._out.put(pb.AttachRequest(packet=packet))
        return max((self.far.due_us() - now) // 1000, 0) + 1

    def frames(self) -> Iterator[Frame]:
        """What has come. Raises `BursarError` for a call that failed."""
        try:
            while len(os.read(self.fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        while self._came:
            what = self._came.popleft()
            if isinstance(what, ServerUnavailable) and self.opened is not None:
                self._lose(what)
            elif isinstance(what, BursarError):
                raise what
            elif what is None:
                self.closed = self.closed or ""
            elif what.HasField("opened"):
                self._open(what.opened)
            elif what.HasField("packet"):
                try:
                    yield from self.far.take(what.packet, _now_us())
                except (Broken, ValueError) as problem:
                    raise ServerUnavailable(f"the stream of the member broke: {problem}") from None
            else:
                self.closed = what.closed

    def _lose(self, why: ServerUnavailable) -> None:
        """Call again in a while: what was started there goes on. Raises it where the daemon is too old."""
        if not self.opened.channel:
            raise ServerUnavailable(
                "the way to the daemon is gone, and what was started there is ended; the job goes on:"
                f" attach to {self.opened.number} again once the daemon answers"
            )
        self.lost = str(why) or "it does not answer"
        self._asked.resume = self.opened.channel
        self._out.put(None)
        self._again_at = time.monotonic() + AGAIN_S

    def _open(self, opened: pb.AttachOpened) -> None:
        before, self.opened = self.opened, opened
        if before is None:
            return
        if (before.attempt_id, before.channel) != (opened.attempt_id, opened.channel):
            raise WrongState(f"what was started there is ended: job {opened.number} runs anew since then")
        self.lost = ""
        self.far.again(_now_us())


def _now_us() -> int:
    return time.monotonic_ns() // 1000
