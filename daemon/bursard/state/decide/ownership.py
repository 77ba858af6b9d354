"""The shares of a node as the ledger asks for them: of live members, and of those that ended since."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from bursar.model import MemberAllocation, NodeFacts
from bursar.resources import MILLI
from bursard.events import NodePriced
from bursard.ledger import NEVER, Held, OwnedSpan, PriceInForce, Share, cut_at, owned
from bursard.state.records import MemberRecord, NodeRecord
from bursard.state.reservations import Windows

FREE_KINDS: Final = ("idle", "keep-alive")
"""What is told of a node that somebody could have used."""


def of(
    node: NodeRecord,
    to_at: int,
    shares: Sequence[Held],
    kind: str,
    priced: Sequence[NodePriced] = (),
    after: tuple[int, str] = (NEVER, ""),
    reserved: Windows = (),
    cuts: Sequence[int] = (),
) -> list[OwnedSpan]:
    """Who owns a node's time from `through` to an instant.

    Args:
        shares: what is charged in it; those of members that ended are added.
        priced: prices that come into force with the same decision.
        after: since when what nobody holds is of another kind, and of which.
        reserved: when the node is kept for somebody: then what is free of it is `reserved`.
        cuts: where a part ends too, ascending.
    """
    changes = [PriceInForce(event.since, event.price_id, event.rates, event.cost) for event in priced]
    found = [*shares, *_ended(node, to_at)]
    cut = list(cut_at(node.spans(to_at, changes), cuts))
    return list(owned(node.id, node.axis_start, cut, found, kind, _turns(kind, after, reserved)))


def _turns(kind: str, after: tuple[int, str], reserved: Windows) -> list[tuple[int, str]]:
    """When the kind of what nobody holds changes, and to which. Of a machine that is off, or of which nobody
    knows, nothing is kept for anybody.
    """
    later_at, later = after if after[1] else (NEVER, kind)
    starts = [start for start, _ in reserved]
    found: list[tuple[int, str]] = []
    for at in sorted({later_at, *(edge for window in reserved for edge in window)}):
        what = later if at >= later_at else kind
        place = bisect_right(starts, at) - 1
        if what in FREE_KINDS and place >= 0 and at < reserved[place][1]:
            what = "reserved"
        if what != (found[-1][1] if found else kind):
            found.append((at, what))
    return found


def _ended(node: NodeRecord, to_at: int) -> list[Held]:
    """What members that are gone held before `to_at`; the rest of theirs waits for the next interval."""
    return [
        Held(
            start=usage.start,
            end=min(usage.end, to_at),
            started_at=usage.started_at,
            rates=usage.rates,
            share=_share(node.facts, usage.alloc) if usage.alloc is not None else None,
        )
        for usage in node.ended
    ]


def held(node: NodeRecord, member: MemberRecord, held_us: int) -> Held:
    """What a member held since it was charged last, up to its counter."""
    return Held(
        start=member.started_at + member.charged_us,
        end=member.started_at + held_us,
        started_at=member.started_at,
        rates=member.alloc.rates,
        share=_share(node.facts, member.alloc),
    )


def _share(facts: NodeFacts, alloc: MemberAllocation) -> Share:
    return Share(
        gpu=(sum(device.milli for device in alloc.devices), MILLI * len(facts.devices)),
        cpu=(alloc.cpu_milli, facts.cpu_milli),
        memory=(alloc.memory_bytes, facts.memory_bytes),
    )
