"""Any history of placements, reports, rolls and releases keeps the books.

The machine drives metering and the ledger as the daemon does and compares them, after every step, with
a model that never sees an entry: a bill is floor(rate x largest counter) by component, a hold is what was
placed less what was spent. Reports are lost, doubled and reordered at will. The same machine is then run
over broken ledgers, since a check that cannot fail checks nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import Hold, ShareRates
from bursard.events import Charge
from bursard.ledger import (
    Entry,
    HeldMoney,
    Ledger,
    LedgerImage,
    Row,
    Transaction,
    book_of,
    held_nanos,
    member_charges,
    rows,
)

EPOCH = 490_000 * HOUR_US
PERIOD_US = HOUR_US
LIMITS = {"team": 9_000_000_000, "org": 14_000_000_000}
"""Low enough that placements are refused: a limit that never binds tests nothing."""
TIME_LIMIT_US = 3 * HOUR_US + 17

Meter = Callable[..., tuple[Charge, ...]]
rates_of_a_share = st.builds(
    ShareRates,
    gpu=st.integers(0, 900_000_000) | st.sampled_from([1_000_000_007, 2_500_000_000]),
    cpu=st.integers(0, 1_000_003),
    memory=st.integers(0, 11),
)


class Member(msgspec.Struct):
    """The model of one rank: what it should have been billed follows from `billed_us` alone."""

    rates: ShareRates
    started_at: int
    billed_us: int = 0
    reported_us: int = 0
    intervals: list[tuple[int, int]] = []  # msgspec copies the default

    @property
    def bill(self) -> int:
        parts = (self.rates.gpu, self.rates.cpu, self.rates.memory)
        return sum(rate * self.billed_us // (3600 * 10**6) for rate in parts)


class Attempt(msgspec.Struct):
    """The model of one attempt: where its holds are and what it spent in which period."""

    job_id: str
    members: list[Member]
    holds: dict[str, int]
    period: dict[str, int]
    visited: dict[str, list[int]]
    spent: Counter[tuple[str, int]]
    live: bool = True

    def rest(self, budget: str) -> int:
        used = sum(nanos for (name, _), nanos in self.spent.items() if name == budget)
        return max(0, self.holds[budget] - used) if self.live else 0


class LedgerMachine(RuleBasedStateMachine):
    ledger_type: ClassVar[type[Ledger]] = Ledger
    meter: ClassVar[Meter] = staticmethod(member_charges)

    def __init__(self) -> None:
        super().__init__()
        self.ledger = self.ledger_type()
        self.now = EPOCH + 5
        self.period = dict.fromkeys(LIMITS, EPOCH)
        self.attempts: dict[str, Attempt] = {}
        self.closed: dict[str, int] = {}
        self.reports: list[tuple[str, int, int]] = []
        self.commands: list[tuple[str, tuple[object, ...]]] = []
        self.rows: list[Row] = []

    def do(self, name: str, *arguments: object) -> None:
        """One call of the ledger, written down as the log would."""
        self.commands.append((name, arguments))
        result = getattr(self.ledger, name)(*arguments)
        found = result if isinstance(result, list) else [result]
        for tx in found:
            if isinstance(tx, Transaction):
                sums = Counter[str]()
                for entry in tx.entries:
                    sums[book_of(entry.account)] += entry.nanos
                assert not any(sums.values()), f"L1: {tx} does not balance: {sums}"
                self.rows += rows([tx])

    def live(self) -> list[str]:
        return [name for name, attempt in self.attempts.items() if attempt.live]

    # --- what happens

    @initialize()
    def start(self) -> None:
        self.do("charge", [])

    @rule(
        shares=st.lists(rates_of_a_share, min_size=1, max_size=2),
        budgets=st.sampled_from([(), ("team",), ("team", "org")]),
        new_job=st.booleans(),
    )
    def place(self, shares: list[ShareRates], budgets: tuple[str, ...], new_job: bool) -> None:
        worst = sum(held_nanos(rates, TIME_LIMIT_US) for rates in shares)
        room = (self.ledger.room(b, self.period[b], LIMITS[b]) for b in budgets)
        if any(worst > each for each in room):
            return
        attempt_id = f"a{len(self.attempts):03}"
        open_jobs = [a.job_id for a in self.attempts.values() if a.job_id not in self.closed]
        job_id = f"j{len(self.attempts)}" if new_job or not open_jobs else open_jobs[-1]
        self.attempts[attempt_id] = Attempt(
            job_id=job_id,
            members=[Member(rates, self.now, intervals=[]) for rates in shares],
            holds=dict.fromkeys(budgets, worst),
            period={b: self.period[b] for b in budgets},
            visited={b: [self.period[b]] for b in budgets},
            spent=Counter(),
        )
        holds = [Hold(b, self.period[b], worst) for b in budgets]
        self.do("place", attempt_id, job_id, holds)

    @rule(us=st.integers(1, HOUR_US) | st.sampled_from([HOUR_US // 3, HOUR_US - 5, HOUR_US]))
    def time_passes_and_agents_report(self, us: int) -> None:
        self.now += us
        for attempt_id in self.live():
            for rank, member in enumerate(self.attempts[attempt_id].members):
                member.reported_us = min(self.now - member.started_at, TIME_LIMIT_US)
                self.reports.append((attempt_id, rank, member.reported_us))

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def a_report_arrives_maybe_late_or_again(self, data: st.DataObject) -> None:
        attempt_id, rank, held_us = data.draw(st.sampled_from(self.reports))
        if self.attempts[attempt_id].live:
            self.charge(attempt_id, rank, held_us)

    def charge(self, attempt_id: str, rank: int, held_us: int) -> None:
        attempt = self.attempts[attempt_id]
        member = attempt.members[rank]
        charges = type(self).meter(
            attempt_id=attempt_id,
            job_id=attempt.job_id,
            rank=rank,
            node_id=f"n{rank}",
            price_id="p",
            rates=member.rates,
            started_at=member.started_at,
            from_us=member.billed_us,
            to_us=held_us,
        )
        for each in charges:
            member.intervals.append((each.start, each.end))
            for budget in attempt.holds:
                old = [p for p in attempt.visited[budget] if p <= each.start]
                at = max(old, default=attempt.visited[budget][0])
                attempt.spent[budget, at] += each.nanos
        member.billed_us = max(member.billed_us, held_us)
        self.do("charge", list(charges))

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def an_attempt_ends(self, data: st.DataObject) -> None:
        attempt_id = data.draw(st.sampled_from(self.live()))
        for rank, member in enumerate(self.attempts[attempt_id].members):
            self.charge(attempt_id, rank, member.reported_us)
        self.do("release", attempt_id)
        self.attempts[attempt_id].live = False

    def due(self) -> list[str]:
        return [b for b, start in sorted(self.period.items()) if self.now >= start + PERIOD_US]

    @precondition(lambda self: self.due())
    @rule(data=st.data())
    def a_period_ends(self, data: st.DataObject) -> None:
        budget = data.draw(st.sampled_from(self.due()))
        old, new = self.period[budget], self.period[budget] + PERIOD_US
        self.period[budget] = new
        for attempt in self.attempts.values():
            if attempt.live and budget in attempt.holds:
                attempt.period[budget] = new
                attempt.visited[budget].append(new)
        self.do("roll", budget, old, new)

    @rule()
    def ended_jobs_are_closed(self) -> None:
        running = {a.job_id for a in self.attempts.values() if a.live}
        jobs = {a.job_id for a in self.attempts.values()} - running - self.closed.keys()
        for job_id in sorted(jobs):
            self.closed[job_id] = self.ledger.job_settled(job_id)
            self.do("close_job", job_id)

    @rule()
    def the_daemon_restarts_from_a_snapshot(self) -> None:
        payload = msgspec.json.encode(self.ledger.image())
        self.ledger = self.ledger_type.from_image(msgspec.json.decode(payload, type=LedgerImage))

    @precondition(lambda self: len(self.live()) < len(self.attempts))
    @rule(data=st.data())
    def nothing_resolves_twice(self, data: st.DataObject) -> None:
        ended = [name for name, attempt in self.attempts.items() if not attempt.live]
        attempt_id = data.draw(st.sampled_from(ended))
        late = Charge(
            kind="usage", node_id="n0", start=self.now, end=self.now + 1, nanos=1, price_id="p",
            attempt_id=attempt_id, job_id=self.attempts[attempt_id].job_id,
        )  # fmt: skip
        before = self.ledger.image()
        with pytest.raises(InvariantViolation):
            self.ledger.release(attempt_id)
        with pytest.raises(InvariantViolation):
            self.ledger.charge([late])
        assert self.ledger.image() == before, "B3: a refused call changed the ledger"

    # --- what is always true

    @invariant()
    def l3_every_balance_is_the_sum_of_its_rows(self) -> None:
        sums = Counter[str]()
        for row in self.rows:
            sums[row.account] += row.nanos
        for job_id, nanos in self.closed.items():
            assert sums.pop(f"job/{job_id}", 0) == nanos, "L3: a closed job"
        kept = {account: nanos for account, nanos in self.ledger.balances.items() if nanos}
        assert kept == {account: nanos for account, nanos in sums.items() if nanos}, "L3"
        assert self.ledger.closed_nanos == sum(self.closed.values())

    @invariant()
    def l5_a_job_is_billed_its_largest_counters_whatever_was_lost(self) -> None:
        bills = Counter[str]()
        for attempt_id, attempt in self.attempts.items():
            bill = sum(member.bill for member in attempt.members)
            bills[attempt.job_id] += bill
            if attempt.job_id not in self.closed:
                assert self.ledger.attempt_settled(attempt_id) == bill, "L5"
            assert self.ledger.overrun(attempt_id) == 0, "a worst-case hold was overrun"
        for job_id, bill in bills.items():
            settled = self.closed.get(job_id, self.ledger.job_settled(job_id))
            assert settled == bill, f"L5: {job_id} was billed {settled}, not {bill}"

    @invariant()
    def l7_the_intervals_of_a_member_tile_its_time_and_lie_in_one_hour_each(self) -> None:
        for attempt in self.attempts.values():
            for member in attempt.members:
                at = member.started_at
                for start, end in member.intervals:
                    assert start == at, "L7"
                    assert start // HOUR_US == (end - 1) // HOUR_US, "L7: not in one hour"
                    at = end
                assert at == member.started_at + member.billed_us, "L7"

    @invariant()
    def b1_committed_money_is_what_the_model_says_and_within_the_limit(self) -> None:
        held, settled = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
        for attempt in self.attempts.values():
            settled.update(attempt.spent)
            for budget in attempt.holds:
                held[budget, attempt.period[budget]] += attempt.rest(budget)
        for budget, limit in LIMITS.items():
            for period in range(EPOCH, self.period[budget] + 1, PERIOD_US):
                key = (budget, period)
                assert self.ledger.held(*key) == held[key], f"held of {key}"
                assert self.ledger.settled(*key) == settled[key], f"settled of {key}"
                assert held[key] + settled[key] <= limit, f"B1: {key}"

    @invariant()
    def b3_the_rows_of_an_attempt_show_each_hold_resolved(self) -> None:
        rest = Counter[str]()
        for row in self.rows:
            if row.account.endswith("/held"):
                rest[row.attempt_id] += row.nanos
        for attempt_id, attempt in self.attempts.items():
            expected = sum(attempt.rest(budget) for budget in attempt.holds)
            assert rest[attempt_id] == expected, f"B3: {attempt_id}"
            found = {hold.budget: hold.nanos for hold in self.ledger.open_holds(attempt_id)}
            kept = attempt.holds if attempt.live else ()
            assert found == {b: attempt.rest(b) for b in kept}, f"B3: open holds of {attempt_id}"

    @invariant()
    def the_ledger_finds_nothing_wrong_with_itself(self) -> None:
        assert self.ledger.violations() == []

    def teardown(self) -> None:
        """L10: the same commands give the same ledger, to the byte."""
        twin = self.ledger_type()
        for name, arguments in self.commands:
            getattr(twin, name)(*arguments)
        assert msgspec.json.encode(twin.image()) == msgspec.json.encode(self.ledger.image()), "L10"


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- planted faults


class SettlesTwice(Ledger):
    def charge(self, charges: Sequence[Charge]) -> list[Transaction]:
        found = super().charge(charges)
        for tx in list(found):
            again = [e for e in tx.entries if e.account.startswith("budget/")]
            found.append(self.post(Transaction("settle", tuple(again), tx.attempt_id)))
        return found


class KeepsTheRest(Ledger):
    def release(self, attempt_id: str) -> Transaction | None:
        self._attempt(attempt_id, "released").live = False
        return None


class ReleasesAgain(Ledger):
    def release(self, attempt_id: str) -> Transaction | None:
        return super().release(attempt_id) if self.is_live(attempt_id) else None


class BalancesOneBudgetWithAnother(Ledger):
    def _settle(self, held: HeldMoney, at: int, nanos: int, entries: list[Entry]) -> None:
        super()._settle(held, at, nanos, entries)
        if held.budget == "org":
            last = entries.pop()
            entries.append(Entry(last.account.replace("/org/", "/team/"), last.nanos))


class BooksLateChargesNow(Ledger):
    def _settle(self, held: HeldMoney, at: int, nanos: int, entries: list[Entry]) -> None:
        super()._settle(held, held.period_start, nanos, entries)


class LosesHoldsInRoll(Ledger):
    def roll(self, budget: str, from_period: int, to_period: int) -> list[Transaction]:
        found = super().roll(budget, from_period, to_period)
        for money in self._attempts.values():
            for held in money.holds:
                held.nanos = held.nanos // 2 if held.period_start == to_period else held.nanos
        return found


class IgnoresTheLimit(Ledger):
    def room(self, budget: str, period_start: int, limit_nanos: int) -> int:
        return limit_nanos


class ForgetsInItsImage(Ledger):
    def image(self) -> LedgerImage:
        image = super().image()
        return LedgerImage(image.balances, image.attempts[:-1], image.closed_nanos)


class DependsOnHistory(Ledger):
    births = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.balances[f"node/born-{next(self.births)}"] = 0


def rounds_each_part(**arguments: object) -> tuple[Charge, ...]:
    """Each charge is rounded by itself, as if it began at 0."""
    found = []
    for each in member_charges(**arguments):  # type: ignore[arg-type]
        rates = arguments["rates"]
        assert isinstance(rates, ShareRates)
        found.append(msgspec.structs.replace(each, nanos=held_nanos(rates, each.end - each.start)))
    return tuple(found)


def bills_every_report(**arguments: object) -> tuple[Charge, ...]:
    """A report that comes again is billed again."""
    return member_charges(**{**arguments, "from_us": 0})  # type: ignore[arg-type]


def broken(ledger_type: type[Ledger] = Ledger, meter: Meter = member_charges) -> type[LedgerMachine]:
    """The machine over something that must not pass."""
    members = {"ledger_type": ledger_type, "meter": staticmethod(meter)}
    return type("BrokenMachine", (LedgerMachine,), members)


@pytest.mark.parametrize(
    ("machine", "complaint"),
    [
        pytest.param(broken(SettlesTwice), "held of|B3", id="settles twice"),
        pytest.param(broken(KeepsTheRest), "held of|B3", id="keeps the rest"),
        pytest.param(broken(ReleasesAgain), "DID NOT RAISE", id="releases again"),
        pytest.param(broken(BalancesOneBudgetWithAnother), "L1", id="mixes budgets"),
        pytest.param(broken(BooksLateChargesNow), "settled of", id="books late charges now"),
        pytest.param(broken(LosesHoldsInRoll), "B3", id="loses holds in roll"),
        pytest.param(broken(IgnoresTheLimit), "B1", id="ignores the limit"),
        pytest.param(broken(ForgetsInItsImage), "B3|L5|L10", id="forgets in its image"),
        pytest.param(broken(DependsOnHistory), "L10", id="depends on history"),
        pytest.param(broken(meter=rounds_each_part), "L5", id="rounds each part"),
        pytest.param(broken(meter=bills_every_report), "L5|L7", id="bills every report"),
    ],
)
def test_a_planted_fault_is_caught(machine: type[LedgerMachine], complaint: str) -> None:
    quick = settings(
        max_examples=300,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        run_state_machine_as_test(machine, settings=quick)
