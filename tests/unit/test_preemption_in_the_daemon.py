"""Preemption through the daemon's own way: plan, verify, signal with grace, end, back to the queue."""

from __future__ import annotations

from msgspec.structs import replace

from bursar.model import CheckpointSpec, EndCause, JobState, RetrySpec
from bursar.resources import ResourceRequest
from bursar_policies.decision import Holder
from bursard.events import AttemptEnded, AttemptPlaced, StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.place import Dropped, verify
from bursard.scheduler import plan

POLICY = "kind: PriorityPolicy\nname: p\nspec: {preempt: {gap: 20, restart: 1m}}\n"
HOUR_US = 3_600_000_000
WHOLE = (ResourceRequest(None, 8_000, 1 << 20),)


def site(policy: str = POLICY) -> World:
    """One node of eight CPUs, with a price, and the policy."""
    world = World()
    world.backend.connect(FACTS)
    world.apply(policy)
    return world


def told(world: World) -> None:
    """One pass, and what nodes say of it."""
    world.cycle()
    world.backend.report()
    world.writer.flush()


def test_a_job_is_stopped_with_its_grace_comes_back_and_runs_again_after_the_other():
    world = site()
    low = world.submit(
        options=WHOLE, time_limit_us=100 * HOUR_US, checkpoint=CheckpointSpec("USR1", 60_000_000)
    )
    told(world)
    first = low.attempt
    assert first is not None
    high = world.submit(options=WHOLE, time_limit_us=4 * HOUR_US, priority=80)
    world.cycle()
    (asked,) = [event for event in world.events if isinstance(event, StopRequested)]
    said = "makes room for a job of priority 80, and loses 0.13 USD of work and restart"
    assert asked == StopRequested(first.id, EndCause.PREEMPTED, first.grace_us, said, high.id)
    assert first.grace_us == 60_000_000
    world.cycle()
    assert sum(isinstance(event, StopRequested) for event in world.events) == 1, "and once only"
    world.backend.report()
    world.writer.flush()
    (end,) = [event for event in world.events if isinstance(event, AttemptEnded)]
    assert (end.cause, end.requeue, end.counts) == (EndCause.PREEMPTED, True, False)
    assert low.state is JobState.PENDING
    told(world)
    assert high.attempt is not None
    assert low.attempt is None
    world.backend.finish(high.attempt.id, 0)
    told(world)
    told(world)
    placed = [event.job_id for event in world.events if isinstance(event, AttemptPlaced)]
    assert placed == [low.id, high.id, low.id]


def test_a_snapshot_says_of_what_lives_what_its_end_would_lose():
    world = site()
    specs: tuple[dict[str, object], ...] = (
        {"priority": 30},
        {"preemptible": False},
        {"checkpoint": CheckpointSpec("USR1", 60_000_000)},
        {"retry": RetrySpec(never=True)},
    )
    records = [world.submit(**spec) for spec in specs]
    assert world.state.snapshot().holders == {}
    told(world)
    plain, kept, saved, once = (record.attempts[0] for record in records)
    began, rate = plain.started_at, plain.rate
    assert began > 0
    assert rate > 0
    grace = plain.grace_us
    assert world.state.snapshot().holders == {
        plain.id: Holder(30, rate, began, grace),
        kept.id: Holder(50, rate, began, grace, exempt=True),
        saved.id: Holder(50, rate, 0, 60_000_000),
        once.id: Holder(50, rate, began, grace, exempt=True),
    }
    world.engine.commit([StopRequested(plain.id, EndCause.CANCELLED, 7)], "ann")
    assert world.state.snapshot().holders[plain.id] == Holder(30, rate, began, 7, stopping=True)
    other = site("kind: PriorityPolicy\nname: p\nspec: {max_wait: 1h}\n")
    other.submit()
    other.cycle()
    assert other.state.snapshot().holders == {}


def test_what_may_no_longer_be_stopped_by_then_is_not():
    world = site()
    low = world.submit(options=WHOLE, time_limit_us=100 * HOUR_US)
    world.cycle()
    world.submit(options=WHOLE, time_limit_us=4 * HOUR_US, priority=80)
    shot = world.state.snapshot()
    answer = plan(shot, world.engine.now())
    assert answer.making_room_for
    (group,) = answer.groups
    low.spec = replace(low.spec, preemptible=False)
    dropped = verify(world.state, world.ids, shot, group)
    assert isinstance(dropped, Dropped)
    assert low.attempt is not None
    assert dropped.reason.message == f"attempt {low.attempt.id} may not be stopped for others any more"
