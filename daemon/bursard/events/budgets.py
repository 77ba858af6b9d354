"""What happens to budgets: the part of the event union about their accounts and periods.

Why     a budget's account says what its scope has cost; what it may cost is its document's limit and what was
        given and taken beside it. Each of these is an event that says who and why.
"""

from __future__ import annotations

import msgspec


class HoldsRolled(msgspec.Struct, frozen=True, tag="holds-rolled", omit_defaults=True):
    """A budget's period ended: what live attempts still hold moves into the new period.

    `anew`: a wrong clock has taken it there before, or away: its account is to begin with what the books say
    of it, and all that is dated in it counts there.
    """

    budget: str
    from_period: int
    to_period: int
    anew: bool = False


class OpeningHold(msgspec.Struct, frozen=True, array_like=True):
    """What a live attempt brings into the account of a budget that opens, written as an array.

    Attributes:
        nanos: what it may still spend. whole_nanos: its worst case, of which that is left.
    """

    attempt_id: str
    nanos: int
    whole_nanos: int


class BudgetOpened(msgspec.Struct, frozen=True, tag="budget-opened", omit_defaults=True):
    """The account of a budget begins with what its scope has cost: it is new, or covers something else now.

    Attributes:
        period_start: of the period it is in.
        settled_nanos: what its scope has cost since `since`; what stood there before is forgotten.
        since: what was used before this does not count.
        holds: of every live attempt that its scope covers, oldest first, and of every launch of a machine, by
            the machine's id. Others that held money of it leave.
        days: what its scope has cost before by day of UTC, (day since 1970, nanos): it is forecast by them.
            None in what was written before there were forecasts.
        earlier: of a rolling budget, (where it begins, nanos) of each day of its window before the one that
            it is in; `settled_nanos` is of that one alone.
    """

    budget: str
    period_start: int
    settled_nanos: int
    since: int
    holds: tuple[OpeningHold, ...] = ()
    days: tuple[tuple[int, int], ...] | None = None
    earlier: tuple[tuple[int, int], ...] = ()


class BudgetClosed(msgspec.Struct, frozen=True, tag="budget-closed"):
    """A budget goes out of force: live attempts give back what they hold of it, and count in it no more."""

    budget: str


class ThresholdCrossed(msgspec.Struct, frozen=True, tag="threshold-crossed"):
    """A budget passed one of its thresholds for the first time in this period.

    `at_ppm`: share of the limit, parts per million; `on`: `settled`, `settled+held` or `forecast`. `do`: what
    its budget does from now on; empty in what was written before there was more than to tell.
    `forecast_nanos`: of one on the forecast, what is expected at the end of the period.
    """

    budget: str
    period_start: int
    at_ppm: int
    on: str
    settled_nanos: int
    held_nanos: int
    limit_nanos: int
    do: tuple[str, ...] = ()
    forecast_nanos: int = 0


class BudgetGranted(msgspec.Struct, frozen=True, tag="budget-granted", omit_defaults=True):
    """A budget has so much more to spend in one of its periods than its document says; below zero: a grant
    that was given by mistake is taken back.

    Attributes:
        by, reason: who gave it, and why. key: said again with it, nothing more is given.
    """

    budget: str
    period_start: int
    nanos: int
    by: str
    reason: str
    key: str = ""


class BudgetApproved(msgspec.Struct, frozen=True, tag="budget-approved", omit_defaults=True):
    """Jobs of a budget whose thresholds asked for an approval may start again, under this limit, in this
    period.

    Attributes:
        stages: (on, at_ppm) of those thresholds.
        by, reason, key: as of `BudgetGranted`. until: it ends then; 0: with the period, or another limit.
        ceiling_nanos: what may be settled and held in all; below zero: what the limit has. nanos: how much
            that was more than then.
    """

    budget: str
    period_start: int
    limit_nanos: int
    stages: tuple[tuple[str, int], ...]
    by: str
    reason: str
    until: int = 0
    ceiling_nanos: int = -1
    nanos: int = 0
    key: str = ""


class ApprovalLapsed(msgspec.Struct, frozen=True, tag="approval-lapsed"):
    """The time of an approval has passed: its budget waits for another one."""

    budget: str
    period_start: int


class RestCarried(msgspec.Struct, frozen=True, tag="rest-carried"):
    """Money of a period that has ended goes on into the next one; below zero: it comes back, since the period
    that was thought to have ended has not.

    Attributes:
        reason: what is carried, and by which rule.
    """

    budget: str
    from_period: int
    to_period: int
    nanos: int
    reason: str


class BudgetTransferred(msgspec.Struct, frozen=True, tag="budget-transferred", omit_defaults=True):
    """What one budget had to spend in a period another one has now, in a period of its own.

    Attributes:
        nanos: more than 0. by, reason, key: as of `BudgetGranted`.
    """

    budget: str
    period_start: int
    to: str
    to_period: int
    nanos: int
    by: str
    reason: str
    key: str = ""
