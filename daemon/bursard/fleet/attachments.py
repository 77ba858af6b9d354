"""Streams from outside into members of attempts: a person's terminal, connections to a job's ports.

Owns    which are open, their numbers, and what waits for their callers.
Why     a stream is carried unopened, as between two members of one attempt (`bursar.steps`); here its other
        end is a call (`Jobs.Attach`) in place of a member. What is dropped its ends send again, so nothing of
        it is kept, and a daemon that is lost ends none of them: who asked comes back with the number of the
        stream, for which what comes from its member waits a while after the start. So does one whose
        connection was lost, if it said that it does.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from bursar.errors import RateLimited, ServerUnavailable, WrongState
from bursard.fleet.link import AgentLink
from bursard.fleet.words import StepFrame
from bursard.state import AttemptRecord

KINDS: Final = ("program", "ports")
OF_ATTEMPT_MAX: Final = 64
"""Open at once: an agent holds four times as many streams of a member, its job's own among them."""
WAITING_BYTES_MAX: Final = 1 << 19
"""That wait for a caller; an end sends no more than a quarter of it unasked."""
PACKET_BYTES_MAX: Final = 1 << 16
RESUME_S: Final = 60.0
"""After a start of the daemon, or once its connection was lost, so long may a caller take to come back; then
what it had started is ended.
"""
ENDED_MAX: Final = 4_096
_CHANNEL_BITS: Final = 62
_FIRST: Final = 1 << _CHANNEL_BITS
"""Numbers from here on are the daemon's; those of steps are below (`bursar.steps.bridge`)."""


class Attachment:
    """One open stream.

    Attributes:
        heard: its host has said something: it need not be asked for again.
        closed: why it is over; None while it is not.
        of: who comes back for it when its connection is lost; empty: nobody does.
    """

    def __init__(
        self, attempt_id: str, rank: int, node_id: str, channel: int, kind: str, of: str = ""
    ) -> None:
        self.of = of
        self.attempt_id = attempt_id
        self.rank = rank
        self.node_id = node_id
        self.channel = channel
        self.kind = kind
        self.heard = False
        self.closed: str | None = None
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()

    def take(self, frame: StepFrame) -> None:
        """A piece from its member; what the caller does not read is dropped beyond a bound."""
        if frame.kind == "close":
            self.close(frame.data.decode("utf-8", "replace") or "lost")
        elif frame.kind == "data" and self._bytes < WAITING_BYTES_MAX:
            self.heard = True
            self._waiting.append(frame.data)
            self._bytes += len(frame.data)
            self._ready.set()

    def close(self, why: str) -> None:
        """It is over; the first reason stands."""
        if self.closed is None:
            self.closed = why
        self._ready.set()

    def follow(self, before: Attachment) -> None:
        """Go on in its place: what waited there waits here. Its own call is over."""
        self.heard, self.closed = True, before.closed
        self._waiting, self._bytes = before._waiting, before._bytes
        before._waiting, before._bytes = deque(), 0
        before.close("another call goes on with it")

    async def packet(self) -> bytes | None:
        """The next one; None once it is over and all were taken."""
        while not self._waiting and self.closed is None:
            self._ready.clear()
            await self._ready.wait()
        if not self._waiting:
            return None
        data = self._waiting.popleft()
        self._bytes -= len(data)
        return data


class Attachments:
    """All that are open.

    Args:
        link_of: the stream of a node's agent; None: out of contact.
        draw: so many random bits: no process of a job may guess the number of a stream.
        steady_s: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        link_of: Callable[[str], AgentLink | None],
        draw: Callable[[int], int] = secrets.randbits,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link_of = link_of
        self._draw = draw
        self._steady_s = steady_s
        self._began_s = steady_s()
        self._stopping = False
        self._ended: set[int] = set()
        """Numbers of streams that ended while others were awaited."""
        self._open: dict[int, Attachment] = {}

    def of(self, attempt_id: str) -> int:
        """How many are open to an attempt."""
        return sum(one.attempt_id == attempt_id for one in self._open.values())

    @property
    def _awaited(self) -> bool:
        """May streams of a daemon before this one still be asked for?"""
        return self._steady_s() - self._began_s < RESUME_S

    def begin(
        self, attempt: AttemptRecord, rank: int, kind: str, resume: int = 0, of: str = ""
    ) -> Attachment:
        """A new one to a member that runs; nothing is said to its node yet.

        Args:
            resume: the number of one of before the daemon's start, or of this caller, which goes on.
            of: who comes back for it when its connection is lost; empty: nobody does.

        Raises:
            WrongState: its node cannot be asked, or it cannot go on. RateLimited: too many are open.
            ServerUnavailable: it may go on once its node is back.
        """
        member = attempt.members[rank]
        link = self._link_of(member.alloc.node_id)
        before = self._open.get(resume) if resume else None
        if before is not None:
            same = (before.attempt_id, before.rank, before.kind) == (attempt.id, rank, kind)
            known = same and bool(of) and before.of == of
        else:
            known = _FIRST <= resume < 2 * _FIRST and self._awaited and resume not in self._ended
        if resume and not known:
            raise WrongState("what was started there is ended: the connection of who asked for it was lost")
        if link is None and resume:
            raise ServerUnavailable(f"node {member.node} is not back yet; try again in a second")
        if link is None:
            raise WrongState(f"node {member.node} is out of contact; try again when it is back")
        if not link.attaches:
            raise WrongState(f"the agent of node {member.node} is older; install this release there")
        if before is None and self.of(attempt.id) >= OF_ATTEMPT_MAX:
            raise RateLimited(f"{OF_ATTEMPT_MAX} are attached to this attempt already; one has to leave")
        channel = resume or _FIRST | self._draw(_CHANNEL_BITS)
        while not resume and channel in self._open:
            channel = _FIRST | self._draw(_CHANNEL_BITS)
        found = Attachment(attempt.id, rank, member.alloc.node_id, channel, kind, of)
        found.heard = bool(resume)
        if before is not None:
            found.follow(before)
        self._open[channel] = found
        return found

    def say(self, to: Attachment, kind: str, data: bytes = b"") -> None:
        """One piece for its member; dropped while its node is out of contact, or takes too little."""
        link = self._link_of(to.node_id)
        if link is not None:
            link.carry(
                StepFrame(
                    attempt_id=to.attempt_id,
                    from_rank=to.rank,
                    to_rank=to.rank,
                    channel=to.channel,
                    kind=kind,
                    data=data,
                )
            )

    def stop(self) -> None:
        """This daemon is about to end: what is open goes on, and its callers come back to the next one."""
        self._stopping = True

    def lose(self, one: Attachment) -> None:
        """The connection of its caller is gone: for a while it is kept for one who comes back."""
        if not one.of or self._stopping:
            self.end(one)
        elif self._open.get(one.channel) is one:
            asyncio.get_running_loop().call_later(RESUME_S, self.end, one)

    def end(self, one: Attachment) -> None:
        """Its caller has left, or its member: what it started is ended. Nothing, where another call goes on
        with it.
        """
        if self._open.get(one.channel) is not one:
            return
        del self._open[one.channel]
        if one.closed is None:
            one.close("")
            if self._awaited and len(self._ended) < ENDED_MAX:
                self._ended.add(one.channel)
            if not self._stopping:
                self.say(one, "close", b"who asked for it has left")

    def carry(self, frame: StepFrame, node_id: str) -> str | None:
        """A piece from a member to a caller. None: it was one, or is of one who may come back and to whom it
        is said again; else why it cannot be carried, empty for a piece that is none of ours.
        """
        if not frame.to_client or frame.channel < _FIRST:
            return ""
        one = self._open.get(frame.channel)
        if one is None and self._awaited and frame.channel not in self._ended:
            return None
        if one is None or (one.attempt_id, one.rank, one.node_id) != (
            frame.attempt_id,
            frame.from_rank,
            node_id,
        ):
            return "who asked for it has left"
        one.take(frame)
        return None

    def ended(self, attempt_id: str, why: str) -> None:
        """Its attempt has ended."""
        for one in [one for one in self._open.values() if one.attempt_id == attempt_id]:
            one.close(why)
