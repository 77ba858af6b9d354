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
from bursar_policies.decision import BudgetRoom, JobClass
from bursard.scheduler.pricing import SECOND_US, capped_time_limit_us, longest_hold_us, worst_hold


class Admitted(NamedTuple):
    """The gang may start: this time limit, this hold in each budget."""

    time_limit_us: int
    hold_us: int
    hold_nanos: int


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
        self._promised: dict[str, int] = {}
        self._left: dict[str, int] = {}

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

    def admit(self, job_class: JobClass, rate_nanos_per_hour: int, limit_us: int = 0) -> Admitted | Refusal:
        """May a gang of this class start at this rate?

        Args:
            rate_nanos_per_hour: of the whole gang; negative when unknown, which the price filter
                only lets through for jobs without any limit on money.
            limit_us: the job's time limit; 0: the class has it.
        """
        rate = rate_nanos_per_hour if rate_nanos_per_hour > 0 else 0
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
        hold = worst_hold(rate, hold_us)
        if hold > AMOUNT_MAX:
            return Refusal(ReasonCode.MISCONFIGURED, "", hold, rate)
        for budget in job_class.budgets:
            if budget not in self.budgets:
                return Refusal(ReasonCode.MISCONFIGURED, budget, hold, rate)
            if hold > self.room_nanos(budget):
                room = self.budgets[budget]
                left = room.limit_nanos - room.settled_nanos
                short = left < hold
                code = ReasonCode.BUDGET_EXHAUSTED if short else ReasonCode.BUDGET_COMMITTED
                return Refusal(code, budget, hold, rate)
        return Admitted(time_limit_us, hold_us, hold)

    def refused_from_us(self, job_class: JobClass, refusal: Refusal) -> int:
        """Jobs of this class that hold for at least so long are refused as well, as long as no room is given
        back and no place becomes cheaper. 0: all of them are.
        """
        rate, overhead_us = refusal.rate_nanos_per_hour, job_class.hold_us - job_class.time_limit_us
        if refusal.code is ReasonCode.PRICE_CAP_EXCEEDED or not rate:
            return 0
        if refusal.budget:
            room = self.room_nanos(refusal.budget) if refusal.budget in self.budgets else -1
            return longest_hold_us(rate, room) + 1 if room >= 0 else 0
        if refusal.code is ReasonCode.MISCONFIGURED:
            return longest_hold_us(rate, AMOUNT_MAX) + 1
        if job_class.max_cost_nanos < 0:
            return 0
        return max(longest_hold_us(rate, job_class.max_cost_nanos), overhead_us) + 1


def limits_money(job_class: JobClass) -> bool:
    """Does any limit on money apply, so that prices must be known?"""
    capped = job_class.max_price_nanos_per_hour or job_class.max_cost_nanos
    return bool(job_class.budgets or capped)
