"""What preemption may never do, whatever runs and waits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.money import cumulative
from bursar_policies.decision import Holder, MemberColumns, Snapshot, Start, Stop
from bursar_policies.specs import PriorityPolicySpec
from bursard.scheduler import PlanCache, plan
from bursard.scheduler.testing import (
    Node,
    columns,
    job_class,
    occupy,
    queue,
    records,
    request,
    snapshot,
    vacate,
)

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
GAP, RESTART_US, HEAD_HOURS = 20, HOUR_US // 10, 9
USD = 10**9
RULES = PriorityPolicySpec(preempt_gap=GAP, restart_us=RESTART_US)


@st.composite
def sites(draw: st.DrawFn) -> Snapshot:
    """A cluster that plans have filled, and one more job of any priority."""
    machines = [
        Node(
            name=f"n{row}",
            gpus=draw(st.integers(1, 4)),
            cpu_milli=draw(st.sampled_from([4_000, 8_000])),
            rates=draw(st.sampled_from([(4 * USD, USD, USD), (USD, USD, 0), (3, 0, 0), None])),
            ready=draw(st.sampled_from([True] * 6 + [False])),
        )
        for row in range(draw(st.integers(1, 5)))
    ]
    nodes = columns(machines)
    fills = st.builds(request, gpus=st.sampled_from([0, 0.5, 1, 2]), cpus=st.sampled_from([0.5, 1, 3]))
    wanted = st.builds(job_class, fills, nodes=st.sampled_from([1, 1, 2]))
    filling = [
        queue(one, *((100 * row + n, f"r{row}.{n}") for n in range(12)))
        for row, one in enumerate(draw(st.lists(wanted, min_size=2, max_size=5)))
    ]
    running, holders = [], {}
    for start in plan(snapshot(nodes, *filling), NOW).starts:
        members = occupy(nodes, start, NOW + draw(st.sampled_from([1, 5, 40])) * HOUR_US)
        running += [replace(member, attempt_id=start.job_id) for member in members]
        rates = [member.rates.total for member in start.members]
        priced = all(int(nodes.rate[member.node]) >= 0 for member in start.members)
        holders[start.job_id] = Holder(
            priority=draw(st.sampled_from([10, 30, 50])),
            rate=sum(rates) if priced else -1,
            unsaved_since=draw(st.sampled_from([0, NOW - HOUR_US, NOW - 5 * HOUR_US])),
            stopping=draw(st.sampled_from([False] * 5 + [True])),
            exempt=draw(st.sampled_from([False] * 5 + [True])),
        )
    asks = request(draw(st.sampled_from([1, 1, 2, 3])), cpus=draw(st.sampled_from([1, 4, 8])))
    asked = job_class(asks, hours=HEAD_HOURS, nodes=draw(st.sampled_from([1, 1, 2, 3])))
    head = queue(asked, (1_000, "head"), priority=draw(st.sampled_from([50, 70, 90, 90, 90])))
    return replace(snapshot(nodes, head, running=running), priority=RULES, holders=holders)


@settings(max_examples=150, deadline=None)
@given(sites())
def test_what_is_stopped_is_needed_enough_lower_and_worth_it(world):
    answer = plan(world, NOW)
    assert answer == plan(world, NOW, PlanCache())
    stops = [action for action in answer.actions if isinstance(action, Stop)]
    if not stops:
        return
    (waits,) = world.queues
    lost = 0
    for stop in stops:
        holder = world.holders[stop.attempt_id]
        assert stop.for_job == "head"
        assert not holder.exempt
        assert not holder.stopping
        assert holder.rate >= 0
        assert holder.priority + GAP <= waits.priority
        worked_us = NOW - holder.unsaved_since if holder.unsaved_since else 0
        lost += cumulative(holder.rate, worked_us + RESTART_US)
    assert len({stop.attempt_id for stop in stops}) == len(stops)
    victims = {stop.attempt_id for stop in stops}
    ending = {name for name, one in world.holders.items() if one.stopping}
    start = after(world, victims | ending)
    assert start is not None, "it starts once they are gone"
    rate = sum(member.rates.total for member in start.members)
    assert lost < cumulative(rate, HEAD_HOURS * HOUR_US), "it gains for no longer than it runs"
    assert after(world, ending) is None, "without them it does not"


def after(world: Snapshot, gone: set[str]) -> Start | None:
    """The start of the head once these attempts have ended whole."""
    nodes = replace(
        world.nodes,
        cpu_free=world.nodes.cpu_free.copy(),
        memory_free=world.nodes.memory_free.copy(),
        gpu_free=world.nodes.gpu_free.copy(),
    )
    rest = []
    for member in records(world.running):
        if member.attempt_id in gone:
            vacate(nodes, member)
        else:
            rest.append(member)
    later = replace(world, nodes=nodes, running=MemberColumns.of(rest), holders={}, priority=None)
    return next(iter(plan(later, NOW).starts), None)
