"""Nodes that start nothing: what they are sent, how many jobs they may end, whose failure counts."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.model import EndCause, JobState
from bursard.fleet.testing import FACTS, World
from bursard.state import image
from bursard.state.decide import nodes


def later(world: World) -> None:
    """A minute on, with what waited for its retry."""
    world.clock.advance(60 * SECOND_US)
    world.state.wake(world.engine.now())
    world.cycle()


def test_a_node_that_starts_nothing_gets_no_more_work_after_five_jobs() -> None:
    """A task of an array is a job; one that starts in between, and one job's retries, make no row."""
    world = World()
    world.backend.connect(FACTS)
    tried = []
    for _ in range(4):
        tried.append(world.submit().id)
        world.cycle()
        world.fail_to_start()
    assert world.node().not_started == tried[:3], "the fourth time it was the third job again"
    world.cycle()
    world.backend.report()
    assert world.node().not_started == []
    (attempt,) = world.state.attempts.values()
    world.exited_of(attempt, EndCause.COMPLETED)
    assert world.node().mode == "open"
    for _ in range(9):
        world.submit()
        world.cycle()
        world.fail_to_start()
    assert world.node().reason == "it could not start any of 5 jobs in a row"
    world.cycle()
    assert not world.state.attempts


def test_one_user_without_an_account_takes_no_node_from_the_others() -> None:
    """Any number of jobs of one user who has no account there count once; five users without one, as five."""
    world = World()
    world.backend.connect(FACTS)
    for users, mode in ((("bob",) * 9, "open"), (("eve", "kim", "lea"), "open"), (("max",), "quarantine")):
        for user in users:
            world.submit(user=user)
        for _ in range(20):
            later(world)
            world.fail_to_start(message="no account of user x on this node")
        assert world.node().mode == mode
    assert world.node().not_started == [f"user:{user}" for user in ("bob", "eve", "kim", "lea", "max")]


@pytest.mark.parametrize("burst", [8, 1])
def test_a_black_hole_ends_two_jobs_and_the_others_run_elsewhere_or_wait(burst: int) -> None:
    """
    1. A node cannot start anything, and was given as many jobs as it has CPUs in one pass, or one by one.
    2. The first two jobs fail. Those after them are not its victims: they wait for a node that can.
    3. Quarantine names the reason, stands after a restart, and `node resume` ends it.
    """
    world = World()
    world.backend.connect(FACTS)
    jobs = []
    for at in range(0, 16, burst):
        jobs += [world.submit() for _ in range(burst)]
        world.cycle()
        if not at:
            assert len(world.node().live) == burst
        world.fail_to_start()
    reason = "it could not start any of 5 jobs in a row"
    assert (world.node().mode, world.node().reason) == ("quarantine", reason)
    assert [job.state for job in jobs].count(JobState.FAILED) == 2
    world.restart()
    world.backend.connect(FACTS)
    assert (world.node().mode, world.node().reason) == ("quarantine", reason)
    world.backend.connect(msgspec.structs.replace(FACTS, name="n-2"))
    for _ in range(40):
        later(world)
        world.backend.report()
        for attempt in list(world.state.attempts.values()):
            world.exited_of(attempt, EndCause.COMPLETED)
    assert [job.state for job in jobs].count(JobState.SUCCEEDED) == 14
    assert {job.attempts[-1].members[0].node for job in jobs if job.state is JobState.SUCCEEDED} == {"n-2"}
    world.engine.commit(nodes.scheduling(world.node(), "open", ""), "root")
    assert (world.node().mode, world.node().not_started) == ("open", [])


@pytest.mark.parametrize("ended_by", ["a start", "an operator"])
def test_a_doubtful_node_gets_one_job_at_a_time_until_one_starts(ended_by: str) -> None:
    world = World()
    world.backend.connect(FACTS)
    waiting = [world.submit() for _ in range(2)]
    world.cycle()
    assert world.fail_to_start() == 2
    assert [job.state for job in waiting] == [JobState.FAILED] * 2
    waiting = [world.submit() for _ in range(6)]
    world.cycle()
    world.cycle()
    assert len(world.node().live) == 1
    saved = image.decode(image.encode(world.state, world.engine.now()))
    assert not saved.cluster.ready[world.node().row]
    assert (saved.nodes[world.node().id].not_started, world.node().doubtful) == (
        world.node().not_started,
        True,
    )
    if ended_by == "a start":
        world.backend.report()
    else:
        world.engine.commit(nodes.scheduling(world.node(), "open", ""), "root")
    world.cycle()
    assert len(world.node().live) == 6
    assert nodes.scheduling(world.node(), "open", "") == []


def test_one_bad_job_on_a_doubtful_node_is_not_tried_for_ever() -> None:
    world = World()
    world.backend.connect(FACTS)
    for _ in range(2):
        world.submit()
    world.cycle()
    world.fail_to_start()
    bad = world.submit()
    for _ in range(10):
        later(world)
        world.fail_to_start()
    assert (bad.state, len(bad.attempts)) == (JobState.FAILED, 3)
    assert world.node().mode == "open"


def test_what_its_own_words_keep_from_starting_is_no_fault_of_the_node() -> None:
    """Whatever a job named is told as `failed`; what is told as a failed start is the node's, whatever the
    job may have made its message say."""
    world = World()
    world.backend.connect(FACTS)
    named = "working directory '/no/such': No such file or directory"
    for cause, mode in ((EndCause.FAILED, "open"), (EndCause.START_FAILED, "quarantine")):
        for _ in range(8):
            world.submit(workdir="/no/such")
            world.cycle()
            for attempt in list(world.state.attempts.values()):
                world.exited_of(attempt, cause, started=cause is EndCause.FAILED, message=named)
        assert world.node().mode == mode
