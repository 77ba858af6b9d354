"""What a node costs, what jobs pay for it, and the account of the platform that takes the difference.

The rack of the worked example: 8 H100 for 112,300 USD a year, which is 1.60 USD for each GPU and hour there
is, 2.00 for each that can be sold (80 %), and 3.20 if only half of them are.
"""

from __future__ import annotations

from collections import Counter

import pytest

from bursar.clock import HOUR_US, Instant, VirtualClock
from bursar.errors import NotFound
from bursar.model import Device, EndCause, NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1.money_pb2 import PriceExplanation
from bursar_policies.document import catalog_dir
from bursard.engine import unposted
from bursard.fleet.testing import World
from bursard.reports.cost import CostRow, CostTable
from bursard.services.explain_price import explanation, sold, subjects

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
HALF = ResourceRequest(GpuRequest(4), 48_000, 1024 * GIB)
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


def explained(world: World, name: str) -> list[PriceExplanation]:
    table = CostTable(("kind",), tuple(CostRow((k,), n) for k, n in nanos(world).items()), CostRow((), 0))
    table.total.nanos = sum(row.nanos for row in table.rows)
    facts = [node.facts for node in world.state.nodes.values()]
    models = [one.spec for one in world.state.policies.values() if one.name == name and one.spec]
    found = subjects(world.engine.prices, facts, world.engine.now(), models, name)  # type: ignore[arg-type]
    return [explanation(one, sold(table)) for one in found]


@pytest.mark.parametrize("name", ["rack-a", "onprem-a", "rack-a-1"])
def test_a_price_is_explained_by_its_cost_model_its_pool_and_its_node(world: World, name: str) -> None:
    """1.60 for each GPU and hour there is, 2.00 for each that can be sold, 3.20 when half of them were."""
    run_for_an_hour(world, HALF)
    (found,) = explained(world, name)
    rates = (
        found.cost_nanos_per_hour,
        found.charge_nanos_per_hour,
        found.full_absorption_nanos_per_hour,
    )
    assert [per_gpu_hour(one) for one in rates] == [1.60, 2.00, 3.20]
    assert found.sold_ppm == 500_000
    parts = {one.name: one.rate_nanos_per_hour for one in found.parts}
    assert list(parts) == ["capex", "energy", "colo", "support", "staff"]
    assert sum(parts.values()) == found.cost_nanos_per_hour == found.effective_nanos_per_hour == CAPACITY
    assert found.marginal_nanos_per_hour == parts["energy"]
    assert found.list_nanos_per_hour == STANDARD
    components = found.gpu_nanos_per_hour + found.cpu_nanos_per_hour + found.memory_nanos_per_hour
    assert components == STANDARD
    assert (found.stable_id, found.nodes, found.gpus) == ("costmodel/rack-a", 1, 8)
    assert found.name == "rack-a-1 of onprem-a, 8x H100"


def test_of_a_rack_that_sold_nothing_no_rate_would_have_paid_and_of_a_new_one_nothing_is_known(
    world: World,
) -> None:
    (found,) = explained(world, "rack-a")
    assert (found.sold_ppm, found.full_absorption_nanos_per_hour) == (-1, -1)
    world.clock.advance(HOUR_US)
    world.backend.report()
    (found,) = explained(world, "rack-a")
    assert (found.sold_ppm, found.full_absorption_nanos_per_hour) == (0, -1)


def test_the_list_price_of_a_spot_machine_is_that_on_demand(world: World) -> None:
    world.apply(
        "kind: PriceBook\nname: b\nspec:\n  source: test\n  currency: USD\n"
        "  defaults: {provider: aws, region: r}\n  prices:\n"
        "    - {instance_type: x, market: on-demand, price: 8 USD/h, gpus: H100:4}\n"
        "    - {instance_type: x, market: spot, price: 3 USD/h, gpus: H100:4}\n"
        "    - {instance_type: y, market: spot, price: 1 USD/h}\n"
    )
    by_market = {one.name: one for one in explained(world, "x")}
    assert set(by_market) == {"aws r x on-demand", "aws r x spot"}
    spot = by_market["aws r x spot"]
    assert (spot.list_nanos_per_hour, spot.charge_nanos_per_hour) == (8 * 10**9, 3 * 10**9)
    assert (spot.stable_id, spot.gpus) == ("aws/r/x/spot", 4)
    (alone,) = explained(world, "y")
    assert alone.list_nanos_per_hour == -1
    with pytest.raises(NotFound, match="no node, pool, cost model or machine type"):
        explained(world, "z")


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
