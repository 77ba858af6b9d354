"""Gangs whose members must be together: why one waits, what would start it, and who ends for it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bursar.model import ReasonCode
from bursar_policies.decision import Holder, JobClass, RunningMember, Snapshot, Stop
from bursar_policies.specs import PriorityPolicySpec
from bursard.scheduler import explain, plan, reason_of
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot

HOUR_US = 3_600_000_000
NOW = 1_767_225_600_000_000
USD = 10**9


def gang(nodes: int, topology: str = "same-rack") -> JobClass:
    return job_class(request(gpus=1), nodes=nodes, constraints=(("topology", topology),))


def world(names: str, busy: str, wanted: JobClass, priority: int = 50) -> Snapshot:
    """Nodes of one GPU in the rack of their first letter, those of x in none; the busy ones for an hour."""
    nodes = columns(
        [
            Node(name=name, gpus=1, rates=(USD, 0, 0), labels={} if name[0] == "x" else {"rack": name[0]})
            for name in names.split()
        ]
    )
    running: list[RunningMember] = []
    for name in busy.split():
        alone = job_class(request(gpus=1), constraints=(("node", name),))
        (start,) = plan(snapshot(nodes, queue(alone, (0, f"on-{name}"))), NOW).starts
        running += occupy(nodes, start, NOW + HOUR_US)
    return snapshot(nodes, queue(wanted, (1, "gang"), priority=priority), running=running)


def where(of: Snapshot) -> list[str]:
    return sorted(of.nodes.names[one.node] for start in plan(of, NOW).starts for one in start.members)


def test_members_go_to_the_rack_where_fewest_others_have_room() -> None:
    assert where(world("a1 a2 a3 b1 b2 x1 x2", "", gang(2))) == ["b1", "b2"]
    assert where(world("a1 a2 a3 b1 b2", "b2", gang(2))) == ["a1", "a2"]
    assert where(world("a1 b1 x1 x2 x3", "", gang(1))) == ["a1"], "one member is together with itself"


def test_room_that_is_apart_is_no_room_and_is_told_as_that() -> None:
    waits = world("a1 a2 a3 b1 b2 b3", "a3 b3", gang(3))
    answer = plan(waits, NOW)
    assert answer.starts == ()
    reason = reason_of(waits, answer, 0)
    assert reason.code is ReasonCode.WAITING_FOR_TOPOLOGY
    assert reason.message == (
        "needs 3 nodes with gpu any:1, 1 cpu free in the same rack; 4 have it, at most 2 of them in one"
    )
    told = explain(waits, 0, NOW)
    assert told.reason == reason
    assert told.expected_start_at == NOW + HOUR_US
    changes = [one.change for one in told.alternatives]
    assert changes[-1] == "leave topology out"
    assert "set --nodes 1" in changes


def test_a_gang_larger_than_any_rack_can_never_start_and_says_how_many_could() -> None:
    waits = world("a1 a2 b1 x1 x2", "", gang(3))
    reason = reason_of(waits, plan(waits, NOW), 0)
    assert reason.code is ReasonCode.EXCEEDS_NODE_CAPACITY
    assert reason.message == (
        "the largest rack has 2 nodes that could hold a member, you ask 3 in the same one"
    )
    assert reason.remedy == "set --nodes 2 or less, or leave topology out"


def test_nodes_of_no_rack_are_told_as_that() -> None:
    waits = world("x1 x2 x3", "", gang(2))
    reason = reason_of(waits, plan(waits, NOW), 0)
    assert reason.code is ReasonCode.MISCONFIGURED
    told = explain(waits, 0, NOW)
    assert {one.detail for one in told.nodes} == {
        "rack is not set, and all members are to be in the same one"
    }


@pytest.mark.parametrize(("dear", "ends"), [("a", ["b1", "b2"]), ("b", ["a1", "a2"])])
def test_those_end_for_it_that_lose_least_in_one_rack(dear: str, ends: list[str]) -> None:
    """On a3 and b3 nothing could be lost, and they are in two racks."""
    waits = world("a1 a2 a3 b1 b2 b3", "a1 a2 b1 b2", gang(3), priority=80)
    holders = {
        f"on-{name}/0": Holder(
            priority=10, rate=USD, unsaved_since=NOW - (HOUR_US // 2 if name[0] == dear else HOUR_US // 60)
        )
        for name in ("a1", "a2", "b1", "b2")
    }
    rules = PriorityPolicySpec(preempt_gap=20, restart_us=HOUR_US // 60)
    answer = plan(replace(waits, holders=holders, priority=rules), NOW)
    stopped = sorted(one.attempt_id for one in answer.actions if isinstance(one, Stop))
    assert stopped == [f"on-{name}/0" for name in ends]
    assert answer.making_room_for == "gang"
