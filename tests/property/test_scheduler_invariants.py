"""What no plan may ever do, on random clusters and queues."""

from __future__ import annotations

import heapq
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import (
    HOUR_US,
    NOW,
    TYPICAL,
    USD,
    clusters,
    fresh,
    queues,
    worlds,
)

from bursar_policies.decision import (
    BudgetRoom,
    MemberColumns,
    NodeColumns,
    PendingQueue,
    Plan,
    RunningMember,
    Snapshot,
)
from bursard.scheduler import PlanCache, plan, reason_of, table
from bursard.scheduler.testing import (
    Node,
    columns,
    job_class,
    occupy,
    only,
    queue,
    records,
    request,
    snapshot,
    vacate,
)


def encoded(answer: Plan) -> bytes:
    return msgspec.msgpack.encode(answer)


@given(worlds())
def test_nothing_is_ever_oversubscribed(world):
    nodes = fresh(world.nodes)
    for start in plan(world, NOW).starts:
        occupy(nodes, start, 0)
        assert nodes.cpu_free.min() >= 0
        assert nodes.memory_free.min() >= 0
        for row, total in enumerate(nodes.gpu_total.tolist()):
            assert (nodes.gpu_free[row, :total] >= 0).all()
            assert (nodes.gpu_free[row, total:] == -1).all()


@given(worlds())
def test_gangs_are_whole_on_distinct_nodes_and_get_what_they_ask(world):
    by_job = {job: q.job_class for q in world.queues for _, job in q.jobs}
    starts = plan(world, NOW).starts
    assert len({start.job_id for start in starts}) == len(starts)
    for start in starts:
        wanted = by_job[start.job_id]
        option = wanted.options[start.option]
        rows = {member.node for member in start.members}
        assert len(rows) == len(start.members)
        assert wanted.nodes <= len(rows) <= max(wanted.max_nodes, wanted.nodes)
        for member in start.members:
            assert world.nodes.ready[member.node]
            assert (member.cpu_milli, member.memory_bytes) == (option.cpu_milli, option.memory_bytes)
            gpus = option.gpus
            held = [(share.index, share.milli) for share in member.devices]
            assert len({index for index, _ in held}) == (gpus.count if gpus else 0)
            assert {milli for _, milli in held} <= ({gpus.milli} if gpus else set())


@st.composite
def floods(draw: st.DrawFn) -> Snapshot:
    """Room on the nodes for all, money for some."""
    nodes = columns(
        [Node(name=f"n{i}", gpus=4, rates=(draw(st.integers(1, 8)) * USD, 0, 0)) for i in range(3)]
    )
    found = []
    for number in range(draw(st.integers(2, 4))):
        budgets = draw(st.sampled_from([("x",), ("y",), ("x", "y")]))
        hours = draw(st.sampled_from([0.5, 1, 2]))
        wanted = job_class(request(draw(st.sampled_from([0.5, 1]))), hours=hours, budgets=budgets)
        found.append(queue(wanted, (number, f"a{number}"), (number + 10, f"b{number}")))
    limits = st.integers(USD // 2, 4 * USD)
    return snapshot(nodes, *found, budgets=[BudgetRoom(n, draw(limits), 0, 0, "USD") for n in "xy"])


@given(st.one_of(worlds(), floods()))
def test_holds_of_one_plan_never_pass_a_room_or_a_cap(world):
    by_job = {job: q.job_class for q in world.queues for _, job in q.jobs}
    promised: Counter[str] = Counter()
    for start in plan(world, NOW).starts:
        wanted = by_job[start.job_id]
        assert start.budgets == wanted.budgets
        rate = sum(member.rates.total for member in start.members)
        assert start.time_limit_us >= 1_000_000
        if wanted.max_cost_nanos:
            assert start.hold_nanos <= wanted.max_cost_nanos
        if wanted.max_price_nanos_per_hour:
            assert rate <= wanted.max_price_nanos_per_hour
        if wanted.budgets:
            assert all(world.nodes.rate[member.node] >= 0 for member in start.members)
        for budget in wanted.budgets:
            promised[budget] += start.hold_nanos
    for budget, nanos in promised.items():
        assert nanos <= world.budgets[budget].room_nanos


@given(worlds())
def test_every_queue_that_stops_has_one_reason_with_a_remedy(world):
    answer = plan(world, NOW)
    started = {start.job_id for start in answer.starts}
    for index, waiting in enumerate(world.queues):
        left = [job for _, job in waiting.jobs if job not in started]
        assert (index in answer.verdicts) == bool(left)
        if left:
            reason = reason_of(world, answer, index)
            assert reason.code.value
            assert reason.message
            assert reason.remedy


@given(worlds())
def test_jobs_of_one_queue_start_in_order(world):
    started = [start.job_id for start in plan(world, NOW).starts]
    for waiting in world.queues:
        names = [job for _, job in waiting.jobs]
        mine = [job for job in started if job in names]
        assert mine == names[: len(mine)]


@given(worlds())
def test_same_input_gives_the_same_bytes_and_leaves_it_alone(world):
    before = fresh(world.nodes)
    first = encoded(plan(world, NOW))
    assert encoded(plan(world, NOW)) == first
    assert (before.gpu_free == world.nodes.gpu_free).all()


@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_registration_decides_nothing(world, random):
    """Names break all ties, so permuting the rows moves no job to another node."""
    nodes = world.nodes
    order = list(range(len(nodes.ids)))
    random.shuffle(order)
    moved = {}
    for field in NodeColumns.__struct_fields__:
        column = getattr(nodes, field)
        if field == "gpu_types":
            moved[field] = column
        elif isinstance(column, np.ndarray):
            moved[field] = column[order]
        else:
            moved[field] = [column[i] for i in order]
    place = {old: new for new, old in enumerate(order)}
    rows = np.array([place[row] for row in world.running.node.tolist()], dtype=np.int64)
    running = replace(world.running, node=rows)
    other = replace(world, nodes=NodeColumns(**moved), running=running)

    def named(answer: Plan, shot: Snapshot) -> list[object]:
        names = shot.nodes.names
        return [
            (s.job_id, s.option, s.hold_nanos, [(names[m.node], m.devices) for m in s.members])
            for s in answer.starts
        ]

    assert named(plan(world, NOW), world) == named(plan(other, NOW), other)


@settings(max_examples=50)
@given(clusters(), st.lists(queues(money=False, most=3), min_size=2, max_size=5), TYPICAL)
def test_cache_never_changes_an_answer(nodes, rounds, typical):
    """Plans in a row, with starts and ends between them, cached and not."""
    kept, cache = columns(nodes), PlanCache()
    running: list[RunningMember] = []
    for number, waiting in enumerate(rounds):
        world = snapshot(kept, *waiting, running=running, typical=typical, facts_version=1)
        cached = plan(world, NOW, cache)
        assert encoded(cached) == encoded(plan(replace(world, facts_version=0), NOW))
        for start in cached.starts[number % 2 :]:
            running += occupy(kept, start, NOW + HOUR_US)
        for member in running[: number % 3]:
            vacate(kept, member)
        running = running[number % 3 :]


@given(worlds(money=False))
def test_an_empty_cluster_never_idles_while_a_fitting_job_waits(world):
    nodes = replace(
        world.nodes,
        cpu_free=world.nodes.cpu_total.copy(),
        memory_free=world.nodes.memory_total.copy(),
        gpu_free=np.where(world.nodes.gpu_free >= 0, 1000, -1).astype(np.int16),
    )
    world = replace(world, nodes=nodes, running=MemberColumns.of(()))
    answer = plan(world, NOW)
    if not answer.starts:
        for index in range(len(world.queues)):
            reason = reason_of(world, answer, index)
            assert reason.code in ("ExceedsNodeCapacity", "Misconfigured") or "not ready" in reason.message


def start_of(head: str, world: Snapshot, waiting: list[PendingQueue]) -> int | None:
    """Play it out: every attempt runs for its whole hold. When does `head` start?"""
    nodes, clock = fresh(world.nodes), NOW
    running = [(member.ends_at, i, member) for i, member in enumerate(records(world.running))]
    heapq.heapify(running)
    hold = {job: q.class_at(i).hold_us for q in waiting for i, (_, job) in enumerate(q.jobs)}
    count = len(running)
    while True:
        shot = replace(
            world, nodes=nodes, queues=waiting, running=MemberColumns.of([m for _, _, m in running])
        )
        started = set()
        for start in plan(shot, clock).starts:
            if start.job_id == head:
                return clock
            started.add(start.job_id)
            for member in occupy(nodes, start, clock + hold[start.job_id]):
                count += 1
                heapq.heappush(running, (member.ends_at, count, member))
        waiting = [only(q, lambda job, gone=started: job not in gone) for q in waiting]
        if not running:
            return None
        clock = running[0][0]
        while running and running[0][0] == clock:
            vacate(nodes, heapq.heappop(running)[2])


@st.composite
def contended(draw: st.DrawFn) -> Snapshot:
    """Few alike nodes, nearly full; a large job first, many small ones of all lengths behind it."""
    count = draw(st.sampled_from([1, 1, 2, 3]))
    nodes = columns([Node(name=f"n{i}", gpus=4, cpu_milli=8_000) for i in range(count)])
    running: list[RunningMember] = []
    sizes = st.sampled_from([0.5, 1, 1, 2])
    for i in range(draw(st.integers(1, 2 * count))):
        wanted = request(draw(sizes), cpus=draw(st.sampled_from([1, 4])))
        busy = plan(snapshot(nodes, queue(job_class(wanted), (0, f"r{i}"))), NOW)
        for start in busy.starts:
            running += occupy(nodes, start, NOW + draw(st.integers(1, 6)) * HOUR_US // 2)
    head = request(draw(st.sampled_from([0, 2, 3, 4])), cpus=draw(st.sampled_from([0.5, 5, 7])))
    found = [queue(job_class(head, nodes=draw(st.integers(1, count))), (1, "h"))]
    for order in range(2, draw(st.integers(4, 10))):
        hours = draw(st.sampled_from([0.2, 0.9, 2, 5, 5, 5]))
        wanted = job_class(request(draw(sizes), cpus=draw(st.sampled_from([0.5, 1, 2]))), hours=hours)
        found.append(queue(wanted, (order, f"j{order}")))
    return snapshot(nodes, *found, running=running)


@settings(max_examples=500, deadline=None)
@given(st.one_of(contended(), contended(), worlds(money=False)))
def test_backfill_never_delays_the_reserved_head(world):
    """Against the same world in which nobody stands behind the head."""
    answer = plan(world, NOW)
    head = answer.reserved_job
    if not head:
        return
    started = {start.job_id for start in answer.starts}
    orders = {job: (-q.priority, order) for q in world.queues for order, job in q.jobs}
    ahead = [
        only(q, lambda job: orders[job] <= orders[head] and (job in started or job == head))
        for q in world.queues
    ]
    alone = start_of(head, world, ahead)
    if alone is None:
        return
    before_head = [job for job in started if orders[job] < orders[head]]
    everyone = [only(q, lambda job: orders[job] >= orders[head] or job in before_head) for q in world.queues]
    together = start_of(head, world, everyone)
    assert together is not None
    assert together <= alone
    if answer.reserved_at:
        assert together <= answer.reserved_at


@given(st.one_of(worlds(), contended()))
def test_plain_and_vector_forms_and_those_of_few_and_many_nodes_agree(world):
    found = []
    for one_by_one, few in ((0, 0), (10**9, 0), (0, 2), (0, 10**9)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "ONE_BY_ONE_MAX", one_by_one)
            patch.setattr(table, "FEW_MAX", few)
            found.append(encoded(plan(world, NOW)))
    assert found == found[:1] * 4
