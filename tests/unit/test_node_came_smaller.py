"""Nodes that come back with less: what their jobs hold is what counts, and nothing of them is shut out."""

from __future__ import annotations

import msgspec
import pytest

from bursar.model import Device, EndCause, NodeFacts
from bursar.resources import ResourceRequest
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Condition
from bursard.state import State, image

GPUS = tuple(Device(index, "h100", "", 80 << 30) for index in range(4))
WHOLE = msgspec.structs.replace(FACTS, devices=GPUS)


def running(cpu_milli: int = 4_000, memory_bytes: int = 1 << 30) -> World:
    """One job of so much runs on the only node."""
    world = World()
    world.backend.connect(FACTS)
    world.submit(options=(ResourceRequest(None, cpu_milli, memory_bytes),))
    world.cycle()
    world.backend.report()
    world.writer.flush()
    return world


def back(world: World, facts: NodeFacts) -> None:
    """The agent was killed, and comes again with other facts."""
    world.backend.disconnect(facts.name)
    world.backend.connect(facts)
    world.writer.flush()


def test_a_node_that_came_smaller_and_still_has_what_its_jobs_hold_is_taken_as_it_is() -> None:
    """`up --agents 2` halves the share of an agent with a job; a kill of the agent must not shut it out."""
    world = running(cpu_milli=4_000)
    half = msgspec.structs.replace(FACTS, cpu_milli=4_000, memory_bytes=FACTS.memory_bytes // 2)
    back(world, half)
    node = world.node()
    assert (node.connected, node.facts, node.trouble, len(node.live)) == (True, half, "", 1)
    assert world.state.cluster.cpu_free[node.row] == 0


@pytest.mark.parametrize(
    ("less", "told"),
    [
        ({"cpu_milli": 2_000}, "2 of 4 CPUs"),
        ({"memory_bytes": 1 << 29}, "512 of 1024 MiB of memory"),
        (
            {"cpu_milli": 500, "memory_bytes": 1 << 25},
            "0.5 of 4 CPUs, 32 of 1024 MiB of memory",
        ),
    ],
)
def test_a_node_smaller_than_what_its_jobs_hold_keeps_its_size_until_they_have_ended(
    less: dict[str, int], told: str
) -> None:
    """It is in contact all the while, so that they are watched, billed and stopped; its remedy works."""
    world = running()
    small = msgspec.structs.replace(FACTS, **less)
    back(world, small)
    node = world.node()
    said = (
        f"it came back with less than its running jobs hold ({told}): it takes new work once they have ended,"
        " or are stopped with `bursar node drain n-1 --stop`"
    )
    assert (node.connected, node.facts, node.trouble, node.misbehaved) == (True, FACTS, said, {})
    assert image.decode(image.encode(world.state, 1)).nodes[node.id].trouble == said
    world.fleet.condition(node, Condition("its disk is full"))
    assert world.node().trouble == "its disk is full"
    world.fleet.condition(node, Condition(""))
    assert world.node().trouble == said
    (attempt,) = world.state.attempts.values()
    world.submit()
    world.cycle()
    assert list(world.state.attempts) == [attempt.id], "it takes no new work"
    world.fleet.look()
    assert world.node().facts == FACTS
    world.stop(attempt)
    world.exited_of(attempt, EndCause.CANCELLED)
    assert world.state.jobs.get(attempt.job_id) is None
    world.fleet.look()
    world.writer.flush()
    node = world.node()
    assert (node.facts, node.trouble) == (small, "")
    world.cycle()
    assert len(world.state.attempts) == (1 if small.cpu_milli >= 1_000 else 0)


def test_what_it_said_of_itself_meanwhile_holds_when_it_gets_its_size() -> None:
    world = running()
    small = msgspec.structs.replace(FACTS, cpu_milli=2_000)
    back(world, small)
    world.fleet.condition(world.node(), Condition("its disk is full"))
    (attempt,) = world.state.attempts.values()
    world.exited_of(attempt, EndCause.COMPLETED)
    world.fleet.look()
    assert (world.node().facts, world.node().trouble) == (small, "its disk is full")


def test_a_node_that_comes_with_its_old_size_again_is_as_it_was() -> None:
    world = running()
    back(world, msgspec.structs.replace(FACTS, cpu_milli=2_000))
    back(world, FACTS)
    assert (world.node().facts, world.node().trouble) == (FACTS, "")
    (attempt,) = world.state.attempts.values()
    world.exited_of(attempt, EndCause.COMPLETED)
    world.fleet.look()
    assert world.node().facts == FACTS


def test_devices_count_up_to_the_last_that_is_held() -> None:
    state = State()
    row = state.cluster.add("node_1", WHOLE)
    assert state.cluster.held(row) == (0, 0, 0)
    state.cluster.gpu_free[row, 1] = 750
    assert state.cluster.held(row) == (0, 0, 2)
    state.cluster.gpu_free[row, 3] = 0
    assert state.cluster.held(row) == (0, 0, 4)
    assert state.cluster.held(state.cluster.add("node_2", FACTS)) == (0, 0, 0)
