"""Readers of money make no events at will: one refresh for all of them, and none without need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import ModuleType

import pytest
from growth_bench import load

from bursar.clock import HOUR_US, SECOND_US
from bursar.v1 import money_pb2 as pb
from bursard.access.identity import Identity, Role, set_caller
from bursard.fleet import Agents, Fleet
from bursard.fleet.link import AgentLink, MeterNow
from bursard.fleet.refresh import AGE_MIN_US, Refresh
from bursard.services.money import MoneyService
from bursard.store import ScratchStore

growth: ModuleType = load()


class Site:
    """A node with two jobs, its agent, and the service of money."""

    def __init__(self, *, jobs: int = 2) -> None:
        set_caller(Identity("ann", Role.ADMIN))
        self.day = growth.Day(ScratchStore(), 2)
        if jobs:
            self.day.start_jobs(9 * HOUR_US)
        self.engine = self.day.engine
        self.hub = Agents(self.engine, Fleet(self.engine, log_cap_bytes=1 << 20, run_as_submitter=False))
        self.link = AgentLink(self.day.node.id, "rack-a-01", "boot")
        self.hub.links[self.day.node.id] = self.link
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.refresh = Refresh(self.engine, self.hub.settle)
        self.money = MoneyService(self.engine, self.refresh)

    async def agent(self) -> None:
        """Meters when asked."""
        while messages := await self.link.take():
            for message in messages:
                assert isinstance(message, MeterNow)
                self.asked += 1
                await self.answers.wait()
                self.day.meter()
                self.link.metered.set()

    def advance(self, us: int) -> None:
        self.day.clock.advance(us)

    async def cost(self) -> int:
        answer = await self.money.Cost(pb.CostRequest(), None)
        return int(answer.total.nanos)


def scenario(play: Callable[[Site], Awaitable[None]], *, jobs: int = 2) -> None:
    async def whole() -> None:
        site = Site(jobs=jobs)
        agent = asyncio.create_task(site.agent())
        try:
            await asyncio.wait_for(play(site), 120)
        finally:
            agent.cancel()
            await site.engine.writer.close()

    asyncio.run(whole())


def test_many_readers_at_once_ask_each_agent_once_and_see_the_same() -> None:
    async def play(site: Site) -> None:
        site.advance(60 * SECOND_US)
        before = site.engine.state.version
        found = await asyncio.gather(*(site.cost() for _ in range(20)))
        assert len(set(found)) == 1
        assert found[0] > 0
        assert (site.asked, site.engine.state.version) == (1, before + 1)

    scenario(play)


def test_within_the_window_nobody_asks_again_and_after_it_one_does() -> None:
    async def play(site: Site) -> None:
        site.advance(60 * SECOND_US)
        first = await site.cost()
        site.advance(AGE_MIN_US - 1)
        assert await site.cost() == first
        assert site.asked == 1
        site.advance(1)
        assert await site.cost() > first
        assert site.asked == 2

    scenario(play)


def test_nobody_is_asked_when_nothing_lives() -> None:
    async def play(site: Site) -> None:
        site.advance(60 * SECOND_US)
        assert await site.cost() == 0
        assert site.asked == 0

    scenario(play, jobs=0)


def test_an_agent_with_nothing_to_meter_is_left_alone() -> None:
    async def play(site: Site) -> None:
        idle = AgentLink("node_idle", "idle", "boot")
        site.hub.links["node_idle"] = idle
        site.advance(60 * SECOND_US)
        assert await site.cost() > 0
        assert site.asked == 1
        idle.close()
        assert await idle.take() == []

    scenario(play)


def test_idle_time_is_asked_of_the_whole_site_once_for_all_who_want_it() -> None:
    async def play(site: Site) -> None:
        site.advance(60 * SECOND_US)
        idle = [site.money.Cost(pb.CostRequest(include_idle=True), None) for _ in range(5)]
        found = {int(answer.total.nanos) for answer in await asyncio.gather(*idle)}
        assert len(found) == 1
        assert found.pop() > 0
        assert await site.cost() == 0
        assert site.asked == 1

    scenario(play, jobs=0)


def test_a_reader_that_goes_away_leaves_the_refresh_to_the_others() -> None:
    async def play(site: Site) -> None:
        site.advance(60 * SECOND_US)
        site.answers.clear()
        impatient, patient = (asyncio.create_task(site.cost()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        site.answers.set()
        assert await patient > 0
        assert site.asked == 1

    scenario(play)


def test_a_refresh_that_failed_is_tried_by_the_next_reader() -> None:
    async def play(site: Site) -> None:
        calls: list[int] = []

        async def settle(whole: bool) -> None:
            assert not whole
            calls.append(1)
            if len(calls) == 1:
                raise OSError("the disk")

        refresh = Refresh(site.engine, settle)
        with pytest.raises(OSError, match="disk"):
            await refresh()
        await refresh()
        await refresh()
        assert len(calls) == 2

    scenario(play)
