"""How many wait for what is counted for all who ask, as often as the loop can bear."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bursard.access.identity import Grant, Identity, Role
from bursard.fleet.testing import World
from bursard.services.census import TIMES, Census

ADMIN = Identity("root", Role.ADMIN)
BOB = Identity("bob", None, grants=(Grant(Role.SUBMITTER, "p"),))
NO_CYCLE: Any = None
EACH_US = 1_000


class Site:
    """A daemon that takes a millisecond to say why one queue waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.asked = World(), 0
        self.census = Census(self.world.engine, NO_CYCLE)
        monkeypatch.setattr("bursard.services.census.reason_of", self.reason)

    def reason(self, *_: object) -> None:
        self.asked += 1
        self.world.clock.advance(EACH_US)

    def jobs(self, *identities: Identity) -> list[int]:
        async def ask() -> list[int]:
            told = await asyncio.gather(*map(self.census.seen_by, identities))
            return [sum(one.jobs for one in counts) for counts in told]

        return asyncio.run(ask())


def test_who_asks_at_the_same_time_is_told_what_one_count_found(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    for project in "ppq":
        site.world.submit(project=project)
    assert site.jobs(*[ADMIN] * 50, BOB) == [3] * 50 + [2], "each sees what he may"
    assert site.asked == 1, "all stand in one queue"


def test_it_is_counted_anew_when_five_times_of_what_it_took_have_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch)
    for _ in range(4):
        site.world.submit()
    assert site.jobs(ADMIN) == [4]
    site.world.submit()
    site.world.clock.advance(TIMES * EACH_US - 1)
    assert site.jobs(ADMIN) == [4], "the loop is not kept busy with it"
    site.world.clock.advance(1)
    assert site.jobs(ADMIN) == [5]


def test_a_count_whose_asker_went_away_leaves_the_next_one_free(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    site.world.submit()

    async def story() -> int:
        first = asyncio.create_task(site.census.seen_by(ADMIN))
        await asyncio.sleep(0)
        first.cancel()
        return sum(one.jobs for one in await site.census.seen_by(ADMIN))

    assert asyncio.run(story()) == 1
