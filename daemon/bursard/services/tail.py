"""The newest events of the log, kept in memory once for all who follow it.

Owns    the last events as they became durable, and of each caller the messages that were made of them.
Why     a follower that reads the log for itself costs a question to the store for each commit: a hundred of
        them made everybody's reads wait. Here an event is kept as it is heard, made into a message once for
        all streams of one caller, and who is further behind than this reads the log until it has caught up.
        Nothing piles up for a slow reader: it is the log that it falls back to.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from bursar.v1 import events_pb2 as pb
from bursard.access.identity import Identity
from bursard.engine import Engine
from bursard.events import Event, JobSubmitted
from bursard.services.eventviews import event_view
from bursard.services.names import Names
from bursard.services.sight import Sight
from bursard.store import Views

KEPT_MAX: Final = 512
"""Events that are kept; what is older is in the log."""
KEPT_BYTES_MAX: Final = 4 << 20
"""And so many bytes of scripts in them."""
MADE_MAX: Final = 128
"""Messages that are kept for one caller with several streams: of events further back they are made again."""
CALLERS_MAX: Final = 64
"""Callers for whom they are kept."""


class Heard(NamedTuple):
    """One event, as it became durable."""

    seq: int
    at: int
    actor: str
    event: Event

    @property
    def kind(self) -> str:
        """What it is called, such as `job-submitted`."""
        return str(self.event.__struct_config__.tag)

    @property
    def subject(self) -> str:
        """What it is about, as `events.subject.head_of` says of its bytes."""
        named = (getattr(self.event, name, "") for name in _SUBJECTS)
        return next((name for name in named if name), "")

    @property
    def bytes(self) -> int:
        """What it keeps in memory beside itself."""
        return len(self.event.spec.script) if isinstance(self.event, JobSubmitted) else 0


_SUBJECTS: Final = ("job_id", "attempt_id", "machine_id", "node_id", "budget", "name")


class _Made:
    """What one caller is shown of the newest events; None: nothing of it."""

    def __init__(self, identity: Identity, engine: Engine) -> None:
        self.sight, self.names = Sight(identity, engine.state), Names(engine.state)
        self.messages: OrderedDict[int, pb.Event | None] = OrderedDict()
        self.lock = asyncio.Lock()


class Tail:
    """Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: deque[Heard] = deque()
        self._bytes = 0
        self._last = engine.writer.durable_seq
        self._news: asyncio.Future[None] | None = None
        self._made: OrderedDict[Identity, _Made] = OrderedDict()
        engine.listeners.append(self._heard)

    def _heard(self, seq: int, event: Event, at: int, actor: str) -> None:
        if seq != self._last + 1:
            self._kept.clear()  # never without a gap: whoever is before it reads the log
            self._bytes = 0
        one = Heard(seq, at, actor, event)
        self._kept.append(one)
        self._last, self._bytes = seq, self._bytes + one.bytes
        while len(self._kept) > KEPT_MAX or (self._bytes > KEPT_BYTES_MAX and len(self._kept) > 1):
            self._bytes -= self._kept.popleft().bytes
        if self._news is not None:
            # All who wait hear of a whole commit at once.
            self._news.set_result(None)
            self._news = None

    def covers(self, after: int) -> bool:
        """Is everything after this event, as far as there is anything, kept here?"""
        return after >= self._last - len(self._kept)

    def since(self, after: int, most: int) -> list[Heard]:
        """The next events after this one, which `covers`; none: there are none yet."""
        skipped = len(self._kept) - (self._last - after)
        return list(islice(self._kept, skipped, skipped + most)) if after < self._last else []

    async def beyond(self, after: int) -> None:
        """Until there is an event after this one."""
        while self._last <= after:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)

    async def shown(self, heard: Sequence[Heard], identity: Identity) -> list[pb.Event]:
        """What this caller is shown of them, as messages: made once for all its streams."""
        made = self._made.get(identity)
        if made is None:
            made = self._made[identity] = _Made(identity, self._engine)
            if len(self._made) > CALLERS_MAX:
                self._made.popitem(last=False)
        self._made.move_to_end(identity)
        if any(one.seq not in made.messages for one in heard):
            async with made.lock:
                await self._make(made, [one for one in heard if one.seq not in made.messages])
                found = [made.messages[one.seq] for one in heard]
                while len(made.messages) > MADE_MAX:
                    made.messages.popitem(last=False)
        else:
            found = [made.messages[one.seq] for one in heard]
        return [message for message in found if message is not None]

    async def _make(self, made: _Made, heard: Sequence[Heard]) -> None:
        """In a reader's thread: what events are called may have to be asked of the store."""
        currency, sight, names = self._engine.state.currency, made.sight, made.names

        def work(views: Views) -> list[pb.Event | None]:
            return [
                event_view(
                    *one[:3], sight.told(one.event, views), names.of(one.seq, one.event, views), currency
                )
                if sight.shows(one.event, views)
                else None
                for one in heard
            ]

        if heard:
            for one, message in zip(heard, await self._engine.read(work), strict=True):
                made.messages[one.seq] = message
