"""What a node costs, what jobs pay for it, and the account of the platform that takes the difference.

The rack of the worked example: 8 H100 for 112,300 USD a year, which is 1.60 USD for each GPU and hour there
is, 2.00 for each that can be sold (80 %), and 3.20 if only half of them are.
"""

from __future__ import annotations

from collections import Counter

import pytest

from bursar.clock import HOUR_US, Instant, VirtualClock
from bursar.model import Device, EndCause, NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.document import catalog_dir
from bursard.engine import unposted
from bursard.fleet.testing import World

GIB = 1 << 30
RACK = (catalog_dir() / "onprem-example.yaml").read_text()
NODE = NodeFacts(
    name="rack-a-1",
    cpu_milli=96_000,
    memory_bytes=2048 * GIB,
    devices=tuple(Device(i, f"gpu-{i}", "H100", 80 * GIB) for i in range(8)),
    pool="onprem-a",
)
WHOLE = ResourceRequest(GpuRequest(8), 96_000, 2048 * GIB)
QUARTER = ResourceRequest(GpuRequest(2), 24_000, 512 * GIB)
CAPACITY, STANDARD = 12_816_398_411, 16_020_498_014
"""Nanos per hour of the node."""


@pytest.fixture
def world() -> World:
    world = World(clock=VirtualClock(Instant(490_000 * HOUR_US)))
    world.apply(RACK)
    world.backend.connect(NODE)
    return world


def run_for_an_hour(world: World, request: ResourceRequest) -> None:
    world.submit(options=(request,), time_limit_us=2 * HOUR_US)
    world.cycle()
    world.clock.advance(HOUR_US)
    world.backend.report()


def nanos(world: World) -> dict[str, int]:
    world.writer.flush()
    found = Counter[str]()
    for row in [*world.writer.charges, *unposted(world.state).rows]:
        found[row.kind] += row.nanos
    return dict(found)


def per_gpu_hour(nanos: int) -> float:
    return round(nanos / 8 / 1e9, 2)


def test_a_node_costs_1_60_a_gpu_and_hour_and_its_jobs_pay_2_00(world: World) -> None:
    run_for_an_hour(world, WHOLE)
    books = nanos(world)
    assert books == {"usage": STANDARD, "absorption": CAPACITY - STANDARD}
    assert per_gpu_hour(books["usage"]) == 2.00
    assert per_gpu_hour(sum(books.values())) == 1.60


def test_a_rack_that_sells_a_quarter_loses_what_idle_hours_cost_and_no_more(world: World) -> None:
    run_for_an_hour(world, QUARTER)
    books = nanos(world)
    assert books["usage"] == pytest.approx(STANDARD / 4, abs=3)
    assert books["idle"] == pytest.approx(CAPACITY * 3 / 4, abs=3)
    assert books["absorption"] == pytest.approx((CAPACITY - STANDARD) / 4, abs=3)
    assert sum(books.values()) == CAPACITY


def test_an_hour_in_which_nobody_ran_anything_costs_the_site_its_capacity_rate(world: World) -> None:
    world.clock.advance(HOUR_US)
    world.backend.report()
    assert nanos(world) == {"idle": CAPACITY}
    year = 8760 * nanos(world)["idle"]
    assert round(year / 1e12, 1) == 112.3, "and not the 140,400 USD a year that nobody spent"


def test_each_part_has_an_account_and_the_nodes_own_is_what_was_spent(world: World) -> None:
    run_for_an_hour(world, QUARTER)
    (node,) = world.state.nodes.values()
    balances, books = world.state.ledger.balances, nanos(world)
    assert balances[f"absorption/{node.id}"] == books["absorption"] < 0
    assert balances[f"idle/{node.id}"] == books["idle"]
    assert balances[f"node/{node.id}"] == -CAPACITY
    assert world.state.ledger.violations() == []


def test_a_row_says_what_its_owner_held_and_at_which_rate(world: World) -> None:
    world.submit(options=(QUARTER,), time_limit_us=2 * HOUR_US)
    world.cycle()
    world.clock.advance(HOUR_US + 60_000_000)
    world.backend.report()
    world.writer.flush()
    rows = {row.kind: row for row in world.writer.charges}
    used, idle = rows["usage"], rows["idle"]
    assert (used.gpu_milli, used.devices, used.cpu_milli, used.memory_bytes) == (2000, 2, 24_000, 512 * GIB)
    assert (idle.gpu_milli, idle.devices, idle.cpu_milli, idle.memory_bytes) == (8000, 8, 96_000, 2048 * GIB)
    assert used.rate == pytest.approx(STANDARD / 4, abs=3)
    assert idle.rate == CAPACITY
    assert used.posted_at == idle.posted_at == world.engine.now()
    assert used.nanos == pytest.approx(used.rate * used.held_us / HOUR_US, abs=3)


def test_the_energy_of_an_attempt_is_with_its_last_hour(world: World) -> None:
    job = world.submit(options=(QUARTER,), time_limit_us=3 * HOUR_US)
    world.cycle()
    world.clock.advance(HOUR_US * 3 // 2)
    world.backend.report()
    (attempt,) = job.attempts
    held_us = HOUR_US * 3 // 2
    world.exited_of(
        attempt, EndCause.COMPLETED, held_us=held_us, gpu_energy_millijoules=77, gpu_energy_source="measured"
    )
    used = [row.energy_millijoules for row in world.writer.charges if row.kind == "usage"]
    assert used == [0, 77]


def test_a_machine_that_is_rented_costs_what_jobs_pay_and_absorbs_nothing() -> None:
    world = World(clock=VirtualClock(Instant(490_000 * HOUR_US)))
    world.apply(
        "kind: PriceBook\nname: b\nspec:\n  source: test\n  currency: USD\n  prices:\n"
        "    - {provider: aws, region: r, instance_type: x, market: on-demand, price: 8 USD/h}\n"
    )
    world.backend.connect(
        NodeFacts(name="c", cpu_milli=8000, memory_bytes=GIB, provider="aws", region="r", instance_type="x",
                  market="on-demand")
    )  # fmt: skip
    run_for_an_hour(world, ResourceRequest(None, 4000, GIB))
    books = nanos(world)
    assert set(books) == {"usage", "idle"}
    assert sum(books.values()) == 8_000_000_000
