"""Carry-over: what a period leaves to the next one, however late things are told, wherever the clock goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest, PolicyInvalid
from bursar.model import Hold
from bursar.money import Money
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec, CarryOver
from bursard.events import BudgetOpened, Charge, HoldsRolled, RestCarried
from bursard.fleet.testing import World
from bursard.ledger import Ledger
from bursard.reports.budgets import BudgetView, budget_views
from bursard.state.decide import giving, policies

USD = 10**9


def budget(rule: str, limit: int = 100, enforcement: str = "hard", period: str = "day") -> str:
    carry = f"  carry_over: {rule}\n" if rule else ""
    return (
        f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: {limit} USD\n"
        f"  period: {period}\n  enforcement: {enforcement}\n{carry}"
    )


class Site(World):
    """One budget, and what its scope has cost."""

    def spent(self, usd: int) -> None:
        self.engine.commit([BudgetOpened("b", self.start, usd * USD, self.start)], "test")

    def hold(self, attempt_id: str, usd: int) -> None:
        """As a start does; in the ledger alone."""
        self.state.ledger.place(attempt_id, f"job-{attempt_id}", [Hold("b", self.start, usd * USD)])

    @property
    def start(self) -> int:
        return self.state.budgets.records["b"].period_start

    def roll(self, days: int) -> list[tuple[int, int, int]]:
        """So many days on, or back: (from, to, USD) of what is carried, in days of the first period."""
        events = policies.roll_periods(self.state, self.start + days * DAY_US + HOUR_US)
        assert isinstance(events[0], HoldsRolled)
        self.engine.commit(events, "bursard")
        assert self.state.ledger.violations() == []
        first = self.first
        carried = [one for one in events if isinstance(one, RestCarried)]
        return [
            ((one.from_period - first) // DAY_US, (one.to_period - first) // DAY_US, one.nanos // USD)
            for one in carried
        ]

    def view(self) -> BudgetView:
        [found] = budget_views(self.state, "b")
        return found

    @property
    def limit(self) -> int:
        return self.view().limit_nanos // USD


def used(attempt_id: str, at: int, nanos: int) -> Charge:
    return Charge(
        kind="usage", node_id="n", start=at, end=at + 1, nanos=nanos, price_id="p", attempt_id=attempt_id,
        job_id=f"job-{attempt_id}",
    )  # fmt: skip


def site_of(rule: str, limit: int = 100, enforcement: str = "hard") -> Site:
    site = Site()
    site.apply(budget(rule, limit, enforcement))
    site.first = site.start
    return site


@pytest.mark.parametrize(
    ("rule", "spent", "carried"),
    [
        ("20%", 60, 8),
        ("100%", 60, 40),
        ("30 USD", 60, 30),
        ("50 USD", 60, 40),
        ("12.5%", 20, 10),
        ("", 60, 0),
    ],
)
def test_of_what_is_left_the_rule_says_how_much_goes_on(rule: str, spent: int, carried: int) -> None:
    site = site_of(rule)
    site.spent(spent)
    assert site.roll(1) == ([(0, 1, carried)] if carried else [])
    assert (site.limit, site.view().carried_nanos) == (100 + carried, carried * USD)
    assert [(one.kind, one.by) for one in site.view().postings] == (
        [("carry-over", "bursard")] if carried else []
    )


def test_what_jobs_hold_is_theirs_and_is_not_carried_beside() -> None:
    site = site_of("100%")
    site.spent(30)
    site.hold("a", 50)
    assert site.roll(1) == [(0, 1, 20)]
    assert (site.limit, site.view().held_nanos // USD) == (120, 50)


def test_what_is_told_late_settles_in_its_period_and_changes_nothing_that_was_carried() -> None:
    site = site_of("100%")
    site.spent(30)
    site.hold("a", 50)
    old = site.start
    site.roll(1)
    ledger = site.state.ledger
    ledger.charge([used("a", old + HOUR_US, 50 * USD)])
    assert ledger.settled("b", old) == 80 * USD
    assert ledger.room("b", old, 100 * USD) == 0
    assert (site.limit, ledger.room("b", site.start, 100 * USD) // USD) == (120, 120)


def test_grants_that_are_left_are_carried_as_the_rest_is() -> None:
    site = site_of("50%")
    site.engine.commit(giving.grant(site.state, "b", 60 * USD, "fin", "r"), "fin")
    site.spent(100)
    assert site.roll(1) == [(0, 1, 30)]
    assert (site.roll(1), site.limit) == ([(1, 2, 65)], 165)


def test_periods_that_passed_unseen_leave_their_rest_too() -> None:
    site = site_of("50%")
    site.spent(20)
    assert site.roll(3) == [(0, 1, 40), (1, 2, 70), (2, 3, 85)]
    assert site.limit == 185
    bounded = site_of("30 USD")
    assert bounded.roll(3) == [(0, 1, 30), (1, 2, 30), (2, 3, 30)]


def test_nothing_of_a_budget_that_was_passed_is_carried() -> None:
    site = site_of("100%", enforcement="soft")
    site.spent(130)
    assert (site.roll(1), site.limit) == ([], 100)


def test_a_clock_that_was_ahead_gives_back_what_it_carried() -> None:
    site = site_of("50%")
    site.spent(20)
    site.roll(2)
    assert site.roll(-2) == [(1, 2, -70), (0, 1, -40)]
    assert (site.limit, site.view().carried_nanos) == (100, 0)
    site.spent(60)
    assert (site.roll(1), site.limit) == ([(0, 1, 20)], 120)
    assert (site.roll(1), site.limit) == ([(1, 2, 60)], 160)


def test_money_that_was_granted_goes_on_with_the_jobs_that_hold_it() -> None:
    site = site_of("")
    site.engine.commit(giving.grant(site.state, "b", 200 * USD, "fin", "r"), "fin")
    site.hold("a", 250)
    assert site.roll(1) == [(0, 1, 150)]
    assert (site.limit, site.view().held_nanos // USD) == (250, 250)
    assert site.view().postings[0].reason == "what running jobs hold"
    soft = site_of("", enforcement="soft")
    soft.hold("a", 250)
    assert soft.roll(1) == []


def spec(rule: str, **more: str) -> BudgetSpec:
    [document] = parse_documents(budget(rule, **more), "b.yaml")  # type: ignore[arg-type]
    assert isinstance(document.spec, BudgetSpec)
    return document.spec


def test_a_rule_is_a_share_or_an_amount() -> None:
    assert spec("20%").carry_over == CarryOver(200_000)
    assert spec("500 USD").carry_over == CarryOver(limit=Money(500 * USD, "USD"))
    assert [str(spec(rule).carry_over) for rule in ("12.5%", "500 USD", "")] == [
        "12.5 % of what was left",
        "at most 500 USD",
        "None",
    ]


@pytest.mark.parametrize(
    ("rule", "more", "message"),
    [
        ("0%", {}, "at least 0.0001"),
        ("101%", {}, "at most 100"),
        ("0 USD", {}, "more than 0"),
        ("lots", {}, "is not an amount of money"),
        ("5 EUR", {}, "is in EUR, the limit in USD"),
        ("20%", {"period": "one-time"}, "never renews"),
        ("[20%]", {}, "carry_over"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: str, more: dict[str, str], message: str) -> None:
    with pytest.raises((PolicyInvalid, InvalidRequest), match=message):
        spec(rule, **more)


HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 90)),
        st.tuples(st.just("use"), st.integers(0, 100)),
        st.tuples(st.just("late"), st.integers(0, 100)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("grant"), st.integers(1, 60)),
        st.tuples(st.just("roll"), st.sampled_from([1, 1, 2, -1])),
    ),
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(rule=st.sampled_from(["100%", "20%", "30 USD", ""]), history=HISTORY)
def test_no_period_is_ever_passed_and_no_nano_is_made(rule: str, history: list[tuple[str, int]]) -> None:
    """Whatever is held, told late, granted and rolled: each period keeps within its limit and what it was
    given, and all periods together within their limits and the grants.
    """
    site = site_of(rule)
    ledger, number, granted = site.state.ledger, 0, 0
    periods = {site.start}
    for verb, usd in history:
        live = sorted(ledger._attempts)
        if verb == "hold" and usd * USD <= ledger.room("b", site.start, 100 * USD):
            number += 1
            site.hold(f"a{number}", usd)
        elif verb in ("use", "late") and live:
            [held] = ledger.open_holds(live[-1])
            at = min(ledger.periods(live[-1])) if verb == "late" else site.start
            nanos = min(usd * USD, held.nanos)
            ledger.charge([used(live[-1], at, nanos)])
        elif verb == "end" and live:
            ledger.release(live[0])
            ledger.close_job(f"job-{live[0]}")
        elif verb == "grant":
            site.engine.commit(giving.grant(site.state, "b", usd * USD, "fin", "r"), "fin")
            granted += usd
        elif verb == "roll" and policies.roll_periods(site.state, site.start + usd * DAY_US + HOUR_US):
            site.roll(usd)
            periods.add(site.start)
        given_out = sum(-nanos for account, nanos in ledger.balances.items() if account.endswith("/given"))
        assert given_out == granted * USD
        assert ledger.room("b", site.start, 100 * USD) >= 0
        assert Ledger.from_image(ledger.image()).violations() == []
