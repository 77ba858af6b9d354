"""Promises of deadlines in the daemon: what is told at submit, what is kept, what breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from bursar.clock import Instant, format_instant, parse_instant
from bursar.errors import BudgetExceeded, DeadlineRefused, InvalidRequest, NotBuilt, RateLimited, WrongState
from bursar.model import ArraySpec, Dependency, Device, JobSpec, JobState
from bursar.model.check import check
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.specs import PROMISE_HORIZON_US, PriorityPolicySpec, ReservationSpec
from bursard import promising
from bursard.events import DeadlineBroken, DeadlinePromised
from bursard.fleet.testing import FACTS, World
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass, reason_of
from bursard.promising import Promising
from bursard.reports.budgets import budget_views
from bursard.state import JobRecord, image
from bursard.state.decide import giving, jobs
from bursard.state.decide.nodes import scheduling
from bursard.state.decide.reservations import resolved

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
WHOLE = (ResourceRequest(None, FACTS.cpu_milli, 0),)
HALF = (ResourceRequest(None, FACTS.cpu_milli // 2, 0),)


def site(*names: str) -> World:
    world = World()
    for name in names or ("n-1",):
        world.backend.connect(replace(FACTS, name=name))
    return world


def told(world: World) -> None:
    """What time brings, a plan, and what nodes say of it."""

    def commit(what: str, events: Any) -> bool:
        world.engine.commit(events, "bursard")
        return True

    Housekeeping(world.state, lambda: world.engine.prices, commit).turn(world.engine.now())
    world.cycle()
    world.backend.report()
    world.writer.flush()


def submit(world: World, by_h: float, hours: float = 1, user: str = "ann", **spec: Any) -> JobRecord:
    """A job that is promised to end so many hours from now, or is refused."""
    now = world.engine.now()
    wanted: dict[str, Any] = {
        "project": "p",
        "command": ("true",),
        "options": WHOLE,
        "time_limit_us": int(hours * HOUR_US),
        "deadline_at": now + int(by_h * HOUR_US),
    }
    asked = JobSpec(**(wanted | spec))
    events = jobs.submit(world.state, world.ids, user=user, spec=asked)
    events += Promising(world.state).for_new(user, asked, events[0].job_id, now)  # type: ignore[union-attr]
    world.engine.commit(events, user)
    world.writer.flush()
    return world.state.jobs[events[0].job_id]  # type: ignore[union-attr]


def promised(world: World) -> list[DeadlinePromised]:
    return [one for one in world.events if isinstance(one, DeadlinePromised)]


def broken(world: World) -> list[DeadlineBroken]:
    return [one for one in world.events if isinstance(one, DeadlineBroken)]


def test_a_promise_is_an_event_with_its_place_and_its_price():
    world = site()
    job = submit(world, by_h=5)
    [event] = promised(world)
    hold_us = HOUR_US + 10 * SECOND_US
    assert (event.job_id, event.by) == (job.id, job.spec.deadline_at)
    assert event.until - event.start == hold_us
    assert event.until <= event.by
    assert event.rate > 0
    assert event.nanos > 0
    assert [member.node_id for member in event.members] == [world.node().id]


def test_a_deadline_that_cannot_be_promised_is_refused_with_the_earliest_and_its_price():
    world = site()
    running = world.submit(options=WHOLE, time_limit_us=3 * HOUR_US)
    told(world)
    assert running.state is JobState.RUNNING
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=2)
    facts = caught.value.facts
    assert facts["earliest_deadline"] in caught.value.message
    assert facts["cost_at_most"]
    assert world.state.promises.given == {}
    earliest = Instant(0)
    for minute in range(3 * 60, 6 * 60):  # no earlier one is promised, to the minute; that one is
        try:
            job = submit(world, by_h=minute / 60)
        except DeadlineRefused:
            continue
        earliest = Instant(job.spec.deadline_at)
        break
    said = facts["earliest_deadline"]
    assert format_instant(Instant(earliest - 60 * SECOND_US)) < said <= format_instant(earliest)


def test_nothing_long_starts_before_a_promised_place_and_what_ends_in_time_does():
    world = site()
    mine = submit(world, by_h=2.5, begin_after=world.engine.now() + HOUR_US)
    long = world.submit(options=WHOLE, time_limit_us=2 * HOUR_US)
    short = world.submit(options=WHOLE, time_limit_us=HOUR_US)
    told(world)
    assert (mine.state, long.state, short.state) == (JobState.PENDING, JobState.PENDING, JobState.RUNNING)
    world.clock.advance(HOUR_US)
    world.stop(short.attempts[-1])
    world.backend.report()
    later = world.submit(options=WHOLE, time_limit_us=HOUR_US, priority=100)
    told(world)
    assert (mine.state, later.state) == (JobState.RUNNING, JobState.PENDING)  # its begin time has come
    assert broken(world) == []


def test_it_begins_at_its_time_before_a_job_of_higher_priority_that_waits_for_longer():
    world = site("n-1", "n-2")
    first = [world.submit(options=WHOLE, time_limit_us=HOUR_US) for _ in range(2)]
    told(world)
    assert {one.state for one in first} == {JobState.RUNNING}
    mine = submit(world, by_h=2.2, priority=0)
    gang = world.submit(options=WHOLE, nodes=2, priority=100, time_limit_us=9 * HOUR_US)
    for one in first:
        world.stop(one.attempts[-1])
    world.backend.report()
    told(world)
    # It may begin early, where that leaves room; the gang needs both nodes, of which one is promised.
    assert gang.state is JobState.PENDING
    world.clock.advance(HOUR_US + int(0.2 * HOUR_US))
    told(world)
    assert mine.state in (JobState.RUNNING, JobState.SUCCEEDED)
    assert broken(world) == []


def test_what_waits_is_told_that_the_room_is_promised():
    world = site()
    mine = submit(world, by_h=3, begin_after=world.engine.now() + HOUR_US)
    long = world.submit(options=WHOLE, time_limit_us=9 * HOUR_US)
    seen = one_pass(world.state, world.ids, world.engine.now(), lambda what, events: True)
    [index] = seen.plan.verdicts
    reason = reason_of(seen.snapshot, seen.plan, index)
    assert reason.code.value == "ReservedForOther"
    assert mine.id in reason.message
    assert "set --time-limit" in reason.remedy
    assert long.state is JobState.PENDING


def test_money_is_set_aside_until_it_begins():
    world = site("n-1", "n-2")
    rate = promised_rate(world)
    limit = rate * 3 // 2
    world.apply(budget(limit))
    mine = submit(world, by_h=9, begin_after=world.engine.now() + HOUR_US)
    room = world.state.budgets.rooms(world.state.ledger)["cap"]
    assert room.held_nanos == promised(world)[-1].nanos
    other = world.submit(options=WHOLE, time_limit_us=HOUR_US)
    told(world)
    assert other.state is JobState.PENDING  # what is left would not pay for both
    with pytest.raises(DeadlineRefused):
        submit(world, by_h=20)
    world.clock.advance(8 * HOUR_US - 20 * SECOND_US)
    told(world)
    assert mine.state is JobState.RUNNING
    room = world.state.budgets.rooms(world.state.ledger)["cap"]
    assert room.held_nanos == world.state.ledger.held("cap", world.state.budgets.records["cap"].period_start)


def test_money_that_is_set_aside_is_shown_as_held_and_neither_given_away_nor_cut_off():
    world = site("n-1")
    limit = promised_rate(world) * 3 // 2
    world.apply(budget(limit) + "---\n" + budget(limit).replace("name: cap", "name: other"))
    submit(world, by_h=9, begin_after=world.engine.now() + HOUR_US)
    aside = promised(world)[-1].nanos
    (view,) = budget_views(world.state, "cap")
    assert view.held_nanos == aside
    with pytest.raises(BudgetExceeded, match="are free"):
        giving.transfer(world.state, "cap", "other", limit - aside + 1, "ann", "spare")
    assert giving.transfer(world.state, "cap", "other", limit - aside, "ann", "spare")
    with pytest.raises(BudgetExceeded, match="is below"):
        world.apply(budget(aside - 1))
    world.apply(budget(aside))


def budget(nanos: int) -> str:
    amount = f"{nanos // 10**9}.{nanos % 10**9:09d}"
    return (
        "kind: Budget\nname: cap\nspec:\n  scope: {project: p}\n"
        f"  limit: {amount} USD\n  period: one-time\n  enforcement: hard\n  hold: worst-case\n"
    )


def promised_rate(world: World) -> int:
    """What an hour of a whole node costs, about."""
    job = submit(world, by_h=9)
    nanos = promised(world)[-1].nanos
    world.engine.commit(jobs.cancel(world.state, job, None), "ann")
    world.writer.flush()
    assert world.state.promises.given == {}
    return nanos


def test_a_place_that_is_lost_is_another_one_or_the_breach_with_its_cause():
    world = site("n-1", "n-2")
    mine = submit(world, by_h=3, begin_after=world.engine.now() + HOUR_US)
    [first] = promised(world)
    name = next(node.facts.name for node in world.state.nodes.values() if node.id == first.members[0].node_id)
    other = "n-2" if name == "n-1" else "n-1"
    world.engine.commit(scheduling(world.node(name), "drain", "firmware"), "op")
    world.clock.advance(2 * SECOND_US)
    told(world)
    assert promised(world)[-1].members[0].node_id == world.node(other).id
    assert broken(world) == []
    world.engine.commit(scheduling(world.node(other), "drain", "firmware"), "op")
    world.clock.advance(2 * SECOND_US)
    told(world)
    [event] = broken(world)
    assert (event.job_id, event.cause, event.given_up) == (mine.id, "node", False)
    assert "firmware" in event.message
    assert mine.promise is not None
    assert mine.promise.broken_at
    assert not world.state.promises
    assert mine.state is JobState.PENDING  # it waits on, as any other job


def test_on_hold_it_is_promised_nothing_and_released_it_is_promised_anew():
    world = site()
    mine = submit(world, by_h=3)
    world.engine.commit(jobs.hold(world.state, mine), "ann")
    world.writer.flush()
    [event] = broken(world)
    assert (event.cause, event.given_up) == ("held", True)
    assert world.state.promises.on_node == {}
    world.engine.commit(jobs.release(world.state, mine), "ann")
    world.engine.commit(Promising(world.state).for_changed(mine, mine.spec, world.engine.now()), "ann")
    assert mine.promise is not None
    assert not mine.promise.broken_at


def test_what_one_call_releases_is_promised_each_beside_the_others_before_any_is_released(monkeypatch):
    world = site()
    one, other = submit(world, by_h=2.5), submit(world, by_h=2.5)
    for job in (one, other):
        world.engine.commit(jobs.hold(world.state, job), "ann")
    late = submit(world, by_h=2.5)  # with it there is room for one of them
    assert late.promise is not None
    promising_, now = Promising(world.state), world.engine.now()
    [first] = promising_.for_changed(one, one.spec, now)
    assert isinstance(first, DeadlinePromised)
    assert promising_.for_changed(other, other.spec, now)  # alone it is promised as well
    with pytest.raises(DeadlineRefused):
        promising_.for_changed(other, other.spec, now, [first])
    monkeypatch.setattr(promising, "_NO_RULES", PriorityPolicySpec(promise_user_max=2))
    with pytest.raises(RateLimited):
        promising_.for_changed(other, other.spec, now, [first])


def test_a_change_of_what_it_asks_for_is_promised_or_refused():
    world = site()
    mine = submit(world, by_h=3)
    promising, now = Promising(world.state), world.engine.now()
    with pytest.raises(DeadlineRefused):
        promising.for_changed(mine, replace(mine.spec, time_limit_us=4 * HOUR_US), now)
    [event] = promising.for_changed(mine, replace(mine.spec, time_limit_us=2 * HOUR_US), now)
    assert isinstance(event, DeadlinePromised)
    assert event.until - event.start == 2 * HOUR_US + 10 * SECOND_US
    [event] = promising.for_changed(mine, replace(mine.spec, deadline_policy="best-effort"), now)
    assert isinstance(event, DeadlineBroken)
    assert event.given_up


def test_a_running_job_is_given_no_limit_with_which_it_would_meet_a_promised_place():
    world = site()
    running = world.submit(options=WHOLE, time_limit_us=HOUR_US)
    told(world)
    submit(world, by_h=3)
    told(world)
    with pytest.raises(WrongState, match="a place that is kept for job"):
        jobs.update(world.state, running, {"time_limit_us": 3 * HOUR_US}, world.engine.now())
    assert jobs.update(world.state, running, {"time_limit_us": int(1.2 * HOUR_US)}, world.engine.now())


def test_one_that_ran_and_is_to_run_again_has_another_place_in_time_or_that_is_told():
    world = site("n-1", "n-2")
    mine = submit(world, by_h=6)
    told(world)
    assert mine.state is JobState.RUNNING
    world.engine.commit(jobs.requeue(world.state, mine), "ann")
    told(world)
    assert (mine.state, mine.promise.members) == (JobState.PENDING, ())  # type: ignore[union-attr]
    world.clock.advance(2 * SECOND_US)
    told(world)
    assert broken(world) == []
    assert len(promised(world)) == 2
    world.engine.commit(jobs.requeue(world.state, mine), "ann")
    told(world)
    world.clock.advance(5 * HOUR_US)
    told(world)
    [event] = broken(world)
    assert event.given_up is (event.cause == "requeued")
    assert world.state.promises.given == {}


@pytest.mark.parametrize(
    "more",
    [
        {"array": ArraySpec((0, 1))},
        {"held": True},
        {"depends_on": (Dependency("x"),)},
    ],
)
def test_what_is_promised_nothing_is_refused_unless_it_asks_for_none(more):
    spec = JobSpec(command=("true",), deadline_at=1_800_000_000_000_000, **more)
    assert any(one.not_built for one in check(spec))
    assert not any(one.not_built for one in check(replace(spec, deadline_policy="best-effort")))


def test_under_a_quota_nothing_is_promised():
    world = site()
    world.apply("kind: Quota\nname: q\nspec: {scope: {project: p}, max: {cpus: 4}}\n")
    with pytest.raises(NotBuilt, match="Quota"):
        submit(world, by_h=3, options=HALF)


def test_a_state_read_from_its_image_or_its_log_keeps_the_places_and_the_money():
    world = site()
    world.apply(budget(10**15))
    submit(world, by_h=3, begin_after=world.engine.now() + HOUR_US)
    again = image.decode(image.encode(world.state, world.engine.now()))
    assert again.promises.on_node == world.state.promises.on_node
    assert again.budgets.promised == world.state.budgets.promised
    assert again.snapshot().promises == world.state.snapshot().promises
    world.writer.flush()
    assert world.killed().state.snapshot().promises == world.state.snapshot().promises


def test_the_cheapest_alternative_that_meets_it_is_promised_and_waited_for():
    world = site()
    big, small = WHOLE[0], HALF[0]
    other = world.submit(options=HALF, time_limit_us=HOUR_US)
    told(world)
    assert other.state is JobState.RUNNING
    mine = submit(world, by_h=9, options=(big, small))
    assert promised(world)[-1].option == 1
    told(world)
    assert mine.attempts[0].option == 1


def test_a_deadline_that_has_passed_is_bad_input_and_no_lack_of_room():
    world = site()
    with pytest.raises(InvalidRequest, match="is in the past"):
        submit(world, by_h=-1)


def test_the_deadline_that_a_refusal_names_is_promised_when_it_is_asked_for_at_once():
    world = site()
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=0.5)  # there is room now, but not time enough
    facts = caught.value.facts
    named = parse_instant(facts["earliest_deadline"])
    assert "starts_at" in facts
    world.clock.advance(30 * SECOND_US)  # who reads it has a moment to ask for it
    submit(world, by_h=(named - world.engine.now()) / HOUR_US)
    assert promised(world)[-1].by == named


def test_what_is_past_its_limit_and_has_not_told_its_end_has_not_ended():
    """Its devices are asked for: they are not free by now, whatever its limit was."""
    gpu = (ResourceRequest(GpuRequest(1), 1000, 1 << 20),)
    world = World()
    world.backend.connect(replace(FACTS, devices=(Device(0, "g-0", "H100", 80 << 30),)))
    world.submit(options=gpu, time_limit_us=HOUR_US)
    told(world)
    world.clock.advance(2 * HOUR_US)
    with pytest.raises(DeadlineRefused) as refused:
        submit(world, 0.5, options=gpu)
    assert "the first place for it is there from" in refused.value.message
    assert submit(world, 1.1, options=gpu).promise is not None


def test_no_way_in_leads_past_the_bounds(monkeypatch):
    monkeypatch.setattr(promising, "_NO_RULES", PriorityPolicySpec(promise_user_max=2))
    world = site("n-1", "n-2", "n-3")
    first = submit(world, by_h=9)
    world.engine.commit(jobs.hold(world.state, first), "ann")
    world.writer.flush()
    second, _ = submit(world, by_h=9), submit(world, by_h=9)
    with pytest.raises(RateLimited):
        submit(world, by_h=9)
    now = world.engine.now()
    with pytest.raises(RateLimited):  # released
        Promising(world.state).for_changed(first, first.spec, now)
    plain = world.submit(options=WHOLE, time_limit_us=HOUR_US, user="ann")
    with pytest.raises(RateLimited):  # updated
        Promising(world.state).for_changed(plain, replace(plain.spec, deadline_at=now + 9 * HOUR_US), now)
    assert Promising(world.state).for_changed(second, second.spec, now)  # it has one
    submit(world, by_h=9, user="bob")


def test_a_place_is_at_most_thirty_days_ahead_however_late_the_deadline_is():
    world = site()
    now = world.engine.now()
    submit(world, by_h=24 * 365 * 70)
    assert promised(world)[-1].start == now + PROMISE_HORIZON_US
    with pytest.raises(DeadlineRefused, match="at most 30 days ahead"):
        submit(world, by_h=24 * 90, begin_after=now + 31 * 24 * HOUR_US)


def test_a_place_begins_in_the_period_of_the_budget_that_pays_for_it():
    world = site()
    world.apply(budget(10**15).replace("one-time", "month"))
    submit(world, by_h=24 * 365)
    record = world.state.budgets.records["cap"]
    assert promised(world)[-1].start == min(record.period_end - 1, world.engine.now() + PROMISE_HORIZON_US)
    assert promised(world)[-1].start < record.period_end


def test_nodes_are_not_reserved_over_a_place_unless_that_is_said():
    world = site()
    mine = submit(world, by_h=3, begin_after=world.engine.now() + HOUR_US)
    now = world.engine.now()
    spec = ReservationSpec(("n-1",), now + HOUR_US, now + 9 * HOUR_US, users=("bob",))
    with pytest.raises(WrongState, match=f"promised their deadlines: {mine.display}"):
        resolved(world.state, "r", spec, "r", now)
    assert resolved(world.state, "r", replace(spec, running="leave"), "r", now)
    assert resolved(world.state, "r", replace(spec, users=("ann",)), "r", now)  # it may use them
    assert resolved(world.state, "r", replace(spec, starts_at=now + 4 * HOUR_US), "r", now)
