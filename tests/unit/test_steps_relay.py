"""Pieces of steps between members: who may send them, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from bursar.errors import InvalidRequest
from bursard.fleet import AgentLink, Agents, Hello, Started, StepFrame
from bursard.fleet.link import STEP_BYTES_MAX
from bursard.fleet.testing import FACTS, World
from bursard.state import AttemptRecord


class Site(World):
    """Three nodes with their streams, and a gang on two of them."""

    async def build(self) -> AttemptRecord:
        self.hub = Agents(self.engine, self.fleet)
        self.links: dict[str, AgentLink] = {}
        for number in (1, 2, 3):
            facts = msgspec.structs.replace(FACTS, name=f"n-{number}")
            node = await self.hub.admit(
                Hello(facts=facts, boot_id=f"boot-{number}", boot_us=10**9, instance=f"agent_{number}")
            )
            link = AgentLink(node.id, facts.name, f"boot-{number}", instance=f"agent_{number}")
            self.hub.join(link, ())
            self.links[node.id] = link
        self.submit(nodes=2)
        self.cycle()
        (attempt,) = self.state.attempts.values()
        for member in attempt.members:
            link = self.of(attempt, member.alloc.rank)
            self.hub.take(link, Started(attempt.id, member.alloc.rank, 1, self.clock.boot_us()))
        for link in self.links.values():
            await self.said(link)
        return attempt

    def of(self, attempt: AttemptRecord, rank: int) -> AgentLink:
        return self.links[attempt.members[rank].alloc.node_id]

    def stranger(self, attempt: AttemptRecord) -> AgentLink:
        inside = {member.alloc.node_id for member in attempt.members}
        return next(link for node_id, link in self.links.items() if node_id not in inside)

    async def said(self, link: AgentLink) -> list[Any]:
        link.send(StepFrame(attempt_id="end", from_rank=0, to_rank=0, channel=0, kind="data"))
        found = await link.take()
        return [one for one in found if isinstance(one, StepFrame) and one.attempt_id != "end"]


def frame(attempt: AttemptRecord, **changes: Any) -> StepFrame:
    words: dict[str, Any] = {
        "attempt_id": attempt.id,
        "from_rank": 0,
        "to_rank": 1,
        "channel": 7,
        "kind": "data",
        "data": b"x",
    }
    return StepFrame(**(words | changes))


def play(story: Callable[[Site, AttemptRecord], Awaitable[None]]) -> None:
    async def whole() -> None:
        site = Site()
        await story(site, await site.build())

    asyncio.run(whole())


def test_a_piece_goes_to_the_node_of_the_other_member_as_it_is() -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        sent = frame(attempt, to_client=True)
        site.hub.carry(site.of(attempt, 0), sent)
        assert await site.said(site.of(attempt, 1)) == [sent]
        assert await site.said(site.of(attempt, 0)) == []

    play(story)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"from_rank": 1, "to_rank": 0}, b"this attempt has ended here"),
        ({"attempt_id": "att_nobodys"}, b"this attempt has ended here"),
        ({"to_rank": 2}, b"the attempt has no rank 2"),
    ],
)
def test_a_node_speaks_for_its_own_member_to_members_that_there_are(
    changes: dict[str, Any], why: bytes
) -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        sent = frame(attempt, **changes)
        site.hub.carry(site.of(attempt, 0), sent)
        (answer,) = await site.said(site.of(attempt, 0))
        assert (answer.kind, answer.data, answer.to_client, answer.channel) == ("close", why, True, 7)
        assert (answer.from_rank, answer.to_rank) == (sent.to_rank, sent.from_rank)
        assert await site.said(site.of(attempt, 1)) == []

    play(story)


def test_a_node_outside_of_an_attempt_reaches_no_member_of_it() -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        site.hub.carry(site.stranger(attempt), frame(attempt))
        assert [one.kind for one in await site.said(site.stranger(attempt))] == ["close"]
        assert await site.said(site.of(attempt, 1)) == []

    play(story)


def test_a_close_that_cannot_be_carried_is_not_answered() -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        site.hub.carry(site.of(attempt, 0), frame(attempt, kind="close", to_rank=9))
        assert await site.said(site.of(attempt, 0)) == []

    play(story)


def test_what_a_node_does_not_take_is_dropped_beyond_a_bound() -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        piece = frame(attempt, data=bytes(1 << 16))
        for _ in range(200):
            site.hub.carry(site.of(attempt, 0), piece)
        held = sum(len(one.data) for one in await site.said(site.of(attempt, 1)))
        assert STEP_BYTES_MAX - (1 << 17) < held <= STEP_BYTES_MAX + (1 << 16)
        site.hub.carry(site.of(attempt, 0), piece)
        assert await site.said(site.of(attempt, 1)) == [piece]

    play(story)


def test_one_for_a_node_out_of_contact_is_dropped_without_a_word() -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        site.hub.leave(site.of(attempt, 1))
        site.hub.carry(site.of(attempt, 0), frame(attempt))
        assert await site.said(site.of(attempt, 0)) == []

    play(story)


@pytest.mark.parametrize("changes", [{"kind": "shout"}, {"data": bytes((1 << 16) + 1)}, {"to_rank": 70_000}])
def test_what_has_no_form_ends_the_stream_of_its_agent(changes: dict[str, Any]) -> None:
    async def story(site: Site, attempt: AttemptRecord) -> None:
        with pytest.raises(InvalidRequest, match="step"):
            site.hub.carry(site.of(attempt, 0), frame(attempt, **changes))

    play(story)
