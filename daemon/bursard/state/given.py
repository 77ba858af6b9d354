"""What budgets have beside the limits of their documents: who gave it, when and why.

Owns    the postings that `budget show` lists, and which idempotency keys were used for them. The money itself
        is in the ledger, in the account of the period that it was given to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from bursar.clock import DAY_US

KEPT_US: Final = 400 * DAY_US
"""So long what people gave is listed after its period, and its key is known."""
CARRIED_US: Final = 45 * DAY_US
"""So long what was carried over alone: a clock that was ahead is led back through the periods it came by."""
CARRY_OVER: Final = "carry-over"
BROUGHT_BACK: Final = "what running jobs brought back"
"""The reason of money that came into an earlier period with its jobs, out of one that a clock ahead led to:
it is there for good."""


class Posting(msgspec.Struct, frozen=True, array_like=True):
    """One amount that a budget was given, or that was taken from it, in one of its periods.

    Attributes:
        kind: `grant`, `transfer`, `carry-over` or `approval`. nanos: below zero what was taken; an approval
            gives nothing.
        by, reason: who did it and why. key: it was asked for with; empty: none.
        other: of a transfer, the budget at its other end. other_period: of a carry-over, the period there; of
            an approval, when it ends.
    """

    kind: str
    budget: str
    period_start: int
    nanos: int
    at: int
    by: str
    reason: str
    key: str = ""
    other: str = ""
    other_period: int = 0


class Approval(msgspec.Struct, frozen=True, array_like=True):
    """What somebody approved of a budget last, as `BudgetApproved` says it."""

    period_start: int
    limit_nanos: int
    stages: tuple[tuple[str, int], ...]
    until: int
    ceiling_nanos: int
    at: int
    by: str
    reason: str


class Postings:
    """All that are kept, by budget and period."""

    def __init__(self, kept: Iterable[Posting] = ()) -> None:
        self._by_period: dict[tuple[str, int], list[Posting]] = {}
        self._keyed: dict[tuple[str, str], Posting] = {}
        for posting in kept:
            self.add(posting)

    def __iter__(self) -> Iterator[Posting]:
        """In the order of budgets and periods, then of writing."""
        for _, postings in sorted(self._by_period.items()):
            yield from postings

    def add(self, posting: Posting) -> None:
        """One more."""
        self._by_period.setdefault((posting.budget, posting.period_start), []).append(posting)
        if posting.key and not (posting.other and posting.nanos > 0):  # of a transfer, the end that gave
            self._keyed[posting.by, posting.key] = posting

    def of(self, budget: str, period_start: int) -> tuple[Posting, ...]:
        """Of one budget in one period, in the order of writing."""
        return tuple(self._by_period.get((budget, period_start), ()))

    def keyed(self, by: str, key: str) -> Posting | None:
        """What somebody has asked for with this key."""
        return self._keyed.get((by, key)) if key else None

    def carried(self, budget: str, after: int) -> list[tuple[int, int, int]]:
        """(from, to, nanos) of what went on into periods that began after then, the latest first."""
        found = []
        for name, period in sorted(self._by_period, reverse=True):
            if name == budget and period > after:
                sums = Counter[int]()
                for one in self._by_period[name, period]:
                    if one.kind == CARRY_OVER and one.other_period < period and one.reason != BROUGHT_BACK:
                        sums[one.other_period] += one.nanos
                found += [(start, period, nanos) for start, nanos in sorted(sums.items()) if nanos]
        return found

    def forget(self, budget: str, before: int, at: int) -> None:
        """Those of periods of a budget that began before then, if what is newest in them is long ago."""
        past = [key for key in self._by_period if key[0] == budget and key[1] < before]
        for period in past:
            postings = self._by_period[period]
            by_people = any(one.kind != CARRY_OVER for one in postings)
            if postings[-1].at < at - (KEPT_US if by_people else CARRIED_US):
                for posting in self._by_period.pop(period):
                    if self._keyed.get((posting.by, posting.key)) is posting:
                        del self._keyed[posting.by, posting.key]
