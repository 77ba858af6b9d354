"""Is the log what it was, and does the ledger follow from it (L1, L2, L4)?

Owns    the checks of `audit verify`, over rows in log order, whatever store they come from.
Why     the chain covers the events; charges are compared with the events they follow from (`hours`), and
        entries must balance per event, so an edit of any of the three tables is found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from bursard.events import (
    AttemptPlaced,
    ChargesCorrected,
    Event,
    MachineJoined,
    MemberEnded,
    MemberStarted,
    NodeBooted,
    NodeMetered,
    NodeRedated,
    NodeRemoved,
    PeriodClosed,
    decode,
)
from bursard.store import legs
from bursard.store.base import PostingRow
from bursard.store.chain import GENESIS, chain_hash
from bursard.store.hours import OpenHours
from bursard.store.ledger import Damaged

QUICK_EVENTS = 10_000
"""How much of the chain's end a quick check walks."""

_PROBLEMS_MAX = 100

_TELLING = tuple(
    f'{{"type":"{kind.__struct_config__.tag}"'.encode()
    for kind in (
        *(AttemptPlaced, MemberStarted, MemberEnded, NodeBooted, NodeMetered, NodeRemoved),
        *(ChargesCorrected, PeriodClosed, MachineJoined, NodeRedated),
    )
)
"""How payloads begin that charges follow from; the others need no decoding."""

ChainedEvent = tuple[int, int, str, bytes, bytes]


class Head(NamedTuple):
    """What the last commit said there is."""

    seq: int
    hash: bytes
    charges: int
    postings: int


class Start(NamedTuple):
    """The event before the first one that is there."""

    seq: int
    hash: bytes


def limited(problems: Iterator[str]) -> Iterator[str]:
    """The first hundred: a file that is wrong everywhere is said to be so once."""
    yield from itertools.islice(problems, _PROBLEMS_MAX)
    if next(problems, None) is not None:
        yield "… and more"


def check(
    head: Head,
    events: Iterable[ChainedEvent],
    charges: Iterable[tuple[Any, ...]] | None,
    postings: Iterable[PostingRow | Damaged] | None,
    start: Start | None = None,
    hours: OpenHours | None = None,
) -> Iterator[str]:
    """Problems, in log order. `events` may begin late: its first row is then the anchor.

    Args:
        start: what the events go on from, where that is known. hours: what was open there; it is left
            with what is open at the end.
    """
    groups = _Groups(charges) if charges is not None else None
    hours = hours if hours is not None else OpenHours()
    last, last_hash = start or Start(0, GENESIS)
    for position, (seq, at, actor, payload, stored) in enumerate(events):
        anchor = start is None and position == 0 and groups is None and seq > 1
        if not anchor:
            yield from _check_event(last, last_hash, (seq, at, actor, payload, stored))
        if groups is not None:
            yield from _check_charges(hours, groups, seq, at, payload)
        last, last_hash = seq, stored
    if (last, last_hash) != (head.seq, head.hash):
        yield f"the log ends at event {last}; the last commit wrote {head.seq}, or another hash"
    if groups is not None:
        yield from (f"charges of event {seq}, which is not there" for seq in groups.rest())
    if postings is not None:
        yield from _check_postings(postings, head.seq)


def _check_event(last: int, last_hash: bytes, event: ChainedEvent) -> Iterator[str]:
    seq, at, actor, payload, stored = event
    if seq != last + 1:
        yield f"event {last + 1} is missing: {seq} follows {last}"
    elif chain_hash(last_hash, seq, at, actor, payload) != stored:
        yield f"event {seq} does not match its hash: it or the one before was changed"


class _Groups:
    """Charge rows by event, in step with the walk over the events."""

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._groups = itertools.groupby(rows, key=lambda row: row[0])
        self._next = self._pull()
        self.strays: list[int] = []

    def _pull(self) -> tuple[int, list[tuple[Any, ...]]] | None:
        found = next(self._groups, None)
        return None if found is None else (found[0], list(found[1]))

    def take(self, seq: int) -> list[tuple[Any, ...]]:
        """The rows of event `seq`; those of events that were not walked are put aside."""
        while self._next is not None and self._next[0] < seq:
            self.strays.append(self._next[0])
            self._next = self._pull()
        if self._next is None or self._next[0] != seq:
            return []
        rows = self._next[1]
        self._next = self._pull()
        return rows

    def rest(self) -> list[int]:
        """Events that charges name and the walk never met."""
        self.take(2**63)
        return self.strays


def _check_charges(hours: OpenHours, groups: _Groups, seq: int, at: int, payload: bytes) -> Iterator[str]:
    event: Event | None = None
    if payload.startswith(_TELLING):
        try:
            event = decode(payload)
        except msgspec.MsgspecError as error:
            yield f"event {seq} cannot be read by this version: {error}"
    yield from hours.check(seq, event, groups.take(seq), at)


def _check_postings(rows: Iterable[PostingRow | Damaged], last_seq: int) -> Iterator[str]:
    before, first = 0, True
    for row in rows:
        seq = row.seq
        if seq < before:
            yield f"entries of event {seq} stand after those of event {before}"
        if (first or seq != before) and not 0 < seq <= last_seq:
            yield f"entries of event {seq}, which is not there"
        before, first = seq, False
        if isinstance(row, Damaged):
            yield f"entries of event {seq} ({row.kind}): {row.problem}"
        elif rest := legs.total(row.legs):
            yield f"entries of event {seq} ({row.kind}) sum to {rest} nanos, not 0"
