"""What the scenarios do not tell: strategies, patterns, windows, caches, many nodes."""

from __future__ import annotations

import pytest

from bursar.errors import InvalidRequest
from bursar.model import ReasonCode
from bursar_policies.filters import matches
from bursar_policies.scorers import Weights
from bursard.scheduler import PlanCache, plan, reason_of, table
from bursard.scheduler.testing import GIB, Node, columns, job_class, occupy, queue, request, snapshot
from bursard.scheduler.world import World

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("eu-*", "eu-1", True),
        ("eu-*", None, False),
        ("!eu-*", None, True),
        ("!eu-*", "eu-1", False),
        ("a,b", "b", True),
        ("a*,!ab", "ab", False),
        ("", "anything", True),
    ],
)
def test_patterns_match_values(pattern, value, expected):
    assert matches(pattern, value) is expected


def test_unknown_strategy_is_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"'tight'.*pack, spread"):
        plan(snapshot(columns([Node(name="a")]), strategy="tight"), NOW)


def nodes_used(strategy: str) -> set[int]:
    shot = snapshot(columns([Node(name="a"), Node(name="b")]), strategy=strategy)
    wanted = queue(job_class(), (1, "x"), (2, "y"))
    shot = snapshot(shot.nodes, wanted, strategy=strategy)
    return {start.members[0].node for start in plan(shot, NOW).starts}


def test_pack_fills_one_node_and_spread_uses_both():
    assert nodes_used("pack") == {0}
    assert nodes_used("spread") == {0, 1}


@pytest.mark.parametrize("few", [0, 2])
def test_the_best_node_is_not_the_one_that_could_be_best_before_it_was_scored(few, monkeypatch):
    """More of the small node is free as long as it is empty; a member leaves more of the large one."""
    monkeypatch.setattr(table, "FEW_MAX", few)
    nodes = columns(
        [
            Node(name="a", cpu_milli=2_000, memory_bytes=64 * GIB),
            Node(name="b", cpu_milli=16_000, memory_bytes=64 * GIB),
        ]
    )
    nodes.cpu_free[1] -= 1_000
    answer = plan(snapshot(nodes, queue(job_class(), (1, "x")), strategy="spread"), NOW)
    assert [start.members[0].node for start in answer.starts] == [1]


def test_nodes_left_aside_for_one_question_are_there_for_the_next():
    world = World(snapshot(columns([Node(name="a"), Node(name="b")]), queue(job_class(), (1, "x"))))
    (asked,) = world.tables(job_class())
    both = asked.best(world.packing, 2)
    assert sorted(both) == [0, 1]
    assert asked.best_but(world.packing, 2, [0], []) == [1]
    assert asked.best(world.packing, 2) == both


def test_equal_priority_goes_by_submission_across_queues():
    shot = snapshot(
        columns([Node(name="a", cpu_milli=3_000)]),
        queue(job_class(hours=1), (1, "a1"), (4, "a4")),
        queue(job_class(hours=2), (2, "b2"), (3, "b3")),
    )
    assert [start.job_id for start in plan(shot, NOW).starts] == ["a1", "b2", "b3"]


def test_a_queue_that_starts_as_a_whole_has_no_verdict():
    answer = plan(snapshot(columns([Node(name="a")]), queue(job_class(), (1, "x"))), NOW)
    assert len(answer.starts) == 1
    assert not answer.verdicts


def test_stale_cache_is_not_trusted_without_a_facts_version():
    """The same cache sees another cluster; version 0 promises nothing, so it starts over."""
    cache = PlanCache()
    wanted = queue(job_class(request(1)), (1, "x"))
    assert not plan(snapshot(columns([Node(name="a")]), wanted), NOW, cache).starts
    assert plan(snapshot(columns([Node(name="a", gpus=1)]), wanted), NOW, cache).starts


def test_typical_jobs_decide_which_node_is_broken_up():
    """Typical jobs want 8 CPUs with a GPU: node b (4 CPUs) is lost to them, node a (10) is not.

    A job of 4 CPUs without GPUs goes to b, where it breaks nothing; without typical jobs the names
    decide.
    """
    weights = Weights(consolidation=0, best_fit=0, opened_devices=0, starvation=0)
    places = []
    for typical in ([(request(1, cpus=8), 1)], []):
        nodes = columns([Node(name="a", gpus=2, cpu_milli=10_000), Node(name="b", gpus=2, cpu_milli=4_000)])
        shot = snapshot(nodes, queue(job_class(request(cpus=4)), (1, "x")), typical=typical)
        places.append(nodes.names[plan(shot, NOW, weights=weights).starts[0].members[0].node])
    assert places == ["b", "a"]


def test_thousand_nodes_and_a_gang_of_a_hundred():
    nodes = columns([Node(name=f"n{i:04}", gpus=8) for i in range(1000)])
    answer = plan(snapshot(nodes, queue(job_class(request(8), nodes=100), (1, "g"), (2, "h"))), NOW)
    used = [member.node for start in answer.starts for member in start.members]
    assert len(used) == len(set(used)) == 200


def test_reservation_without_any_end_in_sight_holds_nobody_back():
    """Devices in quarantine are free of jobs but never return: no time to protect."""
    nodes = columns([Node(name="a", gpus=2)])
    nodes.gpu_free[0, 0] = 0
    shot = snapshot(
        nodes, queue(job_class(request(2)), (1, "big")), queue(job_class(request(1), hours=9), (2, "j"))
    )
    answer = plan(shot, NOW)
    assert [start.job_id for start in answer.starts] == ["j"]
    assert reason_of(shot, answer, 0).code == ReasonCode.WAITING_FOR_RESOURCES


def test_overdue_job_is_expected_to_end_now():
    """Its end lies in the past: the reservation is for now, so nothing long goes ahead."""
    nodes = columns([Node(name="a", gpus=2)])
    first = plan(snapshot(nodes, queue(job_class(request(1)), (0, "r"))), NOW).starts[0]
    running = occupy(nodes, first, NOW - HOUR_US)
    head = queue(job_class(request(2)), (1, "head"))
    shot = snapshot(nodes, head, queue(job_class(request(1)), (2, "j")), running=running)
    answer = plan(shot, NOW)
    assert not answer.starts
    assert reason_of(shot, answer, 1).code == ReasonCode.RESERVED_FOR_OTHER


def test_gpus_of_any_kind_are_asked_for_by_their_number():
    """They have no name of a kind that could stand before it."""
    answer_to = {}
    for gpus in (1, 2):
        shot = snapshot(columns([Node(name="a")]), queue(job_class(request(gpus)), (1, "j")))
        answer_to[gpus] = reason_of(shot, plan(shot, NOW), 0).message
    assert answer_to == {
        1: "no node that matches has GPUs, you ask 1 GPU",
        2: "no node that matches has GPUs, you ask 2 GPUs",
    }
