"""The queues of one user beyond those that every plan looks at, and whose turn it is.

Why     one user can have as many queues as jobs. Whatever a plan spends on them it spends before everybody
        else's jobs start, so it looks at few: at the first by priority and age, which are those that the user
        would have first, and at some others in turn, so that nothing that could start waits for ever behind
        what cannot.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

FIRST = 64
"""Queues of a crowd that every plan looks at, by priority and age."""
IN_TURN = 64
"""Queues of it that a plan looks at besides, each plan others."""

Queue = TypeVar("Queue")


class Rank(NamedTuple):
    """Lower comes first. order: of the job that opened the queue. serial: no two are the same."""

    falling_priority: int
    order: int
    serial: int


class Crowd(Generic[Queue]):
    """Queues in the order of their ranks, and a cursor that goes round behind the first of them. A change
    costs a search, however many there are.
    """

    def __init__(self, first: int = FIRST, in_turn: int = IN_TURN) -> None:
        self._first, self._in_turn = first, in_turn
        self._ranks: list[Rank] = []
        self._queues: dict[Rank, Queue] = {}
        self._serial = 0
        self._after: Rank | None = None
        """Behind it those begin whose turn it is; None: behind the first."""

    def __len__(self) -> int:
        return len(self._ranks)

    def rank_of(self, priority: int, order: int) -> Rank:
        """Of the next queue that would be opened with these."""
        return Rank(-priority, order, self._serial)

    def add(self, priority: int, order: int, queue: Queue) -> Rank:
        """Another queue, opened by the job of this order."""
        rank = self.rank_of(priority, order)
        self._serial += 1
        insort(self._ranks, rank)
        self._queues[rank] = queue
        return rank

    def remove(self, rank: Rank) -> None:
        """It is empty, or every plan looks at it from now on."""
        del self._ranks[bisect_left(self._ranks, rank)]
        del self._queues[rank]

    def first(self) -> Iterator[tuple[Rank, Queue]]:
        """Those that every plan looks at."""
        return ((rank, self._queues[rank]) for rank in self._ranks[: self._first])

    def _begin(self, more: Rank | None = None) -> int:
        """Where those begin whose turn it is, or would if there was one more."""
        if self._after is None:
            return self._first
        length, found = len(self._ranks), bisect_right(self._ranks, self._after)
        if more is not None:
            length, found = length + 1, found + (more < self._after)
        return found if self._first <= found < length else self._first

    def _in_their_turn(self) -> list[Rank]:
        """Of those behind the first, so many from where the cursor is, and on from the beginning."""
        begin, ranks = self._begin(), self._ranks
        found = ranks[begin : begin + self._in_turn]
        return found + ranks[self._first : min(begin, self._first + self._in_turn - len(found))]

    def shown(self) -> list[Queue]:
        """What the next plan looks at."""
        return [self._queues[rank] for rank in (*self._ranks[: self._first], *self._in_their_turn())]

    def turn(self) -> None:
        """A plan has looked at what was shown."""
        shown = self._in_their_turn()
        self._after = shown[-1] if shown else None

    def plans_until(self, rank: Rank) -> int:
        """After so many plans the one of this rank is looked at, if nothing changes; 0: by the next one.
        Also of one that would be added.
        """
        at, more = bisect_left(self._ranks, rank), None if rank in self._queues else rank
        if at < self._first:
            return 0
        behind = len(self._ranks) - self._first + (more is not None)
        return (at - self._begin(more)) % behind // self._in_turn

    @property
    def plans_for_all(self) -> int:
        """After so many plans all were looked at, if nothing changes."""
        return max(-(-(len(self._ranks) - self._first) // self._in_turn), 1)
