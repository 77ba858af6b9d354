"""What thresholds of budgets do beside telling: who comes later, who waits, who is stopped, who is asked."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest, KeyConflict, WrongState
from bursar.model import EndCause, JobState, NodeFacts, ReasonCode
from bursard.events import (
    ApprovalLapsed,
    BudgetApproved,
    BudgetOpened,
    HoldsRolled,
    StopRequested,
    ThresholdCrossed,
)
from bursard.fleet.testing import World
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.reports.budgets import budget_views
from bursard.scheduler import reason_of
from bursard.state import JobRecord, image
from bursard.state.decide import approving, giving, nodes, staging

USD = 10**9


def budget(do: str, *, at: str = "50%", on: str = "settled", hard: bool = True, limit: int = 1000) -> str:
    return (
        f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: {limit} USD\n  period: day\n"
        f"  enforcement: {'hard' if hard else 'soft'}\n  thresholds: [{{at: {at}, on: {on}, do: [{do}]}}]\n"
    )


class Site(World):
    """A node for four jobs, a budget, and what its scope has cost."""

    def __init__(self, do: str = "", **more: Any) -> None:
        super().__init__()
        self.join(NodeFacts(name="n-1", cpu_milli=4_000, memory_bytes=1 << 34))
        if do:
            self.apply(budget(do, **more))
        self.house = Housekeeping(self.state, lambda: self.engine.prices, self._commit)

    def join(self, facts: NodeFacts) -> None:
        hello = nodes.hello(
            self.state, self.ids, self.engine.prices, facts=facts, boot_id="b",
            boot_us=self.clock.boot_us(), now=self.engine.now(),
        )  # fmt: skip
        self.engine.commit(hello, "test")

    def spend(self, usd: int) -> None:
        start = self.state.budgets.records["b"].period_start
        self.engine.commit([BudgetOpened("b", start, usd * USD, start)], "test")

    def turn(self) -> list[Any]:
        """What one second of housekeeping brings."""
        self.writer.flush()
        before = len(self.events)
        self.clock.advance(1_000_000)
        self.house.turn(self.engine.now())
        self.writer.flush()
        return self.events[before:]

    def why(self, job: JobRecord) -> Any:
        made = one_pass(self.state, self.ids, self.engine.now(), lambda what, events: False)
        queues = made.snapshot.queues
        index = next(i for i, queue in enumerate(queues) if queue.position_of(job.id) >= 0)
        return reason_of(made.snapshot, made.plan, index, queues[index].position_of(job.id))

    def stages(self) -> list[str]:
        [view] = budget_views(self.state, "b")
        return [one.action for one in view.stages]

    def approve(self, **more: Any) -> None:
        self.engine.commit(
            approving.approve(self.state, "b", "ann", "agreed", self.engine.now(), **more), "ann"
        )


@pytest.mark.parametrize("hard", [True, False])
def test_a_held_queue_starts_nothing_says_why_and_opens_with_a_raised_limit(hard: bool) -> None:
    site = Site("hold-queue", hard=hard)
    site.spend(600)
    [crossed] = [event for event in site.turn() if isinstance(event, ThresholdCrossed)]
    assert (crossed.do, crossed.settled_nanos) == (("hold-queue",), 600 * USD)
    job = site.submit()
    site.cycle()
    assert job.state is JobState.PENDING
    why = site.why(job)
    assert why.code is ReasonCode.BUDGET_EXHAUSTED
    assert why.message == (
        "budget b lets nothing more start since it passed 50 % of its limit 1000.00 USD on settled"
        " (600.00 USD settled, 0.00 USD held)"
    )
    assert why.remedy.endswith("or give it more (bursar budget grant b AMOUNT --reason TEXT)")
    assert dict(why.facts)["stage"] == "hold-queue"
    site.engine.commit(giving.grant(site.state, "b", 1000 * USD, "fin", "more"), "fin")
    assert (site.turn(), site.stages()) == ([], [])
    site.cycle()
    assert job.state is not JobState.PENDING


def test_a_stage_is_announced_once_whatever_is_restarted_or_read_again() -> None:
    site = Site("hold-queue, notify")
    site.spend(600)
    assert [type(event) for event in site.turn()] == [ThresholdCrossed]
    again = image.decode(image.encode(site.state, site.engine.now()))
    assert staging.thresholds(again) == []
    assert again.budgets.stages(again.budgets.records["b"], again.ledger) != ()
    assert [site.turn() for _ in range(3)] == [[], [], []]


def test_the_next_period_begins_without_stages() -> None:
    site = Site("hold-queue")
    site.spend(600)
    site.turn()
    start = site.state.budgets.records["b"].period_start
    site.engine.commit([HoldsRolled("b", start, start + DAY_US)], "bursard")
    assert site.stages() == []


def test_a_queue_that_is_held_for_what_is_held_opens_when_that_is_given_back() -> None:
    site = Site("hold-queue", at="1%", on="settled+held", limit=1)
    first = site.submit(time_limit_us=HOUR_US // 60)
    site.cycle()
    assert first.state is not JobState.PENDING
    assert [type(event) for event in site.turn()] == [ThresholdCrossed]
    second = site.submit(time_limit_us=HOUR_US // 60)
    site.cycle()
    assert (second.state, site.stages()) == (JobState.PENDING, ["hold-queue"])
    attempt = first.attempt
    assert attempt is not None
    site.exited_of(attempt, EndCause.FAILED, started=False, exit_code=1)
    site.cycle()
    assert (second.state is not JobState.PENDING, site.stages() == ["hold-queue"]) == (True, True)
    assert site.turn() == []


def test_jobs_of_a_lowered_budget_come_behind_all_others_and_are_told_so() -> None:
    site = Site("lower-priority", hard=False)
    site.spend(600)
    site.turn()
    size = {"options": site.submit(project="q").spec.options}
    site.cycle()
    low = [site.submit(priority=100, **size) for _ in range(3)]
    other = [site.submit(project="q", priority=0, **size) for _ in range(2)]
    site.cycle()
    assert [job.state is JobState.PENDING for job in (*low, *other)] == [False, True, True, False, False]
    why = site.why(low[1])
    assert "; budget b puts its jobs behind others since it passed 50 % of its limit" in why.message
    assert dict(why.facts)["stage_budget"] == "b"


def test_what_runs_is_asked_to_end_with_its_grace_and_ends_for_its_budget() -> None:
    site = Site("hold-queue, checkpoint-stop", at="60%")
    job, other = site.submit(), site.submit(project="q")
    site.cycle()
    attempt = job.attempt
    assert attempt is not None
    start = site.state.budgets.records["b"].period_start
    site.engine.commit([ThresholdCrossed("b", start, 600_000, "settled", 0, 0, 1000 * USD)], "bursard")
    [stop] = site.turn()
    assert isinstance(stop, StopRequested)
    assert (stop.attempt_id, stop.cause, stop.grace_us) == (attempt.id, EndCause.BUDGET, attempt.grace_us)
    assert stop.message.startswith(
        "budget b stops what runs: it passed 60 % of its limit 1000.00 USD on settled"
    )
    assert site.turn() == []
    site.exited_of(attempt, EndCause.FAILED, exit_code=-1, signal=15)
    assert (job.state, attempt.cause) == (JobState.FAILED, EndCause.BUDGET)
    assert other.attempt is not None
    assert other.attempt.stop_cause is None


def test_stops_come_so_many_at_once() -> None:
    site = Site("checkpoint-stop")
    for _ in range(3):
        site.submit()
    site.cycle()
    site.state.budgets.announce(site.state.budgets.records["b"], "settled", 500_000, 1000 * USD)
    first = staging.stops(site.state, 2)
    assert len(first) == 2
    site.engine.commit(first, "bursard")
    assert len(staging.stops(site.state, 2)) == 1


def test_spot_only_needs_a_market_and_then_leaves_no_other_node() -> None:
    site = Site()
    with pytest.raises(
        InvalidRequest, match="b: spot-only cannot be kept: no node here is of the market spot"
    ):
        site.apply(budget("spot-only"))
    site.join(NodeFacts(name="s-1", cpu_milli=1_000, memory_bytes=1 << 34, market="spot", pool="local"))
    site.apply(budget("spot-only", hard=False))
    site.spend(600)
    site.turn()
    free, bound = site.submit(), site.submit(spot_policy="on-demand")
    waits = site.submit()
    site.cycle()
    assert free.attempt is not None
    assert free.attempt.members[0].node == "s-1"
    assert (waits.state, bound.state) == (JobState.PENDING, JobState.PENDING)
    assert "; budget b lets its jobs use spot machines alone since it passed 50 %" in site.why(waits).message
    why = site.why(bound)
    assert why.message.startswith(
        "budget b lets jobs use spot machines alone, and this one asks for others, since"
    )
    assert why.remedy.startswith("let the job use spot machines (spot_policy: auto), or wait until it renews")


def test_an_approval_lets_jobs_start_until_its_time_has_passed() -> None:
    site = Site("approval")
    with pytest.raises(WrongState, match=r"waits for an approval: it has not passed 50 % of its limit"):
        site.approve()
    site.spend(600)
    site.turn()
    job = site.submit()
    site.cycle()
    assert site.why(job).code is ReasonCode.APPROVAL_REQUIRED
    assert "bursar budget approve b --reason TEXT" in site.why(job).remedy
    with pytest.raises(InvalidRequest, match=r"until: .* has passed"):
        site.approve(until=site.engine.now())
    site.approve(until=site.engine.now() + HOUR_US, key="k")
    assert site.stages() == []
    again = image.decode(image.encode(site.state, site.engine.now()))
    assert again.budgets.approvals == site.state.budgets.approvals
    site.cycle()
    assert job.state is not JobState.PENDING
    later = site.submit()
    site.clock.advance(HOUR_US)
    assert ApprovalLapsed("b", site.state.budgets.records["b"].period_start) in site.turn()
    site.cycle()
    assert (later.state, site.stages()) == (JobState.PENDING, ["approval"])


def test_an_approval_of_an_amount_is_gone_when_that_is_held() -> None:
    site = Site("approval", hard=False)
    site.spend(600)
    site.turn()
    first = site.submit()
    needed = site.state.class_of(first)
    site.approve(nanos=3 * USD)
    room = site.state.budgets.room(site.state.budgets.records["b"], site.state.ledger)
    assert (room.ceiling_nanos, needed.gates) == (603 * USD, ("b",))
    second = site.submit()
    site.cycle()
    assert (first.state is JobState.PENDING, second.state is JobState.PENDING) == (False, True)
    why = site.why(second)
    assert why.code is ReasonCode.APPROVAL_REQUIRED
    assert why.message.startswith("of what is approved of budget b ")


def test_an_approval_is_given_once_for_a_key_and_is_of_its_limit() -> None:
    site = Site("approval")
    site.spend(600)
    site.turn()
    site.approve(key="k")
    site.approve(key="k")
    site.writer.flush()
    assert sum(isinstance(event, BudgetApproved) for event in site.events) == 1
    with pytest.raises(KeyConflict, match="key 'k' was already used for another approval, of budget b"):
        site.approve(key="k", until=site.engine.now() + 1)
    [view] = budget_views(site.state, "b")
    assert [(one.kind, one.nanos, one.by, one.reason) for one in view.postings] == [
        ("approval", 0, "ann", "agreed")
    ]
    site.apply(budget("approval", limit=1100))
    site.turn()
    assert site.stages() == ["approval"]


def test_a_soft_budget_that_gets_stages_holds_what_waits_already() -> None:
    site = Site()
    site.apply(budget("notify", hard=False))
    jobs = [site.submit() for _ in range(6)]
    site.cycle()
    site.apply(budget("hold-queue", hard=False))
    site.spend(600)
    site.turn()
    waiting = [job for job in jobs if job.state is JobState.PENDING]
    assert len(waiting) == 2
    for job in waiting:
        key = site.state.pending.key_of(job.id)
        assert key is not None
        assert key.job_class.gates == ("b",)
        assert site.why(job).message.startswith("budget b lets nothing more start")
