"""Quotas on attention: how many calls and streams one caller, and one kind of caller, may have at a time.

Owns    the limits, the counts, and the shares that are kept: agents and operators have rooms of their own, so
        that nobody else's calls, however many, keep a node or the person who must act out.
Why     a daemon answers everybody from one process; without limits two thousand idle followers of one user
        lock out the site. Pure counting: no clock, no I/O.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import msgspec

from bursar.errors import RateLimited
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity


class Kind(StrEnum):
    """Whose room a call takes place in."""

    AGENT = "agents"
    STAFF = "operators"
    USER = "users"
    STRANGER = "strangers"


class Room(msgspec.Struct, frozen=True):
    """Of one kind of caller.

    Attributes:
        calls, streams: at a time, all callers of the kind together; a stream is a call too.
        calls_each, streams_each: of one identity.
    """

    calls: int
    streams: int
    calls_each: int
    streams_each: int


ROOMS = {
    Kind.AGENT: Room(8_192, 8_192, 8_192, 8_192),
    Kind.STAFF: Room(1_500, 1_000, 1_000, 500),
    Kind.USER: Room(2_000, 1_000, 200, 100),
    Kind.STRANGER: Room(128, 64, 128, 64),
}
"""Streams are fewer than calls in each, so that followers leave room for calls that end."""
AGENT_STREAMS_EACH = 4
"""Of one node's token: a connection that is dying may overlap with the next."""


class Ticket(msgspec.Struct, frozen=True):
    """One call inside; it is given back once."""

    kind: Kind
    name: str
    is_stream: bool


class Admission:
    """Counts of what is going on."""

    def __init__(self, rooms: dict[Kind, Room] | None = None) -> None:
        self._rooms = rooms or ROOMS
        self._calls: Counter[tuple[Kind, str]] = Counter()
        self._streams: Counter[tuple[Kind, str]] = Counter()

    def enter(self, identity: Identity | None, action: Action | None, *, is_stream: bool) -> Ticket:
        """Let a call in. Raises `RateLimited` with the numbers and what to do."""
        kind, name = kind_of(identity, action), identity.name if identity is not None else ""
        room = self._rooms[kind]
        if is_stream:
            each = AGENT_STREAMS_EACH if identity is not None and identity.token_sha256 else room.streams_each
            self._check(self._streams, kind, name, each, room.streams, "streams")
        self._check(self._calls, kind, name, room.calls_each, room.calls, "calls")
        ticket = Ticket(kind, name, is_stream)
        self._count(ticket, 1)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The call has ended."""
        self._count(ticket, -1)

    def _count(self, ticket: Ticket, step: int) -> None:
        for counts in (self._calls, self._streams) if ticket.is_stream else (self._calls,):
            # A name that no node or user has stands for the sum of the kind.
            for name in (ticket.name, _ALL):
                counts[ticket.kind, name] += step
                if not counts[ticket.kind, name]:
                    del counts[ticket.kind, name]

    def _check(
        self, counts: Counter[tuple[Kind, str]], kind: Kind, name: str, each: int, total: int, what: str
    ) -> None:
        own, all_ = counts[kind, name], counts[kind, _ALL]
        if own >= each:
            raise RateLimited(
                f"{name or 'callers without identity'} already have {own} {what} open, the limit is {each};"
                " close some that are not needed (one `wait` can follow many jobs)",
                {"open": str(own), "limit": str(each), "what": what},
            )
        if all_ >= total:
            raise RateLimited(
                f"{kind.value} have {all_} {what} open, the limit is {total}; try again in a moment",
                {"open": str(all_), "limit": str(total), "what": what},
            )


_ALL = "\n"


def kind_of(identity: Identity | None, action: Action | None) -> Kind:
    """In whose room they call this."""
    if identity is None:
        return Kind.STRANGER
    if action is Action.CONNECT:
        return Kind.AGENT
    return Kind.STAFF if allowed(identity, Action.STEER_NODES) else Kind.USER
