"""Room that others were stopped for is the job's own, and nobody has others stopped without end."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import CheckpointSpec, JobState, ReasonCode
from bursar.resources import ResourceRequest
from bursard.events import StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.place import LastPlan
from bursard.scheduler import explain, plan, what_if
from bursard.state import JobRecord, image
from bursard.state.decide import jobs
from bursard.state.tables import ROOM_KEPT_US

POLICY = "kind: PriorityPolicy\nname: p\nspec: {preempt: {gap: 20, restart: 1m%s}}\n"


def cpus(count: int) -> tuple[ResourceRequest, ...]:
    return (ResourceRequest(None, count * 1_000, 1 << 20),)


class Site(World):
    """One node of eight CPUs, on which a job of low priority runs that may be stopped."""

    def __init__(self, more: str = "") -> None:
        super().__init__()
        self.backend.connect(FACTS)
        self.apply(POLICY % more)
        self.low = self.job(20, hours=100)
        self.told()
        assert self.low.state is JobState.RUNNING

    def job(self, priority: int, hours: int = 4, **spec: Any) -> JobRecord:
        return self.submit(options=cpus(8), time_limit_us=hours * HOUR_US, priority=priority, **spec)

    def told(self) -> None:
        """A pass, and what nodes say of it."""
        self.cycle()
        self.backend.report()
        self.writer.flush()

    def stops(self) -> list[str]:
        return [one.for_job for one in self.events if isinstance(one, StopRequested)]

    def reason(self, job: JobRecord) -> Any:
        shot, key = self.state.snapshot(), self.state.pending.key_of(job.id)
        assert key is not None
        return LastPlan(shot, plan(shot, self.engine.now())).reason(key, job.id)


def preempting(more: str = "") -> tuple[Site, JobRecord, JobRecord]:
    """One has asked for the room of the low one, and then another came that is before it."""
    site = Site(more)
    mine = site.job(60)
    site.cycle()
    assert site.stops() == [mine.id]
    other = site.job(90, project="q")
    return site, mine, other


def test_whom_room_was_made_for_has_it_though_others_came_before_it_since() -> None:
    site, mine, other = preempting()
    assert site.reason(mine).code is ReasonCode.PREEMPTION_PENDING
    site.cycle()
    site.backend.report()
    site.told()
    assert (mine.state, other.state) == (JobState.RUNNING, JobState.PENDING)
    assert not mine.room_until
    assert site.stops()[0] == mine.id, "and nobody was stopped a second time for it"


def test_what_ends_before_the_room_is_there_may_use_what_is_free_meanwhile() -> None:
    site = Site()
    assert site.low.attempt is not None
    site.backend.finish(site.low.attempt.id, 0)
    site.told()
    saves = CheckpointSpec("USR1", 60 * SECOND_US)
    half = site.submit(options=cpus(4), time_limit_us=100 * HOUR_US, priority=20, checkpoint=saves)
    site.told()
    assert half.state is JobState.RUNNING
    mine = site.job(60)
    site.cycle()
    assert site.stops()[-1] == mine.id
    short = site.submit(options=cpus(1), time_limit_us=10 * SECOND_US, project="q")
    long = site.submit(options=cpus(1), time_limit_us=HOUR_US, priority=90, project="q")
    site.cycle()
    assert short.attempt is not None
    assert long.attempt is None, "it would be in the way"


@pytest.mark.parametrize("how", ["cancel", "hold", "more"])
def test_who_gives_it_up_keeps_nothing(how: str) -> None:
    site, mine, other = preempting()
    events: dict[str, Any] = {
        "cancel": lambda: jobs.cancel(site.state, mine, None),
        "hold": lambda: jobs.hold(site.state, mine),
        "more": lambda: jobs.update(site.state, mine, {"time_limit_us": 9 * HOUR_US}, site.engine.now()),
    }
    site.engine.commit(events[how](), "ann")
    assert (mine.room_until, dict(site.state.made)) == (0, {})
    site.backend.report()
    site.told()
    assert other.state is JobState.RUNNING


def test_it_is_kept_for_so_long_and_not_for_ever() -> None:
    site, mine, other = preempting()
    assert mine.room_until == site.engine.now() + 5 * SECOND_US + ROOM_KEPT_US
    site.clock.advance(mine.room_until - site.engine.now())
    site.backend.report()
    site.told()
    assert (other.state, mine.state) == (JobState.RUNNING, JobState.PENDING)


def test_a_daemon_that_was_killed_keeps_it() -> None:
    site, mine, _ = preempting()
    site.writer.flush()
    after = image.decode(image.encode(site.state, site.engine.now()), site.state.limits)
    assert (after.jobs[mine.id].room_until, list(after.made)) == (mine.room_until, [mine.id])
    assert after.rooms_made == site.state.rooms_made == {"p": (site.engine.now(),)}
    again = site.killed()
    assert (again.state.made, again.state.rooms_made) == (site.state.made, site.state.rooms_made)
    assert after.rooms_by_user == again.state.rooms_by_user == {mine.user: (site.engine.now(),)}


def test_a_project_has_others_stopped_so_often_within_an_hour_and_is_told_until_when() -> None:
    site = Site(", per_project: 1, per_user: 9")
    first = site.job(60, project="p/a")
    for _ in range(3):
        site.told()
    assert (first.state, site.stops()) == (JobState.RUNNING, [first.id])
    began = site.engine.now()
    second = site.job(90, project="p/b")
    site.told()
    assert site.stops() == [first.id]
    said = site.reason(second)
    assert said.code is ReasonCode.RATE_LIMITED
    assert "have had others stopped 1 time within an hour" in said.message
    shot = site.state.snapshot()
    (index,) = [row for row, queue in enumerate(shot.queues) if queue.position_of(second.id) >= 0]
    assert explain(shot, index, site.engine.now(), second.id).reason == said
    other = site.job(90, project="q")
    site.engine.commit(jobs.hold(site.state, second), "ann")
    site.told()
    assert site.stops() == [first.id, other.id], "it is no bound of others"
    for _ in range(3):
        site.told()
    assert other.attempt is not None
    site.backend.finish(other.attempt.id, 0)
    for _ in range(2):
        site.told()
    assert first.state is JobState.RUNNING
    site.engine.commit(jobs.release(site.state, second), "ann")
    site.clock.advance(began + HOUR_US - site.engine.now())
    site.told()
    assert site.stops() == [first.id, other.id, second.id], "once the hour is over"


@pytest.mark.parametrize(
    ("more", "stopped"), [(", per_user: 1", 1), (", per_project: 1", 1), (", per_user: 2", 2)]
)
def test_who_invents_projects_has_others_stopped_no_oftener(more: str, stopped: int) -> None:
    site = Site(more)
    first = site.job(60, project="invented1", user="bob")
    for _ in range(3):
        site.told()
    assert (first.state, site.stops()) == (JobState.RUNNING, [first.id])
    second = site.job(90, project="invented2", user="bob")
    site.told()
    assert len(site.stops()) == stopped
    if stopped == 2:
        return
    said = site.reason(second)
    assert said.code is ReasonCode.RATE_LIMITED
    assert "jobs of its user have had others stopped 1 time within an hour" in said.message
    assert "`preempt.per_user`" in said.message
    shot = site.state.snapshot()
    (index,) = [row for row, queue in enumerate(shot.queues) if queue.position_of(second.id) >= 0]
    assert explain(shot, index, site.engine.now(), second.id).reason == said
    wanted, now = shot.queues[index].class_at(0), site.engine.now()
    site.engine.commit(jobs.hold(site.state, second), "bob")
    shot = site.state.snapshot()
    asked = {user: what_if(shot, wanted, now, 90, "invented3", user).reason.code for user in ("bob", "ann")}
    assert asked == {"bob": ReasonCode.RATE_LIMITED, "ann": ReasonCode.PREEMPTION_PENDING}
    other = site.job(90, project="q", user="ann")
    site.told()
    assert site.stops() == [first.id, other.id], "it is no bound of others"
