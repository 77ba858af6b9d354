"""What keys may still spend of the budgets that they name, by what this gateway knows. PURE.

Why     the daemon says once a second what this gateway may spend, and what keys had in hand costs something
        at once. What the daemon does not know yet counts here at the price of a place, and what is in hand is
        expected to take as long as requests of its service do: nineteen of twenty take no longer.
        So a budget is passed by what its requests in hand at the end take beyond that, and by no new one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from bursar.money import format_nanos

HOUR_US: Final = 3_600_000_000
LAPSE_US: Final = 600_000_000
"""The daemon keeps a gateway's part for so long, and no longer."""
TIMES: Final = 512
DAY_S: Final = 86_400


class Purse(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that keys name.

    Attributes:
        left: nanos that this gateway may spend; None: it refuses nothing.
        facts: what a refusal says of it. renews_at: 0: never.
    """

    name: str
    left: int | None = None
    facts: dict[str, str] = {}
    renews_at: int = 0


class Place(msgspec.Struct, frozen=True):
    """What one request in hand costs: so many nanos an hour for so many places."""

    nanos: int
    places: int
    total_us: int

    def cost(self, held_us: int) -> int:
        """Of a time in hand, rounded up."""
        return -(-self.nanos * held_us // (self.places * HOUR_US))


class Purses:
    """Of one gateway. `untold`: by key, by job, time in hand of which the daemon does not know yet."""

    def __init__(self, untold: Callable[[str], Mapping[str, int]] = lambda key_id: {}) -> None:
        self._untold = untold
        self._purses: dict[str, Purse] = {}
        self._keys: dict[str, list[str]] = {}
        """By budget, ids of the keys that name it."""
        self._places: dict[str, Place] = {}
        """By job: of one without a replica, as it was last."""
        self._times: dict[str, deque[int]] = {}
        self._usual_us: dict[str, int] = {}
        self._in_hand: Counter[tuple[str, str]] = Counter()
        self._heard_at = 0
        self.refused_at = 0
        """When somebody was refused for want of money last."""

    def learn(self, purses: Iterable[Purse], places: Mapping[str, Place | None], now: int) -> None:
        """What the daemon says now. `places`: by job; None: no replica says what a place costs."""
        self._purses = {one.name: one for one in purses}
        self._heard_at = now
        known = {job_id: place or self._places.get(job_id) for job_id, place in places.items()}
        self._places = {job_id: place for job_id, place in known.items() if place is not None}
        for job_id in [one for one in self._times if one not in places]:
            del self._times[job_id]
        # Sorted once a second, and not for each request.
        self._usual_us = {
            job_id: sorted(times)[len(times) * 19 // 20] for job_id, times in self._times.items() if times
        }

    def name(self, keys: Iterable[tuple[str, str]]) -> None:
        """All keys that there are, each with the budget that it names."""
        self._keys = {}
        for key_id, budget in keys:
            if budget:
                self._keys.setdefault(budget, []).append(key_id)

    def left(self, budget: str) -> int | None:
        """What is left of it by what is known here; None: it refuses nothing, or nobody knows."""
        purse = self._purses.get(budget)
        return None if purse is None or purse.left is None else purse.left - self._spent(budget)

    def _spent(self, budget: str) -> int:
        found = 0
        for key_id in self._keys.get(budget, ()):
            for job_id, held_us in self._untold(key_id).items():
                place = self._places.get(job_id)
                found += place.cost(held_us) if place is not None else 0
        return found

    def _expected(self, job_id: str) -> int:
        """What a request costs by what others took; the most that it may take, where none is known."""
        place = self._places.get(job_id)
        return place.cost(self._usual_us.get(job_id, place.total_us)) if place is not None else 0

    def refusal(self, budget: str, job_id: str, now: int) -> tuple[str, str, int, dict[str, str]] | None:
        """Why a request more is not let in: code, words, when to ask again in seconds, facts; None: it is."""
        purse = self._purses.get(budget)
        if purse is None or now - self._heard_at >= LAPSE_US:
            why = "is not in force" if purse is None else "cannot be asked: the daemon is away"
            return self._no(
                now, "budget_unknown", f"budget {budget} of this key {why}", 60, {"budget": budget}
            )
        left = self.left(budget)
        if left is None:
            return None
        facts = {**purse.facts, "unsettled": format_nanos(self._spent(budget))}
        if left <= 0:
            renews_s = max(purse.renews_at - now, 0) // 1_000_000 if purse.renews_at else DAY_S
            text = f"budget {budget} of this key is spent"
            return self._no(now, "budget_exhausted", text, min(renews_s + 1, DAY_S), facts)
        held = [(job, many) for (name, job), many in self._in_hand.items() if name == budget and many]
        expected = sum(many * self._expected(job) for job, many in held)
        if held and left < expected + self._expected(job_id):
            text = f"what is left of budget {budget} is what requests in hand are expected to take"
            return self._no(now, "budget_committed", text, 1, facts)
        return None

    def _no(
        self, now: int, code: str, text: str, retry_s: int, facts: dict[str, str]
    ) -> tuple[str, str, int, dict[str, str]]:
        self.refused_at = now
        return code, text, retry_s, facts

    def take(self, budget: str, job_id: str) -> None:
        """A request of a key that names it is in hand."""
        self._in_hand[budget, job_id] += 1

    def give(self, budget: str, job_id: str, held_us: int) -> None:
        """It is over."""
        self._in_hand[budget, job_id] -= 1
        if not self._in_hand[budget, job_id]:
            del self._in_hand[budget, job_id]
        self._times.setdefault(job_id, deque(maxlen=TIMES)).append(held_us)
