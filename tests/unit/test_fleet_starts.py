"""Nodes that start nothing: what they are sent, how many jobs they may end, whose failure counts."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import EndCause, JobState
from bursard import doctor
from bursard.access.identity import Identity, Role
from bursard.events import NodeCondition
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Condition
from bursard.services.views import node_state, reason_of_node
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


FULL = "its agent cannot write spool of its state directory: No space left on device"


def test_a_node_that_can_start_nothing_gets_no_work_and_ends_no_job_until_it_can_again() -> None:
    """
    1. Eight jobs are on their way to a node whose disk is full. It says so, and that none could start.
    2. All of them are back in the queue, as often as it takes, and none of it counts against the node.
    3. It gets nothing more, also after a restart of the daemon, until it says that it can again.
    """
    world = World()
    node = world.backend.connect(FACTS)
    jobs = [world.submit() for _ in range(8)]
    for _ in range(5):
        world.fleet.condition(world.node(), Condition(""))
        later(world)
        assert len(world.node().live) == 8
        world.fleet.condition(world.node(), Condition(FULL))
        assert world.fail_to_start() == 8
        world.clock.advance(601 * SECOND_US)
    assert {job.state for job in jobs} == {JobState.PENDING}
    assert (world.node().mode, world.node().not_started) == ("open", [])
    assert (node_state(world.node()), world.node().trouble) == ("unwell", FULL)
    saved = image.decode(image.encode(world.state, world.engine.now()))
    assert (saved.nodes[node.id].trouble, bool(saved.cluster.ready[node.row])) == (FULL, False)
    later(world)
    assert not world.node().live
    world.fleet.condition(world.node(), Condition(""))
    later(world)
    assert (node_state(world.node()), len(world.node().live)) == ("up", 8)


def test_a_condition_that_is_known_already_writes_nothing() -> None:
    world = World()
    world.backend.connect(FACTS)
    for trouble in ("", FULL, FULL, "another", "another", "", ""):
        world.fleet.condition(world.node(), Condition(trouble))
    world.writer.flush()
    told = [event.trouble for event in world.events if isinstance(event, NodeCondition)]
    assert told == [FULL, "another", ""]
    assert len(world.node().misbehaved["could start nothing"]) == 1


def test_a_node_that_can_start_nothing_again_and_again_is_quarantined() -> None:
    world = World()
    world.backend.connect(FACTS)
    for _ in range(5):
        world.fleet.condition(world.node(), Condition(FULL))
        world.fleet.condition(world.node(), Condition(""))
    assert world.node().mode == "open"
    world.fleet.condition(world.node(), Condition(FULL))
    assert world.node().reason == "it could start nothing 6 times in 10 minutes"


def test_what_a_node_says_of_its_condition_is_one_line_and_its_own_hello_says_it_anew() -> None:
    """An agent that comes back says how it is: nothing of what it said before is kept."""
    world = World()
    world.backend.connect(FACTS)
    world.fleet.condition(world.node(), Condition("a\nb" + "x" * 900))
    assert world.node().trouble == "a b" + "x" * 497
    world.fleet.condition(world.node(), Condition("\n"))
    assert world.node().trouble == "it does not say why"
    with pytest.raises(InvalidRequest, match=r"condition\.trouble: at most 4000 characters"):
        world.fleet.condition(world.node(), Condition("x" * 4001))
    world.backend.disconnect("n-1")
    world.backend.connect(FACTS)
    assert (world.node().trouble, node_state(world.node())) == ("", "up")


def test_why_a_node_takes_no_work_is_shown_and_the_doctor_names_it() -> None:
    world = World()
    world.backend.connect(FACTS)
    world.fleet.condition(world.node(), Condition(FULL))
    assert reason_of_node(world.node(), Identity("ann", Role.ADMIN), 0) == FULL
    [found] = [one for one in doctor.check_state(world.state) if one.check == "nodes"]
    assert (found.ok, found.message) == (False, f"n-1 can start nothing: {FULL}")
    world.engine.commit(nodes.scheduling(world.node(), "cordon", "a new disk"), "root")
    assert node_state(world.node()) == "cordoned"
    assert reason_of_node(world.node(), Identity("ann", Role.ADMIN), 0) == "a new disk"
