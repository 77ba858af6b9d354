"""Which bill counts, of those that were kept: found by what each part says of itself, without its lines.

Why     a log holds every bill that was ever kept, of thousands of lines each, and one of each source and
        period counts. What does not count is not made into lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from bursard.events.bills import BillHead
from bursard.reports.period import read_period
from bursard.store import EventFilter, Views

_AT_ONCE: Final = 8
"""Rows of one question: each may be of a million bytes."""
_KEPT: Final = EventFilter(kinds=("bill-kept",))


SAME: Final = ("parts", "source", "period", "currency", "cost")
"""What is the same in all that is kept under a name."""
_HEAD: Final = msgspec.json.Decoder(BillHead)


class Whole(NamedTuple):
    """A bill of which no part is missing: its first part, and the seqs of all of them in order."""

    head: BillHead
    seqs: tuple[int, ...]


class Kept:
    """Bills in the order of their keeping. `counting`: by source and period the one that was whole last."""

    def __init__(self) -> None:
        self.seen = 0
        self.counting: dict[tuple[str, str], Whole] = {}
        self._first: dict[str, BillHead] = {}
        self._whole: dict[str, tuple[int, ...]] = {}
        self._begun: dict[str, dict[int, tuple[int, BillHead]]] = {}

    def read(self, views: Views, upto: int | None = None) -> None:
        """Go on to an event, or to the last."""
        for seq, head in _heads(views, self.seen, upto):
            self.seen = seq
            self._add(seq, head)

    def first(self, name: str) -> BillHead | None:
        """What was kept first under a name: whatever else is of it says the same."""
        return self._first.get(name)

    def begun(self, name: str) -> BillHead | None:
        """A part of its newest keeping, while another one is missing."""
        return next((head for _, head in self._begun.get(name, {}).values()), None)

    def counts(self, head: BillHead) -> bool:
        """Is the bill of this part the one that counts?"""
        found = self.counting.get((head.source, head.period))
        return found is not None and found.head.name == head.name

    def seq_of(self, name: str, part: int) -> int | None:
        """Of the newest event that keeps a part."""
        if part in (begun := self._begun.get(name, {})):
            return begun[part][0]
        whole = self._whole.get(name)
        return whole[part] if whole is not None else None

    def is_begun(self, name: str, part: int) -> bool:
        """Has its newest keeping, of which another part is missing, this one?"""
        return part in self._begun.get(name, {})

    def _add(self, seq: int, head: BillHead) -> None:
        first = self._first.setdefault(head.name, head)
        if differs(first, head):
            return  # an older version took it; it is no part of what was kept first
        begun = self._begun.setdefault(head.name, {})
        if any(other.by != head.by for _, other in begun.values()):
            return
        begun.setdefault(head.part, (seq, head))
        if len(begun) == head.parts:
            parts = [begun[part] for part in sorted(begun)]
            whole = Whole(parts[0][1], tuple(at for at, _ in parts))
            for source, period in [*self.counting]:
                if source == whole.head.replaces and overlap(period, head.period):
                    del self.counting[source, period]
            self.counting[head.source, head.period] = whole
            self._whole[head.name] = whole.seqs
            del self._begun[head.name]


def overlap(one: str, other: str) -> bool:
    """Have two periods of bills an hour in common?"""
    first, second = read_period(one), read_period(other)
    return first.since < second.until and second.since < first.until


def may_meet(one: str, other: str) -> bool:
    """May a row of the one be of an hour of the other? A row begins in its period, and has no more hours than
    that has; so it may go on into the next one.
    """
    first, second = read_period(one), read_period(other)
    return all(
        mine.since < theirs.until + (theirs.until - theirs.since)
        for mine, theirs in ((first, second), (second, first))
    )


def differs(kept: BillHead, other: BillHead) -> list[str]:
    """What is not the same, as `source: 'a.csv', 'b.csv' now`."""
    both = ((name, getattr(kept, name), getattr(other, name)) for name in SAME)
    return [f"{name}: {was!r} then, {now!r} now" for name, was, now in both if was != now]


def _heads(views: Views, after: int, upto: int | None) -> Iterator[tuple[int, BillHead]]:
    while rows := views.events(after, _AT_ONCE, _KEPT):
        for row in rows:
            if upto is not None and row.seq > upto:
                return
            yield row.seq, _HEAD.decode(row.payload)
        after = rows[-1].seq
