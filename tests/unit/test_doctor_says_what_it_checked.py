"""The doctor counts only what it has looked at."""

from __future__ import annotations

import pytest

from bursard import doctor
from bursard.fleet.testing import World

BUDGET = (
    "kind: Budget\nname: {name}\n"
    "spec: {{scope: {{project: p}}, limit: 9 USD, period: month, enforcement: {enforcement}}}\n"
)


def told(world: World, check: str) -> str:
    [found] = [one for one in doctor.check_state(world.state) if one.check == check]
    assert found.ok
    return found.message


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([], "settled + held is within 0 hard budgets"),
        (["hard"], "settled + held is within 1 hard budget"),
        (
            ["hard", "soft", "hard"],
            "settled + held is within 2 hard budgets; 1 soft one may be passed and is not checked",
        ),
        (
            ["soft", "soft"],
            "settled + held is within 0 hard budgets; 2 soft ones may be passed and are not checked",
        ),
    ],
)
def test_only_hard_budgets_are_said_to_be_within_their_limits(budgets: list[str], message: str) -> None:
    world = World()
    for number, enforcement in enumerate(budgets):
        world.apply(BUDGET.format(name=f"b{number}", enforcement=enforcement))
    assert told(world, "budgets (B1)") == message


def test_documents_that_are_effective_later_are_not_said_to_be_in_force() -> None:
    world = World()
    world.apply(
        "kind: CostModel\nname: m\neffective_at: 2090-01-01T00:00:00Z\n"
        "spec: {pool: p, node_capex: 400003 USD, useful_life: 5y}\n"
    )
    assert told(world, "policies") == "this version can read all 1"
