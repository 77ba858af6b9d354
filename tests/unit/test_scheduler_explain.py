"""Explain and what-if tell what the planner would do, never something else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bursar.model import ReasonCode
from bursar_policies.decision import BudgetRoom
from bursard.scheduler import explain, plan, what_if
from bursard.scheduler.foresee import JOBS_MAX
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
USD = 10**9


def busy(gpus: int, ends_h: float, budget: int = 100):
    """Node a with 4 GPUs at 4 USD/h, some of them busy; node b without GPUs."""
    nodes = columns(
        [Node(name="a", gpus=4, rates=(4 * USD, 0, 0)), Node(name="b", rates=(0, USD, 0), cpu_milli=4_000)]
    )
    first = snapshot(nodes, queue(job_class(request(gpus)), (0, "first")))
    ends_at = NOW + int(ends_h * HOUR_US)
    running = occupy(nodes, plan(first, NOW).starts[0], ends_at)
    rooms = [BudgetRoom("b", budget * USD, 0, 0, "USD")]
    return nodes, running, rooms


def test_explain_counts_nodes_and_says_why_not():
    nodes, running, _rooms = busy(3, 2)
    told = explain(snapshot(nodes, queue(job_class(request(2)), (1, "j")), running=running), 0, NOW)
    assert not told.starts_now
    assert told.reason.code == ReasonCode.WAITING_FOR_RESOURCES
    assert [(v.node, v.check) for v in told.nodes] == [("a", "gpus"), ("b", "capacity")]
    assert "1 of 4 GPUs free, you ask 2" in told.nodes[0].detail
    assert dict(told.counts)["capacity"] == 1
    assert told.expected_start_at == NOW + 2 * HOUR_US
    assert told.expected_nodes == ("a",)
    assert told.holders == (("a", "first/0", NOW + 2 * HOUR_US),)


@pytest.mark.parametrize(
    ("nodes", "wanted", "remedy"),
    [
        (1, 1, "set --cpus 4 or less"),
        (2, 1, "set --cpus 4 or less, or ask for fewer on more nodes (--nodes)"),
        (2, 2, "set --cpus 4 or less"),
    ],
)
def test_more_cpus_than_a_node_has_may_be_had_on_more_nodes_where_there_are_more(
    nodes: int, wanted: int, remedy: str
) -> None:
    machines = columns([Node(name=f"n{one}", cpu_milli=4_000) for one in range(nodes)])
    asked = job_class(request(cpus=5), nodes=wanted)
    told = explain(snapshot(machines, queue(asked, (1, "j"))), 0, NOW)
    assert told.reason.message == "largest node has 4 CPUs, you ask 5"
    assert told.reason.remedy == remedy


def test_explain_offers_fewer_gpus_with_their_price():
    nodes, running, _rooms = busy(3, 2)
    told = explain(snapshot(nodes, queue(job_class(request(2)), (1, "j")), running=running), 0, NOW)
    offer = told.alternatives[0]
    assert offer.change == "ask for gpus any:1"
    assert (offer.nodes, offer.rate_nanos_per_hour) == (("a",), USD)


def test_following_the_time_limit_that_explain_names_starts_the_job():
    """The gap before the reserved head is 2 h; the remedy and the alternative both fit it."""
    nodes, running, _rooms = busy(3, 2)
    head = queue(job_class(request(4)), (1, "head"))
    long = queue(job_class(request(1), hours=5), (2, "long"))
    told = explain(snapshot(nodes, head, long, running=running), 1, NOW)
    assert told.reason.code == ReasonCode.RESERVED_FOR_OTHER
    after_head = NOW + 3 * HOUR_US + 60_000_000
    assert (told.expected_start_at, told.foreseen) == (after_head, True), "there is room now: another's"
    asked = what_if(snapshot(nodes, head, running=running), long.class_at(0), NOW)
    assert (asked.expected_start_at, asked.foreseen) == (after_head, True)
    many = queue(job_class(request(4)), *((number, f"head{number}") for number in range(3, JOBS_MAX + 4)))
    behind = replace(long, priority=1)
    crowd = explain(snapshot(nodes, many, behind, running=running), 1, NOW)
    assert (crowd.expected_start_at, crowd.foreseen) == (0, False), "too many to follow, and room now"
    assert [one.job_id for one in told.ahead] == ["head"]
    assert told.alternatives[0].change == "set --time-limit 1h59m"


def test_explain_shows_every_budget_and_a_time_limit_that_it_pays_for():
    nodes, running, rooms = busy(1, 2, budget=1)
    wanted = job_class(request(1), hours=5, budgets=("b",))
    told = explain(snapshot(nodes, queue(wanted, (1, "j")), running=running, budgets=rooms), 0, NOW)
    assert told.reason.code == ReasonCode.BUDGET_EXHAUSTED
    assert [(b.room.name, b.pays) for b in told.budgets] == [("b", False)]
    assert told.alternatives[0].change == "set --time-limit 59m"
    assert "--time-limit 59m" in told.reason.remedy
    assert told.alternatives[0].hold_nanos <= USD


def test_explain_of_a_job_that_starts_now_says_so():
    nodes, running, _rooms = busy(1, 2)
    told = explain(snapshot(nodes, queue(job_class(request(1)), (1, "j")), running=running), 0, NOW)
    assert told.starts_now
    assert told.reason.code == ReasonCode.NONE


def test_explain_changes_nothing_in_the_snapshot():
    nodes, running, _rooms = busy(1, 2)
    before = replace(nodes, cpu_free=nodes.cpu_free.copy(), gpu_free=nodes.gpu_free.copy())
    shot = snapshot(nodes, queue(job_class(request(1)), (1, "j")), running=running)
    explain(shot, 0, NOW)
    assert (nodes.gpu_free == before.gpu_free).all()
    assert (nodes.cpu_free == before.cpu_free).all()


def test_what_if_prices_the_place_it_would_take():
    nodes, running, rooms = busy(1, 2)
    told = what_if(
        snapshot(nodes, running=running, budgets=rooms), job_class(request(2), budgets=("b",)), NOW
    )
    assert told.nodes == ("a",)
    assert told.priced
    assert told.rate_nanos_per_hour == 2 * USD
    assert told.expected_nanos == 2 * USD
    assert told.worst_nanos == 2 * USD * 61 // 60
    assert told.rooms_after == (("b", 100 * USD - told.worst_nanos),)


def test_what_if_of_a_job_that_waits_says_why_and_when():
    nodes, running, _rooms = busy(3, 2)
    told = what_if(snapshot(nodes, running=running), job_class(request(2)), NOW)
    assert told.start is None
    assert told.reason.code == ReasonCode.WAITING_FOR_RESOURCES
    assert told.expected_start_at == NOW + 2 * HOUR_US


def test_what_if_on_unpriced_nodes_says_the_cost_is_unknown():
    told = what_if(snapshot(columns([Node(name="a")])), job_class(), NOW)
    assert told.start is not None
    assert not told.priced


def test_what_if_says_where_a_job_would_go_that_nothing_but_a_budget_holds():
    """The place and the hold are those it would have; where there is no place either, there is none."""
    nodes, running, rooms = busy(1, 2, budget=1)
    wanted = job_class(request(2), budgets=("b",))
    world = snapshot(nodes, running=running, budgets=rooms)
    told = what_if(world, wanted, NOW)
    paid = what_if(snapshot(nodes, running=running), replace(wanted, budgets=()), NOW).start
    assert (told.start, told.reason.code) == (None, ReasonCode.BUDGET_EXHAUSTED)
    assert (told.unpaid.members, told.unpaid.hold_nanos) == (paid.members, paid.hold_nanos)
    assert paid.hold_nanos == 2 * USD * 61 // 60
    assert what_if(world, job_class(request(4), budgets=("b",)), NOW).unpaid is None
    assert what_if(world, job_class(request(1), hours=5, budgets=("b",)), NOW).unpaid is not None
    assert what_if(world, job_class(request(1), hours=5), NOW).unpaid is None, "it starts"
