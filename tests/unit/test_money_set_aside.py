"""A job that waits for money has it set aside: those behind it do not take it first."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar_policies.decision import (
    BudgetRoom,
    JobColumns,
    NodeColumns,
    PendingQueue,
    Plan,
    Purse,
    RunningMember,
    Snapshot,
)
from bursar_policies.specs import PriorityPolicySpec
from bursard.scheduler import explain, plan, reason_of
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot, vacate

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
USD = 10**9


def site(*queues: PendingQueue, rooms: list[BudgetRoom], gpus: int = 8) -> Snapshot:
    """A node whose GPUs cost a dollar an hour each."""
    nodes = columns([Node(name="n", gpus=gpus, cpu_milli=64_000, rates=(gpus * USD, 0, 0))])
    return snapshot(nodes, *queues, budgets=rooms)


def asks(
    order: int, name: str, *, hours: float = 1, gpus: int = 1, budgets: tuple[str, ...] = ("x",)
) -> PendingQueue:
    return queue(job_class(request(gpus), hours=hours, budgets=budgets), (order, name))


def room(name: str, limit: float, settled: float = 0, held: float = 0, array: str = "") -> BudgetRoom:
    nanos = (round(amount * USD) for amount in (limit, settled, held))
    return BudgetRoom(name, *nanos, "USD", array=array)


def started(answer: Plan) -> list[str]:
    return [start.job_id for start in answer.starts]


def test_what_a_large_job_waits_for_is_not_taken_by_those_behind_it():
    world = site(asks(1, "large", hours=8), asks(2, "small"), rooms=[room("x", 10, held=4)])
    answer = plan(world, NOW)
    assert started(answer) == []
    assert answer.purses == (Purse("large", (("x", 6 * USD),), 8 * USD + USD // 60),)
    large, small = (reason_of(world, answer, index) for index in (0, 1))
    assert (large.code, small.code) == ("BudgetCommitted", "BudgetCommitted")
    assert "set aside" not in large.message
    assert "has 6.00 USD left of 10.00 USD" in large.message
    assert "has 0.00 USD left of 10.00 USD (0.00 USD settled, 10.00 USD held)" in small.message
    assert small.message.endswith("; of what is held 6.00 USD is set aside for job large, which is ahead")
    assert dict(small.facts)["ahead"] == "large"
    assert dict(small.facts)["set_aside"] == str(6 * USD)
    assert small.remedy.endswith(
        "or raise the budget by 3.04 USD"
    )  # the large one lacks 2.0167 of its 8.0167
    queues = (asks(1, "large", hours=8), asks(2, "small"))
    assert started(plan(site(*queues, rooms=[room("x", 13.03, held=4)]), NOW)) == ["large"]
    assert started(plan(site(*queues, rooms=[room("x", 13.04, held=4)]), NOW)) == ["large", "small"]


def test_those_of_other_budgets_go_on():
    rooms = [room("x", 10, held=4), room("y", 10)]
    world = site(
        asks(1, "large", hours=8), asks(2, "other", budgets=("y",)), asks(3, "free", budgets=()), rooms=rooms
    )
    assert started(plan(world, NOW)) == ["other", "free"]


def test_all_that_it_needs_is_kept_in_its_other_budgets_and_the_rest_of_them_is_free():
    rooms = [room("x", 10, held=4), room("y", 10)]
    wants = ("x", "y")
    behind = [asks(2, "two", hours=1.5, budgets=("y",)), asks(3, "one", hours=0.5, budgets=("y",))]
    world = site(asks(1, "large", hours=8, budgets=wants), *behind, rooms=rooms)
    answer = plan(world, NOW)
    needed = 8 * USD + USD // 60  # with the minute of grace and margin
    assert answer.purses == (Purse("large", (("x", 6 * USD), ("y", needed)), needed),)
    assert started(answer) == ["two"]


@pytest.mark.parametrize(
    ("first", "rooms", "gpus"),
    [
        (asks(1, "large", hours=8), [room("x", 10, settled=4)], 8),
        (asks(1, "large", hours=8, budgets=("x", "y")), [room("x", 10, held=4), room("y", 5)], 8),
        (asks(1, "large", hours=8, budgets=("x", "gone")), [room("x", 10, held=4)], 8),
        (asks(1, "large", hours=4, gpus=2), [room("x", 10, held=4)], 1),
    ],
    ids=["spent", "another can never pay", "another is not there", "no node could ever hold it"],
)
def test_nothing_is_set_aside_for_what_no_one_who_gives_back_can_help(first, rooms, gpus):
    world = site(first, asks(2, "small"), rooms=rooms, gpus=gpus)
    answer = plan(world, NOW)
    assert answer.purses == ()
    assert started(answer) == ["small"]


def test_the_second_that_waits_for_a_budget_sets_nothing_aside():
    rooms = [room("x", 10, held=4), room("y", 3)]
    world = site(
        asks(1, "first", hours=8),
        asks(2, "second", hours=2, budgets=("x", "y")),
        asks(3, "y", budgets=("y",)),
        rooms=rooms,
    )
    answer = plan(world, NOW)
    assert [one.job_id for one in answer.purses] == ["first"]
    assert started(answer) == ["y"]


def test_a_task_short_of_its_arrays_own_cap_takes_nothing_from_others():
    rooms = [room("x", 100), room("max_cost of a", 10, held=4, array="7")]
    task = asks(1, "task", hours=8, budgets=("x", "max_cost of a"))
    answer = plan(site(task, asks(2, "small"), rooms=rooms), NOW)
    assert answer.purses == (Purse("task", (("max_cost of a", 6 * USD),), 8 * USD + USD // 60),)
    assert started(answer) == ["small"]


def test_what_lacks_room_sets_no_money_aside_beyond_its_claim():
    """It waits for the node, whose end frees both."""
    nodes = columns([Node(name="n", gpus=2, cpu_milli=64_000, rates=(2 * USD, 0, 0))])
    busy = occupy(nodes, plan(snapshot(nodes, asks(0, "r", budgets=())), NOW).starts[0], NOW + HOUR_US)
    wide = asks(1, "wide", hours=4, gpus=2)
    world = snapshot(nodes, wide, asks(2, "small"), running=busy, budgets=[room("x", 10, held=4)])
    answer = plan(world, NOW)
    assert answer.purses == ()


def test_the_first_that_waits_for_room_keeps_its_money_before_one_behind_it_that_waits_for_money():
    nodes = columns([Node(name="n", gpus=2, cpu_milli=64_000, rates=(2 * USD, 0, 0))])
    busy = occupy(nodes, plan(snapshot(nodes, asks(0, "r", budgets=())), NOW).starts[0], NOW + HOUR_US)
    rooms = [room("x", 10, held=2)]
    world = snapshot(
        nodes, asks(1, "wide", hours=2, gpus=2), asks(2, "poor", hours=0.9), running=busy, budgets=rooms
    )
    assert started(plan(world, NOW)) == ["poor"]
    tight = replace(world, budgets={"x": room("x", 10, held=5.5)})
    answer = plan(tight, NOW)
    assert answer.reserved_job == "wide"
    assert answer.reserved_nanos == 4 * USD + USD // 30
    assert started(answer) == []
    assert answer.purses[0].job_id == "poor"


def test_explain_does_not_count_against_a_job_what_is_set_aside_for_it():
    rooms = [room("x", 10, held=4), room("y", 9)]
    found = explain(site(asks(1, "large", hours=8, budgets=("x", "y")), rooms=rooms), 0, NOW)
    assert [(one.room.name, one.pays) for one in found.budgets] == [("x", False), ("y", True)]


def test_four_hundred_small_jobs_do_not_starve_a_large_one():
    """One every thirty seconds, each for an hour, and one that needs most of the budget."""
    nodes = columns([Node(name="n", gpus=8, cpu_milli=800_000, rates=(8 * USD, 0, 0))])
    running: list[tuple[int, int]] = []
    left, clock, began = [asks(order, f"s{order}") for order in range(400)], NOW, {}
    large = asks(13, "large", hours=8)
    waiting: list[PendingQueue] = []
    for step in range(400):
        clock = NOW + step * 30_000_000
        while running and running[0][0] <= clock:
            heapq.heappop(running)
        waiting += [left[step]] if step != 13 else [left[step], large]
        held = sum(hold for _, hold in running)
        # What ends gives back all that it held: it fails at once, say.
        shot = snapshot(
            columns([Node(name="n", gpus=8, cpu_milli=800_000, rates=(8 * USD, 0, 0))]), *waiting[:40]
        )
        shot = replace(shot, budgets={"x": BudgetRoom("x", 10 * USD, 0, held, "USD")}, nodes=nodes)
        for start in plan(shot, clock).starts:
            began[start.job_id] = clock
            heapq.heappush(running, (clock + HOUR_US // 10, start.hold_nanos))
        waiting = [one for one in waiting if one.jobs[0][1] not in began]
        if "large" in began:
            break
    assert "large" in began
    assert not {f"s{order}" for order in range(14, 400)} & set(began), "nothing that came later came first"


# ------------------------------------------------------------------ the bound on waiting


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(0, 99)), min_size=3, max_size=12),
    st.integers(1, 3),
    st.integers(2, 4),
    st.sampled_from([(("run_time", 1_000),), (("size", 1_000),), (("qos", 1_000), ("run_time", 500)), ()]),
)
def test_what_has_waited_for_too_long_starts_as_soon_as_if_nobody_else_waited(jobs, ran, gpus, weights):
    """Whatever is weighed, however urgent the others are and however many."""
    rules = PriorityPolicySpec(weights, max_wait_us=HOUR_US)
    nodes = columns([Node(name="n", gpus=4, cpu_milli=64_000)])
    busy: list[RunningMember] = []
    for number, (taken, limit, _) in enumerate(jobs[:ran]):
        for start in plan(snapshot(nodes, asks(number, f"r{number}", gpus=taken, budgets=())), NOW).starts:
            busy += occupy(nodes, start, NOW + limit * HOUR_US)
    overdue = waits(-1, "overdue", gpus, 9, 0, NOW - HOUR_US)
    others = [waits(n, f"j{n}", taken, limit, late, NOW) for n, (taken, limit, late) in enumerate(jobs)]
    assert starts_at("overdue", [*others, overdue], nodes, busy, rules) == starts_at(
        "overdue", [overdue], nodes, busy, rules
    )


def waits(order: int, name: str, gpus: int, hours: int, priority: int, since_us: int) -> PendingQueue:
    wanted = job_class(request(gpus)).without_limit()
    return PendingQueue(wanted, priority, JobColumns.of([(order, name, hours * HOUR_US, since_us, 0)]))


def starts_at(
    name: str,
    waiting: list[PendingQueue],
    nodes: NodeColumns,
    busy: list[RunningMember],
    rules: PriorityPolicySpec,
) -> int:
    """Play it out: everything runs for as long as it holds."""
    clock, busy, limits = NOW, list(busy), {one.jobs[0][1]: one.class_at(0).hold_us for one in waiting}
    nodes = replace(nodes, cpu_free=nodes.cpu_free.copy(), gpu_free=nodes.gpu_free.copy())
    while True:
        shot = replace(snapshot(nodes, *waiting, running=busy), priority=rules)
        begun = {start.job_id: start for start in plan(shot, clock).starts}
        if name in begun:
            return clock
        for job_id, start in begun.items():
            busy += occupy(nodes, start, clock + limits[job_id])
        waiting = [one for one in waiting if one.jobs[0][1] not in begun]
        clock = min(member.ends_at for member in busy)
        for member in [one for one in busy if one.ends_at <= clock]:
            vacate(nodes, member)
            busy.remove(member)
