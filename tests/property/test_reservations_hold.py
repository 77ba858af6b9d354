"""What reservations of nodes promise, whatever runs and waits: a window is empty of others when it begins,
and nobody waits for it who would end before.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import HOUR_US, NOW, classes, clusters, worlds
from tests.property.test_foreseen_starts import played
from tests.property.test_planners_agree import agree, many_limits, ranked
from tests.property.test_scheduler_invariants import contended, floods

from bursar.clock import parse_duration
from bursar.model import ReasonCode
from bursar_policies.decision import NodeColumns, Plan, Snapshot
from bursar_policies.specs import ReservationSpec
from bursard.scheduler import PlanCache, plan, quiet, reason_of
from bursard.scheduler.foresee import start_at
from bursard.scheduler.saved import plan_bytes
from bursard.scheduler.testing import columns, occupy, queue, snapshot, vacate

NAMES = ("r1", "r2", "r3")
QUARTER_US = HOUR_US // 4


@st.composite
def windows(draw: st.DrawFn, nodes: NodeColumns) -> dict[str, ReservationSpec]:
    """Up to three reservations, over, in force or to come, that may meet."""
    found = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3)):
        some = draw(st.lists(st.sampled_from(nodes.names), unique=True, min_size=1))
        starts_at = NOW + draw(st.integers(-8, 16)) * QUARTER_US
        ends_at = starts_at + draw(st.integers(1, 20)) * QUARTER_US
        found[name] = ReservationSpec(tuple(sorted(some)), starts_at, ends_at, projects=("p",))
    return dict(sorted(found.items()))


@st.composite
def reserved(draw: st.DrawFn, others: bool = True) -> Snapshot:
    """Any world in which nodes are reserved, for some of what waits."""
    world = draw(st.one_of(worlds(), many_limits(), contended(), floods(), *([ranked()] if others else [])))
    queues = []
    for lane in world.queues:
        mine = draw(st.sampled_from([(), (), (), ("r1",), ("r1", "r3"), ("gone",)]))
        queues.append(replace(lane, job_class=replace(lane.job_class, reservations=mine)))
    return replace(world, queues=tuple(queues), reservations=draw(windows(world.nodes)))


def holds(world: Snapshot, made: Plan, at: int) -> None:
    for start in made.starts:
        lane = world.queues[start.queue]
        ends_at = at + lane.class_at(lane.position_of(start.job_id)).hold_us
        here = {world.nodes.names[member.node] for member in start.members}
        for name, one in world.reservations.items():
            apart = one.ends_at <= at or ends_at <= one.starts_at or here.isdisjoint(one.nodes)
            assert apart or name in lane.job_class.reservations, f"{start.job_id} may meet {name}"


@settings(max_examples=300, deadline=None)
@given(reserved())
def test_nothing_is_put_where_it_may_meet_a_reservation_of_others(world):
    holds(world, plan(world, NOW), NOW)


@settings(max_examples=400, deadline=None)
@given(reserved(others=False))
def test_the_planner_starts_what_the_reference_starts_beside_reservations(world):
    agree(world, plan(world, NOW))


@settings(max_examples=200, deadline=None)
@given(reserved())
def test_which_queues_are_passed_over_changes_no_byte_of_a_plan_with_reservations(world):
    made = []
    for few in (0, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quiet, "FEW", few)
            made.append(plan_bytes(plan(world, NOW)))
    assert made[0] == made[1]


@settings(max_examples=200, deadline=None)
@given(reserved(), st.booleans())
def test_reservations_that_are_over_or_far_change_nothing(world, over):
    """Of one that is over, and of one that begins when everything has ended."""
    apart = -100 * HOUR_US if over else 10_000 * HOUR_US
    moved = {
        name: replace(one, starts_at=one.starts_at + apart, ends_at=one.ends_at + apart)
        for name, one in world.reservations.items()
    }
    without = replace(world, reservations={})
    assert plan_bytes(plan(replace(world, reservations=moved), NOW)) == plan_bytes(plan(without, NOW))


@settings(max_examples=200, deadline=None)
@given(reserved())
def test_what_waits_for_a_reservation_alone_starts_once_it_is_gone(world):
    """Whoever is told so by name starts when no node is reserved, and what stands before it is not there."""
    made = plan(world, NOW)
    for index in made.verdicts:
        why = reason_of(world, made, index)
        facts = dict(why.facts)
        if why.code is not ReasonCode.RESERVED_FOR_OTHER or "reservation" not in facts:
            continue
        one = world.reservations[facts["reservation"]]
        assert one.ends_at > NOW
        assert facts["reservation"] not in world.queues[index].job_class.reservations
        spare_us = int(facts["spare_us"])
        assert (spare_us > 0) <= (one.starts_at > NOW)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.lists(reserved(), min_size=2, max_size=4))
def test_a_cache_that_has_seen_other_reservations_agrees_too(nodes, rounds):
    kept, cache, running = columns(nodes), PlanCache(), []
    for number, other in enumerate(rounds):
        here = {
            name: replace(one, nodes=tuple(n for n in one.nodes if n in kept.names))
            for name, one in other.reservations.items()
        }
        world = snapshot(kept, *other.queues, running=running, facts_version=1)
        world = replace(world, budgets=other.budgets, reservations=here if number % 3 else {})
        answer = plan(world, NOW + number, cache)
        assert plan_bytes(answer) == plan_bytes(plan(world, NOW + number))
        holds(world, answer, NOW + number)
        for start in answer.starts[number % 2 :]:
            running += occupy(kept, start, NOW + HOUR_US)
        for member in running[: number % 3]:
            vacate(kept, member)
        running = running[number % 3 :]


@settings(max_examples=200, deadline=None)
@given(clusters(), classes(money=False), st.data())
def test_the_time_limit_that_a_reason_names_starts_the_job_at_once(nodes, wanted, data):
    kept = columns(nodes)
    alone = queue(wanted, (1, "j1"))
    world = replace(snapshot(kept, alone), reservations=data.draw(windows(kept)))
    made = plan(world, NOW)
    if made.starts:
        return
    why = reason_of(world, made, 0)
    match = re.match(r"set --time-limit (\S+) or less", why.remedy)
    if why.code is not ReasonCode.RESERVED_FOR_OTHER or match is None:
        return
    shorter = wanted.limited(parse_duration(match.group(1)))
    changed = replace(world, queues=(queue(shorter, (1, "j1")),))
    assert plan(changed, NOW).starts, why.message


@settings(max_examples=200, deadline=None)
@given(worlds(money=False), st.data())
def test_a_job_is_told_the_instant_at_which_it_starts_beside_reservations(world, data):
    world = replace(world, reservations=data.draw(windows(world.nodes)))
    asked = data.draw(st.sampled_from([job_id for lane in world.queues for _, job_id in lane.jobs]))
    assert start_at(world, asked, NOW) == played(world, asked)
