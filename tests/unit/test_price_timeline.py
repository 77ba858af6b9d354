"""A node's prices are dated facts: what was used before a change is valued by what held then (L11)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from bursar.clock import HOUR_US, Instant, VirtualClock, format_instant
from bursar.model import ShareRates
from bursar.money import charge
from bursard.engine import unposted
from bursard.events import NodePriced
from bursard.fleet.testing import FACTS, World
from bursard.state import AttemptRecord, JobRecord, Limits, image
from bursard.state.decide import nodes, policies
from bursard.store import ChargeRow

START = Instant(490_000 * HOUR_US)
MINUTE_US = HOUR_US // 60
OLD, NEW = 400_003, 800_009
MODEL = "kind: CostModel\nname: m\n{at}spec: {{pool: local, node_capex: {capex} USD, useful_life: 5y}}\n"
INDIA = (
    "kind: Budget\nname: b\n"
    "spec: {scope: {project: p}, limit: 90 USD, period: month, timezone: Asia/Kolkata}\n"
)


def model(capex: int, at: int = 0) -> str:
    return MODEL.format(capex=capex, at=f"effective_at: {format_instant(Instant(at))}\n" if at else "")


@pytest.fixture
def world() -> World:
    """One node in contact at a full hour, at the price of `OLD`."""
    world = World(clock=VirtualClock(START))
    world.apply(model(OLD))
    world.backend.connect(FACTS)
    return world


def node_of(world: World) -> Any:
    (node,) = world.state.nodes.values()
    return node


def rows(world: World) -> list[ChargeRow]:
    world.writer.flush()
    return [*world.writer.charges, *unposted(world.state).rows]


def nanos(world: World) -> Counter[tuple[str, str]]:
    """By kind and price."""
    found = Counter[tuple[str, str]]()
    for row in rows(world):
        found[row.kind, row.price_id] += row.nanos
    return found


def cost(rates: ShareRates, start_us: int, end_us: int) -> int:
    return sum(charge(rate, start_us, end_us) for rate in (rates.gpu, rates.cpu, rates.memory))


def test_a_price_that_came_into_force_between_two_reports_values_its_own_part(world: World) -> None:
    old = node_of(world).cost_rates
    world.apply(model(NEW, at=START + 20 * MINUTE_US))
    world.clock.advance(50 * MINUTE_US)
    world.backend.report()
    new = node_of(world).cost_rates
    assert new.total > old.total
    assert nanos(world) == {
        ("idle", "costmodel/m@1"): cost(old, 0, 20 * MINUTE_US),
        ("idle", "costmodel/m@2"): cost(new, 20 * MINUTE_US, 50 * MINUTE_US),
    }


def test_every_change_of_a_long_silence_is_found_and_dated(world: World) -> None:
    """The daemon and the node were away for five hours, in which the price changed twice."""
    old = node_of(world).cost_rates
    world.apply(model(NEW, at=START + 90 * MINUTE_US))
    world.apply(model(OLD, at=START + 200 * MINUTE_US))
    world.restart()
    world.clock.advance(300 * MINUTE_US)
    world.backend.connect(FACTS, "boot-2")
    found = rows(world)
    (new,) = {e.cost for e in world.events if isinstance(e, NodePriced) and e.price_id == "costmodel/m@2"}
    since = [event.since - START for event in world.events if isinstance(event, NodePriced)]
    assert since[-2:] == [90 * MINUTE_US, 200 * MINUTE_US]
    whole = Counter[str]()
    for row in found:
        assert row.kind == "down"
        whole[row.price_id] += row.nanos
    hours = [
        (0, 60, old),
        (0, 30, old),
        (30, 60, new),
        (0, 60, new),
        (0, 20, new),
        (20, 60, old),
        (0, 60, old),
    ]
    expected = [cost(rates, a * MINUTE_US, b * MINUTE_US) for a, b, rates in hours]
    assert whole == {
        "costmodel/m@1": expected[0] + expected[1],
        "costmodel/m@2": expected[2] + expected[3] + expected[4],
        "costmodel/m@3": expected[5] + expected[6],
    }


def test_what_a_node_says_it_has_changes_no_price_of_before_it_said_so(world: World) -> None:
    """It was away while its price changed, and comes back with more memory."""
    old = node_of(world).cost
    world.apply(model(NEW, at=START + 90 * MINUTE_US))
    world.restart()
    world.clock.advance(120 * MINUTE_US)
    larger = msgspec.structs.replace(FACTS, memory_bytes=2 * FACTS.memory_bytes)
    world.backend.connect(larger, "boot-2")
    assert nanos(world) == {
        ("down", "costmodel/m@1"): cost(old, 0, 60 * MINUTE_US) + cost(old, 0, 30 * MINUTE_US),
        ("down", "costmodel/m@2"): cost(node_of(world).cost, 30 * MINUTE_US, 60 * MINUTE_US),
    }
    since = [event.since - START for event in world.events if isinstance(event, NodePriced)]
    assert since == [0, 90 * MINUTE_US]


def test_a_job_pays_what_it_was_placed_at_and_the_difference_is_no_idle_time(world: World) -> None:
    job = world.submit()
    world.cycle()
    world.clock.advance(MINUTE_US)
    world.backend.report()
    frozen = job.attempt.members[0].alloc.rates
    world.apply(model(NEW, at=START + 20 * MINUTE_US))
    world.clock.advance(49 * MINUTE_US)
    world.backend.report()
    found = nanos(world)
    held_us = job.attempt.members[0].charged_us
    assert found["usage", "costmodel/m@1"] == cost(frozen, 0, held_us) > 0
    assert ("usage", "costmodel/m@2") not in found
    node = node_of(world)
    share = ShareRates(cpu=node.rates.cpu // 8, memory=node.rates.memory // (1 << 14))
    assert found["variance", "costmodel/m@2"] == pytest.approx(
        cost(share, 0, 30 * MINUTE_US) - cost(frozen, 0, 30 * MINUTE_US), abs=4
    )
    # A fifth of what a job is to pay is for hours that nobody buys (practical capacity 80 %).
    assert found["absorption", "costmodel/m@1"] == pytest.approx(-cost(frozen, 0, 20 * MINUTE_US) / 5, abs=4)
    assert found["absorption", "costmodel/m@2"] == pytest.approx(-cost(share, 0, 30 * MINUTE_US) / 5, abs=4)
    (old,) = {e.cost for e in world.events if isinstance(e, NodePriced) and e.price_id == "costmodel/m@1"}
    assert old is not None
    owed = cost(old, 0, 20 * MINUTE_US) + cost(node.cost_rates, 20 * MINUTE_US, 50 * MINUTE_US)
    assert found.total() == owed == -world.state.ledger.balances[f"node/{node.id}"]


def test_prices_that_time_has_passed_are_forgotten_and_an_image_keeps_the_rest(world: World) -> None:
    for minute in (10, 20, 30):
        world.apply(model(OLD + minute, at=START + minute * MINUTE_US))
    world.clock.advance(15 * MINUTE_US)
    world.backend.report()
    world.clock.advance(20 * MINUTE_US)
    world.engine.commit(nodes.reprice(world.state, world.engine.prices, world.engine.now()), "bursard")
    node = node_of(world)
    assert [(price.since - START) // MINUTE_US for price in node.prices] == [10, 20, 30]
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert again.nodes[node.id].prices == node.prices
    world.backend.report()
    world.apply(model(NEW))
    world.engine.commit(nodes.reprice(world.state, world.engine.prices, world.engine.now()), "bursard")
    assert [(price.since - START) // MINUTE_US for price in node.prices] == [35]


def test_a_month_that_ends_at_half_past_settles_each_side_in_its_own_month() -> None:
    """1. A job of a budget in India runs. 2. Its month ends at 18:30 UTC, between two reports."""
    start = Instant(1_796_061_600_000_000)
    assert format_instant(start) == "2026-11-30T18:00:00Z"
    world = World(clock=VirtualClock(start))
    world.backend.connect(FACTS)
    world.apply(INDIA)
    record = world.state.budgets.records["b"]
    november, december = record.period_start, record.period_end
    assert december == start + 30 * MINUTE_US
    job = world.submit()
    world.cycle()
    world.clock.advance(50 * MINUTE_US)
    world.engine.commit(policies.roll_periods(world.state, world.engine.now()), "bursard")
    assert world.state.budgets.records["b"].period_start == december
    world.backend.report()
    member = job.attempt.members[0]
    before_us = december - member.started_at
    ledger, rates = world.state.ledger, member.alloc.rates
    assert ledger.settled("b", november) == cost(rates, 0, before_us) > 0
    assert ledger.settled("b", december) == cost(rates, before_us, member.charged_us) > 0
    assert member.charged_us == pytest.approx(50 * MINUTE_US, abs=MINUTE_US)
    assert ledger.violations() == []


def nightly() -> tuple[World, JobRecord]:
    """A job that runs under a budget of a day in India, whose midnight is half past six in the evening."""
    world = World(clock=VirtualClock(Instant(1_796_061_600_000_000)))
    world.backend.connect(FACTS)
    world.apply(INDIA.replace("month", "day"))
    job = world.submit(time_limit_us=80 * HOUR_US)
    world.cycle()
    return world, job


def settled_by_night(world: World, attempt: AttemptRecord, starts: Sequence[int]) -> None:
    """Each period took in what was used in it, to the nano."""
    (member,), ledger = attempt.members, world.state.ledger
    edges = [0, *(start - member.started_at for start in starts[1:]), member.charged_us]
    expected = [cost(member.alloc.rates, *edge) for edge in pairwise(edges)]
    assert [ledger.settled("b", start) for start in starts] == expected
    assert min(expected) > 0
    assert ledger.violations() == []


def test_what_is_told_late_settles_in_each_of_the_periods_that_have_passed_since() -> None:
    """The node is not heard of for three nights, each of which the daemon sees."""
    world, job = nightly()
    starts = [world.state.budgets.records["b"].period_start]
    for _ in range(3):
        world.clock.advance(24 * HOUR_US)
        world.engine.commit(policies.roll_periods(world.state, world.engine.now()), "bursard")
        starts.append(world.state.budgets.records["b"].period_start)
    world.backend.report()
    settled_by_night(world, job.attempt, starts)


def test_a_report_that_comes_before_housekeeping_settles_in_the_period_that_has_begun() -> None:
    world, job = nightly()
    first = world.state.budgets.records["b"]
    starts = [first.period_start, first.period_end]
    world.clock.advance(50 * MINUTE_US)
    world.backend.report()
    settled_by_night(world, job.attempt, starts)


@pytest.mark.parametrize("ends", [False, True])
def test_a_node_that_is_ahead_of_the_clock_settles_in_the_period_of_its_own_time(ends: bool) -> None:
    """By the daemon's clock, which was set back a little, the period has not ended yet."""
    world, job = nightly()
    attempt, first = job.attempt, world.state.budgets.records["b"]
    starts = [first.period_start, first.period_end]
    world.backend.report()
    world.clock.advance(first.period_end - world.engine.now() + 2 * MINUTE_US)
    world.clock.step_wall(-5 * MINUTE_US)
    assert world.engine.now() < first.period_end
    if ends:
        world.backend.finish(attempt.id, 0)
    world.backend.report()
    settled_by_night(world, attempt, starts)
    world.engine.commit(policies.roll_periods(world.state, world.engine.now()), "bursard")
    world.clock.advance(10 * MINUTE_US)
    world.backend.report()
    settled_by_night(world, attempt, starts)


def test_an_end_that_comes_before_housekeeping_settles_in_the_period_that_has_begun() -> None:
    world, job = nightly()
    attempt, first = job.attempt, world.state.budgets.records["b"]
    starts = [first.period_start, first.period_end]
    world.backend.report()
    world.clock.advance(50 * MINUTE_US)
    world.backend.finish(attempt.id, 0)
    world.backend.report()
    settled_by_night(world, attempt, starts)
