"""What a policy costs is what it touches: counted in look-ups of classes and budgets, never in seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bursar.model import ArraySpec
from bursard.fleet.testing import World
from bursard.state import Limits, image
from bursard.state.budgets import BudgetTable
from bursard.state.decide import policies
from bursard.state.pending import PendingIndex
from bursard.state.tables import Tables

BUDGET = (
    "kind: Budget\nname: {name}\nspec: {{scope: {{project: {project}}}, limit: 9000 USD, period: month}}\n"
)
MODEL = "kind: CostModel\nname: m\nspec: {pool: p, node_capex: 400003 USD, useful_life: 5y}\n"
JOBS = 300


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often jobs were put into the queue, classes made, and budgets matched."""
    calls: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def counting(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*args, **more)

        monkeypatch.setattr(owner, name, counting)

    count(PendingIndex, "add")
    count(PendingIndex, "remove")
    count(PendingIndex, "move")
    count(Tables, "class_of")
    count(BudgetTable, "matching")
    return calls


def site() -> World:
    """Two projects, two classes in each, many jobs; and an array with a cap of its own."""
    world = World()
    for number in range(JOBS):
        project = ("research/a", "research/b")[number % 2]
        world.submit(project=project, priority=50 + number % 3 // 2, time_limit_us=3_600_000_000)
    cap = {"max_cost_nanos": 10**12, "max_cost_per": "job", "currency": "USD"}
    world.submit(project="research/a", array=ArraySpec(((0, 20, 1),)), **cap)
    return world


def queues(world: World) -> list[tuple[Any, ...]]:
    return [(one.job_class, one.priority, tuple(one.jobs)) for one in world.state.pending.queues()]


def agrees_with_an_image(world: World) -> None:
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert queues(world) == [(one.job_class, one.priority, tuple(one.jobs)) for one in again.pending.queues()]


def test_a_new_budget_moves_queues_and_not_job_by_job(counted: Counter[str]) -> None:
    world = site()
    before = queues(world)
    counted.clear()
    world.apply(BUDGET.format(name="a", project="research/a"))
    # Two priorities of plain jobs and the array; what a budget goes by is the same in each project.
    assert counted == {"move": 3, "matching": 2}
    assert sorted(len(one[2]) for one in queues(world)) == [20, 50, 50, 100, 100]
    assert [one[0].budgets for one in queues(world)].count(("a",)) == 2
    array = next(one[0] for one in queues(world) if len(one[0].budgets) == 2)
    assert array.budgets[0] == "a"
    agrees_with_an_image(world)
    counted.clear()
    world.engine.commit(policies.remove(world.state, "Budget", "a"), "ann")
    assert counted == {"move": 3, "matching": 2}
    assert queues(world) == before
    agrees_with_an_image(world)


def test_a_budget_that_covers_nobody_moves_nothing(counted: Counter[str]) -> None:
    world = site()
    before = queues(world)
    counted.clear()
    world.apply(BUDGET.format(name="x", project="elsewhere"))
    assert counted == {"matching": 2}
    assert queues(world) == before


def test_prices_and_strategies_look_at_no_job(counted: Counter[str]) -> None:
    world = site()
    counted.clear()
    world.apply(MODEL)
    world.engine.commit(policies.remove(world.state, "CostModel", "m"), "ann")
    assert counted == {}


def test_jobs_that_come_back_into_a_queue_stand_in_their_order(counted: Counter[str]) -> None:
    world = site()
    world.apply(BUDGET.format(name="a", project="research/a"))
    world.apply(BUDGET.format(name="b", project="research/b"))
    world.apply(BUDGET.format(name="all", project="research"))
    agrees_with_an_image(world)
    for name in ("a", "b"):
        world.engine.commit(policies.remove(world.state, "Budget", name), "ann")
    agrees_with_an_image(world)
    orders = [[order for order, _ in one[2]] for one in queues(world)]
    assert all(each == sorted(each) for each in orders)
    assert sorted(map(len, orders)) == [20, 100, 200]
