"""What time alone brings about: in order, once, and without looking at every node every second."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import NodeFacts
from bursar_policies.compile import FOREVER, Applied, PriceTable
from bursar_policies.document import parse_documents
from bursard.events import Event, HoldsRolled, NodePriced, ThresholdCrossed
from bursard.fleet.testing import World
from bursard.housekeeping import Housekeeping
from bursard.state.decide import nodes

BUDGET = """\
kind: Budget
name: b
spec:
  scope: {project: p}
  limit: 100 USD
  period: day
  enforcement: soft
  thresholds: [{at: 1%, do: [notify], on: settled+held}]
"""


def book(price: str, after_us: int, now: int) -> Applied:
    text = f"kind: CostModel\nname: rack\nspec: {{pool: local, node_capex: {price}, useful_life: 5y}}\n"
    return Applied(parse_documents(text, "test")[0], version=after_us + 1, effective_from=now + after_us)


class Site(World):
    """One node, whose price changes after one and after two hours."""

    def __init__(self) -> None:
        super().__init__()
        self.start = self.engine.now()
        self.table = PriceTable(
            [
                book("1 USD", 0, 0),
                book("400000 USD", HOUR_US, self.start),
                book("800000 USD", 2 * HOUR_US, self.start),
            ]
        )
        facts = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34, pool="local")
        self.engine.commit(
            nodes.hello(
                self.state, self.ids, self.table, facts=facts, boot_id="b", boot_us=0, now=self.start
            ),
            "test",
        )
        self.told: list[tuple[str, type[Event]]] = []
        self.keeping = Housekeeping(self.state, self.prices, self.make_true)

    def prices(self) -> PriceTable:
        return self.table

    def make_true(self, what: str, events: Sequence[Event]) -> bool:
        self.told += [(what, type(event)) for event in events]
        return bool(self.engine.commit(events, "bursard"))

    def turn(self, after_us: int) -> list[tuple[str, type[Event]]]:
        self.told.clear()
        self.keeping.turn(self.start + after_us)
        return list(self.told)


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_price_is_in_force_from_its_instant_on(site):
    assert site.turn(0) == []
    assert site.turn(HOUR_US - 1) == []
    assert site.turn(HOUR_US) == [("prices", NodePriced)]
    assert site.turn(2 * HOUR_US - 1) == []
    assert site.turn(2 * HOUR_US) == [("prices", NodePriced)]
    node = site.state.node_by_name("n-1")
    assert node.price_id.startswith("costmodel/rack@")
    assert node.rates == site.table.lookup(node.facts, site.start + 2 * HOUR_US).components


def test_nodes_are_looked_at_only_when_a_price_can_have_changed(site, monkeypatch):
    looked: list[int] = []

    def counted(state, prices, now, only):
        looked.append(now - site.start)
        return []

    monkeypatch.setattr("bursard.housekeeping.reprice", counted)
    for after_us in (0, 1, SECOND_US, HOUR_US - 1, HOUR_US, HOUR_US + 5, 2 * HOUR_US, 9 * HOUR_US):
        site.turn(after_us)
    assert looked == [0, HOUR_US, 2 * HOUR_US]
    site.table = PriceTable([book("1 USD", 0, 0)])
    site.turn(9 * HOUR_US)
    assert looked[3:] == [9 * HOUR_US]
    site.turn(-HOUR_US)
    assert looked[4:] == [-HOUR_US], "a clock that jumped back may be before a change"


def test_the_next_change_of_a_table_is_the_next_begin_or_end_of_any_price(site):
    table = site.table
    assert table.next_change(0) == site.start + HOUR_US
    assert table.next_change(site.start + HOUR_US) == site.start + 2 * HOUR_US
    assert table.next_change(site.start + 2 * HOUR_US) == FOREVER
    assert PriceTable().next_change(0) == FOREVER


def test_a_period_rolls_before_anything_is_placed_in_it_and_thresholds_are_told_once(site):
    site.table = PriceTable()
    site.apply(BUDGET)
    site.turn(0)
    day_us = 24 * HOUR_US
    end = site.state.budgets.records["b"].period_end - site.start
    assert site.turn(end - 1) == []
    assert site.turn(end) == [("periods", HoldsRolled)]
    assert site.state.budgets.records["b"].period_end - site.start == end + day_us
    site.submit(time_limit_us=HOUR_US)
    site.table = PriceTable([book("9000000 USD", 0, 0)])
    assert site.turn(end + 1) == [("prices", NodePriced)]
    site.cycle()
    assert site.turn(end + SECOND_US) == [("thresholds", ThresholdCrossed)]
    assert site.turn(end + 3 * SECOND_US) == []


def test_thresholds_are_looked_at_once_a_second_whichever_way_the_clock_jumps(site, monkeypatch):
    looked: list[int] = []
    monkeypatch.setattr(
        "bursard.housekeeping.staging.thresholds", lambda state, forecasts: looked.append(1) or []
    )
    for after_us, count in ((0, 1), (SECOND_US - 1, 1), (SECOND_US, 2), (0, 3), (1, 3)):
        site.turn(after_us)
        assert len(looked) == count, after_us


def test_a_begin_time_that_has_come_brings_its_job_into_the_queue(site):
    job = site.submit(begin_after=site.start + HOUR_US)
    site.turn(HOUR_US - 1)
    assert job.id not in site.state.pending
    site.turn(HOUR_US)
    assert job.id in site.state.pending
