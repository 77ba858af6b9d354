"""Whose time it is that a node did not tell of: unknown until it tells, down only where it was off."""

from __future__ import annotations

from collections import Counter

import pytest

from bursar.clock import DAY_US, HOUR_US, Instant, VirtualClock
from bursard.engine import unposted
from bursard.fleet.testing import FACTS, World
from bursard.sim.checks import node_cost
from bursard.state.decide import nodes

START = Instant(490_000 * HOUR_US)
SILENT_US = 3 * HOUR_US


@pytest.fixture
def world() -> World:
    """A node in contact at a full hour, which then says nothing for three."""
    world = World(clock=VirtualClock(START))
    world.backend.connect(FACTS)
    world.backend.disconnect("n-1")
    world.clock.advance(SILENT_US)
    return world


def nanos(world: World) -> dict[str, int]:
    world.writer.flush()
    found = Counter[str]()
    for row in [*world.writer.charges, *unposted(world.state).rows]:
        found[row.kind] += row.nanos
    return dict(found)


def cost(world: World, start_us: int, end_us: int) -> int:
    node = world.node()
    return node_cost(node.cost_rates, node.axis_start + start_us, node.axis_start + end_us)


def boots(world: World, up_us: int) -> None:
    """The machine comes back with another boot, which began so long ago."""
    world.engine.commit(
        nodes.hello(
            world.state, world.ids, world.engine.prices, facts=FACTS, boot_id="boot-2", boot_us=up_us,
            now=world.engine.now(),
        ),
        "test",
    )  # fmt: skip


def test_a_node_whose_boot_went_on_was_idle_however_long_nobody_heard_of_it(world: World) -> None:
    world.backend.connect(FACTS)
    world.backend.report()
    assert nanos(world) == {"idle": cost(world, 0, SILENT_US)}


def test_another_boot_is_the_evidence_that_it_was_off_until_that_began(world: World) -> None:
    boots(world, up_us=HOUR_US // 2)
    assert nanos(world) == {
        "down": cost(world, 0, SILENT_US - HOUR_US // 2),
        "idle": cost(world, SILENT_US - HOUR_US // 2, SILENT_US),
    }


@pytest.mark.parametrize("up_us", [SILENT_US, SILENT_US + 1, 900 * DAY_US])
def test_a_boot_that_claims_to_be_older_than_the_last_word_of_the_one_before_proves_no_idle_time(
    world: World, up_us: int
) -> None:
    boots(world, up_us)
    assert nanos(world) == {"down": cost(world, 0, SILENT_US)}


def test_until_it_tells_its_time_is_unknown_and_in_no_book(world: World) -> None:
    books = nanos(world)
    rows = world.fleet.unheard()
    assert [(row.kind, row.held_us, row.nanos) for row in rows] == [
        ("unknown", SILENT_US, cost(world, 0, SILENT_US))
    ]
    assert rows[0].rate == world.node().cost_rates.total
    assert (rows[0].start_at, rows[0].end_at) == (START, START + SILENT_US)
    assert nanos(world) == books == {}
    world.backend.connect(FACTS)
    world.backend.report()
    assert world.fleet.unheard() == []


def test_unknown_time_is_a_row_for_each_day(world: World) -> None:
    world.clock.advance(2 * DAY_US)
    rows = world.fleet.unheard()
    assert len(rows) == 3
    assert {row.start_at // DAY_US for row in rows} == {START // DAY_US + day for day in range(3)}
    assert sum(row.nanos for row in rows) == cost(world, 0, SILENT_US + 2 * DAY_US)
    assert sum(row.held_us for row in rows) == SILENT_US + 2 * DAY_US


def test_of_a_node_that_leaves_for_good_nobody_will_ever_tell(world: World) -> None:
    owed = cost(world, 0, SILENT_US)
    node = world.node()
    world.engine.commit(world.fleet.remove(node), "ann")
    assert nanos(world) == {"unknown": owed}
    assert world.state.ledger.balances[f"unknown/{node.id}"] == owed
    assert world.state.ledger.violations() == []
