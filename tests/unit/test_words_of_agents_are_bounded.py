"""What an agent says becomes events, and the log grows by them: so many of each word, and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from bursar.errors import InvalidRequest
from bursar.v1 import agents_pb2 as pb
from bursard.events import NodeCondition
from bursard.fleet import AgentLink, Agents, believe
from bursard.fleet.conditions import BURST, EVERY_US
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Condition
from bursard.services.agents import AgentsService
from bursard.telemetry import LiveTelemetry

SAID = 200
"""So often each word is said in one moment, each time another."""

BEATS = believe.ANCHORS_MAX + 1
"""Its anchor is taken again so often; then it is quarantined."""

Made = Callable[[str, int, int], pb.AgentMessage]
"""(attempt, which one, boot clock) -> message."""

WORDS: dict[str, tuple[Made, int]] = {
    "condition": (lambda a, n, b: pb.AgentMessage(condition=pb.Condition(trouble=f"{n}")), 2 * BURST),
    "readiness": (
        lambda a, n, b: pb.AgentMessage(
            readiness=pb.Readiness(attempt_id=a, ready=n % 2 == 0, message=f"{n}")
        ),
        0,
    ),
    "notice": (lambda a, n, b: pb.AgentMessage(notice=pb.Notice(said=f"{n}", left_us=n)), 2),
    "started": (
        lambda a, n, b: pb.AgentMessage(started=pb.Started(attempt_id=a, pid=n + 1, boot_us=b + n)),
        2,
    ),
    "limit_taken": (
        lambda a, n, b: pb.AgentMessage(limit_taken=pb.LimitTaken(attempt_id=a, order=n + 1, problem=f"{n}")),
        1,
    ),
    "exited": (
        lambda a, n, b: pb.AgentMessage(exited=pb.Exited(attempt_id=a, cause="failed", exit_code=n % 256)),
        6,
    ),
    "exits": (
        lambda a, n, b: pb.AgentMessage(
            exits=pb.ExitedBatch(members=[pb.Exited(attempt_id=a, cause="failed", exit_code=n % 256)] * 3)
        ),
        6,
    ),
    "usage": (
        lambda a, n, b: pb.AgentMessage(
            usage=pb.Usage(
                seq=n + 1,
                boot_id="boot-1",
                at_boot_us=b + n * 1_000_000,
                counters=[pb.Counter(attempt_id=a, held_us=n * 1_000_000)],
            )
        ),
        believe.SLACK_US // 1_000_000 + 3,  # so far ahead may its clock be
    ),
    "heartbeat": (lambda a, n, b: pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=b + n * 1_000_000)), BEATS),
    "log": (lambda a, n, b: pb.AgentMessage(log=pb.LogReply(request_id=n, data=b"x", offset=2**63)), 0),
    "telemetry": (lambda a, n, b: pb.AgentMessage(telemetry={"node": f"n{n}"}), 0),
    "step": (
        lambda a, n, b: pb.AgentMessage(step=pb.StepFrame(attempt_id=a, to_rank=n, kind="open", channel=n)),
        0,
    ),
    "truths": (
        lambda a, n, b: pb.AgentMessage(truths=pb.AttemptTruths(attempts=[pb.AttemptTruth(attempt_id=a)])),
        0,
    ),
    "hello": (lambda a, n, b: pb.AgentMessage(hello=pb.Hello(boot_us=n)), 0),
}
"""Of each word of an agent: how it says it anew, and how many events may come of `SAID` of them."""


def test_every_word_of_an_agent_is_in_the_table() -> None:
    assert set(WORDS) == {one.name for one in pb.AgentMessage.DESCRIPTOR.oneofs_by_name["body"].fields}


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_a_word_said_again_and_again_in_one_moment_makes_few_events(kind: str) -> None:
    made, most = WORDS[kind]

    async def story() -> int:
        world = World()
        hub = Agents(world.engine, world.fleet)
        service = AgentsService(hub, LiveTelemetry(), mqtt_url="")
        node = world.backend.connect(FACTS)
        link = AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")
        hub.links[node.id] = link
        world.submit()
        world.cycle()
        (attempt,) = world.state.attempts
        before = world.state.version

        async def said() -> AsyncIterator[pb.AgentMessage]:
            for number in range(SAID):
                yield made(attempt, number, world.clock.boot_us())

        with contextlib.suppress(InvalidRequest):
            await service._read(said(), link)
        return world.state.version - before

    assert asyncio.run(story()) <= most


def test_a_text_that_changes_is_told_so_often_at_once_and_then_its_last_words_every_ten_seconds() -> None:
    world = World()
    world.backend.connect(FACTS)

    def told() -> list[str]:
        world.writer.flush()
        return [event.trouble for event in world.events if isinstance(event, NodeCondition)]

    for number in range(1_000):
        world.fleet.condition(world.node(), Condition(f"trouble {number}"))
    at_once = [f"trouble {number}" for number in range(BURST)]
    assert told() == at_once
    world.clock.advance(EVERY_US - 1)
    world.fleet.look()
    assert told() == at_once
    world.clock.advance(1)
    world.fleet.look()
    assert told() == [*at_once, "trouble 999"]
    world.clock.advance(EVERY_US)
    world.fleet.look()
    assert told() == [*at_once, "trouble 999"], "nothing waits any more"


def test_a_word_that_waits_is_void_once_its_node_says_what_is_told() -> None:
    world = World()
    world.backend.connect(FACTS)
    for number in range(BURST):
        world.fleet.condition(world.node(), Condition(f"trouble {number}"))
    world.fleet.condition(world.node(), Condition(""))
    world.fleet.condition(world.node(), Condition(f"trouble {BURST - 1}"))
    world.clock.advance(EVERY_US)
    world.fleet.look()
    assert world.node().trouble == f"trouble {BURST - 1}"
    world.fleet.condition(world.node(), Condition(""))
    assert world.node().trouble == ""
    world.clock.advance(10 * BURST * EVERY_US)
    for number in range(2 * BURST):
        world.fleet.condition(world.node(), Condition(f"again {number}"))
    assert world.node().trouble == f"again {BURST - 1}", "what was not said is kept, up to the burst"
