"""`prices history` has what `prices ls` has, with what was before."""

from __future__ import annotations

import pytest

from bursar.clock import HOUR_US
from bursar.model import NodeFacts
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import Offer
from bursard.fleet.testing import World
from bursard.services import prices
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


BOOK = (
    "kind: PriceBook\nname: b\nspec:\n  currency: USD\n  source: s\n  prices:\n"
    + "".join(
        f"    - {{provider: azure, region: r{number % 3}, instance_type: t{number}, market: on-demand,"
        f" price: {100 - number} USD/h}}\n"
        for number in range(60)
    )
)  # fmt: skip


@pytest.mark.parametrize("sort", ["", "price", "gpu-price", "pflop-day"])
def test_of_very_many_only_those_of_the_answer_are_put_into_words(
    monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    world = World()
    world.apply(BOOK)
    table, now = world.engine.prices, world.engine.now()
    told: list[str] = []
    whole = answer_prices(table, (), now, pb.PricesRequest(sort=sort, provider="azure")).prices
    real = prices._price

    def counting(offer: Offer, pool: str = "") -> pb.Price:
        told.append(offer.instance_type)
        return real(offer, pool)

    monkeypatch.setattr(prices, "_price", counting)
    asked = pb.PricesRequest(sort=sort, provider="azure", region="r1", limit=7)
    found = answer_prices(table, (), now, asked).prices
    assert list(found) == [one for one in whole if one.region == "r1"][:7]
    assert len(told) == 7
