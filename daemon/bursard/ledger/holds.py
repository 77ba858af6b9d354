"""The ledger: hold, settle, release, as one deterministic fold over what was decided.

Owns    `Ledger`: balances, and what each live attempt may still spend of each budget.
Input   holds and charges as the events carry them; no clock, no identity source, no policy.
Why     a hard budget can only be kept if the worst case is set aside before work starts.
        `available` starts at 0 and goes down as money is committed, so the limit stays policy: a
        placement fits when `room` >= its hold, and then settled + held <= limit + given for as long as
        charges stay within holds (B1). A charge beyond its hold is still booked, since it is owed,
        and shows as `overrun`.

Which period a charge settles in: the one its hold is in when it is posted, and a hold changes
period only by `roll`. A charge dated before that period (a report that came after the roll) settles
in the period of its date, among those its hold was in; what it spends leaves the hold where that
now is. So what an attempt has committed stays the same, and an old period never takes in more than
was moved out of it. Roll a budget before placing anything in its new period.

What a budget has beyond its document's limit in one period (`grant`, `transfer`, `carry`) is given to that
period's account and stays with it: so `room` counts it, and no other period does.

An account may open in the middle of its period, with what its scope has cost until then (`open`). A charge
that is told later and dated before what the account counts leaves the hold and settles nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import msgspec

from bursar.clock import DAY_US
from bursar.errors import InvariantViolation
from bursar.model import Hold
from bursard.events import BudgetShift, Charge, ChargesCorrected, Corrected, OpeningHold
from bursard.ledger.accounts import (
    PAID,
    BudgetAccounts,
    budget_accounts,
    budget_of,
    job_account,
    node_account,
    ownerless_account,
)
from bursard.ledger.entries import Entry, Transaction, post


class HeldMoney(msgspec.Struct):
    """What one attempt may still spend of one budget.

    Attributes:
        period_start: the period the money is in now.
        nanos: the rest of the hold. overrun_nanos: charged beyond it.
        earlier: the periods it was rolled out of, ascending.
        since: of an account that was opened: what is dated before, in the period of it, does not count there.
    """

    budget: str
    period_start: int
    nanos: int
    overrun_nanos: int = 0
    earlier: tuple[int, ...] = ()
    since: int = 0

    def period_at(self, at: int) -> int | None:
        """The period in which a charge dated `at` settles; None where the account does not count it."""
        start = self._started_by(at)
        if at < self.since and start in (None, self._started_by(self.since)):
            return None
        if start is not None:
            return start
        return self.earlier[0] if self.earlier else self.period_start

    def _started_by(self, at: int) -> int | None:
        if at >= self.period_start:
            return self.period_start
        return next((start for start in reversed(self.earlier) if start <= at), None)

    def copy(self) -> HeldMoney:
        """An independent copy."""
        return HeldMoney(
            self.budget, self.period_start, self.nanos, self.overrun_nanos, self.earlier, self.since
        )


class AttemptMoney(msgspec.Struct):
    """The money of one attempt, kept until its job is closed so that nothing resolves twice."""

    attempt_id: str
    job_id: str
    holds: list[HeldMoney]
    settled_nanos: int = 0
    live: bool = True

    def copy(self) -> AttemptMoney:
        """An independent copy."""
        holds = [held.copy() for held in self.holds]
        return AttemptMoney(self.attempt_id, self.job_id, holds, self.settled_nanos, self.live)


DAYS_KEPT = 100
"""Days with a cost that are remembered of each budget: what forecasts learn from, and some more."""


class LedgerImage(msgspec.Struct, frozen=True):
    """A whole ledger as data, in one canonical order: equal ledgers have equal bytes.

    Attributes:
        days: by budget, (first day that is whole, (day, nanos) of each). days_whole: no image of before they
            were kept is behind it; days_corrected: nor one of before corrections were in them.
    """

    balances: tuple[tuple[str, int], ...]
    attempts: tuple[AttemptMoney, ...]
    closed_nanos: int
    days: tuple[tuple[str, int, tuple[tuple[int, int], ...]], ...] = ()
    days_whole: bool = False
    days_corrected: bool = False


class Days(msgspec.Struct):
    """What a budget settled by day of UTC, counted from 1970, of when it was used: no account, and nothing
    goes by it but forecasts.

    Attributes:
        since: the first day of which all is known. nanos: by day; a day without a cost is not there.
    """

    since: int
    nanos: dict[int, int]

    def correct(self, charges: Sequence[Corrected], nanos: int) -> None:
        """So much more in all, below zero less, of the days in which these were used; each has its part by
        what it was corrected by, or is, when it was moved as it is. Days that are not whole stay as they are.
        """
        parts = [one.more_nanos for one in charges]
        if not any(parts):  # moved to somebody else as they are
            parts = [one.gpu + one.cpu + one.memory for one in charges]
        whole, before = sum(parts), 0
        for one, part in zip(charges, parts, strict=True):
            if whole and one.start // DAY_US >= self.since:
                self.add(one.start, nanos * (before + part) // whole - nanos * before // whole)
            before += part

    def add(self, at: int, nanos: int) -> None:
        """Used at an instant."""
        day = at // DAY_US
        if day not in self.nanos and len(self.nanos) >= DAYS_KEPT:
            oldest = min(self.nanos)
            if day < oldest:
                return
            del self.nanos[oldest]
            self.since = max(self.since, oldest + 1)
        self.nanos[day] = self.nanos.get(day, 0) + nanos


class Ledger:
    """Balances and holds. Every change is a transaction, returned for the caller to persist.

    A call that raises `InvariantViolation` has changed nothing.
    """

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.closed_nanos = 0
        self._attempts: dict[str, AttemptMoney] = {}
        self._jobs: dict[str, list[str]] = {}
        self._live: dict[tuple[str, int], dict[str, HeldMoney]] = {}
        self._accounts: dict[tuple[str, int], BudgetAccounts] = {}
        self.days: dict[str, Days] = {}
        self.days_whole = True
        """It has counted days since the cluster began; not so after an image of before they were kept."""
        self.days_corrected = True
        """Corrections are in them, since the cluster began."""
        self._past: dict[str, tuple[object, int, int]] = {}
        """By budget, the sums of its periods before the current one, and what they were made of."""
        self._late: dict[str, int] = {}
        """By budget, how often an account of an earlier period was changed."""

    # --- changes

    def post(self, transaction: Transaction) -> Transaction:
        """Add a transaction to the balances, e.g. a correction; raises unless it sums to zero."""
        return post(self.balances, transaction)

    def place(self, attempt_id: str, job_id: str, holds: Sequence[Hold]) -> Transaction | None:
        """Open an attempt and set its holds aside, in one transaction; None when all are 0."""
        if attempt_id in self._attempts:
            raise InvariantViolation(f"B3: {attempt_id} is placed twice")
        if len({hold.budget for hold in holds}) != len(holds) or any(h.nanos < 0 for h in holds):
            raise InvariantViolation(f"B3: {attempt_id} needs one hold >= 0 a budget, not {holds}")
        money = AttemptMoney(attempt_id, job_id, [])
        entries = []
        for hold in holds:
            entries += self._join(money, HeldMoney(hold.budget, hold.period_start, hold.nanos))
        self._attempts[attempt_id] = money
        self._jobs.setdefault(job_id, []).append(attempt_id)
        if not entries:
            return None
        return self.post(Transaction("hold", tuple(entries), attempt_id, job_id))

    def charge(self, charges: Sequence[Charge]) -> list[Transaction]:
        """Book charges, one transaction each; a charge of 0 moves no money and yields none.

        The settlement of usage, in every budget of its attempt, is in the transaction of its cost.
        """
        for item in charges:
            if item.kind in PAID:
                self._check_usage(item)
            else:
                ownerless_account(item.kind, item.node_id)
        return [self._book(item) for item in charges if item.nanos]

    def resize(self, attempt_id: str, by_nanos: int) -> Transaction | None:
        """Set so much more aside for a live attempt in each of its budgets, where its hold is now; negative:
        give it back, no more than is left. None when nothing changes.
        """
        money = self._attempt(attempt_id, "resized")
        entries = []
        for held in money.holds:
            nanos = max(by_nanos, -held.nanos)
            if nanos:
                accounts = self._budget_accounts(held.budget, held.period_start)
                entries.append(Entry(accounts.available, -nanos))
                entries.append(Entry(accounts.held, nanos))
                held.nanos += nanos
        if not entries:
            return None
        kind = "hold" if by_nanos > 0 else "release"
        return self.post(Transaction(kind, tuple(entries), attempt_id, money.job_id))

    def keep(self, attempt_id: str, nanos: int) -> Transaction | None:
        """Give back what a live attempt holds of each of its budgets beyond this; None when nothing is."""
        money = self._attempt(attempt_id, "made smaller")
        entries = []
        for held in money.holds:
            if (more := held.nanos - nanos) > 0:
                accounts = self._budget_accounts(held.budget, held.period_start)
                entries += [Entry(accounts.held, -more), Entry(accounts.available, more)]
                held.nanos = nanos
        if not entries:
            return None
        return self.post(Transaction("release", tuple(entries), attempt_id, money.job_id))

    def release(self, attempt_id: str) -> Transaction | None:
        """Resolve an attempt: what is left of its holds goes back. None when nothing is left."""
        money = self._attempt(attempt_id, "released")
        entries = []
        for held in money.holds:
            entries += self._leave(held, attempt_id)
        money.live = False
        if not entries:
            return None
        return self.post(Transaction("release", tuple(entries), attempt_id, money.job_id))

    def roll(self, budget: str, from_period: int, to_period: int, anew: bool = False) -> list[Transaction]:
        """Move what live attempts still hold of a budget into its next period, or back into one before.
        `anew`: whatever is dated in that one counts there.

        One transaction for each, ordered by attempt id, so that the rows of one attempt alone show
        where its hold went.
        """
        if to_period == from_period:
            raise InvariantViolation(f"{budget} cannot roll from {from_period} to itself")
        self._touch(budget)  # the period it was in is one of those before from now on
        moving = self._live.pop((budget, from_period), {})
        old = self._budget_accounts(budget, from_period)
        new = self._budget_accounts(budget, to_period)
        transactions = []
        for attempt_id, held in sorted(moving.items()):
            if to_period > from_period:
                held.earlier += (from_period,)
            else:
                held.earlier = tuple(start for start in held.earlier if start < to_period)
            held.period_start = to_period
            held.since = 0 if anew else held.since
            self._live.setdefault((budget, to_period), {})[attempt_id] = held
            if held.nanos:
                entries = (
                    Entry(old.held, -held.nanos),
                    Entry(old.available, held.nanos),
                    Entry(new.available, -held.nanos),
                    Entry(new.held, held.nanos),
                )
                job_id = self._attempts[attempt_id].job_id
                moved = Transaction("roll", entries, attempt_id, job_id, budget=budget)
                transactions.append(self.post(moved))
        return transactions

    def correct(self, event: ChargesCorrected) -> Transaction | None:
        """A job pays more than was charged, or less, and its node's variance makes up for it; so do the
        budgets that cover it. None when nothing changes.
        """
        more = sum(one.more_nanos for one in event.charges)
        entries = [
            Entry(job_account(event.job_id), more),
            Entry(ownerless_account("variance", event.node_id), -more),
            *self._shifts(event.budgets),
        ]
        for shift in event.budgets:
            if (days := self.days.get(shift.budget)) is not None:
                days.correct(event.charges, shift.nanos)
        entries = [entry for entry in entries if entry.nanos]
        if not entries:
            return None
        posted = self.post(
            Transaction("correction", tuple(entries), event.attempt_id, event.job_id, event.node_id)
        )
        self._forget_if_closed(event.job_id)
        return posted

    def _shifts(self, shifts: Sequence[BudgetShift]) -> list[Entry]:
        entries = []
        for shift in shifts:
            self._touch(shift.budget)
            accounts = self._budget_accounts(shift.budget, shift.period_start)
            entries.append(Entry(accounts.available, -shift.nanos))
            entries.append(Entry(accounts.settled, shift.nanos))
        return entries

    def _forget_if_closed(self, job_id: str) -> None:
        """What an ended job owes more is with what all of them owed."""
        if job_id not in self._jobs:
            self.closed_nanos += self.balances.pop(job_account(job_id), 0)

    def grant(self, budget: str, period_start: int, nanos: int) -> Transaction:
        """A budget has so much more in one of its periods; below zero: less."""
        return self.post(Transaction("grant", self._gives(budget, period_start, nanos), budget=budget))

    def transfer(self, budget: str, period_start: int, to: str, to_period: int, nanos: int) -> Transaction:
        """What a budget gives of one of its periods another one has, in one transaction of both."""
        entries = (*self._gives(budget, period_start, -nanos), *self._gives(to, to_period, nanos))
        return self.post(Transaction("transfer", entries, budget=budget))

    def carry(self, budget: str, from_period: int, to_period: int, nanos: int) -> Transaction:
        """What a budget had in one of its periods it has in another one."""
        entries = (*self._gives(budget, from_period, -nanos), *self._gives(budget, to_period, nanos))
        return self.post(Transaction("carry-over", entries, budget=budget))

    def spend(self, budget: str, period_start: int, at: int, nanos: int) -> Transaction:
        """So much more of a budget is spent in one period, below zero less, that no attempt holds for: by
        keys of a service that others pay for. `at`: when that was used.
        """
        self._touch(budget)
        days = self.days.get(budget)
        if days is None:
            days = self.days[budget] = Days(at // DAY_US + 1, {})
        days.add(at, nanos)
        accounts = self._budget_accounts(budget, period_start)
        entries = (Entry(accounts.available, -nanos), Entry(accounts.settled, nanos))
        return self.post(Transaction("keys", entries, budget=budget))

    def _gives(self, budget: str, period_start: int, nanos: int) -> tuple[Entry, Entry]:
        self._touch(budget)
        accounts = self._budget_accounts(budget, period_start)
        return Entry(accounts.given, -nanos), Entry(accounts.available, nanos)

    def open(
        self,
        budget: str,
        period_start: int,
        settled_nanos: int,
        since: int,
        holds: Sequence[OpeningHold],
        earlier: Sequence[tuple[int, int]] = (),
    ) -> list[Transaction]:
        """Begin the account of a budget in a period anew, with what its scope has cost since `since`, and
        with these of the live attempts. Who has a hold in that period already keeps it as it is.

        Args:
            earlier: (period start, nanos) of the days of its window before that, oldest first, if it rolls.
        """
        joining = {one.attempt_id: self._attempt(one.attempt_id, "taken in") for one in holds}
        here = self._live.get((budget, period_start), {})
        transactions = self.close(budget, here.keys() & joining.keys())
        starts = [*(start for start, _ in earlier), period_start]
        counted = tuple(start for start, following in pairwise(starts) if following > since)
        for start, nanos in (*earlier, (period_start, settled_nanos)):
            accounts = self._budget_accounts(budget, start)
            more = nanos - self.settled(budget, start)
            if more:
                entries = (Entry(accounts.available, -more), Entry(accounts.settled, more))
                transactions.append(self.post(Transaction("opening", entries, budget=budget)))
        self._touch(budget)
        for one in holds:
            money = joining[one.attempt_id]
            held = self._live.get((budget, period_start), {}).get(one.attempt_id)
            if held is None:
                held = HeldMoney(budget, period_start, one.nanos, earlier=counted)
                joined = self._join(money, held)
                if joined:
                    hold = Transaction("hold", tuple(joined), one.attempt_id, money.job_id, budget=budget)
                    transactions.append(self.post(hold))
            elif earlier:  # what it was rolled out of may be longer periods than the days of its window
                held.earlier = counted
            held.since = since
        return transactions

    def learn_days(self, budget: str, since: int, days: Sequence[tuple[int, int]]) -> None:
        """What its scope has cost by day of UTC, from a day on; what was known before is forgotten."""
        self.days[budget] = Days(since, {day: nanos for day, nanos in days if nanos})

    def forget_days(self, budget: str) -> None:
        """It is out of force."""
        self.days.pop(budget, None)

    def close(self, budget: str, but: Collection[str] = ()) -> list[Transaction]:
        """Live attempts, but for some, have no part in a budget any more: what they hold of it goes back. One
        transaction for each, ordered by period and attempt.
        """
        periods = sorted(period for name, period in self._live if name == budget)
        leaving = [
            (attempt_id, held)
            for period in periods
            for attempt_id, held in sorted(self._live[budget, period].items())
            if attempt_id not in but
        ]
        transactions = []
        for attempt_id, held in leaving:
            money = self._attempts[attempt_id]
            money.holds.remove(held)
            entries = self._leave(held, attempt_id)
            if entries:
                back = Transaction("release", tuple(entries), attempt_id, money.job_id, budget=budget)
                transactions.append(self.post(back))
        return transactions

    def close_job(self, job_id: str) -> int:
        """Forget an ended job and its attempts; returns what it cost. Its rows stay with the store.

        Keeps memory bounded by what is live. The amount lives on in `closed_nanos`.
        """
        attempts = self._jobs.get(job_id, [])
        if live := [attempt_id for attempt_id in attempts if self._attempts[attempt_id].live]:
            raise InvariantViolation(f"B3: {job_id} is closed while {live} still hold money")
        for attempt_id in attempts:
            del self._attempts[attempt_id]
        self._jobs.pop(job_id, None)
        nanos = self.balances.pop(job_account(job_id), 0)
        self.closed_nanos += nanos
        return nanos

    # --- reads

    def available(self, budget: str, period_start: int) -> int:
        """What was given in one period, minus what is committed: given - settled - held."""
        return self.balances.get(self._budget_accounts(budget, period_start).available, 0)

    def held(self, budget: str, period_start: int) -> int:
        """Promised to live attempts in one period."""
        return self.balances.get(self._budget_accounts(budget, period_start).held, 0)

    def settled(self, budget: str, period_start: int) -> int:
        """Spent in one period."""
        return self.balances.get(self._budget_accounts(budget, period_start).settled, 0)

    def over(self, budget: str, starts: Sequence[int]) -> tuple[int, int]:
        """Spent, and given, in several periods together, the current one last. All but that one is added up
        again only when something came late: a window of many days is asked for in every plan.
        """
        key = (len(starts), starts[0], starts[-1], self._late.get(budget, 0))
        known = self._past.get(budget)
        if known is None or known[0] != key:
            past = starts[:-1]
            settled = sum(self.settled(budget, start) for start in past)
            known = self._past[budget] = (key, settled, sum(self.given(budget, start) for start in past))
        return known[1] + self.settled(budget, starts[-1]), known[2] + self.given(budget, starts[-1])

    def given(self, budget: str, period_start: int) -> int:
        """What a budget has in one period beyond its document's limit: grants, transfers and carry-over."""
        return -self.balances.get(self._budget_accounts(budget, period_start).given, 0)

    def periods_of(self, budget: str) -> set[int]:
        """Where the periods begin in which a budget has an account."""
        found = (budget_of(account) for account in self.balances)
        return {one[1] for one in found if one is not None and one[0] == budget}

    def room(self, budget: str, period_start: int, limit_nanos: int) -> int:
        """What may still be held under a document's limit and what was given beside it; negative when that
        has been passed.
        """
        return limit_nanos + self.available(budget, period_start)

    def is_live(self, attempt_id: str) -> bool:
        """Placed and not released: only then may usage be charged."""
        money = self._attempts.get(attempt_id)
        return money is not None and money.live

    def open_holds(self, attempt_id: str) -> tuple[Hold, ...]:
        """What is left of each hold, in the period where it is now; empty once released."""
        money = self._attempts.get(attempt_id)
        if money is None or not money.live:
            return ()
        return tuple(Hold(held.budget, held.period_start, held.nanos) for held in money.holds)

    def periods(self, attempt_id: str) -> set[int]:
        """Where the periods begin that its holds are or were in: a charge settles in one of them."""
        money = self._attempts.get(attempt_id)
        holds = money.holds if money is not None else ()
        return {start for held in holds for start in (*held.earlier, held.period_start)}

    def attempt_settled(self, attempt_id: str) -> int:
        """Usage charged to one attempt; 0 for one that is unknown or whose job is closed."""
        money = self._attempts.get(attempt_id)
        return money.settled_nanos if money else 0

    def overrun(self, attempt_id: str) -> int:
        """The most that was charged beyond any one of its holds."""
        money = self._attempts.get(attempt_id)
        return max((held.overrun_nanos for held in money.holds), default=0) if money else 0

    def job_settled(self, job_id: str) -> int:
        """Usage charged to one job; 0 once it is closed."""
        return self.balances.get(job_account(job_id), 0)

    def violations(self) -> list[str]:
        """Every invariant this ledger can check of itself, as sentences; empty when it is sound."""
        found = []
        if total := sum(self.balances.values()) + self.closed_nanos:
            found.append(f"L1: all balances sum to {total}, not 0")
        rest: dict[tuple[str, int], int] = {}
        for money in self._attempts.values():
            for held in money.holds:
                key = (held.budget, held.period_start)
                rest[key] = rest.get(key, 0) + held.nanos
                if held.nanos and not money.live:
                    found.append(f"B3: {money.attempt_id} is released but holds {held.budget}")
        parts = (budget_of(account) for account in self.balances)
        keys = rest.keys() | {(name, period) for name, period, _ in filter(None, parts)}
        for budget, period in sorted(keys):
            held_nanos, settled = self.held(budget, period), self.settled(budget, period)
            where = f"{budget} in {period}"
            if held_nanos != (expected := rest.get((budget, period), 0)):
                found.append(f"B3: {where}: held {held_nanos}, its holds {expected}")
            if self.available(budget, period) + held_nanos + settled != self.given(budget, period):
                found.append(f"L1: {where}: available + held + settled is not what was given")
            if held_nanos < 0:
                found.append(f"B3: {where}: held {held_nanos} is negative")
        return found

    # --- snapshots

    def image(self) -> LedgerImage:
        """Everything as data, independent of this ledger."""
        return LedgerImage(
            balances=tuple(sorted(self.balances.items())),
            attempts=tuple(money.copy() for _, money in sorted(self._attempts.items())),
            closed_nanos=self.closed_nanos,
            days=tuple(
                (name, one.since, tuple(sorted(one.nanos.items()))) for name, one in sorted(self.days.items())
            ),
            days_whole=self.days_whole,
            days_corrected=self.days_corrected,
        )

    @classmethod
    def from_image(cls, image: LedgerImage) -> Ledger:
        """The ledger an image was taken of; goes on exactly as that one would."""
        ledger = cls()
        ledger.balances = dict(image.balances)
        ledger.closed_nanos = image.closed_nanos
        ledger.days = {name: Days(since, dict(days)) for name, since, days in image.days}
        ledger.days_whole, ledger.days_corrected = image.days_whole, image.days_corrected
        for kept in image.attempts:
            money = kept.copy()
            ledger._attempts[money.attempt_id] = money
            ledger._jobs.setdefault(money.job_id, []).append(money.attempt_id)
            for held in money.holds if money.live else ():
                live = ledger._live.setdefault((held.budget, held.period_start), {})
                live[money.attempt_id] = held
        return ledger

    # --- inside

    def _touch(self, budget: str) -> None:
        """An account of one of its periods is another, and it may not be the current one."""
        self._late[budget] = self._late.get(budget, 0) + 1

    def _budget_accounts(self, budget: str, period_start: int) -> BudgetAccounts:
        """The account names, assembled once per period: they are needed on every posting."""
        accounts = self._accounts.get((budget, period_start))
        if accounts is None:
            accounts = self._accounts[budget, period_start] = budget_accounts(budget, period_start)
        return accounts

    def _attempt(self, attempt_id: str, verb: str) -> AttemptMoney:
        money = self._attempts.get(attempt_id)
        if money is None or not money.live:
            state = "not known" if money is None else "already released"
            raise InvariantViolation(f"B3: {attempt_id} cannot be {verb}: it is {state}")
        return money

    def _check_usage(self, item: Charge) -> None:
        money = self._attempt(item.attempt_id, "charged")
        if item.job_id != money.job_id or item.nanos < 0:
            raise InvariantViolation(
                f"usage of {item.attempt_id} must be >= 0 and on {money.job_id}, not"
                f" {item.nanos} on {item.job_id}"
            )

    def _join(self, money: AttemptMoney, held: HeldMoney) -> list[Entry]:
        """An attempt has part in a budget; the entries that set its hold aside."""
        money.holds.append(held)
        self._live.setdefault((held.budget, held.period_start), {})[money.attempt_id] = held
        if not held.nanos:
            return []
        accounts = self._budget_accounts(held.budget, held.period_start)
        return [Entry(accounts.available, -held.nanos), Entry(accounts.held, held.nanos)]

    def _leave(self, held: HeldMoney, attempt_id: str) -> list[Entry]:
        """It has no more; the entries that give back what is left."""
        live = self._live[held.budget, held.period_start]
        del live[attempt_id]
        if not live:
            del self._live[held.budget, held.period_start]
        nanos, held.nanos = held.nanos, 0
        if not nanos:
            return []
        accounts = self._budget_accounts(held.budget, held.period_start)
        return [Entry(accounts.held, -nanos), Entry(accounts.available, nanos)]

    def _book(self, item: Charge) -> Transaction:
        nanos = item.nanos
        source = Entry(node_account(item.node_id), -nanos)
        if item.kind not in PAID:
            owner = Entry(ownerless_account(item.kind, item.node_id), nanos)
            return self.post(Transaction(item.kind, (source, owner), node_id=item.node_id))
        money = self._attempts[item.attempt_id]
        money.settled_nanos += nanos
        entries = [source, Entry(job_account(item.job_id), nanos)]
        for held in money.holds:
            self._settle(held, item.start, nanos, entries)
        usage = Transaction(item.kind, tuple(entries), item.attempt_id, item.job_id, item.node_id)
        return self.post(usage)

    def _settle(self, held: HeldMoney, at: int, nanos: int, entries: list[Entry]) -> None:
        """Spend `nanos` of one hold: what is left of it, and beyond that the budget itself."""
        paid = min(held.nanos, nanos)
        held.nanos -= paid
        held.overrun_nanos += nanos - paid
        period_start = held.period_at(at)
        if paid:
            now = self._budget_accounts(held.budget, held.period_start)
            entries.append(Entry(now.held, -paid))
            if period_start != held.period_start:
                entries.append(Entry(now.available, paid))
                paid = 0
        if period_start is None:
            return
        days = self.days.get(held.budget)
        if days is None:
            days = self.days[held.budget] = Days(at // DAY_US + 1, {})
        days.add(at, nanos)
        if period_start != held.period_start:
            self._touch(held.budget)
        then = self._budget_accounts(held.budget, period_start)
        if nanos != paid:
            entries.append(Entry(then.available, paid - nanos))
        entries.append(Entry(then.settled, nanos))
