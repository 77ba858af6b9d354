"""Stories of backfill: gaps are used, the job the queue waits for is not delayed."""

from __future__ import annotations

from bursar.model import ReasonCode


def blocked_head(scenario):
    """One of two GPUs busy for 2 h; the head wants both."""
    return scenario.node("a", gpus=2).running("a", gpus=1, ends_h=2).job("head", gpus=2)


def test_short_job_uses_the_gap(scenario):
    blocked_head(scenario).job("short", gpus=1, hours=1).expect("short", on="a")
    scenario.expect_waits("head", ReasonCode.WAITING_FOR_RESOURCES)
    assert scenario.plan.reserved_job == "head"


def test_long_job_would_delay_the_head_and_is_told_the_limit(scenario):
    blocked_head(scenario).job("long", gpus=1, hours=3)
    scenario.expect_waits("long", ReasonCode.RESERVED_FOR_OTHER, "head", "--time-limit 1h59m")


def test_grace_and_margin_count_as_running(scenario):
    """Two hours exactly, and a minute of grace: one minute too long."""
    blocked_head(scenario).job("exact", gpus=1, hours=2)
    scenario.expect_waits("exact", ReasonCode.RESERVED_FOR_OTHER)


def test_long_job_that_leaves_enough_starts(scenario):
    scenario.node("a", gpus=3).running("a", gpus=2, ends_h=2).job("head", gpus=2, hours=5)
    scenario.job("long", gpus=1, hours=9).job("long2", gpus=1, hours=9)
    scenario.expect("long", on="a")
    scenario.expect_waits("long2", ReasonCode.WAITING_FOR_RESOURCES)


def test_long_job_starts_on_a_node_that_is_not_reserved(scenario):
    scenario.node("a", gpus=2).node("b", gpus=1).running("a", gpus=1, ends_h=2)
    scenario.job("head", gpus=2).job("long", gpus=1, hours=9).expect("long", on="b")


def test_job_without_budget_room_does_not_block_others(scenario):
    scenario.node("a", gpus=2, price="2 USD").budget("b", "1 USD")
    scenario.job("poor", gpus=2, hours=9, budgets=("b",)).job("next", gpus=1, hours=9)
    scenario.expect_waits("poor", ReasonCode.BUDGET_EXHAUSTED).expect("next", on="a")


def test_job_that_money_would_refuse_makes_no_reservation(scenario):
    scenario.node("a", gpus=2, price="2 USD").running("a", gpus=1, ends_h=2).budget("b", "1 USD")
    scenario.job("poor", gpus=2, hours=9, budgets=("b",)).job("long", gpus=1, hours=9)
    scenario.expect("long", on="a").expect_waits("poor", ReasonCode.BUDGET_EXHAUSTED)


def test_money_of_the_head_is_not_spent_in_its_gap(scenario):
    """The head's hold is 2.03 USD of 3: a gap filler of 1.02 USD from the same budget must wait."""
    scenario.node("a", gpus=2, price="2 USD").running("a", gpus=1, ends_h=9).budget("b", "3 USD")
    scenario.job("head", gpus=2, budgets=("b",)).job("filler", gpus=1, budgets=("b",))
    scenario.expect_waits("head", ReasonCode.WAITING_FOR_RESOURCES)
    scenario.expect_waits("filler", ReasonCode.BUDGET_COMMITTED, "2.03 USD held")


def test_second_waiting_job_is_protected_when_the_first_can_never_start(scenario):
    scenario.node("a", gpus=2).node("off", gpus=4, ready=False).running("a", gpus=1, ends_h=2)
    scenario.job("never", gpus=4).job("head", gpus=2).job("long", gpus=1, hours=9)
    scenario.expect_waits("long", ReasonCode.RESERVED_FOR_OTHER, "head")


def test_long_jobs_together_leave_what_is_reserved(scenario):
    """8 CPUs are free and 6 may be used past the shadow time: by one job of 4, not by two."""
    scenario.node("a", cpu_milli=16_000).running("a", cpus=8, ends_h=2).job("head", cpus=10)
    scenario.job("long", cpus=4, hours=9).job("long2", cpus=4, hours=9).expect("long", on="a")
    scenario.expect_waits("long2", ReasonCode.RESERVED_FOR_OTHER, "head")
