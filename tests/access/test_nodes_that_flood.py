"""What a node says costs it by its size, is bounded by what it holds, and leaves others their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from whole_site import Site, play

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar.model import NodeFacts
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import types_pb2
from bursard.access.identity import Identity, Role
from bursard.fleet import AgentLink, Counter, Usage, door
from bursard.fleet.agents import TRUTHS_A_TURN
from bursard.fleet.link import FLOOD_S, HEAVY_BURST, WORDS_BURST
from bursard.services.agents import AgentsService, hello_weight, weight
from bursard.telemetry import LiveTelemetry

NOW = 1_793_494_800 * SECOND_US
SMALL = NodeFacts(name="n2", cpu_milli=1_000, memory_bytes=1 << 30)


def _batch(samples: int, attempts: int, name: str = "a") -> pb.AgentMessage:
    batch = types_pb2.TelemetryBatch(node="n2")
    for j in range(samples):
        sample = batch.samples.add(at=NOW + j)
        for i in range(attempts):
            sample.attempts.add(attempt_id=f"{name}{i}", rank=0, cpu_utilization_ratio=1)
    return pb.AgentMessage(telemetry=batch)


def _usage(count: int) -> pb.AgentMessage:
    word = pb.Usage(seq=1, boot_id="b-1", at_boot_us=6_000_000)
    for i in range(count):
        word.counters.add(attempt_id=f"att_{i:010d}", rank=0, held_us=1)
    return pb.AgentMessage(usage=word)


def _hello(count: int) -> pb.Hello:
    facts = types_pb2.NodeFacts(name="n2", cpu_milli=8_000, memory_bytes=1 << 30)
    made = pb.Hello(protocol=2, facts=facts, boot_id="b-1", boot_us=5_000_000, instance="agent_1")
    for i in range(count):
        end = pb.Exited(attempt_id=f"att_{i}", cause="completed")
        made.attempts.add(attempt_id=f"att_{i}", boot_id="b-0", exited=end)
    return made


def _turns(work: Callable[[], Awaitable[Any]]) -> int:
    """How often others had their turn of the loop while this went on."""

    async def main() -> int:
        turns, on = 0, True

        async def others() -> None:
            nonlocal turns
            while on:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await work()
        on = False
        await beside
        return turns

    return asyncio.run(main())


def test_a_word_weighs_what_is_in_it() -> None:
    beat = pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=1))
    assert weight("heartbeat", beat) == 1
    assert weight("telemetry", _batch(1, 8)) == 1
    assert weight("telemetry", _batch(1, 1_000)) < 100, "a second of a full node is no flood"
    assert weight("telemetry", _batch(6, 9_000)) > 3_000
    assert weight("usage", _usage(10_000)) > 600
    ends = pb.AgentMessage()
    for _ in range(40):
        ends.exits.members.add(attempt_id="a", cause="completed")
    assert weight("exits", ends) == 40
    big = pb.AgentMessage(condition=pb.Condition(trouble="x" * (1 << 20)))
    assert weight("condition", big) > 250


class _Unreadable:
    """A sample that says how much is in it, and is not to be looked into."""

    class _Many:
        def __init__(self, count: int) -> None:
            self._count = count

        def __len__(self) -> int:
            return self._count

    def __init__(self, attempts: int, gpus: int = 0) -> None:
        self.attempts, self.gpus = self._Many(attempts), self._Many(gpus)


class _Batch:
    node = "n2"

    def __init__(self, *samples: object) -> None:
        self.samples = samples


@pytest.mark.parametrize("sample", [_Unreadable(door.members_said_max(1) + 1), _Unreadable(0, gpus=17)])
def test_telemetry_of_more_than_its_node_can_have_is_refused_unread(sample: object) -> None:
    live = LiveTelemetry()
    live.take("n2", _Batch(sample), {"a": 0}, SMALL, NOW)
    assert (live.refused, live.received) == (1, 0)


def test_telemetry_is_read_a_sample_a_turn() -> None:
    live, batch = LiveTelemetry(), _batch(50, 1).telemetry

    async def read() -> None:
        for _ in live.pieces("n2", batch, {"a0": 0}, SMALL, NOW):
            await asyncio.sleep(0)

    assert _turns(read) >= 50
    assert live.received == 50


def test_usage_is_read_as_far_as_its_node_can_have_it() -> None:
    many = Usage(1, "b-1", 6, tuple(Counter(f"a{i}", 0, 1, 1) for i in range(1_000)))
    assert door.known_counters(many, 0, {"a7": 1}).counters == (many.counters[7],)
    assert door.known_counters(many, 500, {}) is many, "all of it where it can be so"


def test_a_hello_of_thousands_leaves_others_their_turn() -> None:
    count = 20 * TRUTHS_A_TURN
    whole = _hello(count)

    async def story(site: Site) -> None:
        found = AgentsService(site.hub, site.telemetry, mqtt_url="")
        admitting = asyncio.ensure_future(found._admit(whole, Identity("root", Role.ADMIN, local=True)))
        turns = 0
        while not admitting.done():
            turns += 1
            await asyncio.sleep(0)
        assert len(admitting.result()[0].truths) == count
        assert turns >= 2 * 20, "both where it is read and where it is checked"

    play(story)


def test_each_truth_of_a_hello_passes_the_door_between_the_turns_of_others() -> None:
    bad = _hello(3)
    bad.attempts[2].exited.held_us = 2**62

    async def story(site: Site) -> None:
        found = AgentsService(site.hub, site.telemetry, mqtt_url="")
        with pytest.raises(InvalidRequest, match=r"exited\.held_us"):
            await found._admit(bad, Identity("root", Role.ADMIN, local=True))
        assert site.engine.state.node_by_name("n2") is None

    play(story)


def test_hellos_of_thousands_take_their_part_of_what_all_nodes_may_say() -> None:
    large, small = hello_weight(_hello(10_000)), hello_weight(_hello(100))

    async def story(site: Site) -> None:
        assert site.hub.hello_wait_s(large) == 0
        site.hub.hello_wait_s(HEAVY_BURST)
        assert site.hub.hello_wait_s(large) > 0
        assert site.hub.hello_wait_s(small) == 0

    play(story)


def _joined(site: Site, name: str = "n1") -> AgentLink:
    node = site.engine.state.node_by_name(name)
    assert node is not None
    link = AgentLink(node.id, name, "b")
    site.hub.links[node.id] = link
    return link


def _advance(site: Site, seconds: float) -> None:
    assert isinstance(site.clock, VirtualClock)
    site.clock.advance(int(seconds * SECOND_US))


def test_a_node_that_floods_for_long_gets_no_new_work_and_keeps_what_runs() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "p")
        attempt = site.place(job)
        site.start(attempt)
        link = _joined(site)
        node = site.engine.state.nodes[link.node_id]
        heavy, waited = weight("telemetry", _batch(6, 9_000)), 0.0
        while waited < FLOOD_S:
            assert node.mode == "open"
            wait_s = site.hub.wait_s(link, heavy)
            waited += wait_s
            _advance(site, wait_s)
        assert node.mode == "quarantine"
        assert "it floods" in node.reason
        assert attempt.id in node.live

    play(story)


def test_ends_that_a_node_has_to_tell_are_no_flood_however_many_they_are() -> None:
    async def story(site: Site) -> None:
        link = _joined(site)
        for _ in range(200):
            _advance(site, site.hub.wait_s(link, 1_000, owed=True))
        assert site.engine.state.nodes[link.node_id].mode == "open"

    play(story)


def test_a_node_of_a_thousand_members_that_tells_all_it_has_never_waits() -> None:
    async def story(site: Site) -> None:
        link = _joined(site)
        second = weight("telemetry", _batch(1, 1_000)) + weight("usage", _usage(1_000)) + 1
        for _ in range(1_000):
            assert site.hub.wait_s(link, second) == 0
            _advance(site, 1)

    play(story)


def test_all_nodes_together_say_no_more_of_what_is_heavy_than_the_loop_has_room_for() -> None:
    async def story(site: Site) -> None:
        for name in ("n3", "n4", "n5"):
            site.node(name)
        heavy = 4_000
        links = [_joined(site, name) for name in ("n1", "n3", "n4", "n5")]
        waits = [site.hub.wait_s(link, heavy) for _ in range(2) for link in links]
        assert heavy * 2 < WORDS_BURST, "each alone would not wait"
        assert waits[: HEAVY_BURST // heavy] == [0] * (HEAVY_BURST // heavy)
        assert waits[-1] == (heavy * len(waits) - HEAVY_BURST) / 4_000
        assert site.hub.wait_s(links[0], 1) == 0, "and a beat passes beside them"
        for _ in range(40):
            for link in links[1:]:
                site.hub.wait_s(link, heavy)
            assert site.hub.wait_s(links[0], 63) == 0
            assert site.hub.wait_s(links[0], 64) > 0, "which an honest node of many members waits for too"
            _advance(site, 3)
        modes = [site.engine.state.nodes[link.node_id].mode for link in links]
        assert modes == ["open", "quarantine", "quarantine", "quarantine"]

    play(story)
