"""Room for connections, before anybody has said who they are: whose are closed when there are too many.

Owns    how many connections each kind of caller and each caller may hold open, and which go when it is more.
Why     rooms of calls (`admission`) begin with an identity, so a connection that never calls is in none of
        them; but each holds a descriptor, and a process without descriptors answers nobody. Pure counting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

KEPT_SHARE = 8
"""One descriptor in so many is kept for the daemon's own files, and for what it asks of others."""
KEPT_MIN, KEPT_MAX = 64, 4_096
LISTENER_MAX = 16_384
"""Of one listener: the rooms of calls together are no larger, and each costs memory."""
HANDSHAKE_MS = 5_000
"""From a connection's first byte until both sides speak HTTP/2, TLS included: who says nothing is cut."""


class Kind(StrEnum):
    """Whose a connection is, as far as that can be known without a call."""

    OWN = "root and the daemon's account"
    ACCOUNT = "other accounts"
    PROVEN = "proven callers"
    STRANGER = "addresses without a proof"


class Held(NamedTuple):
    """One connection.

    Attributes:
        key: what tells it from others.
        caller: who has it: an account, a proven name, an address.
        program: which of the caller's programs has it; 0 where that is not known.
        arrived: in this order.
    """

    key: int
    kind: Kind
    caller: Hashable
    program: int
    arrived: int


class Room(NamedTuple):
    """How many connections callers of one kind may hold together, and each of them."""

    together: int
    each: int


class Shares(NamedTuple):
    """What of all descriptors is for connections: so many of each listener, by gRPC's own count."""

    unix: int
    tcp: int

    @classmethod
    def of(cls, descriptors: int, *, tcp: bool) -> Shares:
        """Some are kept back, and neither listener can take the other's."""
        kept = min(max(descriptors // KEPT_SHARE, KEPT_MIN), KEPT_MAX)
        left = max(descriptors - kept, 16)
        each = min(left // 2 if tcp else left, LISTENER_MAX)
        return cls(each, each if tcp else 0)

    def rooms(self) -> dict[Kind, Room]:
        """Less together than there are: whoever comes before the next look finds some free. Nodes come by
        TCP, once they have proven themselves, so most of that is theirs.
        """
        return {
            Kind.OWN: Room(self.unix // 4, self.unix // 4),
            Kind.ACCOUNT: Room(self.unix // 8, min(max(self.unix // 64, 8), 256)),
            Kind.PROVEN: Room(self.tcp * 5 // 8, min(max(self.tcp // 64, 8), 256)),
            Kind.STRANGER: Room(self.tcp // 8, min(max(self.tcp // 64, 8), 256)),
        }


def surplus(held: Iterable[Held], rooms: dict[Kind, Room]) -> list[Held]:
    """Those to close. Whoever holds most loses first: the last of many programs of a caller, the last of many
    callers. Of one program the newest goes; of who has proven nothing the oldest, which had time to.
    """
    found: list[Held] = []
    by_kind: dict[Kind, list[Held]] = {}
    for one in sorted(held, key=lambda one: one.arrived):
        by_kind.setdefault(one.kind, []).append(one)
    for kind, ones in by_kind.items():
        room = rooms[kind]
        if kind is Kind.STRANGER:
            ones.reverse()
        by_caller: dict[Hashable, list[Held]] = {}
        for one in ones:
            by_caller.setdefault(one.caller, []).append(one)
        kept: list[tuple[int, Held]] = []
        for mine in by_caller.values():
            if len(mine) > room.each:
                mine = _in_turn(mine)
            kept += enumerate(mine[: room.each])
            found += mine[room.each :]
        if len(kept) > room.together:
            kept.sort(key=lambda pair: pair[0])
            found += [one for _, one in kept[room.together :]]
    return found


def _in_turn(ones: Sequence[Held]) -> list[Held]:
    """The first of each program, the second of each, and so on."""
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, Held]] = []
    for one in ones:
        ranked.append((seen[one.program], one))
        seen[one.program] += 1
    ranked.sort(key=lambda pair: pair[0])
    return [one for _, one in ranked]
