"""The planner of the daemon against the one that is obviously right, on anything."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import HOUR_US, NOW, TYPICAL, USD, classes, clusters, worlds
from tests.property.test_scheduler_invariants import contended, floods
from tests.support.reference_planner import Reference, Started

from bursar_policies.decision import BudgetRoom, JobColumns, PendingQueue, Plan, Snapshot
from bursar_policies.specs import FACTORS, PriorityPolicySpec
from bursard.scheduler import PlanCache, packing, plan, quiet, table
from bursard.scheduler.plan import Planner
from bursard.scheduler.saved import plan_bytes
from bursard.scheduler.testing import Node, columns, job_class, occupy, request, snapshot, vacate
from bursard.scheduler.testing import queue as a_queue


def started(answer: Plan) -> list[Started]:
    return [
        Started(
            start.job_id,
            start.option,
            tuple((m.node, tuple((share.index, share.milli) for share in m.devices)) for m in start.members),
            start.time_limit_us,
            start.hold_nanos,
        )
        for start in answer.starts
    ]


def waiting(world: Snapshot, answer: Plan) -> dict[str, str]:
    begun = {start.job_id for start in answer.starts}
    found = {}
    for index, verdict in answer.verdicts.items():
        queue = world.queues[index]
        for position, (_, job_id) in enumerate(queue.jobs):
            if job_id not in begun:
                found[job_id] = verdict.of(queue.class_at(position).hold_us).blocked_by
    return found


@st.composite
def many_limits(draw: st.DrawFn) -> Snapshot:
    """Few classes, of which every job has a time limit of its own, under money that pays for some of them."""
    world = draw(st.one_of(worlds(), contended(), floods()))
    order, found = draw(st.sampled_from([-100, 100])), []
    for wanted in draw(st.lists(classes(), min_size=1, max_size=4)):
        rows = []
        for _ in range(draw(st.integers(1, 6))):
            order += 1
            rows.append((order, f"m{order}", draw(st.integers(1, 5 * 60)) * HOUR_US // 60))
        priority = draw(st.sampled_from([25, 50, 50]))
        found.append(PendingQueue(wanted.without_limit(), priority, JobColumns.of(rows)))
    budgets = dict(world.budgets)
    known = [queue for queue in found if set(queue.job_class.budgets) <= set(budgets)]
    return replace(world, queues=(*known, *world.queues[: draw(st.integers(0, 2))]), budgets=budgets)


FACTOR = st.tuples(st.sampled_from(FACTORS), st.sampled_from([1, 300, 1_000, 5_000]))
RULES = st.builds(
    PriorityPolicySpec,
    weights=st.lists(FACTOR, max_size=4, unique_by=lambda one: one[0]).map(
        lambda found: tuple(sorted(found))
    ),
    max_wait_us=st.sampled_from([0, 0, HOUR_US]),
    short_limit_us=st.sampled_from([HOUR_US // 2, HOUR_US, 3 * HOUR_US]),
    kept_ppm=st.sampled_from([0, 0, 100_000, 250_000, 500_000]),
    age_power=st.integers(1, 4),
    age_full_us=st.sampled_from([HOUR_US, 24 * HOUR_US]),
    shares=st.sampled_from([(), (("p", 3_000),)]),
)


@st.composite
def ranked(draw: st.DrawFn) -> Snapshot:
    """Any world under a PriorityPolicy: jobs of three projects that wait since any time."""
    world, found = draw(st.one_of(many_limits(), contended(), floods())), []
    for queue in world.queues:
        rows = []
        for (order, job_id), limit_us in zip(queue.jobs, queue.jobs.limits_us.tolist(), strict=True):
            since_us = NOW - draw(st.integers(-1, 12)) * HOUR_US // 6
            deadline_us = draw(st.sampled_from([0, NOW - 1, NOW + HOUR_US, NOW + 5 * HOUR_US]))
            rows.append((order, job_id, limit_us, since_us, draw(st.integers(0, 2)), deadline_us))
        found.append(replace(queue, jobs=JobColumns.of(rows)))
    spent = draw(st.dictionaries(st.sampled_from(["p", "q/r", "gone"]), st.integers(0, 9 * USD), max_size=3))
    projects = ("p", "q/r", "q")
    return replace(world, queues=tuple(found), priority=draw(RULES), projects=projects, spent=spent)


def agree(world: Snapshot, answer: Plan) -> None:
    right = Reference(world, NOW)
    assert started(answer) == right.starts
    assert {name: (one.job_id, nanos) for one in answer.purses for name, nanos in one.aside} == right.asides
    told = waiting(world, answer)
    assert set(told) == set(right.waiting)
    if answer.reserved_at:
        assert right.claim is not None
        found = (answer.reserved_job, answer.reserved_at, answer.reserved_nanos)
        assert found == (right.claim.job_id, right.claim.at, right.claim.hold_nanos)
    # A claim that holds nobody back is not worked out, so its money is not set aside: no start differs by it.
    sure = {"room", "fault", "claim", "kept"} if answer.reserved_at or right.claim is None else set()
    holds = {job: q.class_at(at).hold_us for q in world.queues for at, (_, job) in enumerate(q.jobs)}
    for job_id, by in right.waiting.items():
        if told[job_id] == "claim":
            # There may be no room by its turn either: it would outlive the beginning of the claim anyway.
            assert NOW + holds[job_id] > answer.reserved_at, job_id
        elif by in sure and told[job_id] in sure:
            assert told[job_id] == by, job_id


@settings(max_examples=300, deadline=None)
@given(st.one_of(worlds(), many_limits(), many_limits(), contended(), floods()))
def test_the_planner_starts_what_the_reference_starts(world):
    agree(world, plan(world, NOW))


@settings(max_examples=100, deadline=None)
@given(ranked())
def test_the_planner_starts_what_the_reference_starts_under_a_policy(world):
    agree(world, plan(world, NOW))


@settings(max_examples=300, deadline=None)
@given(st.one_of(worlds(), many_limits(), ranked(), contended(), floods()))
def test_which_queues_are_passed_over_changes_no_byte_of_a_plan(world):
    """All that can be, and none."""
    made = []
    for few in (0, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quiet, "FEW", few)
            made.append(plan_bytes(plan(world, NOW)))
    assert made[0] == made[1]


@pytest.mark.parametrize(("limit_nanos", "stopped_by"), [(3 * USD, "room"), (19 * USD // 10, "money")])
def test_a_queue_without_room_is_looked_at_once_its_money_may_not_do(limit_nanos, stopped_by, monkeypatch):
    """The first job takes a bit more than 1 USD of the budget that the second needs as much of. With 3 it is
    passed over; with 1.9 there is enough for it when the plan begins, and too little at its turn.
    """
    monkeypatch.setattr(quiet, "FEW", 0)
    nodes = columns(
        [
            Node(name="a", gpus=1, rates=(USD, 0, 0)),
            Node(name="b", gpus=2, rates=(USD, 0, 0), gpu_type="A100"),
        ]
    )
    nodes.gpu_free[1, 0] = 0
    world = snapshot(
        nodes,
        a_queue(job_class(request(1, types="H100"), budgets=("x",)), (1, "first")),
        a_queue(job_class(request(2), budgets=("x",)), (2, "second")),
        budgets=[BudgetRoom("x", limit_nanos, 0, 0, "USD")],
    )
    looked_at = []
    attempt = Planner.attempt
    monkeypatch.setattr(
        Planner, "attempt", lambda self, lane: (looked_at.append(lane.job_id), attempt(self, lane))[1]
    )
    answer = plan(world, NOW)
    assert [start.job_id for start in answer.starts] == ["first"]
    assert waiting(world, answer) == {"second": stopped_by}
    assert looked_at == (["first"] if stopped_by == "room" else ["first", "second"])


@settings(max_examples=100, deadline=None)
@given(st.one_of(many_limits(), ranked()))
def test_how_jobs_are_grouped_into_queues_changes_nothing(world):
    """Each job in a queue of its own: the same starts, and the same claim."""
    split = [
        PendingQueue(
            queue.job_class, queue.priority, queue.jobs.kept(row == p for row in range(len(queue.jobs)))
        )
        for queue in world.queues
        for p in range(len(queue.jobs))
    ]
    whole, apart = plan(world, NOW), plan(replace(world, queues=tuple(split)), NOW)
    assert started(whole) == started(apart)
    assert (whole.reserved_job, whole.reserved_at) == (apart.reserved_job, apart.reserved_at)
    assert set(waiting(world, whole)) == set(waiting(replace(world, queues=tuple(split)), apart))


@settings(max_examples=60, deadline=None)
@given(clusters(), st.lists(many_limits(), min_size=2, max_size=4), TYPICAL, st.sampled_from([0, 2, 64]))
def test_a_cache_that_has_seen_other_plans_agrees_too(nodes, rounds, typical, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "FEW_MAX", few)
        patch.setattr(packing, "ONE_BY_ONE_MAX", few)
        _in_turn(nodes, rounds, typical)


def _in_turn(nodes, rounds, typical):
    kept, cache, running = columns(nodes), PlanCache(), []
    for number, other in enumerate(rounds):
        world = snapshot(kept, *other.queues, running=running, typical=typical, facts_version=1)
        world = replace(world, budgets={**other.budgets, **world.budgets})
        answer = plan(world, NOW, cache)
        agree(world, answer)
        for start in answer.starts[number % 2 :]:
            running += occupy(kept, start, NOW + HOUR_US)
        for member in running[: number % 3]:
            vacate(kept, member)
        running = running[number % 3 :]


def test_a_shorter_job_behind_one_that_money_refuses_starts():
    """One queue, limits of 9 h and 1 h, a budget that pays for 2 h."""
    nodes = columns([Node(name="a", gpus=1, rates=(USD, 0, 0))])
    wanted = job_class(request(1), budgets=("x",))
    jobs = JobColumns.of([(1, "long", 9 * HOUR_US), (2, "short", HOUR_US), (3, "third", HOUR_US)])
    world = snapshot(
        nodes,
        PendingQueue(wanted.without_limit(), 50, jobs),
        budgets=[BudgetRoom("x", 2 * USD, 0, 0, "USD")],
    )
    answer = plan(world, NOW)
    assert [start.job_id for start in answer.starts] == ["short"]
    assert Counter(waiting(world, answer).values()) == {"money": 2}


@st.composite
def racks(draw: st.DrawFn) -> Snapshot:
    """Gangs whose members must be together, on few kinds of nodes in few racks, some of which are busy."""
    rates = draw(
        st.lists(st.sampled_from([None, (USD, 0, 0), (USD, 0, 0), (2 * USD, 0, 0)]), min_size=3, max_size=3)
    )
    nodes = columns(
        [
            Node(
                name=f"n{i}",
                gpus=2,
                rates=rates[draw(st.integers(0, 2))],
                labels=draw(st.sampled_from([{"rack": "a"}, {"rack": "b"}, {"rack": "c"}, {}])),
            )
            for i in range(draw(st.integers(4, 14)))
        ]
    )
    running, found = [], []
    for i in range(draw(st.integers(0, 14))):
        one = request(gpus=draw(st.sampled_from([1, 2, 2])))
        busy = plan(snapshot(nodes, a_queue(job_class(one), (0, f"r{i}"))), NOW)
        for start in busy.starts:
            running += occupy(nodes, start, NOW + draw(st.integers(1, 4)) * HOUR_US)
    for order in range(draw(st.integers(1, 5))):
        together = draw(st.sampled_from([(), SAME_RACK, SAME_RACK]))
        wanted = job_class(
            *draw(st.lists(st.sampled_from([request(gpus=1), request(gpus=2)]), min_size=1, max_size=2)),
            nodes=draw(st.integers(1, 5)),
            hours=draw(st.sampled_from([1, 3])),
            constraints=together,
            budgets=draw(st.sampled_from([(), ("x",)])),
        )
        found.append(a_queue(wanted, (order, f"j{order}"), priority=draw(st.sampled_from([50, 50, 75]))))
    room = BudgetRoom("x", draw(st.sampled_from([2, 9, 90])) * USD, 0, 0, "USD")
    return snapshot(nodes, *found, running=running, budgets=[room], typical=draw(TYPICAL))


@settings(max_examples=400, deadline=None)
@given(racks())
def test_members_that_must_be_together_are_where_the_reference_has_them(world):
    answer = plan(world, NOW)
    agree(world, answer)
    for start in answer.starts:
        together = world.queues[start.queue].job_class.together
        places = {world.nodes.attributes[member.node].get(together) for member in start.members}
        assert not together or (len(places) == 1 and None not in places)


SAME_RACK = (("topology", "same-rack"),)


def rack(names: str, rate: int = USD) -> list[Node]:
    """Nodes of two GPUs, such as `a1 a2`, in the rack of their first letter."""
    return [Node(name=name, gpus=2, rates=(rate, 0, 0), labels={"rack": name[0]}) for name in names.split()]


def test_a_claimed_node_that_has_room_until_then_is_no_node_of_its_rack_for_whoever_outlives_that():
    """Rack a has three with room now, and two beside the claim on a3: as many as b, which is behind it."""
    nodes = columns(rack("a1 a2 a3 b1 b2"))
    on_a3 = job_class(request(gpus=1), constraints=(("node", "a3"),))
    (busy,) = plan(snapshot(nodes, a_queue(on_a3, (0, "r"))), NOW).starts
    world = snapshot(
        nodes,
        a_queue(job_class(request(gpus=2), constraints=(("node", "a3"),)), (1, "claims")),
        a_queue(job_class(request(gpus=1), nodes=2, hours=9, constraints=SAME_RACK), (2, "gang")),
        running=occupy(nodes, busy, NOW + HOUR_US),
    )
    answer = plan(world, NOW)
    agree(world, answer)
    assert [nodes.names[one.node] for start in answer.starts for one in start.members] == ["a1", "a2"]


@pytest.mark.parametrize("dear", ["a", "b"])
def test_of_racks_that_are_free_at_the_same_time_the_cheaper_is_claimed(dear):
    rates = {"a": USD, "b": USD} | {dear: 2 * USD}
    nodes = columns(
        [*rack("a1 a2", rates["a"]), *rack("b1 b2", rates["b"]), Node(name="c", gpus=1, rates=(USD, 0, 0))]
    )
    running = []
    for name in ("a1", "a2", "b1", "b2"):
        wanted = job_class(request(gpus=2), constraints=(("node", name),))
        (busy,) = plan(snapshot(nodes, a_queue(wanted, (0, name))), NOW).starts
        running += occupy(nodes, busy, NOW + HOUR_US)
    gang = job_class(request(gpus=2), nodes=2, constraints=SAME_RACK, budgets=("x",))
    world = snapshot(
        nodes,
        a_queue(gang, (1, "gang")),
        a_queue(job_class(request(gpus=1)), (2, "small")),
        running=running,
        budgets=[BudgetRoom("x", 90 * USD, 0, 0, "USD")],
    )
    answer = plan(world, NOW)
    agree(world, answer)
    assert (answer.reserved_job, answer.reserved_at) == ("gang", NOW + HOUR_US)
    assert answer.reserved_nanos == 4 * USD * 61 // 60 // 2
