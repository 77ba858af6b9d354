"""Budgets that pay by leases: what a start holds, who renews it when and how far, and what ends without it.

The clock is moved by hand, and nodes end what has come to the limit that they were told, whoever is alive.
"""

from __future__ import annotations

from typing import Any

import pytest
from obedient import Obedient

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.errors import BudgetExceeded, WrongState
from bursar.model import ArraySpec, CheckpointSpec, EndCause, JobState, NodeFacts, ReasonCode
from bursar.money import cumulative
from bursard.events import BudgetOpened, LimitChanged, LimitTaken, OpeningHold, StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.scheduler import reason_of
from bursard.services.planning import worst_of
from bursard.state import HOLD_MARGIN_US, AttemptRecord, JobRecord, image
from bursard.state.decide import jobs

USD = 10**9
MINUTE_US = 60 * SECOND_US
LEASE_US = 20 * MINUTE_US
OVERHEAD_US = 5 * SECOND_US + HOLD_MARGIN_US
BUDGET = """\
kind: Budget
name: {name}
spec: {{scope: {{project: p}}, limit: {limit} USD, period: year, hold: {hold}}}
"""


class Site(World):
    """Nodes that obey, a budget that pays by leases of twenty minutes, and one job of up to ten hours."""

    def __init__(self, limit: str = "1000", hold: str = "lease, lease: 20m", nodes: int = 1, **spec: Any):
        super().__init__()
        self.orders = self.backend = Obedient(self.clock)
        self.backend.serve(self.fleet)
        for name in ("n-1", "n-2")[:nodes]:
            self.backend.connect(NodeFacts(name=name, cpu_milli=8_000, memory_bytes=1 << 34))
        self.apply(BUDGET.format(name="b", limit=limit, hold=hold))
        self.house = Housekeeping(self.state, lambda: self.engine.prices, self._commit)
        self.job: JobRecord = self.submit(**{"nodes": nodes, "time_limit_us": 10 * HOUR_US} | spec)
        self.cycle()
        self.orders.report()
        assert self.job.attempt is not None, self.why(self.job)
        self.attempt: AttemptRecord = self.job.attempt
        self.events.clear()

    def passes(self, us: int, step_us: int = MINUTE_US) -> None:
        """So long the daemon lives."""
        for _ in range(us // step_us):
            self.clock.advance(step_us)
            self.orders.enforce()
            self.house.turn(self.engine.now())
            self.writer.flush()
            self.orders.report()
            self.writer.flush()

    def dead(self, us: int) -> None:
        """So long it does not, and comes back."""
        self.orders.disconnect("n-1")
        for _ in range(us // MINUTE_US):
            self.clock.advance(MINUTE_US)
            self.orders.enforce()
        self.restart()
        self.orders.connect(NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34))
        self.passes(MINUTE_US)

    def worst(self, limit_us: int) -> int:
        return cumulative(self.attempt.rate, limit_us + OVERHEAD_US)

    def committed(self, name: str = "b") -> int:
        record = self.state.budgets.records[name]
        settled = self.state.ledger.settled(name, record.period_start)
        return settled + self.state.ledger.held(name, record.period_start)

    def leave(self, nanos: int) -> None:
        """So much of the budget is left, as others have spent the rest."""
        start = self.state.budgets.records["b"].period_start
        spent = 1000 * USD - self.state.ledger.held("b", start) - nanos
        (hold,) = self.state.ledger.open_holds(self.attempt.id)
        mine = OpeningHold(self.attempt.id, hold.nanos, self.attempt.holds[0].nanos)
        self.engine.commit([BudgetOpened("b", start, spent, start, (mine,))], "test")

    def why(self, job: JobRecord) -> Any:
        made = one_pass(self.state, self.ids, self.engine.now(), lambda what, events: False)
        queues = made.snapshot.queues
        index = next(i for i, queue in enumerate(queues) if queue.position_of(job.id) >= 0)
        return reason_of(made.snapshot, made.plan, index, queues[index].position_of(job.id))

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_start_holds_its_first_lease_and_its_node_is_told_that_limit_alone() -> None:
    site = Site()
    assert (site.attempt.time_limit_us, site.attempt.full_limit_us) == (LEASE_US, 10 * HOUR_US)
    assert site.attempt.lease_us == LEASE_US
    assert site.orders.limits == {(site.attempt.id, 0): LEASE_US}
    assert site.committed() == site.worst(LEASE_US)
    # For those that wait the node is taken for as long as it may be.
    assert list(site.state.members.ends_at[:1]) == [site.attempt.started_at + 10 * HOUR_US + OVERHEAD_US]


def test_half_of_a_lease_later_it_has_a_whole_one_again_and_money_is_held_before_its_node_hears() -> None:
    site = Site()
    site.passes(9 * MINUTE_US)
    assert site.told(LimitChanged) == []
    site.clock.advance(MINUTE_US)
    site.house.turn(site.engine.now())
    assert (site.attempt.time_limit_us, site.orders.limits) == (
        30 * MINUTE_US,
        {(site.attempt.id, 0): LEASE_US},
    )
    assert site.committed() == site.worst(30 * MINUTE_US)
    site.writer.flush()
    site.orders.report()
    site.writer.flush()
    assert site.orders.limits == {(site.attempt.id, 0): 30 * MINUTE_US}
    assert site.told(LimitChanged) == [
        LimitChanged(site.attempt.id, 1, 30 * MINUTE_US, site.worst(30 * MINUTE_US), True)
    ]
    assert len(site.told(LimitTaken)) == 1
    site.passes(9 * MINUTE_US)
    assert len(site.told(LimitChanged)) == 1


def test_a_job_that_can_be_paid_runs_to_its_time_limit_and_ends_at_that() -> None:
    site = Site()
    site.passes(10 * HOUR_US + MINUTE_US, 5 * MINUTE_US)
    assert (site.job.state, site.job.attempts[-1].cause) == (JobState.FAILED, EndCause.TIME_LIMIT)
    assert site.attempt.time_limit_us == site.attempt.full_limit_us == 10 * HOUR_US
    assert site.committed() == site.job.settled_nanos == cumulative(site.attempt.rate, 10 * HOUR_US)
    assert site.state.leased == {}
    assert site.state.ledger.violations() == []


def test_without_room_for_another_lease_it_ends_with_the_one_it_has_within_what_was_held() -> None:
    site = Site()
    site.leave(nanos=cumulative(site.attempt.rate, 4 * MINUTE_US))  # a quarter of a lease is five
    site.passes(LEASE_US)
    assert site.told(LimitChanged) == site.told(StopRequested) == []
    assert (site.job.state, site.job.attempts[-1].cause) == (JobState.FAILED, EndCause.BUDGET)
    assert site.job.message == (
        "its budgets pay by leases of 20m00s, and had no room for another one after 20m00s"
    )
    assert site.committed() < 1000 * USD
    assert site.job.settled_nanos == cumulative(site.attempt.rate, LEASE_US)


def test_what_is_left_is_given_to_the_nano_and_no_further() -> None:
    site = Site()
    site.leave(nanos=cumulative(site.attempt.rate, 6 * MINUTE_US))
    site.passes(15 * MINUTE_US)
    (changed,) = site.told(LimitChanged)
    assert 26 * MINUTE_US - SECOND_US <= changed.time_limit_us <= 26 * MINUTE_US + SECOND_US
    assert 1000 * USD - 2 * site.attempt.rate // HOUR_US <= site.committed() <= 1000 * USD
    site.passes(15 * MINUTE_US)
    assert site.job.attempts[-1].cause is EndCause.BUDGET


def test_with_the_daemon_dead_its_node_ends_it_at_its_lease_and_nothing_is_overspent() -> None:
    site = Site()
    site.leave(nanos=0)
    site.dead(3 * HOUR_US)
    assert (site.job.state, site.job.attempts[-1].cause) == (JobState.FAILED, EndCause.BUDGET)
    assert site.committed() <= 1000 * USD
    assert site.job.settled_nanos <= site.worst(LEASE_US)


def test_a_budget_with_money_says_that_it_was_contact_that_was_missing() -> None:
    site = Site()
    site.dead(HOUR_US)
    assert site.job.message == (
        "its budgets pay by leases of 20m00s, and the one that ended after 20m00s could not be renewed: its"
        " node or the daemon was not in contact"
    )


def test_a_node_out_of_contact_is_given_no_lease_until_it_is_back() -> None:
    site = Site()
    site.orders.disconnect("n-1")
    site.passes(15 * MINUTE_US)
    assert site.told(LimitChanged) == []
    site.orders.connect(FACTS)
    site.passes(MINUTE_US)
    assert [one.time_limit_us for one in site.told(LimitChanged)] == [36 * MINUTE_US]


def test_of_a_gang_nobody_gets_another_lease_before_all_have_taken_the_last() -> None:
    site = Site(nodes=2)
    site.passes(10 * MINUTE_US)
    assert (len(site.told(LimitChanged)), len(site.told(LimitTaken))) == (1, 2)
    site.orders.disconnect("n-2")
    site.passes(15 * MINUTE_US)
    assert len(site.told(LimitChanged)) == 1
    site.passes(10 * MINUTE_US)
    assert site.orders.limits == {(site.attempt.id, rank): 30 * MINUTE_US for rank in (0, 1)}


def test_a_job_that_wants_a_warning_before_its_limit_gets_leases_that_are_so_much_longer() -> None:
    site = Site(checkpoint=CheckpointSpec(signal="USR1", before_us=30 * MINUTE_US))
    assert site.attempt.time_limit_us == 50 * MINUTE_US
    site.passes(9 * MINUTE_US)
    assert site.told(LimitChanged) == []
    site.passes(MINUTE_US)  # at forty minutes left, ten before the warning
    assert [one.time_limit_us for one in site.told(LimitChanged)] == [60 * MINUTE_US]


def test_a_job_shorter_than_a_lease_holds_no_more_than_it_may_cost() -> None:
    site = Site(time_limit_us=5 * MINUTE_US)
    assert site.committed() == site.worst(5 * MINUTE_US)
    site.passes(6 * MINUTE_US)
    assert site.told(LimitChanged) == []
    assert site.job.attempts[-1].cause is EndCause.TIME_LIMIT


@pytest.mark.parametrize("others", ["worst-case", "lease, lease: 1h"])
def test_the_most_careful_of_its_budgets_decides_what_a_job_holds(others: str) -> None:
    site = Site()
    site.apply(BUDGET.format(name="wide", limit=1000, hold=others))
    job = site.submit(time_limit_us=2 * HOUR_US)
    site.cycle()
    assert job.attempt is not None
    want = (2 * HOUR_US, 0) if others == "worst-case" else (LEASE_US, LEASE_US)
    assert (job.attempt.time_limit_us, job.attempt.lease_us) == want


def test_the_max_cost_of_a_whole_array_is_held_for_in_full() -> None:
    site = Site()
    array = site.submit(
        array=ArraySpec((0, 1), 2),
        time_limit_us=2 * HOUR_US,
        max_cost_nanos=500 * USD,
        currency="USD",
        max_cost_per="job",
    )
    site.cycle()
    tasks = [task.attempt for task in site.state.tasks[array.id].values() if task.attempt is not None]
    assert [(one.time_limit_us, one.lease_us) for one in tasks] == [(2 * HOUR_US, 0)] * 2


def test_a_job_whose_worst_case_is_beyond_the_budget_starts_and_one_whose_first_lease_is_is_refused() -> None:
    site = Site()
    site.apply(BUDGET.format(name="b", limit=9, hold="lease, lease: 20m"))
    assert site.worst(10 * HOUR_US) > 9 * USD
    site.submit(time_limit_us=1000 * HOUR_US)
    site.apply(BUDGET.format(name="small", limit="0.01", hold="lease").replace("project: p", "project: q"))
    with pytest.raises(BudgetExceeded) as refused:
        site.submit(project="q")
    assert "small can never pay for this: its first lease costs " in refused.value.message
    assert " (15m00s), the budget is" in refused.value.message


def test_a_job_that_waits_for_its_first_lease_says_for_how_long_that_is() -> None:
    site = Site()
    site.leave(nanos=cumulative(site.attempt.rate, 10 * MINUTE_US))
    job = site.submit(time_limit_us=5 * HOUR_US)
    site.cycle()
    why = site.why(job)
    assert why.code is ReasonCode.BUDGET_COMMITTED
    assert why.message.endswith(" for 20m at first")


@pytest.mark.parametrize(("hours", "limit_us"), [(3, 30 * MINUTE_US), (20, 30 * MINUTE_US)])
def test_another_time_limit_of_what_runs_by_leases_is_how_far_they_may_go(hours: int, limit_us: int) -> None:
    site = Site()
    site.passes(10 * MINUTE_US)
    events = jobs.update(site.state, site.job, {"time_limit_us": hours * HOUR_US}, site.engine.now())
    site.engine.commit(events, "ann")
    (changed,) = (one for one in events if isinstance(one, LimitChanged))
    assert changed == LimitChanged(
        site.attempt.id, 2, limit_us, site.worst(limit_us), True, full_limit_us=hours * HOUR_US
    )
    assert site.attempt.full_limit_us == hours * HOUR_US
    assert list(site.state.members.ends_at[:1]) == [site.attempt.started_at + hours * HOUR_US + OVERHEAD_US]
    assert jobs.update(site.state, site.job, {"time_limit_us": hours * HOUR_US}, site.engine.now()) == []
    site.passes(hours * HOUR_US, 5 * MINUTE_US)
    assert site.job.attempts[-1].cause is EndCause.TIME_LIMIT
    assert site.job.settled_nanos == cumulative(site.attempt.rate, hours * HOUR_US)


def test_a_shorter_limit_than_the_lease_cuts_it() -> None:
    site = Site()
    events = jobs.update(site.state, site.job, {"time_limit_us": 7 * MINUTE_US}, site.engine.now())
    site.engine.commit(events, "ann")
    site.passes(8 * MINUTE_US)
    assert site.job.attempts[-1].cause is EndCause.TIME_LIMIT
    assert site.attempt.time_limit_us == 7 * MINUTE_US


def test_who_waits_asks_for_leases_once_a_document_says_so_and_who_runs_keeps_what_it_had() -> None:
    site = Site(hold="worst-case")
    assert site.attempt.lease_us == 0
    waiting = site.submit(held=True, time_limit_us=10 * HOUR_US)
    queued = site.submit(options=(site.job.spec.options[0],), time_limit_us=10 * HOUR_US)
    site.apply(BUDGET.format(name="b", limit=1000, hold="lease, lease: 20m"))
    key = site.state.pending.key_of(queued.id)
    assert key is not None
    assert key.job_class.lease_us == LEASE_US
    site.cycle()
    assert queued.attempt is not None
    assert queued.attempt.lease_us == LEASE_US
    assert site.state.jobs[waiting.id].attempt is None
    site.passes(HOUR_US)
    assert site.attempt.lease_us == 0


def test_leases_go_on_after_a_restart_from_an_image() -> None:
    site = Site()
    site.passes(10 * MINUTE_US)
    again = image.decode(image.encode(site.state, site.engine.now()))
    assert list(again.leased) == [site.attempt.id]
    kept = again.attempts[site.attempt.id]
    assert (kept.lease_us, kept.full_limit_us, kept.time_limit_us) == (LEASE_US, 10 * HOUR_US, 30 * MINUTE_US)


def test_the_worst_case_of_a_plan_is_of_all_leases() -> None:
    site = Site()
    made = one_pass(site.state, site.ids, site.engine.now(), lambda what, events: False)
    assert made.plan.starts == ()
    job = site.submit(time_limit_us=3 * HOUR_US)
    made = one_pass(site.state, site.ids, site.engine.now(), lambda what, events: False)
    (start,) = made.plan.starts
    job_class = site.state.class_of(job)
    assert (start.time_limit_us, start.full_limit_us) == (LEASE_US, 3 * HOUR_US)
    assert start.hold_nanos == site.worst(LEASE_US)
    assert worst_of(start, job_class) == site.worst(3 * HOUR_US)


def test_a_reservation_of_its_node_counts_with_all_leases_that_it_may_yet_get() -> None:
    """It holds twenty minutes, and may go on for ten hours."""
    site = Site()
    at = format_instant(Instant(site.engine.now() + 2 * HOUR_US))
    with pytest.raises(WrongState, match="1 job may run past its start"):
        site.apply(
            "kind: Reservation\nname: r\n"
            f"spec: {{nodes: [n-1], start: {at}, duration: 1h, maintenance: true}}\n"
        )
