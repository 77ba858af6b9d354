"""Reservations through the daemon's own way: documents, choice of nodes, refusals, stops in time, the end."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from bursar.clock import format_duration
from bursar.errors import InvalidRequest, WrongState
from bursar.model import CheckpointSpec, EndCause, JobState
from bursar.resources import ResourceRequest
from bursard.events import PolicyRemoved, StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.housekeeping import Housekeeping
from bursard.place import Dropped, verify
from bursard.scheduler import plan
from bursard.state import image
from bursard.state.compare import differences
from bursard.state.decide import jobs, reservations
from bursard.state.decide.policies import remove
from bursard.state.reservations import PAST_MAX

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000


def at(world: World, hours: float) -> str:
    from bursar.clock import Instant, format_instant

    return format_instant(Instant(world.engine.now() + int(hours * HOUR_US)))


def document(world: World, nodes: str = "[n-1]", begins_h: float = 2, **more: str) -> str:
    said = {"nodes": nodes, "start": at(world, begins_h), "duration": "4h", "maintenance": "true"} | more
    if "for" in more:
        del said["maintenance"]
    lines = "".join(f"  {key}: {value}\n" for key, value in said.items())
    return f"kind: Reservation\nname: {more.get('name', 'fix')}\nspec:\n{lines}".replace("  name: ", "# ")


def site(*names: str) -> World:
    world = World()
    for name in names or ("n-1",):
        world.backend.connect(replace(FACTS, name=name))
    return world


def told(world: World) -> None:
    world.cycle()
    world.backend.report()
    world.writer.flush()


def turn(world: World) -> None:
    """What time brings, as the daemon looks at it."""

    def commit(what: str, events: object) -> bool:
        world.engine.commit(events, "bursard")  # type: ignore[arg-type]
        return True

    Housekeeping(world.state, lambda: world.engine.prices, commit).turn(world.engine.now())
    world.writer.flush()


def test_a_job_waits_for_the_end_of_a_window_that_it_would_meet_and_starts_then():
    world = site()
    world.apply(document(world))
    short, long = world.submit(), world.submit(time_limit_us=3 * HOUR_US)
    told(world)
    assert (short.state, long.state) == (JobState.RUNNING, JobState.PENDING)
    world.clock.advance(6 * HOUR_US)
    told(world)
    assert long.attempts
    world.clock.advance(600 * SECOND_US)
    turn(world)
    assert world.state.reservations.specs == {}
    (removed,) = [one for one in world.events if isinstance(one, PolicyRemoved)]
    assert removed == PolicyRemoved("Reservation", "fix")


def test_jobs_of_those_it_is_for_are_known_by_their_class_whenever_it_comes_and_goes():
    world = site()
    mine = world.submit(project="nlp/ft", time_limit_us=30 * HOUR_US)
    by_user = world.submit(user="bob", time_limit_us=30 * HOUR_US)
    other = world.submit(time_limit_us=30 * HOUR_US)
    world.apply(document(world, **{"for": "{projects: [NLP], users: [bob]}"}))
    told(world)
    assert [one.state for one in (mine, by_user, other)] == [JobState.RUNNING] * 2 + [JobState.PENDING]
    world.engine.commit(remove(world.state, "Reservation", "fix"), "ann")
    told(world)
    assert other.state is JobState.RUNNING


def test_a_state_read_from_its_image_keeps_it():
    world = site()
    world.apply(document(world, nodes="1"))
    again = image.decode(image.encode(world.state, world.engine.now()))
    assert again.reservations.specs == world.state.reservations.specs
    assert again.reservations.specs["fix"].nodes == ("n-1",)
    world.writer.flush()
    after = world.killed()
    assert after.state.reservations.specs == world.state.reservations.specs


def test_what_may_run_into_it_is_told_and_nothing_is_reserved():
    world = site()
    job = world.submit(time_limit_us=3 * HOUR_US)
    told(world)
    with pytest.raises(
        WrongState, match=rf"1 job may run past its start, until \S+Z at the latest: {job.number}"
    ):
        world.apply(document(world))
    assert world.state.reservations.specs == {}
    world.apply(document(world, begins_h=4))  # by then it has ended


def test_with_leave_it_goes_on_and_with_preempt_it_is_gone_when_the_window_begins():
    world = site()
    saved = world.submit(
        time_limit_us=9 * HOUR_US, checkpoint=CheckpointSpec(signal="USR1", grace_us=600 * SECOND_US)
    )
    told(world)
    world.apply(document(world, running="leave"))
    assert world.state.reservations.specs["fix"].nodes == ("n-1",)
    turn(world)
    world.engine.commit(remove(world.state, "Reservation", "fix"), "ann")
    world.apply(document(world, running="preempt"))
    world.clock.advance(2 * HOUR_US - 700 * SECOND_US)
    turn(world)
    assert not [one for one in world.events if isinstance(one, StopRequested)]
    world.clock.advance(100 * SECOND_US)
    turn(world)
    (asked,) = [one for one in world.events if isinstance(one, StopRequested)]
    assert (asked.cause, asked.grace_us) == (EndCause.PREEMPTED, 600 * SECOND_US)
    assert "reserved by fix" in asked.message
    told(world)
    assert saved.state is JobState.PENDING
    turn(world)
    assert len([one for one in world.events if isinstance(one, StopRequested)]) == 1


def test_what_may_not_be_stopped_is_not_reserved_over():
    world = site()
    job = world.submit(time_limit_us=9 * HOUR_US, preemptible=False)
    told(world)
    with pytest.raises(WrongState, match=f"may not be stopped.*{job.number}"):
        world.apply(document(world, running="preempt"))


def test_a_longer_time_limit_does_not_lead_into_it():
    world = site()
    job = world.submit()
    told(world)
    world.apply(document(world))
    update = lambda hours: jobs.update(  # noqa: E731
        world.state, job, {"time_limit_us": int(hours * HOUR_US)}, world.engine.now()
    )
    with pytest.raises(WrongState, match=r"reservation fix, which begins on its node") as refused:
        update(2)
    most = int(refused.value.facts["most_us"])
    assert refused.value.message.endswith(f"; set --time-limit {format_duration(most)} or less")
    assert update(most / HOUR_US)


def test_nodes_are_chosen_that_are_free_when_it_begins():
    world = site("n-1", "n-2", "n-3")
    busy = world.submit(options=(ResourceRequest(None, 8_000, 1 << 20),), time_limit_us=9 * HOUR_US)
    told(world)
    node = world.state.nodes[busy.attempts[0].members[0].alloc.node_id].facts.name
    world.apply(document(world, nodes="2"))
    chosen = world.state.reservations.specs["fix"].nodes
    assert node not in chosen
    assert len(chosen) == 2
    with pytest.raises(WrongState, match="1 job may run past its start"):
        world.apply(document(world, nodes="3", name="more"))


def test_nodes_of_another_reservation_are_not_chosen_and_not_given_twice():
    world = site("n-1", "n-2")
    world.apply(document(world, **{"for": "{users: [bob]}"}))
    world.apply(document(world, nodes="1", name="second", **{"for": "{users: [eve]}"}))
    assert world.state.reservations.specs["second"].nodes == ("n-2",)
    with pytest.raises(WrongState, match="node n-1 is reserved by fix for user bob"):
        world.apply(document(world, name="third", **{"for": "{users: [eve]}"}))
    with pytest.raises(
        InvalidRequest, match="asks for 1 node, and 0 can be had: 2 nodes match, 2 are reserved"
    ):
        world.apply(document(world, nodes="1", name="third", **{"for": "{users: [eve]}"}))
    world.apply(document(world, name="repair"))  # maintenance may meet it


def test_two_of_one_file_do_not_get_the_same_node():
    world = site()
    both = [document(world, name=name, **{"for": "{users: [bob]}"}) for name in ("a", "b")]
    with pytest.raises(WrongState, match="node n-1 is reserved by a"):
        world.apply("---\n".join(both))


def test_nodes_that_are_not_there_and_windows_that_are_over_are_refused():
    world = site()
    with pytest.raises(InvalidRequest, match="there is no node n-2, n-9"):
        world.apply(document(world, nodes="[n-9, n-1, n-2]"))
    with pytest.raises(InvalidRequest, match="is over since"):
        world.apply(document(world, begins_h=-9))
    with pytest.raises(InvalidRequest, match="asks for 1 node, and 0 can be had"):
        world.apply(document(world, nodes="1", where="{pool: other}"))


def test_a_plan_made_before_a_reservation_starts_nothing():
    world = site()
    world.submit(time_limit_us=9 * HOUR_US)
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    world.apply(document(world))
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert "reserved" in answer.reason.message


def test_the_list_counts_what_runs_there_and_may_stay_or_not():
    world = site()
    world.submit(user="bob", time_limit_us=9 * HOUR_US)
    other = world.submit(time_limit_us=9 * HOUR_US)
    told(world)
    world.apply(document(world, running="leave", **{"for": "{users: [bob]}"}))
    own, others, until = reservations.seen(world.state, world.state.reservations.specs["fix"])
    assert (own, others) == (1, 1)
    assert until > world.engine.now() + 9 * HOUR_US
    assert other.state is JobState.RUNNING


def test_what_nobody_held_of_a_reserved_node_is_told_apart_to_the_nano():
    """Of four hours the second and third are reserved; a job of theirs holds half of the node for one."""
    world = site()
    world.backend.report()
    begun = {kind: world.settled_nanos(kind) for kind in ("idle", "reserved", "usage", "absorption")}
    start = world.engine.now()
    world.apply(document(world, begins_h=1, duration="2h", **{"for": "{users: [bob]}"}))
    world.clock.advance(90 * 60 * SECOND_US)
    job = world.submit(user="bob", options=(ResourceRequest(None, 4_000, 1 << 33),))
    told(world)
    world.clock.advance(HOUR_US)
    world.backend.finish(job.attempts[0].id, 0)
    told(world)
    world.clock.advance(90 * 60 * SECOND_US)
    world.backend.report()
    spent = {kind: world.settled_nanos(kind) - nanos for kind, nanos in begun.items()}
    node = world.node()
    (span,) = node.spans(world.engine.now() + 1)[:1] or [None]
    assert span is not None
    hourly = span.cost_rates.total
    assert world.engine.now() - start == 4 * HOUR_US
    assert abs(spent["idle"] - 2 * hourly) <= 8
    assert abs(spent["reserved"] - 3 * hourly // 2) <= 8
    assert abs(spent["usage"] + spent["absorption"] - hourly // 2) <= 8


def spent_s(world: World, kind: str) -> int:
    """What was spent of a kind, as seconds of the whole node."""
    hourly = world.node().cost_rates.total
    return round(world.settled_nanos(kind) * 3600 / hourly)


def test_a_node_that_is_off_in_its_window_is_down_and_from_its_boot_on_reserved():
    world = site()
    world.apply(document(world, begins_h=1, duration="4h"))
    world.clock.advance(HOUR_US)
    world.backend.report()
    world.backend.disconnect("n-1")
    world.clock.advance(2 * HOUR_US)
    was_up = world.clock.boot_us
    off = was_up() - HOUR_US
    world.clock.boot_us = lambda: was_up() - off  # it was switched on an hour ago
    world.backend.connect(replace(FACTS, name="n-1"), "boot-2")
    world.clock.advance(3 * HOUR_US)
    world.backend.report()
    world.writer.flush()
    assert (spent_s(world, "down"), spent_s(world, "reserved")) == (3600, 3 * 3600)
    assert spent_s(world, "idle") == 2 * 3600


def test_what_is_gone_for_good_was_unknown_and_not_reserved():
    world = site()
    world.apply(document(world, begins_h=1, duration="4h"))
    world.backend.report()
    world.backend.disconnect("n-1")
    world.clock.advance(3 * HOUR_US)
    hourly = world.node().cost_rates.total
    world.engine.commit(world.fleet.remove(world.node()), "ann")
    world.writer.flush()
    assert abs(world.settled_nanos("unknown") - 3 * hourly) <= 8
    assert world.settled_nanos("reserved") == 0
    world.engine.commit(remove(world.state, "Reservation", "fix"), "ann")
    assert world.state.reservations.past == {}


def test_so_many_windows_of_a_node_that_tells_nothing_are_kept_and_the_oldest_are_forgotten():
    world = site()
    world.backend.report()
    world.backend.disconnect("n-1")
    for _ in range(PAST_MAX + 10):
        world.apply(document(world, begins_h=-1))
        world.clock.advance(SECOND_US)
        world.engine.commit(remove(world.state, "Reservation", "fix"), "ann")
        world.clock.advance(SECOND_US)
    assert len(world.state.reservations.past["n-1"]) == PAST_MAX
    world.backend.connect(replace(FACTS, name="n-1"))
    world.backend.report()
    world.writer.flush()
    assert spent_s(world, "reserved") == PAST_MAX
    assert spent_s(world, "idle") == PAST_MAX + 20
    assert world.state.reservations.past == {}


def test_an_image_of_before_the_past_was_kept_opens():
    world = site()
    world.apply(document(world))
    written = json.loads(image.encode(world.state, world.engine.now()))
    assert written.pop("reserved") == []
    old = json.dumps(written).encode()
    again = image.decode(old)
    assert again.reservations.specs == world.state.reservations.specs
    assert again.reservations.past == {}
    assert not differences(old, world.state)


def test_a_job_whose_class_was_not_looked_at_since_does_not_start_on_nodes_of_others(monkeypatch):
    """Of very many jobs that wait, each is looked at with one of the turns after documents have changed."""
    from bursard.state.fold import policies as fold

    world = site()
    world.apply(document(world, begins_h=-1, **{"for": "{users: [ann]}"}))
    job = world.submit()
    monkeypatch.setattr(fold, "MATCHED_MAX", 0)
    world.apply(document(world, begins_h=-1, **{"for": "{users: [bob]}"}))
    (queue,) = world.state.snapshot().queues
    assert queue.job_class.reservations == ("fix",), "as it was before"
    told(world)
    assert job.attempts == []
    monkeypatch.undo()
    turn(world)
    (queue,) = world.state.snapshot().queues
    assert queue.job_class.reservations == ()
