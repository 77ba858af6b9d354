"""When a job will start is what happens if everything takes its whole limit and nothing comes in between."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import HOUR_US, NOW, USD, clusters, fresh, queues, worlds

from bursar_policies.decision import BudgetRoom, MemberColumns, Snapshot
from bursard.scheduler import plan
from bursard.scheduler.foresee import start_at
from bursard.scheduler.testing import columns, occupy, only, records, snapshot, vacate


def played(world: Snapshot, job_id: str) -> int:
    """Plan at each end of anything, one after another, until the job starts; 0 when it never does."""
    nodes, at = fresh(world.nodes), NOW
    running, waiting, budgets = records(world.running), list(world.queues), dict(world.budgets)
    while True:
        now = replace(
            world,
            nodes=fresh(nodes),
            queues=tuple(waiting),
            running=MemberColumns.of(running),
            budgets=budgets,
        )
        starts = plan(now, at).starts
        for start in starts:
            if start.job_id == job_id:
                return at
            lane = waiting[start.queue]
            limit_us = lane.class_at(lane.position_of(start.job_id)).time_limit_us
            assert start.time_limit_us <= limit_us
            running += occupy(nodes, start, at + start.time_limit_us + lane.job_class.hold_us)
            for name in start.budgets:
                room = budgets[name]
                budgets[name] = replace(room, held_nanos=room.held_nanos + start.hold_nanos)
            waiting[start.queue] = only(lane, lambda one, gone=start.job_id: one != gone)
        over = [one.ends_at for one in world.reservations.values() if one.ends_at > at]
        ends = [one.ends_at for one in running] + over
        if not ends:
            return 0
        at = max(min(ends), at + 1)
        for one in [one for one in running if one.ends_at <= at]:
            vacate(nodes, one)
            running.remove(one)


@given(worlds(), st.randoms(use_true_random=False))
def test_a_job_is_told_the_instant_at_which_it_starts(world: Snapshot, random) -> None:
    waiting = [job_id for lane in world.queues for _, job_id in lane.jobs]
    asked = random.choice(waiting)
    assert start_at(world, asked, NOW) == played(world, asked)


@given(clusters(), queues(money=False), st.integers(0, 3))
def test_of_an_empty_site_it_is_now_or_after_those_that_go_first(nodes, lanes, hours) -> None:
    world = snapshot(columns(nodes), *lanes)
    first = plan(world, NOW).starts
    for start in first[:2]:
        assert start_at(world, start.job_id, NOW) == NOW
    late = NOW + hours * HOUR_US
    assert [one.job_id for one in plan(world, late).starts] == [one.job_id for one in first]


def test_where_money_is_gone_nobody_knows() -> None:
    from bursard.scheduler.testing import Node, job_class, queue, request

    nodes = columns([Node(name="a", gpus=1, rates=(USD, 0, 0))])
    whole = job_class(request(1), budgets=("b",))
    room = BudgetRoom("b", 2 * USD, 0, 0, "USD")
    world = snapshot(nodes, queue(whole, (1, "first"), (2, "second")), budgets=[room])
    overhead_us = whole.hold_us - whole.time_limit_us
    assert start_at(world, "first", NOW) == NOW
    assert start_at(world, "second", NOW) == 0, "2 USD do not pay for two hours with their margins"
    more = replace(room, limit_nanos=3 * USD)
    world = replace(world, budgets={"b": more})
    assert start_at(world, "second", NOW) == NOW + HOUR_US + overhead_us
    assert np.array_equal(world.nodes.gpu_free, nodes.gpu_free), "the world that was asked about is as it was"
