"""A threshold is of a limit: in a period it is announced once for each, whatever happened between."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import DAY_US
from bursard.events import BudgetOpened, HoldsRolled, PolicyRemoved, ThresholdCrossed
from bursard.fleet.testing import World
from bursard.reports.budgets import budget_views
from bursard.state import Limits, State, compare, image
from bursard.state.decide import staging

USD = 10**9


def budget(limit: int, project: str = "p") -> str:
    return (
        f"kind: Budget\nname: b\nspec:\n  scope: {{project: {project}}}\n  limit: {limit} USD\n"
        "  period: day\n"
        "  enforcement: soft\n  thresholds: [{at: 50%, do: [notify]}, {at: 100%, do: [notify]}]\n"
    )


class Site(World):
    """A budget, and what its scope has cost."""

    def spent(self, usd: int) -> None:
        start = self.state.budgets.records["b"].period_start
        self.engine.commit([BudgetOpened("b", start, usd * USD, start)], "test")

    def told(self) -> list[tuple[int, int]]:
        """What is announced now: (percent, limit)."""
        events = staging.thresholds(self.state)
        self.engine.commit(events, "bursard")
        crossed = [event for event in events if isinstance(event, ThresholdCrossed)]
        return [(event.at_ppm // 10_000, event.limit_nanos // USD) for event in crossed]

    def shown(self) -> tuple[int, ...]:
        [view] = budget_views(self.state)
        return view.crossed_percent


@pytest.fixture
def site() -> Site:
    site = Site()
    site.apply(budget(100))
    site.spent(60)
    assert site.told() == [(50, 100)]
    assert site.told() == []
    return site


def test_a_raised_limit_arms_its_thresholds_again(site: Site) -> None:
    site.apply(budget(200))
    assert (site.told(), site.shown()) == ([], ())
    site.spent(100)
    assert (site.told(), site.shown()) == ([(50, 200)], (50,))
    assert site.told() == []


def test_a_lowered_limit_announces_what_it_makes_passed_once(site: Site) -> None:
    site.apply(budget(60))
    assert site.told() == [(50, 60), (100, 60)]
    assert (site.told(), site.shown()) == ([], (50, 100))


def test_a_limit_that_comes_back_says_nothing_twice(site: Site) -> None:
    site.apply(budget(200))
    site.apply(budget(100))
    assert (site.told(), site.shown()) == ([], (50,))


def test_a_budget_that_was_removed_and_applied_again_says_nothing_twice(site: Site) -> None:
    for limit, told in ((100, []), (80, [(50, 80)]), (100, [])):
        site.engine.commit([PolicyRemoved("Budget", "b")], "test")
        site.apply(budget(limit))
        site.spent(60)
        assert site.told() == told


def test_another_scope_is_another_matter(site: Site) -> None:
    site.apply(budget(100, "q"))
    site.spent(60)
    assert site.told() == [(50, 100)]
    site.apply(budget(100))
    site.spent(60)
    assert site.told() == []


def test_the_next_period_announces_anew_and_a_step_back_does_not(site: Site) -> None:
    first = site.state.budgets.records["b"].period_start
    site.engine.commit([HoldsRolled("b", first, first + DAY_US)], "bursard")
    site.spent(60)
    assert (site.told(), site.shown()) == ([(50, 100)], (50,))
    site.engine.commit([HoldsRolled("b", first + DAY_US, first)], "bursard")
    assert (site.told(), site.shown()) == ([], (50,))
    for day in (1, 2):
        site.engine.commit([HoldsRolled("b", first + (day - 1) * DAY_US, first + day * DAY_US)], "bursard")
    [said] = site.state.budgets.announced.values()
    assert said == {(first + DAY_US, "settled", 500_000, 100 * USD)}


def test_an_image_keeps_what_was_announced_also_of_a_budget_that_is_removed(site: Site) -> None:
    site.engine.commit([PolicyRemoved("Budget", "b")], "test")
    again = image.decode(image.encode(site.state, site.engine.now()), Limits())
    assert again.budgets.announced == site.state.budgets.announced != {}


def test_an_image_of_before_says_it_of_the_limit_then_in_force(site: Site) -> None:
    document = msgspec.json.decode(image.encode(site.state, site.engine.now()))
    del document["announced"]
    assert document["budgets"][0]["crossed"] == [["settled", 500_000]]
    old = msgspec.json.encode(document)
    again: State = image.decode(old, Limits())
    assert again.budgets.announced == site.state.budgets.announced
    assert compare.differences(old, site.state) == []
    document["budgets"][0]["crossed"] = []
    assert image.decode(msgspec.json.encode(document), Limits()).budgets.announced == {}
