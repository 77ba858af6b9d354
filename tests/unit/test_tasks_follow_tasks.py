"""Arrays whose tasks follow those of another, one by one: `when: task-succeeded`, Slurm's `aftercorr`."""

from __future__ import annotations

from typing import Any

from findings import of_jobs
from whole_site import Site, play

from bursar.model import ArraySpec, EndCause, JobState
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursard import replay
from bursard.cycle import reason_of
from bursard.events import ExitReport
from bursard.state import image
from bursard.state.decide import attempts, jobs
from bursard.state.decide.following import FOLLOWERS_MAX
from bursard.state.records import JobRecord


def first(site: Site, tasks: int = 3, **spec: Any) -> JobRecord:
    """The array that is followed."""
    return site.engine.state.jobs[site.job("ann", "p", array=ArraySpec(((0, tasks, 1),)), **spec)]


async def follower(
    site: Site,
    *others: JobRecord,
    tasks: tuple[int, int] | None = (0, 3),
    parallel: int = 0,
    status: str = "OK",
) -> Any:
    """An array, or one job, that follows; its record, or why it was refused."""
    spec = types_pb2.JobSpec(command=["true"], project="p", time_limit_us=3_600_000_000)
    spec.options.add(cpu_milli=1_000, memory_bytes=1 << 30)
    for other in others:
        spec.depends_on.add(job=other.id, when="task-succeeded")
    if tasks is not None:
        spec.array.ranges.add(start=tasks[0], stop=tasks[1], step=1)
        spec.array.max_parallel = parallel
    request = pb.SubmitRequest(spec=spec)
    (found, details), answers = await site.ask("Jobs.Submit", request, token=site.token("ann", "admin"))
    assert found == status, details
    return site.engine.state.jobs[answers[0].job.id] if status == "OK" else details


def fail(site: Site, task: str) -> None:
    state, attempt = site.engine.state, site.place(task)
    node = state.nodes[attempt.members[0].alloc.node_id]
    report = ExitReport(cause=EndCause.FAILED, exit_code=3)
    site.engine.commit(attempts.exited(state, node, attempt.id, 0, report, 0), "node:n1")


def queued(site: Site, job: JobRecord) -> list[int]:
    """Which tasks may start."""
    state = site.engine.state
    return sorted(
        task.array_index for task in state.tasks.get(job.id, {}).values() if task.id in state.pending
    )


async def is_sound(site: Site) -> None:
    """The doctor is content, and the log and an image say what the state says."""
    state = site.engine.state
    await site.engine.durable()
    assert of_jobs(state).ok, of_jobs(state)
    for again in (
        replay.restore(site.store, state.limits),
        image.decode(image.encode(state, 0), state.limits),
    ):
        assert image.encode(again, 0) == image.encode(state, 0)
        assert again.followers == state.followers
        assert [job for job in again.jobs if job in again.pending] == [
            job for job in again.jobs if job in state.pending
        ]


def test_each_task_starts_once_its_own_has_succeeded() -> None:
    async def story(site: Site) -> None:
        one = first(site)
        two = await follower(site, one)
        assert queued(site, two) == []
        reason = reason_of(site.engine.state, None, two, site.engine.now())
        assert reason is not None
        assert reason.code.value == "Dependency"
        assert reason.message == "waits for job 1[0] (succeeded)"
        await is_sound(site)
        site.run(f"{one.id}.1")
        assert queued(site, two) == [1]
        task = site.engine.state.job(f"{two.id}.2")
        assert task is not None
        told = reason_of(site.engine.state, None, task, site.engine.now())
        assert told is not None
        assert told.message == "waits for job 1[2] (succeeded)"
        await is_sound(site)
        site.run(f"{two.id}.1")
        site.run(f"{one.id}.0")
        assert queued(site, two) == [0]
        site.run(f"{one.id}.2")
        for index in (0, 2):
            site.run(f"{two.id}.{index}")
        assert (one.state, two.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
        assert not site.engine.state.followers
        await is_sound(site)

    play(story)


def test_a_task_whose_own_failed_is_cancelled_and_the_others_run() -> None:
    async def story(site: Site) -> None:
        one = first(site)
        two = await follower(site, one)
        fail(site, f"{one.id}.1")
        lost = site.engine.state.job(f"{two.id}.1")
        assert lost is not None
        assert lost.state is JobState.CANCELLED
        assert lost.message == "it depends on job 1[1] (succeeded), which did not succeed"
        assert not site.engine.state.doomed
        for job in (one, two):
            for index in (0, 2):
                site.run(f"{job.id}.{index}")
        assert (one.state, two.state) == (JobState.FAILED, JobState.CANCELLED)
        await is_sound(site)

    play(story)


def test_a_plan_says_which_tasks_have_none_of_their_index_to_follow() -> None:
    async def planned(site: Site, one: JobRecord, tasks: tuple[int, int]) -> pb.PlanResponse:
        spec = types_pb2.JobSpec(command=["true"], project="p", time_limit_us=3_600_000_000)
        spec.options.add(cpu_milli=1_000, memory_bytes=1 << 30)
        spec.depends_on.add(job=one.id, when="task-succeeded")
        spec.array.ranges.add(start=tasks[0], stop=tasks[1], step=1)
        (found, details), answers = await site.ask(
            "Jobs.Plan", pb.PlanRequest(spec=spec), token=site.token("ann", "admin")
        )
        assert found == "OK", details
        return answers[0]

    async def story(site: Site) -> None:
        one = first(site, tasks=3)
        silent = await planned(site, one, (0, 3))
        assert "has none of that index" not in silent.reason.message + silent.why
        some = await planned(site, one, (1, 6))
        why = "tasks 3-5 of it: job 1 has none of that index, so all of it must come first"
        assert some.reason.message == f"waits for job 1 (task-succeeded); {why}"
        site.run(f"{one.id}.0")
        site.run(f"{one.id}.1")
        free = await planned(site, one, (0, 4))
        assert "task 3 of it:" in free.reason.message + free.why, "also where others of it may start"

    play(story)


def test_tasks_that_the_other_has_not_wait_for_all_of_it() -> None:
    async def story(site: Site) -> None:
        one = first(site, tasks=2)
        two = await follower(site, one, tasks=(1, 4))
        site.run(f"{one.id}.0")
        assert queued(site, two) == []
        site.run(f"{one.id}.1")
        assert queued(site, two) == [1, 2, 3]
        other = first(site, tasks=2)
        three = await follower(site, other, tasks=(1, 4))
        fail(site, f"{other.id}.0")
        site.run(f"{other.id}.1")
        assert queued(site, three) == [1]
        lost = site.engine.state.job(f"{three.id}.3")
        assert lost is not None
        assert lost.state is JobState.CANCELLED
        assert lost.message == f"it depends on job {other.number} (succeeded), which did not succeed"
        await is_sound(site)

    play(story)


def test_what_had_ended_before_is_known_from_the_store() -> None:
    async def story(site: Site) -> None:
        one = first(site, tasks=4)
        site.run(f"{one.id}.0")
        fail(site, f"{one.id}.1")
        await site.engine.durable()
        assert f"{one.id}.1" not in site.engine.state.jobs
        two = await follower(site, one, tasks=(0, 4))
        assert queued(site, two) == [0]
        lost = site.store.find_job(f"{two.id}.1")
        assert lost is not None
        assert lost.state == "CANCELLED"
        await is_sound(site)
        for index in (2, 3):
            site.run(f"{one.id}.{index}")
        await site.engine.durable()
        assert one.id not in site.engine.state.jobs
        three = await follower(site, one, tasks=(0, 4))
        assert queued(site, three) == [0, 2, 3]
        refused = await follower(site, one, tasks=(1, 2), status="INVALID_ARGUMENT")
        assert "of job 1, no task that these follow has succeeded, or still can" in refused
        await is_sound(site)

    play(story)


def test_of_a_cancelled_array_all_that_follow_are_ended_at_once() -> None:
    async def story(site: Site) -> None:
        one = first(site, tasks=50_000)
        two = await follower(site, one, tasks=(0, 50_000))
        before = site.engine.state.version
        site.engine.commit(jobs.cancel(site.engine.state, one, None), "ann")
        assert (one.state, two.state) == (JobState.CANCELLED, JobState.CANCELLED)
        assert (
            site.engine.state.version - before < 2_100
        )  # the records of its queue one by one, the rest at once
        assert not site.engine.state.doomed

    play(story)


def test_a_follower_waits_for_all_that_it_follows_and_for_its_parallel_slots() -> None:
    async def story(site: Site) -> None:
        one, other = first(site), first(site)
        two = await follower(site, one, other, parallel=1)
        for index in range(3):
            site.run(f"{one.id}.{index}")
        assert queued(site, two) == []
        site.run(f"{other.id}.2")
        site.run(f"{other.id}.0")
        assert queued(site, two) == [2]
        site.engine.commit(jobs.hold(site.engine.state, site.engine.state.jobs[f"{two.id}.2"]), "ann")
        assert queued(site, two) == [0]
        await is_sound(site)
        site.run(f"{two.id}.0")
        site.engine.commit(jobs.release(site.engine.state, site.engine.state.jobs[f"{two.id}.2"]), "ann")
        assert queued(site, two) == [2]
        site.engine.commit(jobs.cancel(site.engine.state, two, None), "ann")
        assert two.state is JobState.CANCELLED
        site.run(f"{other.id}.1")
        assert other.state is JobState.SUCCEEDED
        await is_sound(site)

    play(story)


def test_what_is_no_array_waits_for_the_whole_of_the_other_and_so_does_an_array_for_it() -> None:
    async def story(site: Site) -> None:
        one = first(site, tasks=2)
        alone = await follower(site, one, tasks=None)
        assert alone.waiting_on == {one.id: "succeeded"}
        swept = await follower(site, alone)
        assert swept.waiting_on == {alone.id: "succeeded"}
        for index in range(2):
            site.run(f"{one.id}.{index}")
        site.run(alone.id)
        assert queued(site, swept) == [0, 1, 2]

    play(story)


def test_so_many_may_follow_one() -> None:
    async def story(site: Site) -> None:
        one = first(site)
        for _ in range(FOLLOWERS_MAX):
            await follower(site, one)
        refused = await follower(site, one, status="INVALID_ARGUMENT")
        assert f"the tasks of {FOLLOWERS_MAX} arrays follow those of job 1 already" in refused

    play(story)


def test_a_plan_says_that_nothing_of_it_may_start_yet() -> None:
    async def story(site: Site) -> None:
        one = first(site)
        spec = types_pb2.JobSpec(command=["true"], project="p", time_limit_us=3_600_000_000)
        spec.options.add(cpu_milli=1_000, memory_bytes=1 << 30)
        spec.depends_on.add(job=one.id, when="task-succeeded")
        spec.array.ranges.add(start=0, stop=3, step=1)
        token = site.token("ann", "admin")
        _, [plan] = await site.ask("Jobs.Plan", pb.PlanRequest(spec=spec), token=token)
        assert (plan.starts_now, plan.reason.code) == (False, "Dependency")
        assert plan.reason.message == "waits for job 1 (task-succeeded)"
        site.run(f"{one.id}.0")
        _, [plan] = await site.ask("Jobs.Plan", pb.PlanRequest(spec=spec), token=token)
        assert plan.starts_now

    play(story)
