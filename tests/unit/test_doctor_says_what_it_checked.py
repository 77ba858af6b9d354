"""The doctor counts only what it has looked at."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from service_site import Site

from bursar.clock import HOUR_US, parse_instant
from bursar.local import guard
from bursar.model import ShareRates
from bursard import doctor
from bursard.events import NodePriced
from bursard.fleet.testing import FACTS, World
from bursard.serving.board import GONE_US, Gateway

BUDGET = (
    "kind: Budget\nname: {name}\n"
    "spec: {{scope: {{project: p}}, limit: 9 USD, period: month, enforcement: {enforcement}}}\n"
)


def told(world: World, check: str, now: int | None = None) -> str:
    [found] = [one for one in doctor.check_state(world.state, now=now) if one.check == check]
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
    assert told(world, "budgets (B1, B7)") == message


def test_documents_that_are_effective_later_are_told_with_their_dates() -> None:
    world = World()
    for name, at in (
        ("m", "2090-01-01"),
        ("n", "2089-01-01"),
        ("o", ""),
        ("p", "2091-05-01"),
        ("q", "2092-01-01"),
    ):
        dated = f"effective_at: {at}T00:00:00Z\n" if at else ""
        spec = f"spec: {{pool: {name}, node_capex: 400003 USD, useful_life: 5y}}\n"
        world.apply(f"kind: CostModel\nname: {name}\n{dated}{spec}")
    one = "this version can read all 5 documents"
    assert told(world, "policies") == one
    assert told(world, "policies", parse_instant("2091-05-01T00:00:00Z")) == (
        f"{one}; effective later: CostModel q from 2092-01-01T00:00:00Z on"
    )
    assert told(world, "policies", parse_instant("2088-01-01T00:00:00Z")) == (
        f"{one}; effective later: CostModel n from 2089-01-01T00:00:00Z on; CostModel m from"
        " 2090-01-01T00:00:00Z on; CostModel p from 2091-05-01T00:00:00Z on (and 1 more)"
    )


def test_a_node_without_a_price_now_is_named_and_those_with_one_are_counted() -> None:
    world = World()
    assert told(world, "prices") == "none of 0 nodes is without a price now"
    world.backend.connect(FACTS)
    assert told(world, "prices") == "none of 1 node is without a price now"
    world.engine.commit([NodePriced(world.node().id, "", ShareRates(0, 0, 0))], "bursard")
    [found] = [one for one in doctor.check_state(world.state) if one.check == "prices"]
    assert not found.ok
    assert found.message == "n-1 has no price now: what runs there costs an unknown amount"


def test_a_gateway_that_went_is_told_while_services_run_and_forgotten_after_an_hour() -> None:
    site = Site()
    state, now = site.world.state, site.world.engine.now()
    assert doctor.check_gateways([], state, now).message == "no gateway asks for services"
    one = Gateway("g", "boot", "http://host:8080", now)
    assert doctor.check_gateways([one], state, now).message == "1 gateway asked for services within 15 s"
    found = doctor.check_gateways([one], state, now + GONE_US)
    assert not found.ok
    assert found.message.startswith("the gateway http://host:8080 has not asked for 15 s")
    assert "bursar up --gateway" in found.remedy
    assert doctor.check_gateways([one], World().state, now + GONE_US).ok, "nothing is served"
    assert doctor.check_gateways([one], state, now + HOUR_US).ok


def test_a_keeper_that_is_gone_or_stands_still_is_told_with_what_brings_it_back(tmp_path: Path) -> None:
    environ = {guard.VARIABLE: str(tmp_path)}
    assert guard.look_for_keeper({}) is None
    gone = guard.look_for_keeper(environ)
    assert gone is not None
    found = doctor.check_keeper(gone)
    assert (found.ok, found.message.split(",")[0]) == (False, "no keeper runs")
    assert "`bursar up`" in found.remedy
    with (tmp_path / "keeper.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        beats = guard.look_for_keeper(environ)
        assert beats is not None
        assert doctor.check_keeper(beats).ok
        os.utime(tmp_path / "keeper.lock", (0, 0))
        hangs = guard.look_for_keeper(environ)
        assert hangs is not None
        found = doctor.check_keeper(hangs)
        assert not found.ok
        assert found.message.startswith("the keeper has shown no life for ")
