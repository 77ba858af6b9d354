"""The control of a statement: node cost by boots and prices alone. It can fail, and here it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from bursar.clock import HOUR_US, Instant, VirtualClock
from bursar.model import NodeFacts, ShareRates
from bursar.resources import ResourceRequest
from bursard.engine import unposted
from bursard.events import Event, NodeBooted, NodePriced, encode
from bursard.fleet.testing import FACTS, World
from bursard.reports.control import owed
from bursard.sim.checks import node_cost
from bursard.store import EventRow

START = 490_000 * HOUR_US
MINUTE_US = HOUR_US // 60
EVER = 2**62
OLD, NEW = ShareRates(cpu=1000, memory=7), ShareRates(cpu=3001)
MODEL = "kind: CostModel\nname: m\nspec: {{pool: local, node_capex: {} USD, useful_life: 5y}}\n"


def rows(events: Sequence[Event]) -> list[EventRow]:
    return [EventRow(seq, START + seq, "x", encode(event)) for seq, event in enumerate(events, 1)]


def booted(node_id: str, at: int) -> NodeBooted:
    return NodeBooted(node_id, "b", at, 0)


def test_a_node_costs_its_rate_from_its_first_boot_to_where_its_time_is_told() -> None:
    events = rows([NodePriced("n", "p@1", OLD, START), booted("n", START), booted("n", START + HOUR_US)])
    end = START + 3 * HOUR_US + 1234
    assert owed(events, {"n": end}, 0, EVER).nanos == {"n": node_cost(OLD, START, end)}
    # A period takes its part, and parts of full hours sum to the whole.
    cut = START + 2 * HOUR_US
    parts = [owed(events, {"n": end}, *span).nanos["n"] for span in ((0, cut), (cut, EVER))]
    assert parts[0] == 2 * OLD.total
    assert sum(parts) == node_cost(OLD, START, end)
    assert owed(events, {"n": end}, end, EVER).nanos == {"n": 0}


def test_each_price_holds_for_its_own_time_at_the_cost_rate() -> None:
    half = START + HOUR_US // 2
    events = rows(
        [
            NodePriced("n", "p@1", OLD, START - 5),
            booted("n", START),
            NodePriced("n", "p@2", OLD, half, NEW),
            NodePriced("n", "p@3", OLD, half + HOUR_US),
        ]
    )
    end = START + 2 * HOUR_US
    parts = ((OLD, START, half), (NEW, half, half + HOUR_US), (OLD, half + HOUR_US, end))
    assert owed(events, {"n": end}, 0, EVER).nanos == {"n": sum(node_cost(*part) for part in parts)}


@pytest.mark.parametrize(
    "events",
    [
        [booted("n", START)],
        [NodePriced("n", "p@1", OLD, START)],
        [NodePriced("n", "p@1", OLD, START), booted("n", START), NodePriced("n", "", OLD, START + HOUR_US)],
        [],
    ],
    ids=["no price", "no boot", "no price for a part", "nothing"],
)
def test_a_node_of_which_the_facts_do_not_tell_is_left_out(events: list[Event]) -> None:
    found = owed(rows(events), {"n": START + 2 * HOUR_US}, 0, EVER)
    assert not found.nanos
    assert found.left_out == {"n"}
    # Of a time before that it is told.
    if len(events) == 3:
        assert owed(rows(events), {"n": START + HOUR_US}, 0, EVER).nanos == {"n": OLD.total}


def test_a_life_with_jobs_prices_silence_and_a_reboot_costs_by_the_books_what_it_costs_by_the_facts() -> None:
    world = World(clock=VirtualClock(Instant(START)))
    world.apply(MODEL.format(400_003))
    nodes = [
        world.backend.connect(FACTS),
        world.backend.connect(NodeFacts(name="n-2", cpu_milli=3000, memory_bytes=1 << 33)),
    ]
    for step in range(40):
        if step % 3 == 0:
            world.submit(options=(ResourceRequest(None, 1500, 1 << 20),))
        if step == 20:
            world.apply(MODEL.format(777_001))
        world.cycle()
        world.clock.advance(7 * MINUTE_US)
        world.backend.report()
        if step == 30:
            world.backend.disconnect("n-1")
            world.clock.advance(90 * MINUTE_US)
            world.backend.connect(FACTS, "boot-2")
    world.writer.flush()
    books = Counter[str]()
    now = unposted(world.state)
    for row in [*world.writer.charges, *now.rows]:
        books[row.node_id] += row.nanos
    assert {row.kind for row in world.writer.charges} > {"usage", "idle", "absorption", "variance"}
    events = [EventRow(seq, START, "x", encode(event)) for seq, event in enumerate(world.events, 1)]
    found = owed(events, dict(now.through), 0, EVER)
    assert found.nanos == dict(books)
    assert set(found.nanos) == {node.id for node in nodes}
    assert found.left_out == set()
