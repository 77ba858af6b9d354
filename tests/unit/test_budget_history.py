"""What became of a budget in the months before, with the limits that they ended with."""

from __future__ import annotations

import pytest
from money_daemon import BUDGET, START, Daemon, in_a_daemon

from bursar.clock import DAY_US, Instant
from bursar.errors import NotFound
from bursar.v1 import money_pb2 as pb
from bursar_policies.periods import period_bounds
from bursard.events import BudgetOpened, HoldsRolled
from bursard.state.decide import giving, staging

USD = 10**9
STAGED = (
    BUDGET + "  thresholds: [{at: 50%, do: [notify]}, {at: 50%, on: settled+held, do: [notify]},"
    " {at: 90%, do: [hold-queue]}]\n"
)


async def told(daemon: Daemon, name: str = "vision") -> list[tuple[object, ...]]:
    answer = await daemon.money.Budgets(pb.BudgetsRequest(name=name, history=True), None)
    return [
        (
            one.period_start, one.period_end, one.limit_nanos // USD, int(one.base_limit.nanos) // USD,
            one.settled_nanos // USD, int(one.granted.nanos) // USD, list(one.crossed_percent),
            [(each.at_ppm, each.on) for each in one.crossed], one.version,
        )
        for one in answer.budgets
    ]  # fmt: skip


def test_each_month_has_the_limit_it_ended_with_and_what_was_given_and_passed_in_it() -> None:
    async def story(daemon: Daemon) -> None:
        engine = daemon.engine
        november, december = period_bounds("month", "UTC", Instant(START))
        assert december is not None
        _, january = period_bounds("month", "UTC", december)
        await daemon.apply(STAGED)
        engine.commit([BudgetOpened("vision", november, 60 * USD, november)], "test")
        engine.commit(staging.thresholds(engine.state), "bursard")
        await daemon.apply(STAGED.replace("90 USD", "100 USD"))
        engine.commit(giving.grant(engine.state, "vision", 20 * USD, "fin", "why"), "fin")
        daemon.clock.advance(40 * DAY_US)
        engine.commit([HoldsRolled("vision", november, december)], "bursard")
        await daemon.apply(STAGED.replace("90 USD", "70 USD"))
        assert await told(daemon) == [
            (december, january, 70, 70, 0, 0, [], [], 3),
            (
                november,
                december,
                120,
                100,
                60,
                20,
                [50],
                [(500_000, "settled"), (500_000, "settled+held")],
                2,
            ),
        ]

    in_a_daemon(story)


def test_a_budget_that_is_not_there_has_no_history() -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(NotFound, match="there is no budget 'visio'"):
            await told(daemon, "visio")

    in_a_daemon(story)
