"""`age` and `max_wait` count how long a job has waited for what it asks for now, and nothing before."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import HOUR_US
from bursar.model import ArraySpec, Dependency, JobState
from bursar.resources import ResourceRequest
from bursard.fleet.testing import FACTS, World
from bursard.state import JobRecord, image
from bursard.state.decide import jobs
from bursard.state.waits import since

POLICY = "kind: PriorityPolicy\nname: p\nspec: {max_wait: 1d}\n"
TINY: dict[str, Any] = {"time_limit_us": 10_000_000, "priority": 0}


def cpus(count: int) -> tuple[ResourceRequest, ...]:
    return (ResourceRequest(None, count * 1_000, 1 << 20),)


class Site(World):
    """One node of eight CPUs, taken by a long job until `free`."""

    def __init__(self) -> None:
        super().__init__()
        self.backend.connect(FACTS)
        self.apply(POLICY)
        self.first = self.submit(user="x", options=cpus(8), time_limit_us=1_000 * HOUR_US)
        self.told()

    def told(self) -> None:
        self.cycle()
        self.backend.report()
        self.writer.flush()

    def commit(self, events: Any) -> None:
        self.engine.commit(events, "mal")

    def free(self) -> None:
        """Of what was running nothing is left, and the next job starts."""
        assert self.first.attempt is not None
        self.backend.finish(self.first.attempt.id, 0)
        self.told()
        self.told()

    def urgent(self) -> JobRecord:
        """One of the highest priority, for the whole node."""
        return self.submit(user="bob", options=cpus(8), priority=100)


def test_time_on_hold_is_no_waiting() -> None:
    site = Site()
    held = site.submit(options=cpus(8), **TINY)
    site.commit(jobs.hold(site.state, held))
    site.clock.advance(25 * HOUR_US)
    urgent = site.urgent()
    site.commit(jobs.release(site.state, held))
    site.free()
    assert (urgent.state, held.state) == (JobState.RUNNING, JobState.PENDING)


@pytest.mark.parametrize(
    "changes", [{"options": cpus(8)}, {"time_limit_us": HOUR_US}, {"nodes": 2}, {"time_limit_us": 0}]
)
def test_who_asks_for_more_begins_to_wait_anew(changes: dict[str, Any]) -> None:
    site = Site()
    job = site.submit(options=cpus(1), **TINY)
    site.clock.advance(25 * HOUR_US)
    site.commit(jobs.update(site.state, job, changes, site.engine.now()))
    assert since(job) == site.engine.now()
    again = image.decode(image.encode(site.state, site.engine.now()), site.state.limits)
    assert since(again.jobs[job.id]) == since(job)


@pytest.mark.parametrize("changes", [{"options": cpus(1)}, {"time_limit_us": 5_000_000}, {"priority": 3}])
def test_who_asks_for_less_or_is_called_otherwise_has_waited_since_it_came(changes: dict[str, Any]) -> None:
    site = Site()
    job = site.submit(options=cpus(2), **TINY)
    site.clock.advance(25 * HOUR_US)
    site.commit(jobs.update(site.state, job, changes, site.engine.now()))
    assert since(job) == job.submitted_at


def test_what_ran_and_asked_to_run_again_has_not_waited_meanwhile() -> None:
    site = Site()
    site.clock.advance(48 * HOUR_US)
    urgent = site.urgent()
    site.commit(jobs.requeue(site.state, site.first, site.engine.now()))
    for _ in range(3):
        site.told()
    assert (urgent.state, site.first.state) == (JobState.RUNNING, JobState.PENDING)


def test_tasks_of_an_array_wait_anew_with_it() -> None:
    site = Site()
    array = site.submit(options=cpus(1), array=ArraySpec(((0, 2_000, 1),)), **TINY)
    site.commit(jobs.hold(site.state, array))
    site.clock.advance(25 * HOUR_US)
    site.commit(jobs.release(site.state, array))
    last = site.state.job(f"{array.id}.1999")
    first = site.state.job(f"{array.id}.0")
    assert last is not None
    assert first is not None
    assert (since(first), since(last)) == (site.engine.now(), site.engine.now())


def test_what_is_stopped_for_another_does_not_take_back_the_room_before_it() -> None:
    site = Site()
    site.apply("kind: PriorityPolicy\nname: p\nspec: {max_wait: 1h, preempt: {gap: 20, restart: 1m}}\n")
    site.commit(jobs.update(site.state, site.first, {"priority": 0}, site.engine.now()))
    site.clock.advance(2 * HOUR_US)
    site.told()
    urgent = site.submit(user="bob", options=cpus(8), priority=100, time_limit_us=50 * HOUR_US)
    for _ in range(5):
        site.told()
    assert (urgent.state, site.first.state, len(site.first.attempts)) == (
        JobState.RUNNING,
        JobState.PENDING,
        1,
    )


def test_time_that_a_job_waits_for_another_is_no_waiting() -> None:
    site = Site()
    behind = site.submit(options=cpus(8), depends_on=(Dependency(site.first.id, "finished"),), **TINY)
    plain = site.submit(options=cpus(8), **TINY)
    site.clock.advance(25 * HOUR_US)
    urgent = site.urgent()
    site.free()
    assert plain.state is JobState.RUNNING, "it has waited for a day"
    assert since(behind) == site.engine.now()
    site.first = plain
    site.free()
    assert (urgent.state, behind.state) == (JobState.RUNNING, JobState.PENDING)
    again = image.decode(image.encode(site.state, site.engine.now()), site.state.limits)
    assert since(again.jobs[behind.id]) == since(behind)


def test_a_task_that_follows_another_waits_from_its_turn_on() -> None:
    site = Site()
    array = site.submit(options=cpus(8), array=ArraySpec(((0, 1, 1),)), **TINY)
    after = site.submit(
        options=cpus(8),
        array=ArraySpec(((0, 1, 1),)),
        depends_on=(Dependency(array.id, "task-succeeded"),),
        **TINY,
    )
    site.clock.advance(25 * HOUR_US)
    site.free()
    task = site.state.jobs[f"{array.id}.0"]
    assert task.attempt is not None
    site.clock.advance(HOUR_US)
    site.backend.finish(task.attempt.id, 0)
    site.told()
    assert since(site.state.jobs[f"{after.id}.0"]) == site.engine.now()


@pytest.mark.parametrize("when", ["started", "finished"])
def test_since_when_a_job_waits_is_the_same_after_a_replay(when: str) -> None:
    site = Site()
    other = site.submit(options=cpus(8), **TINY)
    behind = site.submit(options=cpus(8), depends_on=(Dependency(other.id, when),), **TINY)
    site.clock.advance(25 * HOUR_US)
    site.free()
    assert other.attempt is not None
    began = site.engine.now()
    if when == "finished":
        site.clock.advance(HOUR_US)
        site.backend.finish(other.attempt.id, 0)
        site.told()
    assert since(behind) == site.engine.now()
    site.clock.advance(HOUR_US)
    assert since(site.killed().state.jobs[behind.id]) == since(behind) >= began
