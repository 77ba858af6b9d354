"""Preemption: who is stopped for whom, and when it is not worth it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bursar.model import DeviceShare, EndCause, ReasonCode
from bursar_policies.decision import BudgetRoom, Holder, NodeColumns, Plan, RunningMember, Snapshot, Stop
from bursar_policies.specs import PriorityPolicySpec
from bursard.place import LastPlan
from bursard.scheduler import explain, plan, what_if
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
USD = 10**9
RULES = PriorityPolicySpec(preempt_gap=20, restart_us=HOUR_US // 10)
HEAD = job_class(request(2), hours=4)


class Site:
    """Nodes whose GPUs cost a dollar an hour each, and what runs there."""

    def __init__(self, *gpus: int, ready: Sequence[bool] = ()) -> None:
        self.nodes: NodeColumns = columns(
            [
                Node(
                    name=f"n{row}",
                    gpus=count,
                    rates=(count * USD, 0, 0),
                    ready=(*ready, True, True, True)[row],
                )
                for row, count in enumerate(gpus)
            ]
        )
        self.running: list[RunningMember] = []
        self.holders: dict[str, Holder] = {}
        self._next = [0] * len(gpus)

    def runs(
        self, name: str, *on: int, gpus: int = 1, ends_h: int = 10, unsaved_h: float = 1, **holder: object
    ) -> Site:
        """An attempt with a member on each of these nodes."""
        for row in on:
            first = self._next[row]
            self._next[row] += gpus
            shares = tuple(DeviceShare(index, 1_000) for index in range(first, first + gpus))
            self.nodes.gpu_free[row, first : first + gpus] = 0
            self.nodes.cpu_free[row] -= 1_000
            ends_at = NOW + ends_h * HOUR_US
            self.running.append(RunningMember(row, ends_at, 1_000, 0, shares, name))
        since = NOW - int(unsaved_h * HOUR_US) if unsaved_h else 0
        fields = {"priority": 50, "rate": len(on) * gpus * USD, "unsaved_since": since, **holder}
        self.holders[name] = Holder(**fields)  # type: ignore[arg-type]
        return self

    def with_head(self, wanted=HEAD, priority: int = 80, rules=RULES, budgets=()) -> Snapshot:
        waits = queue(wanted, (1, "head"), priority=priority)
        world = snapshot(self.nodes, waits, running=self.running, budgets=budgets)
        return replace(world, priority=rules, holders=self.holders)


def stopped(answer: Plan) -> tuple[str, ...]:
    """One group, of stops for the head alone."""
    groups = [group for group in answer.groups if any(isinstance(one, Stop) for one in group)]
    assert len(groups) <= 1
    found = [one for group in groups for one in group]
    assert all(isinstance(one, Stop) and one.cause is EndCause.PREEMPTED for one in found)
    assert all(isinstance(one, Stop) and one.for_job == "head" for one in found)
    return tuple(one.attempt_id for one in found if isinstance(one, Stop))


def test_those_that_lose_least_are_stopped_and_no_more_than_needed():
    site = Site(4).runs("dear", 0, unsaved_h=2).runs("cheap", 0, unsaved_h=0.5)
    site.runs("saved", 0, unsaved_h=0).runs("other", 0, unsaved_h=1)
    answer = plan(site.with_head(), NOW)
    assert stopped(answer) == ("cheap", "saved")
    assert (answer.reserved_job, answer.making_room_for) == ("head", "head")
    said = "makes room for a job of priority 80, and loses 0.60 of work and restart"
    assert next(iter(answer.actions)) == Stop("cheap", EndCause.PREEMPTED, "head", said)


def test_what_a_larger_victim_makes_needless_goes_on():
    site = Site(3).runs("small", 0, unsaved_h=0.1).runs("large", 0, gpus=2, unsaved_h=0.2)
    assert stopped(plan(site.with_head(), NOW)) == ("large",)


def test_the_node_whose_victims_lose_least_is_chosen_and_of_equal_ones_the_first_by_name():
    site = Site(2, 2, 2)
    for row, hours in enumerate((1.0, 0.5, 0.5)):
        site.runs(f"a{row}", row, gpus=2, unsaved_h=hours)
    assert stopped(plan(site.with_head(), NOW)) == ("a1",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"priority": 61}, "less than the gap below"),
        ({"exempt": True}, "exempt"),
        ({"rate": -1}, "nobody knows what it loses"),
        ({"unsaved_since": NOW - 4 * HOUR_US}, "as much would be lost as is gained"),
    ],
)
def test_nothing_is_stopped_that_may_not_be_or_is_not_worth_it(change, why):
    site = Site(2).runs("a", 0, gpus=2)
    assert stopped(plan(site.with_head(), NOW)) == ("a",)
    site.holders["a"] = replace(site.holders["a"], **change)
    assert stopped(plan(site.with_head(), NOW)) == (), why
    assert plan(site.with_head(), NOW).making_room_for == ""


def test_gain_is_the_jobs_rate_for_as_long_as_it_would_wait():
    """Two dollars an hour: the victim has lost 2.2 dollars with an hour's work and its restart."""
    for ends_h, expected in ((1, ()), (2, ("a",))):
        site = Site(2).runs("a", 0, gpus=2, ends_h=ends_h)
        assert stopped(plan(site.with_head(), NOW)) == expected
    site = Site(2).runs("a", 0, gpus=2)
    short = job_class(request(2), hours=1)
    assert stopped(plan(site.with_head(short), NOW)) == (), "and no longer than it runs"
    exact = replace(RULES, restart_us=3 * HOUR_US)
    assert stopped(plan(site.with_head(rules=exact), NOW)) == (), "equal is no gain"
    assert stopped(plan(site.with_head(rules=replace(exact, restart_us=3 * HOUR_US - 1)), NOW)) == ("a",)


def test_without_a_policy_that_says_so_nothing_is_stopped():
    site = Site(2).runs("a", 0, gpus=2)
    assert stopped(plan(site.with_head(rules=PriorityPolicySpec(max_wait_us=HOUR_US)), NOW)) == ()
    assert stopped(plan(site.with_head(rules=None), NOW)) == ()
    assert stopped(plan(site.with_head(priority=70), NOW)) == ("a",)
    assert stopped(plan(site.with_head(priority=69), NOW)) == ()


def test_nothing_is_signalled_where_stopping_all_would_not_be_enough():
    gang = job_class(request(2), hours=9, nodes=2)
    assert stopped(plan(Site(2).runs("a", 0).with_head(job_class(request(3))), NOW)) == ()
    site = Site(2, 2).runs("a", 0, gpus=2).runs("b", 1, gpus=2, exempt=True)
    assert stopped(plan(site.with_head(gang), NOW)) == ()
    site = Site(2, 2, ready=(True, False)).runs("a", 0, gpus=2).runs("b", 1, gpus=2)
    assert stopped(plan(site.with_head(gang), NOW)) == ()


def test_gangs_are_stopped_whole_and_counted_once():
    gang = job_class(request(2), hours=4, nodes=2)
    site = Site(2, 2, 2).runs("wide", 0, 1, gpus=2, unsaved_h=1).runs("one", 2, gpus=2, unsaved_h=2)
    # `wide` loses 4 x 1.1 dollars and frees two nodes; the gang gains 4 x 4.
    assert stopped(plan(site.with_head(gang), NOW)) == ("wide",)
    single = Site(2, 2).runs("wide", 0, 1, gpus=2, unsaved_h=1)
    # For one node of it, as much is lost: 4.4 of a gain of 8.
    assert stopped(plan(single.with_head(), NOW)) == ("wide",)
    late = Site(2, 2).runs("wide", 0, 1, gpus=2, unsaved_h=1.9)
    assert stopped(plan(late.with_head(), NOW)) == (), "8 dollars of 8"


def test_a_job_that_no_budget_pays_for_has_nobody_stopped():
    site = Site(2).runs("a", 0, gpus=2)
    paid = job_class(request(2), hours=4, budgets=("x",))
    for limit, expected in ((9 * USD, ("a",)), (8 * USD, ())):
        rooms = [BudgetRoom("x", limit, 0, 0, "USD")]
        assert stopped(plan(site.with_head(paid, budgets=rooms), NOW)) == expected


def test_who_is_already_ending_is_waited_for_and_nobody_else_is_stopped():
    site = Site(4).runs("ending", 0, gpus=2, stopping=True, grace_us=60_000_000).runs("b", 0, gpus=2)
    answer = plan(site.with_head(), NOW)
    assert (stopped(answer), answer.making_room_for) == ((), "head")
    wide = job_class(request(4), hours=9)
    assert stopped(plan(site.with_head(wide), NOW)) == ("b",)


def test_no_later_job_takes_the_place_that_is_made():
    """One GPU is free; what ends is gone in a minute, so what takes an hour would be in the way."""
    site = Site(2).runs("ending", 0, stopping=True, grace_us=60_000_000)
    world = site.with_head()
    later = queue(job_class(request(1)), (2, "later"))
    answer = plan(replace(world, queues=(*world.queues, later)), NOW)
    assert [start.job_id for start in answer.starts] == []
    assert answer.reserved_at == NOW + 60_000_000


def test_the_job_is_told_that_others_end_for_it_and_others_are_not():
    site = Site(2).runs("a", 0, gpus=2)
    world = site.with_head()
    waits = queue(HEAD, (1, "head"), (2, "behind"), priority=80)
    world = replace(world, queues=(waits,))
    last = LastPlan(world, plan(world, NOW))
    told = last.reason(waits.key, "head")
    assert told is not None
    assert told.code is ReasonCode.PREEMPTION_PENDING
    assert (
        told.message == "1 attempt of lower priority is asked to end for it, and may take the grace to save"
    )
    assert told.facts == (("stopped", "a"),)
    behind = last.reason(waits.key, "behind")
    assert behind is not None
    assert behind.code is ReasonCode.WAITING_FOR_RESOURCES
    assert explain(world, 0, NOW, "head").reason.code is ReasonCode.PREEMPTION_PENDING
    assert explain(world, 0, NOW, "behind").reason.code is ReasonCode.WAITING_FOR_RESOURCES
    site.holders["a"] = replace(site.holders["a"], stopping=True)
    pending = explain(replace(world, holders=site.holders), 0, NOW, "head").reason
    assert pending.message == (
        "what is to make room for it is asked to end for it, and may take the grace to save"
    )


def test_what_a_job_that_is_not_submitted_would_have_stopped_is_told_as_such():
    site = Site(2).runs("a", 0, gpus=2)
    world = replace(site.with_head(), queues=())
    told = what_if(world, HEAD, NOW, 80).reason
    assert told.message == (
        "1 attempt of lower priority would be asked to end for it, and may take the grace to save"
    )


def test_more_than_one_is_told_as_many():
    site = Site(2).runs("a", 0).runs("b", 0)
    told = explain(site.with_head(), 0, NOW, "head").reason
    assert (
        told.message == "2 attempts of lower priority are asked to end for it, and may take the grace to save"
    )
