"""A pass costs as much as a job: none is made that could find nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bursar.model import ArraySpec, NodeFacts
from bursar.resources import ResourceRequest
from bursard.cycle import Cycle, _pause_s
from bursard.fleet.link import LAZY_MAX, AgentLink
from bursard.fleet.testing import World
from bursard.fleet.words import Forget, Stop
from bursard.state.decide import nodes


def site(cpus: int) -> World:
    world = World()
    facts = NodeFacts(name="n-1", cpu_milli=cpus * 1_000, memory_bytes=1 << 34, pool="local")
    hello = nodes.hello(
        world.state,
        world.ids,
        world.engine.prices,
        facts=facts,
        boot_id="b",
        boot_us=0,
        now=world.engine.now(),
    )
    world.engine.commit(hello, "test")
    return world


def ask(world: World, **spec: Any) -> str:
    return world.submit(options=(ResourceRequest(None, 1_000, 1 << 20),), **spec).id


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


def woken(cycle: Cycle) -> bool:
    return cycle._wake.is_set()


def test_a_turn_that_leaves_housekeeping_over_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.housekeeping.WOKEN_MAX", 1)

    async def story() -> None:
        world = site(1)
        cycle = Cycle(world.engine)
        for _ in range(3):
            ask(world, begin_after=world.engine.now() + 1)
        world.clock.advance(1)
        assert [await cycle.turn() for _ in range(3)] == [True, True, False]
        assert cycle.once() is False
        for _ in range(2):
            ask(world, begin_after=world.engine.now() + 1)
        world.clock.advance(1)
        assert [cycle.once() for _ in range(2)] == [True, False]

    play(story)


def test_a_pass_that_started_what_fits_is_not_followed_by_another() -> None:
    async def story() -> None:
        world = site(1)
        cycle = Cycle(world.engine)
        for _ in range(3):
            ask(world)
        cycle._wake.clear()
        assert await cycle.turn() is False
        assert cycle.stats.placed == 1
        assert not woken(cycle)

    play(story)


def test_what_comes_while_a_pass_is_made_wakes_the_next_one() -> None:
    async def story() -> None:
        world = site(1)
        cycle = Cycle(world.engine)
        ask(world)
        cycle._wake.clear()
        seen = cycle._look()
        assert seen is not None
        ask(world)
        assert cycle._do(seen, cycle._plan(seen)) is False
        assert woken(cycle)

    play(story)


def test_one_turn_sees_every_job_of_a_long_queue() -> None:
    async def story() -> None:
        world = site(600)
        cycle = Cycle(world.engine)
        for _ in range(600):
            ask(world)
        await cycle.turn()
        assert cycle.stats.placed == 600

    play(story)


def test_an_array_starts_all_its_tasks_though_few_are_queued_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bursard.state.fold.jobs.QUEUED_MAX", 2)

    async def story() -> None:
        world = site(8)
        cycle = Cycle(world.engine)
        ask(world, array=ArraySpec(tuple(range(6)), max_parallel=6))
        turns = 0
        while woken(cycle) or turns == 0:
            cycle._wake.clear()
            await cycle.turn()
            turns += 1
            assert turns < 10
        assert cycle.stats.placed == 6
        assert turns > 1

    play(story)


def link() -> AgentLink:
    return AgentLink("node_1", "n-1", "b")


def test_an_acknowledged_end_does_not_make_an_order_two_messages() -> None:
    async def story() -> None:
        one = link()
        forget, stop = Forget("att_1", 0), Stop("att_2", 0, "cancelled", 0)
        one.send(forget)
        one.send(stop)
        assert await one.take() == [stop]
        assert await one.take() == [forget]  # after `LAZY_S`, with nothing else to wake it

    play(story)


def test_acknowledged_ends_wait_only_until_there_are_many() -> None:
    async def story() -> None:
        one = link()
        forgets = [Forget(f"att_{number}", 0) for number in range(LAZY_MAX)]
        for forget in forgets:
            one.send(forget)
        assert one._lazy is None
        assert await one.take() == forgets

    play(story)


def test_orders_leave_in_the_order_they_were_given() -> None:
    async def story() -> None:
        one = link()
        stops = [Stop(f"att_{number}", 0, "cancelled", 0) for number in range(3)]
        for stop in stops:
            one.send(stop)
        assert await one.take() == stops

    play(story)


def test_a_pass_waits_for_company_only_where_much_runs_and_never_long() -> None:
    pauses = {live: round(1000 * _pause_s(live)) for live in (0, 1, 7, 8, 12, 16, 1000)}
    assert pauses == {0: 1, 1: 1, 7: 1, 8: 8, 12: 12, 16: 16, 1000: 16}
