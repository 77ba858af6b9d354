"""What a plan remembers of its looks beside promises changes nothing: it makes the plan that looks at all."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import NOW, USD, clusters
from slow_openings import Future as SlowFuture
from tests.property.test_openings_agree import QUARTER_US, kept, sites

from bursar.model import DeviceShare
from bursar.model.allocation import FREE
from bursar.resources import MILLI
from bursar_policies.decision import (
    BudgetRoom,
    JobColumns,
    PendingQueue,
    Placement,
    Plan,
    Promised,
    Snapshot,
)
from bursard.scheduler import PlanCache, plan
from bursard.scheduler.backfill import has_room
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.dearer import Reach
from bursard.scheduler.plan import Planner
from bursard.scheduler.promises import Guard
from bursard.scheduler.releases import NEVER, Releases
from bursard.scheduler.testing import Node, columns, job_class, request, snapshot


@st.composite
def promised_queues(draw: st.DrawFn) -> Snapshot:
    """Few classes, of which each job has a time limit of its own, and most a place to come."""
    some = draw(clusters())
    some += [Node(name=f"d{one}", gpus=2, rates=(0, 0, one * USD)) for one in range(1, 4)]
    nodes = columns(some)
    queues, promises, order = list[PendingQueue](), list[Promised](), 0
    for index in range(draw(st.integers(1, 3))):
        gpus = draw(st.sampled_from([1, 1, 2]))
        wanted = job_class(
            request(gpus=gpus, cpus=0.5),
            nodes=draw(st.sampled_from([1, 1, 1, 2])),
            budgets=draw(st.sampled_from([(), (), ("x",)])),
        )
        rows = []
        for _ in range(draw(st.integers(1, 12))):
            order += 1
            limit_us = draw(st.integers(1, 20)) * QUARTER_US
            rows.append((order, f"j{order}", limit_us))
            if draw(st.integers(0, 4)) == 0:
                continue
            start = NOW + draw(st.integers(-1, 16)) * QUARTER_US
            on = draw(st.lists(st.integers(0, len(some) - 1), min_size=1, max_size=2, unique=True))
            shares = tuple(DeviceShare(device, MILLI) for device in range(gpus))
            members = tuple(
                Placement(row, shares if some[row].gpus >= gpus else (), 500, 0, FREE) for row in on
            )
            rate = draw(st.sampled_from([-1, 0, USD, 2 * USD]))
            until = start + limit_us
            promises.append(
                Promised(f"j{order}", index, until, start, until, 0, members, rate, 0, wanted.budgets)
            )
        queues.append(
            PendingQueue(wanted.without_limit(), draw(st.sampled_from([25, 50])), JobColumns.of(rows))
        )
    world = snapshot(nodes, *queues, budgets=[BudgetRoom("x", draw(st.integers(0, 40 * USD)), 0, 0, "USD")])
    others = draw(kept(world)) if draw(st.booleans()) else ()
    return replace(world, promises=(*promises, *others))


def looks_at_all(world: Snapshot) -> Plan:
    """Nothing is known before a look, and a job stops those alone that hold for as long."""
    nothing, never = mock.Mock(return_value=None), mock.Mock(return_value=NEVER)
    with mock.patch.object(Planner, "_foreknown", nothing), mock.patch.object(Reach, "until", never):
        return plan(world, NOW)


@settings(max_examples=250, deadline=None)
@given(promised_queues())
def test_a_plan_that_knows_places_starts_what_one_does_that_looks_at_all(world: Snapshot) -> None:
    knows, looks = plan(world, NOW), looks_at_all(world)
    assert knows.groups == looks.groups
    assert knows.reserved_job == looks.reserved_job
    assert knows.verdicts.keys() == looks.verdicts.keys()
    for index, verdict in knows.verdicts.items():
        queue = world.queues[index]
        for position in {verdict.position, looks.verdicts[index].position}:
            hold_us = queue.class_at(position).hold_us
            assert verdict.of(hold_us).blocked_by == looks.verdicts[index].of(hold_us).blocked_by


@settings(max_examples=100, deadline=None)
@given(sites(), st.integers(1, 3), st.integers(0, 24), st.data())
def test_what_is_known_is_what_a_look_at_each_node_finds(site, nodes, hold, data):
    snapshot, promises = site
    if snapshot.reservations:
        snapshot = replace(snapshot, reservations={})
    until = NOW + hold * QUARTER_US + 1
    with PlanCache().world(snapshot) as world:
        releases = Releases(snapshot.running, world.free)
        guard = Guard(world, promises, lambda: releases, NOW)
        for queue in snapshot.queues:
            for ask in asks_of(queue.class_at(0)):
                table = world.table(ask)
                one = data.draw(st.sampled_from([None, *promises]))
                mine = [] if one is None else guard.own_room(table, one, until)
                future = SlowFuture(world, releases, promises, NOW)
                beside = future if one is None else SlowFuture(world, releases, promises, NOW, but=one.job_id)
                own = set() if one is None else {member.node for member in one.members}
                rows = [
                    row
                    for row in range(world.count)
                    if table.usable[row]
                    and has_room((beside if row in own else future).least(row, NOW, until), table.request)
                ]
                rates = sorted((rate < 0, rate) for rate in table.rates[rows].tolist())[:nodes]
                wanted = -1 if any(unknown for unknown, _ in rates) else sum(rate for _, rate in rates)
                found = guard.reach(table).rate(nodes, until, mine)
                assert found == (wanted if len(rates) == nodes else None)
                if one is None:
                    assert (guard.reach(table).until(nodes) >= until) is (len(rows) >= nodes)


def test_an_unknown_price_is_the_dearest() -> None:
    reach = Reach(np.array([4, 5, 6]), np.array([-1, 30, 10]), np.array([NEVER, NOW + 9, NOW + 5]))
    assert [reach.rate(1, NOW + after) for after in (5, 6, 9, 10)] == [10, 30, 30, -1]
    assert [reach.rate(2, NOW + after) for after in (5, 6, 10)] == [40, -1, None]
    assert reach.rate(2, NOW + 9, own=(6,)) == 40
    assert [reach.until(nodes) for nodes in (1, 2, 3, 4)] == [NEVER, NOW + 9, NOW + 5, 0]
    reach.leave(np.array([6, 7]))
    assert [reach.rate(1, NOW + after) for after in (5, 9, 10)] == [30, 30, -1]
    assert [reach.until(nodes) for nodes in (1, 2, 3)] == [NEVER, NOW + 9, 0]
