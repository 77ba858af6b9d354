"""What is expected of budgets in a whole cluster, and thresholds that go by it."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.model import NodeFacts
from bursar_policies.periods import period_bounds
from bursard.alerts.message import alert_of
from bursard.events import ThresholdCrossed
from bursard.fleet.testing import World
from bursard.housekeeping import FORECAST_EVERY_US, FORECAST_MAX, Housekeeping
from bursard.state import compare, image
from bursard.state.decide.opening import Before
from bursard.state.decide.outlooks import Outlooks

USD = 10**9


def budget(limit: int, *, do: str = "notify, hold-queue", at: int = 90) -> str:
    return (
        f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: {limit} USD\n  period: month\n"
        f"  enforcement: soft\n  thresholds: [{{at: {at}%, on: forecast, do: [{do}]}}]\n"
    )


class Site(World):
    """A node, and a budget whose scope has cost so much each day of the last forty."""

    def __init__(self, limit: int, a_day: int) -> None:
        super().__init__()
        self.backend.serve(self.fleet)
        self.backend.connect(NodeFacts(name="n-1", cpu_milli=4_000, memory_bytes=1 << 34))
        self.clock.advance(9 * DAY_US + 12 * HOUR_US)
        self.cost = a_day
        self.change(limit)
        self.begin()

    def begin(self) -> None:
        self.house = Housekeeping(self.state, lambda: self.engine.prices, self._commit)

    def change(self, limit: int, **more: Any) -> None:
        now = self.engine.now()
        today = now // DAY_US
        start, _ = period_bounds("month", "UTC", now)
        days = dict.fromkeys(range(today - 40, today), self.cost * USD)
        spent = sum(nanos for day, nanos in days.items() if day * DAY_US >= start)
        self.apply(budget(limit, **more), {"b": spent}, {"b": Before(days, {})})

    def passes(self, seconds: int = 1) -> list[ThresholdCrossed]:
        """What thresholds say in the next seconds."""
        before = len(self.events)
        for _ in range(seconds):
            self.clock.advance(SECOND_US)
            self.house.turn(self.engine.now())
        self.writer.flush()
        return [one for one in self.events[before:] if isinstance(one, ThresholdCrossed)]

    def outlook(self) -> Any:
        return Outlooks(self.state).of(["b"], self.engine.now())["b"][0]


def test_a_budget_that_is_applied_knows_what_its_scope_cost_before() -> None:
    site = Site(10_000, 24)
    found = site.outlook()
    assert found.learned == 39  # the first day may have begun before the first cost
    assert found.burn_rate == pytest.approx(USD, rel=0.1)
    settled = 9 * 24 * USD
    assert found.end.p50 == settled + 24 * USD * 43 // 2
    assert found.end.p10 < found.end.p50 < found.end.p90
    assert found.exhausted.p50 is None


def test_a_threshold_on_the_forecast_fires_once_with_the_amount_that_it_went_by() -> None:
    site = Site(750, 24)  # 216 are settled, and 732 are expected at the end
    [crossed] = site.passes()
    assert (crossed.on, crossed.at_ppm, crossed.settled_nanos) == ("forecast", 900_000, 216 * USD)
    assert 731 * USD < crossed.forecast_nanos < 733 * USD
    assert site.passes(200) == []
    [stage] = site.state.budgets.stages(site.state.budgets.records["b"], site.state.ledger)
    assert (stage.action, stage.on) == ("hold-queue", "forecast")
    told = alert_of(crossed, 1, 1, "c", "USD").text
    assert "on forecast: 73" in told
    assert "expected at the end of the period, 216.00 settled" in told


def test_a_raised_limit_ends_the_stage_and_arms_the_threshold_again() -> None:
    site = Site(750, 24)
    assert len(site.passes()) == 1
    site.change(2_000)
    assert site.passes(100) == []
    assert site.state.budgets.stages(site.state.budgets.records["b"], site.state.ledger) == ()
    site.change(800)
    assert [one.limit_nanos // USD for one in site.passes(2)] == [800]


def test_what_starts_is_noticed_within_a_minute() -> None:
    site = Site(900, 24)
    assert site.passes(5) == []
    for _ in range(4):
        site.submit(project="p", time_limit_us=100 * HOUR_US)
    assert site.passes(1) == []
    assert len(site.passes(FORECAST_EVERY_US // SECOND_US)) == 1


def test_a_daemon_that_starts_again_does_not_say_it_twice() -> None:
    site = Site(750, 24)
    assert len(site.passes()) == 1
    data = image.encode(site.state, site.engine.now())
    assert compare.differences(data, site.state) == []
    again = image.decode(data)
    house = Housekeeping(again, lambda: site.engine.prices, lambda what, events: events and pytest.fail(what))
    for _ in range(3):
        house.turn(site.engine.now() + FORECAST_EVERY_US)
    assert (
        Outlooks(again).of(["b"], site.engine.now())["b"]
        == Outlooks(site.state).of(["b"], site.engine.now())["b"]
    )


def test_days_of_a_budget_that_runs_are_counted_as_they_are_settled() -> None:
    site = Site(10_000, 24)
    site.submit(project="p", time_limit_us=5 * DAY_US)
    site.cycle()
    site.backend.report()
    before = dict(site.state.ledger.days["b"].nanos)
    site.clock.advance(20 * HOUR_US)
    site.backend.report()
    days, settled = site.state.ledger.days["b"].nanos, site.state.ledger.settled
    more = {day: nanos for day, nanos in days.items() if day not in before}
    start = site.state.budgets.records["b"].period_start
    assert len(more) == 2, "the evening and the next morning"
    assert sum(more.values()) == settled("b", start) - 9 * 24 * USD


def test_what_starts_moves_from_what_waits_to_what_runs() -> None:
    site = Site(10_000, 24)
    for _ in range(6):
        site.submit(project="p", time_limit_us=HOUR_US)
    found = site.outlook()
    site.cycle()
    site.backend.report()
    later = site.outlook()
    assert found.running == 0
    assert later.running + later.queued == pytest.approx(found.queued, rel=0.01)
    assert 0 < later.queued < found.queued


def test_of_many_budgets_so_many_are_looked_at_in_one_turn_and_all_in_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(10_000, 24)
    for number in range(2 * FORECAST_MAX):
        site.apply(budget(5_000).replace("name: b\n", f"name: b-{number}\n"))
    looked: list[list[str]] = []
    of = Outlooks.of
    monkeypatch.setattr(Outlooks, "of", lambda self, names, now: looked.append(names) or of(self, names, now))
    site.passes(10)
    assert [len(names) for names in looked] == [FORECAST_MAX, FORECAST_MAX, 1]
    assert len({name for names in looked for name in names}) == 2 * FORECAST_MAX + 1
