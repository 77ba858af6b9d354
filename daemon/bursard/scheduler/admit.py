"""Admission: may this gang start at this price, and for how long?

Owns    the rooms of the hard budgets as one plan spends them, and the answer `Admitted | Refusal`.
Why     the worst case is promised before anything starts, so a cap can never be passed by what is
        already running; a plan that starts many jobs at once must count its own promises too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bursar.model import ReasonCode
from bursar.money import AMOUNT_MAX
from bursar_policies.decision import BudgetRoom, JobClass, Purse
from bursard.scheduler import stages
from bursard.scheduler.pricing import SECOND_US, capped_time_limit_us, longest_hold_us, worst_hold


class Admitted(NamedTuple):
    """The gang may start: this time limit, this hold in each budget.

    Attributes:
        hold_us: after which it has ended at the latest.
        leased_us: of the time limit, what the hold pays for.
    """

    time_limit_us: int
    hold_us: int
    hold_nanos: int
    leased_us: int


class Refusal(NamedTuple):
    """Money says no. `budget` is "" when the job's own cap or price limit does, or (MISCONFIGURED) when the
    worst case is more than one amount can be.
    """

    code: ReasonCode
    budget: str
    needed_nanos: int
    rate_nanos_per_hour: int


class Rooms:
    """What the hard budgets can still promise, less what this plan already promised, in `currency`."""

    def __init__(self, budgets: Mapping[str, BudgetRoom], currency: str = "") -> None:
        self.budgets = budgets
        self.currency = currency
        self._staged = any(room.stages for room in budgets.values())
        self._capped = any(room.ceiling_nanos >= 0 for room in budgets.values())
        self._promised: dict[str, int] = {}
        self._aside: dict[str, Purse] = {}
        self._left: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self.low: list[str] = []
        """Budgets that have less left than somebody watches for, since that was last looked at."""

    def watch(self, marks: Mapping[str, int]) -> None:
        """Say (`low`) when less than so much is left of a budget."""
        self._marks = dict(marks)

    def room_nanos(self, budget: str) -> int:
        """Room left for further holds."""
        left = self._left.get(budget)
        if left is None:
            left = self._left[budget] = self.budgets[budget].room_nanos - self._promised.get(budget, 0)
        return left

    def promised_nanos(self, budget: str) -> int:
        """What this plan has promised of it."""
        return self._promised.get(budget, 0)

    def promise(self, budgets: tuple[str, ...], nanos: int) -> None:
        """Spend room."""
        for budget in budgets:
            self._promised[budget] = self._promised.get(budget, 0) + nanos
            if budget in self._left:
                self._left[budget] -= nanos
            if budget in self._marks and self.room_nanos(budget) < self._marks[budget]:
                del self._marks[budget]
                self.low.append(budget)

    def purse(self, job_id: str, job_class: JobClass, refusal: Refusal) -> Purse | None:
        """What is to be set aside for a job that others' holds keep from starting, so that nobody behind it
        takes the money first: as much as there is of what it needs, in each of its budgets. None when its
        time has not come: another waits for one of these before it, or one cannot pay in this period.

        A task that its array's own cap keeps waiting takes nothing from others: of that cap alone.
        """
        if refusal.code is not ReasonCode.BUDGET_COMMITTED:
            return None
        short, needed = refusal.budget, refusal.needed_nanos
        known = [name for name in job_class.budgets if name in self.budgets]
        rooms = [self.budgets[name] for name in known]
        if any(name in self._aside for name in known) or len(known) < len(job_class.budgets):
            return None
        if any(room.limit_nanos - room.settled_nanos < needed for room in rooms):
            return None
        names = [short] if self.budgets[short].array else known
        aside = tuple((name, min(needed, max(self.room_nanos(name), 0))) for name in names)
        return Purse(job_id, aside, needed)

    def set_aside(self, purse: Purse) -> None:
        """Spend room on it."""
        for budget, nanos in purse.aside:
            self._aside[budget] = purse
            self.promise((budget,), nanos)

    def aside(self, budget: str) -> tuple[str, int]:
        """(the job that waits for more of it first, what is set aside for that), ("", 0) for nobody."""
        purse = self._aside.get(budget)
        return (purse.job_id, dict(purse.aside)[budget]) if purse is not None else ("", 0)

    def short_ahead_nanos(self, budget: str) -> int:
        """What that job still lacks of it, and takes first of whatever comes."""
        purse = self._aside.get(budget)
        return purse.needed_nanos - dict(purse.aside)[budget] if purse is not None else 0

    def aside_for(self, job_id: str) -> dict[str, int]:
        """By budget, what is set aside for one job."""
        mine = (purse for purse in self._aside.values() if purse.job_id == job_id)
        return {budget: nanos for purse in mine for budget, nanos in purse.aside}

    def admit(self, job_class: JobClass, rate_nanos_per_hour: int, limit_us: int = 0) -> Admitted | Refusal:
        """May a gang of this class start at this rate?

        Args:
            rate_nanos_per_hour: of the whole gang; negative when unknown, which the price filter
                only lets through for jobs without any limit on money.
            limit_us: the job's time limit; 0: the class has it.
        """
        rate = rate_nanos_per_hour if rate_nanos_per_hour > 0 else 0
        if self._staged and (pair := stages.stopping(job_class, self.budgets)) is not None:
            return Refusal(stages.code_of(pair[1]), pair[0].name, 0, rate)
        cap = job_class.max_price_nanos_per_hour
        if cap and rate > cap:
            return Refusal(ReasonCode.PRICE_CAP_EXCEEDED, "", rate, rate)
        time_limit_us = limit_us or job_class.time_limit_us
        hold_us = job_class.hold_us - job_class.time_limit_us + time_limit_us
        if job_class.max_cost_nanos and rate:
            limit_us = capped_time_limit_us(rate, time_limit_us, hold_us, job_class.max_cost_nanos)
            if limit_us < min(SECOND_US, time_limit_us):
                least = worst_hold(rate, hold_us - time_limit_us + SECOND_US)
                return Refusal(ReasonCode.BUDGET_EXHAUSTED, "", least, rate)
            hold_us -= time_limit_us - limit_us
            time_limit_us = limit_us
        leased_us = job_class.leased_us(time_limit_us)
        hold = worst_hold(rate, hold_us - time_limit_us + leased_us)
        if hold > AMOUNT_MAX:
            return Refusal(ReasonCode.MISCONFIGURED, "", hold, rate)
        if self._capped and (capped := self._beyond(job_class, hold)):
            return Refusal(ReasonCode.APPROVAL_REQUIRED, capped, hold, rate)
        for budget in job_class.budgets:
            if budget not in self.budgets:
                return Refusal(ReasonCode.MISCONFIGURED, budget, hold, rate)
            if hold > self.room_nanos(budget):
                room = self.budgets[budget]
                left = room.limit_nanos - room.settled_nanos
                short = left < hold
                code = ReasonCode.BUDGET_EXHAUSTED if short else ReasonCode.BUDGET_COMMITTED
                return Refusal(code, budget, hold, rate)
        return Admitted(time_limit_us, hold_us, hold, leased_us)

    def _beyond(self, job_class: JobClass, nanos: int) -> str:
        """The first budget of which so much more is not approved."""
        for name in job_class.payers:
            room = self.budgets.get(name)
            if room is not None and room.beyond(self.promised_nanos(name) + nanos):
                return name
        return ""

    def refused_from_us(self, job_class: JobClass, refusal: Refusal) -> int:
        """Jobs of this class that hold for at least so long are refused as well and for the same reason, as
        long as no room is given back and no place becomes cheaper. 0: all of them are. Nor is anything to be
        set aside for them if nothing is for this one.
        """
        rate, overhead_us = refusal.rate_nanos_per_hour, job_class.hold_us - job_class.time_limit_us
        if refusal.budget and not refusal.needed_nanos:
            return 0  # a stage, which asks nobody for how long
        if refusal.code is ReasonCode.PRICE_CAP_EXCEEDED or not rate:
            return 0
        if refusal.budget:
            if refusal.budget not in self.budgets:
                return 0
            unspent = {
                name: room.limit_nanos - room.settled_nanos
                for name in job_class.budgets
                if (room := self.budgets.get(name)) is not None
            }
            if refusal.code is ReasonCode.APPROVAL_REQUIRED:
                room = self.budgets[refusal.budget]
                committed = room.settled_nanos + room.held_nanos + self.promised_nanos(refusal.budget)
                return _longer_than(rate, room.ceiling_nanos - committed)
            if refusal.code is ReasonCode.BUDGET_EXHAUSTED:
                return _longer_than(rate, unspent[refusal.budget])
            never = [_longer_than(rate, left) for left in unspent.values() if left < refusal.needed_nanos]
            return max(_longer_than(rate, self.room_nanos(refusal.budget)), min(never, default=0))
        if refusal.code is ReasonCode.MISCONFIGURED:
            return longest_hold_us(rate, AMOUNT_MAX) + 1
        if job_class.max_cost_nanos < 0:
            return 0
        return max(longest_hold_us(rate, job_class.max_cost_nanos), overhead_us) + 1


def _longer_than(rate_nanos_per_hour: int, nanos: int) -> int:
    """The shortest hold that so much does not pay for."""
    return longest_hold_us(rate_nanos_per_hour, nanos) + 1 if nanos >= 0 else 0


def limits_money(job_class: JobClass) -> bool:
    """Does any limit on money apply, so that prices must be known?"""
    capped = job_class.max_price_nanos_per_hour or job_class.max_cost_nanos
    return bool(job_class.budgets or capped or job_class.rated)
