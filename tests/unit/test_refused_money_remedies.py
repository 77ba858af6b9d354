"""A job that no budget could ever pay for is told how long it may run: so long it may, and no minute more."""

from __future__ import annotations

import re

import pytest
from money_daemon import BUDGET, COST_MODEL, Daemon, in_a_daemon

from bursar.clock import SECOND_US, parse_duration
from bursar.errors import BudgetExceeded
from bursar.model import ArraySpec


@pytest.mark.parametrize(
    ("limit", "capped", "left"),
    [("3 USD", False, 0), ("3 USD", True, 0), ("3.01 USD", False, 1)],
    ids=["a budget", "the cap of an array", "a budget without a period, of which some is spent"],
)
def test_the_time_limit_of_a_refusal_is_the_longest_that_is_taken(
    limit: str, capped: bool, left: int
) -> None:
    async def story(daemon: Daemon) -> None:
        period = "one-time" if left else "day"
        lasting = BUDGET.replace("90 USD", limit).replace("month", period)
        await daemon.apply(COST_MODEL, *([] if capped else [lasting]))
        daemon.node("n1")
        if left:
            daemon.run(1, project="research", time_limit_us=7_200 * SECOND_US)
        more = {"array": ArraySpec((0, 1)), "max_cost_nanos": 3 * 10**9, "currency": "USD"} if capped else {}
        more |= {"max_cost_per": "job"} if capped else {}
        with pytest.raises(BudgetExceeded) as refused:
            daemon.submit(project="research", **more)
        said = re.search(r"ask for a time limit of (.*?) or less", refused.value.message)
        assert said is not None, refused.value.message
        longest_us = parse_duration(said[1])
        with pytest.raises(BudgetExceeded):
            daemon.submit(project="research", time_limit_us=longest_us + 60 * SECOND_US, **more)
        daemon.submit(project="research", time_limit_us=longest_us, **more)

    in_a_daemon(story)
