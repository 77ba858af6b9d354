"""Open streams: asked again whether their caller may still have them, and whether it reads at all.

Why     a stream outlives what admitted it. A token that ends, a role that is taken away, or a reader that
        stopped must end it, and end it with words: what changed, or where to go on from.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

from bursar.clock import SECOND_US, Clock
from bursar.errors import BursarError, RateLimited
from bursard.access.authorize import refusal
from bursard.access.identity import Identity
from bursard.access.rules import Rule
from bursard.access.tokens import Authority

STALLED_US: Final = 60 * SECOND_US
"""How long one message may wait for its reader."""
SWEEP_S: Final = 5.0


class Session:
    """One open stream. Belongs to the task that serves it.

    Attributes:
        error: why the stream is being ended, told to its caller.
        sending_since: boot time since which a message waits for the reader; 0 while none does.
        opening: the head of the answer on its way; None before the first message.
        resume: how to go on after the last message, such as `events --after 17`; empty when nothing is lost.
    """

    __slots__ = ("authorization", "error", "identity", "opening", "resume", "rule", "sending_since", "task")

    def __init__(self, identity: Identity, authorization: str, rule: Rule) -> None:
        self.identity = identity
        self.authorization = authorization
        self.rule = rule
        self.task = asyncio.current_task()
        self.error: BursarError | None = None
        self.sending_since = 0
        self.opening: asyncio.Future[None] | None = None
        self.resume = ""

    def end(self, error: BursarError) -> None:
        """End the stream, once, with this error."""
        if self.error is None and self.task is not None:
            self.error = error
            self.task.cancel()


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def enter_session(session: Session | None) -> None:
    """Bind the stream to this call's context."""
    _current.set(session)


def resume_at(words: str) -> None:
    """Remember where the reader of this call's stream could go on, should it fall behind."""
    session = _current.get()
    if session is not None:
        session.resume = words


def cut_off() -> bool:
    """Is the stream of this call ended because its caller may not have it any more, or does not read?"""
    session = _current.get()
    return session is not None and session.error is not None


class Sessions:
    """All open streams."""

    def __init__(self, authority: Authority, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self.open: set[Session] = set()

    def recheck(self) -> None:
        """End every stream whose caller lost what it was admitted on, or does not read."""
        now = self._clock.boot_us()
        for session in list(self.open):
            try:
                self._check(session, now)
            except BursarError as error:
                session.end(error)

    def _check(self, session: Session, now: int) -> None:
        identity = self._authority.renew(session.identity, session.authorization)
        if not set(session.identity.held) <= set(identity.held):
            raise refusal(identity, session.rule.action, what="this stream, since a role was taken away")
        since = session.sending_since
        if since and now - since >= STALLED_US:
            again = session.resume or "ask again"
            raise RateLimited(
                f"you fell behind: a message waited {STALLED_US // SECOND_US} s for its reader; {again}"
            )

    async def run(self) -> None:
        """Sweep for ever: tokens end by the clock, which no event tells."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.recheck()
