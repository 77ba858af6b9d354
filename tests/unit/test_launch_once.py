"""`launch: once`: the first member runs the program, the others hold their place; and what waits for whom."""

from __future__ import annotations

import json

import msgspec
import pytest

from bursar.errors import InvalidRequest
from bursar.model import (
    CheckpointSpec,
    Dependency,
    EndCause,
    JobSpec,
    JobState,
    Launch,
    NodeFacts,
    RetrySpec,
    launch_of,
)
from bursar.model import job as job_module
from bursard.events import StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Assign, Started
from bursard.state import JobRecord
from bursard.state.decide import jobs


def facts(name: str) -> NodeFacts:
    return msgspec.structs.replace(FACTS, name=name)


def running(**spec: object) -> tuple[World, JobRecord]:
    """A gang of two that has started."""
    world = World()
    for name in ("n-1", "n-2"):
        world.backend.connect(facts(name))
    wanted = {"nodes": 2, "launch": "once", "command": ("train",)} | spec
    job = world.submit(**wanted)
    world.cycle()
    world.backend.report()
    world.writer.flush()
    return world, job


def finish(world: World, job: JobRecord, rank: int, code: int = 0) -> None:
    assert job.attempt is not None
    world.backend.finish(job.attempt.id, rank, code)
    for _ in range(2):  # the second time the members tell that were stopped after the first
        world.backend.report()
        world.writer.flush()


def stops(world: World) -> list[tuple[EndCause, int]]:
    return [(e.cause, e.grace_us) for e in world.events if isinstance(e, StopRequested)]


def test_the_first_member_runs_the_command_and_the_others_nothing_of_the_job() -> None:
    spec = JobSpec(
        command=("train",), workdir="/home/ann", launch="once", checkpoint=CheckpointSpec("USR1", 5, 7)
    )
    first = launch_of(spec, {"TOKEN": "s"}, 0)
    assert (first.command, first.workdir, first.env) == (("train",), "/home/ann", {"TOKEN": "s"})
    assert first.checkpoint.before_us == 7
    other = launch_of(spec, {"TOKEN": "s"}, 1)
    assert other.command == ("sh", "-c", "trap '' TERM; exec sleep 2147483647")
    assert (other.workdir, other.env, other.checkpoint) == ("/", {}, CheckpointSpec())


def test_setup_prepares_every_node() -> None:
    spec = JobSpec(command=("train",), setup="pip install x", workdir="/home/ann", launch="once")
    other = launch_of(spec, {"A": "b"}, 1)
    assert (other.setup, other.workdir, other.env) == ("pip install x", "/home/ann", {"A": "b"})
    assert other.command[0] == "sh"


def test_what_is_asked_of_the_process_holds_for_a_member_that_waits_also_a_field_that_is_new() -> None:
    class Newer(Launch, frozen=True):
        umask: int = 0o22

    held = job_module._holding(Newer(command=("train",), script="x", umask=0o27))
    assert (held.umask, held.script, held.command[0]) == (0o27, "", "sh")
    assert job_module._holding(Newer(setup="x", umask=0o27)).umask == 0o27


def test_without_it_every_member_runs_the_command() -> None:
    spec = JobSpec(command=("train",))
    assert launch_of(spec, {}, 0) == launch_of(spec, {}, 1)


def test_the_members_that_hold_a_place_outlive_the_limit_and_get_no_checkpoint_signal() -> None:
    world = World()
    orders: list[Assign] = []
    plain = world.backend.assign

    def assign(node_id: str, order: Assign) -> None:
        orders.append(order)
        plain(node_id, order)

    world.backend.assign = assign  # type: ignore[method-assign]
    for name in ("n-1", "n-2"):
        world.backend.connect(facts(name))
    world.submit(
        nodes=2,
        launch="once",
        time_limit_us=60_000_000,
        checkpoint=CheckpointSpec("USR1", 20_000_000),
    )
    world.cycle()
    told = {o.rank: (o.time_limit_us, o.grace_us, o.checkpoint_signal) for o in orders}
    assert told == {0: (60_000_000, 20_000_000, "USR1"), 1: (85_000_000, 0, "")}
    commands = {order.rank: json.loads(order.launch)["command"][0] for order in orders}
    assert commands == {0: "true", 1: "sh"}


def test_the_end_of_the_program_is_the_end_of_the_job() -> None:
    world, job = running()
    finish(world, job, 0)
    assert (job.state, job.exit_code) == (JobState.SUCCEEDED, 0)
    assert stops(world) == [(EndCause.COMPLETED, 0)]
    assert world.backend.running("n-1") == world.backend.running("n-2") == []


def test_it_runs_as_soon_as_its_program_does() -> None:
    world = World()
    for name in ("n-1", "n-2"):
        world.backend.connect(facts(name))
    job = world.submit(nodes=2, launch="once", command=("train",))
    world.cycle()
    assert job.attempt is not None
    first = job.attempt.members[0]
    node = world.state.nodes[first.alloc.node_id]
    world.fleet.started(node, Started(job.attempt.id, 0, 7, world.clock.boot_us()))
    assert (job.state, job.attempt.state) == (JobState.RUNNING, "RUNNING")
    assert job.started_at > 0
    finish(world, job, 0)
    assert job.state is JobState.SUCCEEDED


def test_a_program_that_fails_gives_the_job_its_exit_code() -> None:
    world, job = running()
    finish(world, job, 0, 3)
    assert (job.state, job.exit_code) == (JobState.FAILED, 3)
    assert stops(world) == [(EndCause.FAILED, 0)]


def test_a_place_that_is_lost_ends_the_job() -> None:
    world, job = running()
    finish(world, job, 1, 9)
    assert job.state is JobState.FAILED
    assert stops(world)[0][0] is EndCause.FAILED


def test_the_places_of_a_cancelled_job_are_free_when_its_program_has_ended() -> None:
    world, job = running(checkpoint=CheckpointSpec("USR1", 600_000_000))
    attempt = job.attempt
    assert attempt is not None
    plain, stopped = world.backend.stop, []
    # The program takes its time to save; the order to the other member is kept back likewise.
    world.backend.stop = lambda node_id, order: stopped.append(order)  # type: ignore[method-assign]
    world.engine.commit([StopRequested(attempt.id, EndCause.CANCELLED, 600_000_000, "asked")], "ann")
    world.writer.flush()
    assert {order.grace_us for order in stopped} == {600_000_000}
    world.backend.stop = plain  # type: ignore[method-assign]
    finish(world, job, 0)
    assert stops(world)[-1] == (EndCause.CANCELLED, 0)
    assert job.state is JobState.CANCELLED


def test_a_gang_of_equals_waits_for_all_its_members() -> None:
    world, job = running(launch="per-node")
    finish(world, job, 0)
    assert str(job.state) == "RUNNING"
    finish(world, job, 1)
    assert job.state is JobState.SUCCEEDED
    assert stops(world) == []


# ------------------------------------------------------------------ what waits for whom


def test_a_singleton_waits_for_all_that_its_user_called_the_same() -> None:
    world = World()
    world.backend.connect(FACTS)
    first = world.submit(name="chain")
    world.submit(name="other")
    second = world.submit(name="chain", depends_on=(Dependency("chain", "singleton"),))
    third = world.submit(name="chain", depends_on=(Dependency("chain", "singleton"),))
    assert second.waiting_on == {first.id: "finished"}
    assert third.waiting_on == {first.id: "finished", second.id: "finished"}
    world.cycle()
    world.backend.report()
    finish(world, first, 0, 1)
    assert second.waiting_on == {}
    assert third.waiting_on == {second.id: "finished"}


def test_a_singleton_without_a_forerunner_waits_for_nobody() -> None:
    world = World()
    job = world.submit(name="chain", depends_on=(Dependency("chain", "singleton"),))
    assert job.waiting_on == {}
    assert job.spec.depends_on == (Dependency("chain", "singleton"),)


def test_too_many_forerunners_are_refused_with_what_to_do() -> None:
    world = World()
    for _ in range(101):
        world.submit(name="chain")
    with pytest.raises(InvalidRequest, match="101 of your jobs are called 'chain'"):
        world.submit(name="chain", depends_on=(Dependency("chain", "singleton"),))


def test_after_a_start_means_after_a_start() -> None:
    world = World()
    world.backend.connect(FACTS)
    first = world.submit()
    job = world.submit(depends_on=(Dependency(first.id, "started"), Dependency(first.id, "started")))
    assert job.waiting_on == {first.id: "started"}
    world.cycle()
    world.backend.report()
    assert first.state is JobState.RUNNING
    assert job.waiting_on == {}
    assert first.id not in world.state.dependents
    late = world.submit(depends_on=(Dependency(first.id, "started"),))
    assert late.waiting_on == {}


def test_a_job_that_ended_without_a_start_keeps_nobody_waiting() -> None:
    world = World()
    first = world.submit(held=True)
    job = world.submit(depends_on=(Dependency(first.id, "started"),))
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    assert job.waiting_on == {}
    assert job.id not in world.state.doomed


def test_a_job_that_must_not_come_back_does_not() -> None:
    for retry, state in ((RetrySpec(), JobState.PENDING), (RetrySpec(never=True), JobState.FAILED)):
        world = World()
        world.backend.connect(FACTS)
        job = world.submit(retry=retry)
        world.cycle()
        world.backend.report()
        attempt = job.attempt
        assert attempt is not None
        world.stop(attempt, EndCause.PREEMPTED)
        world.backend.report()
        assert job.state is state
