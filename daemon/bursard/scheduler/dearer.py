"""What is known of the places that jobs could have beside what is promised: none, or at which price.

Owns    `Known`: by ask, what looks of this plan have found, and what follows of it for the next.
Why     most jobs that were promised a place wait for it while dearer nodes are free, and each plan looks at
        all of them. What differs between two that ask for the same is how many of the places that are kept
        for others begin before they must have ended: the more, the less is left. So what one finds that is
        met by fewer, and one by more, is what all between them find.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from bursard.scheduler.releases import NEVER


class _Ask:
    """Of one ask and size. `met`: rising, with a rate for each; -1 is unknown, which counts as dearest."""

    __slots__ = ("full_from", "met", "rates")

    def __init__(self) -> None:
        self.met: list[int] = []
        self.rates: dict[int, int] = {}
        self.full_from = NEVER


class Known:
    """Of a plan, until something starts. `now`: a reading of the log of what was written."""

    def __init__(self) -> None:
        self._asks: dict[tuple[int, int], _Ask] = {}
        self._now = -1

    def note(self, now: int, ask: tuple[int, int], met: int, rate: int | None) -> None:
        """What a look has found.

        Args:
            ask: number of the table, and of members.
            met: how many places begin before such a job must have ended. rate: None for no room.
        """
        if now != self._now:
            self._asks, self._now = {}, now
        known = self._asks.get(ask)
        if known is None:
            known = self._asks[ask] = _Ask()
        if rate is None:
            known.full_from = min(known.full_from, met)
        elif met not in known.rates:
            insort(known.met, met)
            known.rates[met] = rate

    def is_full(self, now: int, ask: tuple[int, int], met: int) -> bool:
        """Would a look find no room?"""
        known = self._asks.get(ask) if now == self._now else None
        return known is not None and met >= known.full_from

    def rate(self, now: int, ask: tuple[int, int], met: int) -> int | None:
        """At which rate a look would find room, where that is known."""
        known = self._asks.get(ask) if now == self._now else None
        if known is None:
            return None
        rate = known.rates.get(met)
        if rate is not None:
            return rate
        at = bisect_left(known.met, met)
        if not 0 < at < len(known.met):
            return None
        less, more = known.rates[known.met[at - 1]], known.rates[known.met[at]]
        return less if less == more else None
