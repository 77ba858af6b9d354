"""A node's secret can be listed, can end, can be revoked; a stream that was admitted with it ends with it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import Forbidden, InvalidRequest, Unauthenticated
from bursard import doctor
from bursard.access.identity import Identity, Role
from bursard.access.tokens import Authority
from bursard.events import NodeTokenIssued, NodeTokenRevoked
from bursard.fleet import AgentLink, Agents, Heartbeat, Hello
from bursard.fleet.testing import FACTS, World
from bursard.services import views
from bursard.state import image, trouble

SECRET = "node_secret"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


class Site(World):
    """A daemon that admits agents by their secrets."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Agents(self.engine, self.fleet)
        self.authority = Authority(self.state, self.clock, local_role=None)

    def issue(self, valid_us: int = 0, secret: str = SECRET) -> None:
        now = self.engine.now()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        until = now + valid_us if valid_us else 0
        self.commit(NodeTokenIssued("n-1", digest, now + HOUR_US, until))

    def commit(self, *events: object) -> None:
        self.engine.commit(list(events), "root")  # type: ignore[arg-type]
        self.writer.flush()

    async def connect(self, secret: str = SECRET, instance: str = "agent_1") -> AgentLink:
        identity = self.authority.identify(f"Bearer {secret}")
        hello = Hello(facts=FACTS, boot_id="boot-1", boot_us=self.clock.boot_us(), instance=instance)
        node = await self.hub.admit(hello, bound_to=identity.name, token_sha256=identity.token_sha256)
        link = AgentLink(node.id, "n-1", "boot-1", instance=instance)
        link.token_sha256 = identity.token_sha256
        self.hub.join(link, ())
        self.writer.flush()
        return link


def play(story: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Site())

    asyncio.run(whole())


def test_a_secret_is_good_for_its_first_use_until_then_and_afterwards_without_an_end() -> None:
    async def story(site: Site) -> None:
        site.issue()
        await site.connect()
        site.clock.advance(400 * DAY_US)
        assert site.authority.identify(f"Bearer {SECRET}").name == "n-1"
        assert site.state.node_tokens[DIGEST].valid_until == 0

    play(story)


def test_a_secret_that_nobody_used_in_time_is_void() -> None:
    async def story(site: Site) -> None:
        site.issue(valid_us=30 * DAY_US)
        site.clock.advance(HOUR_US)
        with pytest.raises(Unauthenticated):
            site.authority.identify(f"Bearer {SECRET}")

    play(story)


def test_a_bound_secret_with_an_end_admits_nobody_after_it_and_its_stream_is_cut() -> None:
    async def story(site: Site) -> None:
        site.issue(valid_us=2 * HOUR_US)
        link = await site.connect()
        assert site.state.node_tokens[DIGEST].instance == "agent_1"
        site.clock.advance(2 * HOUR_US - 1_000)
        link.last_seen_at = site.engine.now()
        watching = asyncio.create_task(site.hub.watch(link))
        await asyncio.sleep(0)
        assert not link.closed
        site.clock.advance(1_000)
        await asyncio.wait_for(watching, 120)
        assert link.closed
        with pytest.raises(Unauthenticated):
            site.authority.identify(f"Bearer {SECRET}")

    play(story)


def test_a_node_whose_secret_has_ended_is_not_told_as_a_dead_machine() -> None:
    async def story(site: Site) -> None:
        site.issue(valid_us=2 * HOUR_US)
        link = await site.connect()
        site.clock.advance(2 * HOUR_US)
        now, node = site.engine.now(), site.node()
        assert trouble.of_token(site.state, node, now) == ""
        site.hub.leave(link)
        site.clock.advance(HOUR_US)
        now = site.engine.now()
        root = Identity("root", Role.ADMIN)
        assert trouble.of_token(site.state, node, now).startswith("the token of its agent ended at ")
        told = views.node_view(site.state, node, None, 0, root, now).reason
        assert told.startswith("the token of its agent ended at ")
        assert "`bursar node token n-1` makes a new one" in told
        found = next(one for one in doctor.check_state(site.state, now=now) if one.check == "nodes")
        assert "n-1 is out of contact: the token of its agent ended at " in found.message
        site.issue(secret="node_newer")
        await site.connect("node_newer")
        site.hub.leave(site.hub.links[node.id])
        assert trouble.of_token(site.state, node, now) == ""

    play(story)


def test_a_revoked_secret_cuts_its_live_stream_once_that_is_durable_and_no_other() -> None:
    async def story(site: Site) -> None:
        site.issue()
        link = await site.connect()
        other = AgentLink("node_x", "n-2", "boot-1")
        site.hub.links["node_x"] = other
        site.engine.commit([NodeTokenRevoked("n-1", DIGEST)], "root")
        assert not link.closed
        site.writer.flush()
        assert link.closed
        assert not other.closed
        with pytest.raises(Unauthenticated):
            site.authority.identify(f"Bearer {SECRET}")

    play(story)


def test_a_new_secret_in_use_voids_the_old_one_and_its_stream() -> None:
    async def story(site: Site) -> None:
        site.issue()
        link = await site.connect()
        site.issue(secret="node_newer")
        assert not link.closed
        await site.connect("node_newer")
        assert link.closed
        assert list(site.state.node_tokens) == [hashlib.sha256(b"node_newer").hexdigest()]

    play(story)


def test_two_agents_of_one_name_that_come_at_once_do_not_both_get_in() -> None:
    """Both say hello before either is served; the second waits for the disk in between."""

    async def story(site: Site) -> None:
        gate = asyncio.Event()
        agree = site.hub._agree

        async def slow(hello: Hello) -> None:
            await agree(hello)
            if hello.instance == "agent_2":
                await gate.wait()

        site.hub._agree = slow  # type: ignore[method-assign]
        hello = Hello(facts=FACTS, boot_id="boot-1", boot_us=site.clock.boot_us(), instance="agent_2")
        second = asyncio.create_task(site.hub.admit(hello))
        await asyncio.sleep(0)
        site.issue()
        link = await site.connect()
        gate.set()
        with pytest.raises(Forbidden, match="connected already"):
            await second
        assert not link.closed

    play(story)


def test_a_stream_that_was_replaced_is_not_heard_any_more() -> None:
    async def story(site: Site) -> None:
        site.issue()
        old = await site.connect()
        new = await site.connect()
        assert (old.closed, new.closed) == (True, False)
        site.hub.take(old, Heartbeat(2**62))
        with pytest.raises(InvalidRequest):
            site.hub.take(new, Heartbeat(2**62))

    play(story)


def test_a_secret_serves_no_second_agent() -> None:
    async def story(site: Site) -> None:
        site.issue()
        link = await site.connect()
        site.hub.leave(link)
        with pytest.raises(Forbidden, match="already used by another agent"):
            await site.connect(instance="agent_2")

    play(story)


def test_a_removed_node_cannot_come_back_with_its_secret() -> None:
    async def story(site: Site) -> None:
        site.issue()
        link = await site.connect()
        site.hub.leave(link)
        site.commit(*site.fleet.remove(site.node()))
        assert site.state.node_tokens == {}

    play(story)


def test_secrets_outlive_an_image_with_all_that_is_known_of_them() -> None:
    site = Site()
    site.issue(valid_us=9 * DAY_US)
    (token,) = site.state.node_tokens.values()
    assert token.issued_at == site.engine.now()
    assert list(image.decode(image.encode(site.state, 1)).node_tokens.values()) == [token]
    assert msgspec.structs.replace(token, instance="a").good(token.valid_until - 1)
    assert not msgspec.structs.replace(token, instance="a").good(token.valid_until)
