"""The control of a statement: node cost by boots and prices alone. It can fail, and here it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from bursar.clock import HOUR_US, SECOND_US, Instant, VirtualClock
from bursar.model import NodeFacts, ShareRates
from bursar.resources import ResourceRequest
from bursard.engine import unposted
from bursard.events import Event, NodeBooted, NodePriced, encode
from bursard.fleet.testing import FACTS, World
from bursard.reports.control import owed
from bursard.reports.unpriced import parted, stretches
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
        [NodePriced("n", "", OLD, START), booted("n", START)],
        [
            NodePriced("n", "p@1", OLD, START),
            booted("n", START),
            NodePriced("n", "", OLD, START),
        ],
        [],
    ],
    ids=["no price", "no boot", "an unknown price", "taken back", "nothing"],
)
def test_a_node_of_which_the_facts_do_not_tell_is_left_out(events: list[Event]) -> None:
    found = owed(rows(events), {"n": START + 2 * HOUR_US}, 0, EVER)
    assert not found.nanos
    assert found.left_out == {"n"}
    assert not found.unpriced
    there = any(isinstance(event, NodeBooted) for event in events)
    assert found.unpriced_us == (2 * HOUR_US if there else 0)


def unpriced(*times: tuple[int, int]) -> list[EventRow]:
    """A node at `OLD`, of which nobody knew the price in some times after its first boot."""
    events: list[Event] = [NodePriced("n", "p@1", OLD, START), booted("n", START + 5)]
    for start, end in times:
        events += [NodePriced("n", "", OLD, START + start), NodePriced("n", "p@1", OLD, START + end)]
    return rows(events)


@pytest.mark.parametrize(
    "times",
    [
        [(HOUR_US + 9, HOUR_US + 7 * SECOND_US)],
        [(HOUR_US, 2 * HOUR_US)],
        [(HOUR_US - 1, 2 * HOUR_US + 1)],
        [(HOUR_US, HOUR_US + 1), (HOUR_US + 3, HOUR_US + 5)],
        [(HOUR_US + 1, HOUR_US + 2), (3 * HOUR_US, 3 * HOUR_US + 1)],
    ],
    ids=["seconds", "an hour", "over edges", "twice in one", "in two hours"],
)
def test_only_the_time_at_an_unknown_price_is_left_out(times: list[tuple[int, int]]) -> None:
    end = START + 4 * HOUR_US + 11
    found = owed(unpriced(*times), {"n": end}, 0, EVER)
    lacking = [(START + first, START + last) for first, last in times]
    whole = node_cost(OLD, START + 5, end)
    assert found.nanos == {"n": whole - sum(node_cost(OLD, *part) for part in lacking)}
    assert found.unpriced == {"n": lacking}
    assert found.unpriced_us == sum(last - first for first, last in lacking)
    assert found.left_out == set()
    # A period looks at no other time than its own.
    after = owed(unpriced(*times), {"n": end}, START + 4 * HOUR_US, EVER)
    assert (after.unpriced, after.unpriced_us) == ({}, 0)


def test_time_without_a_price_is_parted_in_full_hours_and_the_rest_of_their_hours() -> None:
    h = HOUR_US
    assert parted({"a": [(h, 3 * h)]}) == ({"a": [(h, 3 * h)]}, {})
    assert parted({"a": [(h + 1, h + 2), (h + 4, h + 5)]}) == (
        {},
        {h: {"a": [(h + 1, h + 2), (h + 4, h + 5)]}},
    )
    assert parted({"a": [(h - 1, h + 1)]}) == ({}, {0: {"a": [(h - 1, h)]}, h: {"a": [(h, h + 1)]}})
    assert parted({"a": [(h, h + 1)], "b": [(h - 7, 2 * h)]}) == (
        {"b": [(h, 2 * h)]}, {h: {"a": [(h, h + 1)]}, 0: {"b": [(h - 7, h)]}}
    )  # fmt: skip


def test_times_of_several_nodes_are_read_in_stretches_that_do_not_overlap() -> None:
    found = stretches({"a": [(1, 4), (6, 7)], "b": [(2, 4)], "c": [(2, 9)], "d": []})
    assert list(found) == [
        (1, 2, {"a"}), (2, 4, {"a", "b", "c"}), (4, 6, {"c"}), (6, 7, {"a", "c"}), (7, 9, {"c"})
    ]  # fmt: skip
    assert list(stretches({})) == []
    assert list(stretches({"a": [(1, 2), (5, 6)]})) == [(1, 2, {"a"}), (5, 6, {"a"})]


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
