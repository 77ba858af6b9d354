"""`retry: {avoid_same_node: true}`: the next attempt goes where none of the failed ones was."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import HOUR_US
from bursar.model import EndCause, JobState, RetrySpec
from bursard.fleet.testing import FACTS, World


def failing(world: World, retry: RetrySpec, **spec: object) -> list[str]:
    """Where each attempt of a job was that fails whenever it runs, until it is placed no more."""
    job = world.submit(retry=retry, **spec)
    found = []
    for _ in range(6):
        world.clock.advance(HOUR_US)  # whatever waits between two attempts
        world.cycle()
        if job.attempt is None:
            break
        (member,) = job.attempt.members
        found.append(world.state.nodes[member.alloc.node_id].facts.name)
        world.backend.report()
        world.exited_of(job.attempt, EndCause.FAILED, exit_code=1)
        world.writer.flush()
    return found


def nodes(*names: str) -> World:
    world = World()
    for name in names:
        world.backend.connect(msgspec.structs.replace(FACTS, name=name))
    return world


def test_each_attempt_goes_elsewhere_until_no_node_is_left() -> None:
    world = nodes("n-1", "n-2", "n-3")
    tried = failing(world, RetrySpec(("failed",), 5, avoid_same_node=True))
    assert sorted(tried) == ["n-1", "n-2", "n-3"]
    (job,) = world.state.jobs.values()
    assert job.state is JobState.PENDING


def test_without_it_an_attempt_goes_where_there_is_room() -> None:
    assert failing(nodes("n-1"), RetrySpec(("failed",), 2)) == ["n-1"] * 3


@pytest.mark.parametrize("avoid", [True, False])
def test_the_failures_of_one_job_are_nothing_to_another(avoid: bool) -> None:
    world = nodes("n-1")
    retry = RetrySpec(("failed",), 1, avoid_same_node=avoid)
    assert failing(world, retry) == ["n-1"] * (1 if avoid else 2)
    assert failing(world, retry)[0] == "n-1"
