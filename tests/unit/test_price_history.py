"""`prices history` has what `prices ls` has, with what was before."""

from __future__ import annotations

from bursar.clock import HOUR_US
from bursar.model import NodeFacts
from bursar.v1 import money_pb2 as pb
from bursard.fleet.testing import World
from bursard.services.prices import answer_prices

MODEL = "kind: CostModel\nname: m\nspec: {{pool: p, node_capex: {0} USD, useful_life: 5y}}\n"
NODES = (NodeFacts(name="n1", cpu_milli=8_000, memory_bytes=64 << 30, pool="p", provider="onprem"),)


def test_a_pool_of_ones_own_has_each_price_that_its_cost_model_gave_it() -> None:
    world = World()
    stood = []
    for capex in (400_003, 200_001):
        world.apply(MODEL.format(capex))
        now = world.engine.now()
        [price] = answer_prices(world.engine.prices, NODES, now, pb.PricesRequest()).prices
        stood.append((now, price.rate_nanos_per_hour, price.price_id))
        world.clock.advance(HOUR_US)
    now = world.engine.now()
    found = answer_prices(world.engine.prices, NODES, now, pb.PricesRequest(history=True)).prices
    assert [(one.valid_from, one.rate_nanos_per_hour, one.price_id) for one in found] == stood
    assert [one.valid_until for one in found] == [stood[1][0], 0]
    assert {(one.pool, one.provider, one.cpu_milli) for one in found} == {("p", "onprem", 8_000)}
    others = pb.PricesRequest(history=True, provider="aws")
    assert not answer_prices(world.engine.prices, NODES, now, others).prices
