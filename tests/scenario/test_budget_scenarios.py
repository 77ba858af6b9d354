"""Stories of money: what a budget, a cap or a price limit lets start, and what it says otherwise."""

from __future__ import annotations

from bursar.model import ReasonCode


def test_worst_case_must_fit_the_room(scenario):
    """1 h and a minute at 1 USD/h is 1.0167 USD."""
    scenario.node("a", gpus=2, price="2 USD").budget("b", "1.02 USD")
    scenario.job("j", gpus=1, budgets=("b",)).expect("j", on="a")


def test_exhausted_budget_names_the_time_limit_that_fits(scenario):
    scenario.node("a", gpus=1, price="16 USD").budget("b", "20 USD", settled="16.80 USD")
    scenario.job("j", gpus=1, budgets=("b",))
    scenario.expect_waits(
        "j", ReasonCode.BUDGET_EXHAUSTED, "3.20 USD left of 20.00 USD", "--time-limit 11m", "fit the 3.20 USD"
    )


def test_budget_that_only_waits_for_holds_is_committed(scenario):
    scenario.node("a", gpus=2, price="2 USD").budget("b", "5 USD", held="4.50 USD")
    scenario.job("j", gpus=1, budgets=("b",)).expect_waits("j", ReasonCode.BUDGET_COMMITTED, "4.50 USD held")


def test_one_plan_counts_its_own_promises(scenario):
    scenario.node("a", gpus=4, price="4 USD").budget("b", "1.50 USD")
    scenario.job("x", gpus=1, budgets=("b",)).job("y", gpus=1, budgets=("b",))
    scenario.expect("x", on="a").expect_waits("y", ReasonCode.BUDGET_COMMITTED)


def test_every_ancestor_must_pay(scenario):
    scenario.node("a", gpus=1, price="1 USD").budget("team", "9 USD").budget("org", "0.50 USD")
    scenario.job("j", gpus=1, budgets=("team", "org")).expect_waits("j", ReasonCode.BUDGET_EXHAUSTED, "org")


def test_budget_that_is_not_in_force_starts_nothing(scenario):
    scenario.node("a", gpus=1, price="1 USD").job("j", gpus=1, budgets=("gone",))
    scenario.expect_waits("j", ReasonCode.MISCONFIGURED, "gone")


def test_unpriced_node_is_not_used_under_a_budget(scenario):
    scenario.node("a", gpus=1).budget("b", "9 USD").job("j", gpus=1, budgets=("b",))
    scenario.expect_waits("j", ReasonCode.MISCONFIGURED, "known price", "CostModel")


def test_max_cost_shortens_the_time_limit(scenario):
    """0.5 USD at 1 USD/h pays for 30 minutes, one of which is grace."""
    scenario.node("a", gpus=1, price="1 USD").job("j", gpus=1, max_cost="0.50 USD").expect("j")
    limit_us = scenario.plan.starts[0].time_limit_us
    assert limit_us == 29 * 60_000_000 + 3
    assert scenario.plan.starts[0].hold_nanos <= 500_000_000


def test_max_cost_that_pays_for_no_second_is_refused(scenario):
    scenario.node("a", gpus=1, price="60 USD").job("j", gpus=1, max_cost="1 USD")
    scenario.expect_waits("j", ReasonCode.BUDGET_EXHAUSTED, "max_cost has 1.00", "raise max_cost")


def test_price_cap_names_the_price(scenario):
    scenario.node("a", gpus=1, price="60 USD").job("j", gpus=1, max_price="40 USD")
    scenario.expect_waits("j", ReasonCode.PRICE_CAP_EXCEEDED, "60.00", "40.00")


def test_price_cap_is_of_the_whole_gang(scenario):
    scenario.node("a", gpus=1, price="30 USD").node("b", gpus=1, price="30 USD")
    scenario.job("j", gpus=1, nodes=2, max_price="40 USD").expect_waits("j", ReasonCode.PRICE_CAP_EXCEEDED)
