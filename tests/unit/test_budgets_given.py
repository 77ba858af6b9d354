"""Grants and transfers: what a budget has beside its document's limit, by whom, why, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US
from bursar.errors import BudgetExceeded, BursarError, InvalidRequest, KeyConflict, NotFound
from bursard.doctor import Finding, check_state
from bursard.events import BudgetOpened, HoldsRolled
from bursard.fleet.testing import World
from bursard.reports.budgets import BudgetView, budget_views
from bursard.state import Limits, State, compare, image
from bursard.state.budgets import limit_of
from bursard.state.decide import giving, policies, staging
from bursard.state.given import KEPT_US, Posting, Postings

USD = 10**9


def budget(name: str, limit: int, enforcement: str = "hard", period: str = "day") -> str:
    return (
        f"kind: Budget\nname: {name}\nspec:\n  scope: {{project: {name}}}\n  limit: {limit} USD\n"
        f"  period: {period}\n  enforcement: {enforcement}\n  thresholds: [{{at: 50%, do: [notify]}}]\n"
    )


class Site(World):
    """Two budgets, and what their scopes have cost."""

    def spent(self, name: str, usd: int) -> None:
        start = self.start_of(name)
        self.engine.commit([BudgetOpened(name, start, usd * USD, start)], "test")

    def start_of(self, name: str) -> int:
        return self.state.budgets.records[name].period_start

    def grant(self, name: str, usd: int, key: str = "", by: str = "fin", why: str = "why") -> int:
        return self.engine.commit(giving.grant(self.state, name, usd * USD, by, why, key), by)

    def transfer(self, name: str, to: str, usd: int, key: str = "", by: str = "fin", why: str = "why") -> int:
        return self.engine.commit(giving.transfer(self.state, name, to, usd * USD, by, why, key), by)

    def view(self, name: str) -> BudgetView:
        [found] = budget_views(self.state, name)
        return found

    def limits(self) -> tuple[int, ...]:
        return tuple(view.limit_nanos // USD for view in budget_views(self.state))

    def next_day(self, name: str) -> None:
        first = self.start_of(name)
        self.engine.commit([HoldsRolled(name, first, first + DAY_US)], "bursard")


@pytest.fixture
def site() -> Site:
    site = Site()
    site.apply(budget("a", 100))
    site.apply(budget("b", 40))
    return site


def of_budgets(state: State) -> Finding:
    [found] = [finding for finding in check_state(state) if finding.check == "budgets (B1, B7)"]
    return found


def room(state: State, name: str) -> int:
    return state.budgets.rooms(state.ledger)[name].room_nanos // USD


def test_a_grant_is_room_to_spend_and_says_who_and_why(site: Site) -> None:
    site.spent("a", 90)
    site.grant("a", 25, why="  deadline of \n the paper ")
    view = site.view("a")
    assert (view.base_limit_nanos, view.granted_nanos, view.transferred_nanos) == (100 * USD, 25 * USD, 0)
    assert (view.limit_nanos, view.settled_nanos, room(site.state, "a")) == (125 * USD, 90 * USD, 35)
    [posting] = view.postings
    assert posting == Posting(
        "grant", "a", site.start_of("a"), 25 * USD, site.engine.now(), "fin", "deadline of the paper"
    )
    assert site.state.ledger.violations() == []


def test_a_transfer_takes_from_one_what_it_gives_to_the_other(site: Site) -> None:
    site.transfer("a", "b", 30)
    assert (site.limits(), room(site.state, "a"), room(site.state, "b")) == ((70, 70), 70, 70)
    assert [(p.kind, p.nanos // USD, p.other) for p in site.view("a").postings] == [("transfer", -30, "b")]
    assert [(p.kind, p.nanos // USD, p.other) for p in site.view("b").postings] == [("transfer", 30, "a")]
    assert (site.view("a").transferred_nanos, site.view("b").transferred_nanos) == (-30 * USD, 30 * USD)


def test_a_hard_budget_keeps_what_it_has_settled_and_holds(site: Site) -> None:
    site.spent("a", 80)
    with pytest.raises(BudgetExceeded) as found:
        site.transfer("a", "b", 21)
    assert found.value.message == (
        "budget a: 21.00 USD cannot be transferred, 20.00 USD are free: its limit is 100.00 USD,"
        " 80.00 USD settled and 0.00 USD held"
    )
    assert found.value.facts["room"] == "20.000000000"
    site.transfer("a", "b", 20)
    assert site.limits() == (80, 60)


def test_a_soft_budget_gives_what_it_has_and_no_more(site: Site) -> None:
    site.apply(budget("a", 100, "soft"))
    site.spent("a", 150)
    site.transfer("a", "b", 100)
    with pytest.raises(BudgetExceeded, match=r"0\.00 USD are free: its limit is 0\.00 USD$"):
        site.transfer("a", "b", 1)


def test_what_was_granted_by_mistake_is_taken_back_and_no_more(site: Site) -> None:
    site.transfer("b", "a", 10)
    site.grant("a", 30)
    site.grant("a", -20)
    assert site.limits() == (120, 30)
    with pytest.raises(InvalidRequest, match=r"was granted 10\.00 USD in this period, so 11\.00 USD cannot"):
        site.grant("a", -11)
    site.spent("a", 115)
    with pytest.raises(BudgetExceeded, match=r"10\.00 USD cannot be taken back, 5\.00 USD are free"):
        site.grant("a", -10)
    site.grant("a", -5)
    assert (site.limits(), site.view("a").granted_nanos) == ((115, 30), 5 * USD)


@pytest.mark.parametrize(
    ("name", "nanos", "reason", "error", "message"),
    [
        ("x", USD, "r", NotFound, "there is no budget 'x'"),
        ("a", 0, "r", InvalidRequest, "amount: must be more than 0"),
        ("a", 10**24 + 1, "r", InvalidRequest, "amount: must be more than 0 and at most 1000000000000000"),
        ("a", -(10**24) - 1, "r", InvalidRequest, "amount"),
        ("a", USD, " ", InvalidRequest, "reason: say in 1 to 400"),
        ("a", USD, "x" * 401, InvalidRequest, "reason: 401 characters"),
    ],
)
def test_a_grant_that_means_nothing_is_refused(
    site: Site, name: str, nanos: int, reason: str, error: type[BursarError], message: str
) -> None:
    with pytest.raises(error, match=message):
        giving.grant(site.state, name, nanos, "fin", reason)


def test_a_transfer_needs_two_budgets_and_an_amount(site: Site) -> None:
    for name, to, nanos, error in (
        ("a", "a", USD, InvalidRequest),
        ("a", "x", USD, NotFound),
        ("x", "a", USD, NotFound),
        ("a", "b", 0, InvalidRequest),
        ("a", "b", -USD, InvalidRequest),
    ):
        with pytest.raises(error):
            giving.transfer(site.state, name, to, nanos, "fin", "r")


def test_the_same_key_gives_once_and_another_wish_with_it_is_refused(site: Site) -> None:
    for _ in range(2):
        site.grant("a", 5, "k1")
        site.transfer("a", "b", 3, "k2")
    assert site.limits() == (102, 43)
    with pytest.raises(KeyConflict, match=r"key 'k1' was already used for another grant, of 5\.00 USD"):
        site.grant("a", 6, "k1")
    with pytest.raises(KeyConflict):
        site.transfer("a", "b", 5, "k1")
    with pytest.raises(KeyConflict):
        site.grant("a", 3, "k2")
    site.grant("a", 6, "k1", by="someone else")
    assert site.limits() == (108, 43)
    with pytest.raises(InvalidRequest, match="key: at most 200 characters"):
        site.grant("a", 1, "k" * 201)


def test_what_is_given_is_of_its_period_and_the_next_begins_without(site: Site) -> None:
    site.grant("a", 50)
    site.transfer("a", "b", 20)
    site.next_day("a")
    assert (site.limits(), site.view("a").postings) == ((100, 60), ())
    first = site.start_of("a")
    site.engine.commit([HoldsRolled("a", first, first - DAY_US)], "bursard")
    assert (site.limits(), len(site.view("a").postings)) == ((130, 60), 2)


def test_a_budget_that_is_removed_and_applied_again_has_what_it_was_given(site: Site) -> None:
    site.grant("a", 50)
    site.engine.commit(policies.remove(site.state, "Budget", "a"), "test")
    site.apply(budget("a", 10))
    assert site.limits() == (60, 40)
    assert site.state.ledger.violations() == []


def test_a_document_is_held_against_its_limit_with_what_was_given(site: Site) -> None:
    site.grant("a", 50)
    site.spent("a", 120)
    site.apply(budget("a", 70))
    with pytest.raises(BudgetExceeded) as found:
        site.apply(budget("a", 69))
    assert found.value.message.endswith(
        "a limit of 69.00 USD with 50.00 USD granted or transferred is below the 120.00 USD settled and"
        " 0.00 USD held in this period; set 70.00 USD or more, or cancel jobs first"
    )
    site.apply(budget("b", 40, "soft"))
    site.transfer("b", "a", 30)
    with pytest.raises(BudgetExceeded) as found:
        site.apply(budget("b", 29, "soft"))
    assert found.value.message.endswith(
        "a limit of 29.00 USD less the 30.00 USD transferred away is below nothing; set 30.00 USD or more"
    )


def test_a_grant_arms_thresholds_again_as_a_raised_limit_does(site: Site) -> None:
    site.spent("a", 60)
    site.engine.commit(staging.thresholds(site.state), "bursard")
    assert site.view("a").crossed_percent == (50,)
    site.grant("a", 60)
    assert (staging.thresholds(site.state), site.view("a").crossed_percent) == ([], ())
    site.spent("a", 80)
    [crossed] = staging.thresholds(site.state)
    assert crossed.limit_nanos == 160 * USD  # type: ignore[union-attr]


def test_images_and_replay_keep_what_was_given(site: Site) -> None:
    site.grant("a", 50, "k1")
    site.transfer("a", "b", 20, "k2")
    again = image.decode(image.encode(site.state, site.engine.now()), Limits())
    assert list(again.budgets.postings) == list(site.state.budgets.postings)
    assert compare.differences(image.encode(again, site.engine.now()), site.state) == []
    assert [limit_of(r, again.ledger) // USD for r in again.budgets.records.values()] == [130, 60]
    assert giving.grant(again, "a", 50 * USD, "fin", "why", "k1") == []
    assert giving.transfer(again, "a", "b", 20 * USD, "fin", "why", "k2") == []


def test_what_people_gave_is_forgotten_long_after_its_period_with_its_key() -> None:
    old = Posting("grant", "a", 10, 5, 100, "fin", "r", "k1")
    ends = [
        Posting("transfer", name, 10, sign * 5, 100, "fin", "r", "k2", other)
        for name, sign, other in (("a", -1, "b"), ("b", 1, "a"))
    ]
    postings = Postings([old, *ends])
    postings.forget("a", 11, 100 + KEPT_US)
    postings.forget("a", 10, 101 + KEPT_US)
    assert len(list(postings)) == 3
    postings.forget("b", 11, 101 + KEPT_US)
    assert postings.keyed("fin", "k2") is ends[0]
    postings.forget("a", 11, 101 + KEPT_US)
    assert (list(postings), postings.keyed("fin", "k1"), postings.keyed("fin", "k2")) == ([], None, None)


def test_doctor_holds_what_was_given_against_its_postings(site: Site) -> None:
    site.grant("a", 50)
    assert of_budgets(site.state).ok
    site.state.budgets.postings = Postings()
    found = of_budgets(site.state)
    assert not found.ok
    assert "B7: a was given 50000000000 nanos, its postings say 0" in str(found)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from("ab"), st.integers(-60, 90).filter(bool)),
        st.tuples(st.just("transfer"), st.sampled_from(["ab", "ba"]), st.integers(1, 120)),
        st.tuples(st.just("spend"), st.sampled_from("ab"), st.integers(0, 200)),
        st.tuples(st.just("limit"), st.sampled_from("ab"), st.integers(1, 150)),
        st.tuples(st.just("roll"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("again"), st.just("a"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_no_order_of_gifts_makes_or_loses_a_nano_or_passes_a_hard_limit(
    steps: list[tuple[str, str, int]],
) -> None:
    """Beside the product, a plain sum of what was said: it must show the same after each step."""
    site = Site()
    base = {"a": 100, "b": 40}
    for name, limit in base.items():
        site.apply(budget(name, limit))
    spent, given_to = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    state = site.state
    for verb, whose, usd in steps:
        try:
            if verb == "grant":
                site.grant(whose, usd)
                given_to[whose] += usd
            elif verb == "transfer":
                site.transfer(whose[0], whose[1], usd)
                given_to[whose[0]] -= usd
                given_to[whose[1]] += usd
            elif verb == "spend":
                spent[whose] = min(usd, base[whose] + given_to[whose])
                site.spent(whose, spent[whose])
            elif verb == "limit":
                site.apply(budget(whose, usd))
                base[whose] = usd
            elif verb == "roll":
                site.next_day(whose)
                spent[whose] = given_to[whose] = 0
            else:
                again = image.decode(image.encode(state, site.engine.now()), Limits())
                assert again.ledger.image() == state.ledger.image()
        except BursarError:
            pass
        for name in "ab":
            start = site.start_of(name)
            ledger = state.ledger
            assert ledger.given(name, start) == given_to[name] * USD
            assert ledger.room(name, start, base[name] * USD) == (
                (base[name] + given_to[name] - spent[name]) * USD
            )
            assert room(state, name) >= 0
        assert ledger.violations() == []
        assert of_budgets(state).ok
