"""A running job gets another time limit: what is held, what its nodes are told, and what is believed when.

The clock is moved by hand. A node costs so much that an hour of a CPU is a fraction of a dollar.
"""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import BudgetExceeded, WrongState
from bursar.model import EndCause, JobState, NodeFacts
from bursar.money import cumulative, format_nanos
from bursard.events import JobUpdated, LimitChanged, LimitRefused, LimitTaken
from bursard.fleet import Limit, words
from bursard.fleet.memory import MemoryBackend
from bursard.fleet.testing import FACTS, World
from bursard.state import HOLD_MARGIN_US, AttemptRecord, JobRecord, image
from bursard.state.decide import jobs

BUDGET = "kind: Budget\nname: plenty\nspec: {scope: {project: p}, limit: %s USD, period: year}\n"
SECOND_NODE = NodeFacts(name="n-2", cpu_milli=8_000, memory_bytes=1 << 34)
OVERHEAD_US = 5 * SECOND_US + HOLD_MARGIN_US
Key = tuple[str, int]


class Orders(MemoryBackend):
    """Says which limits were ordered, in order; those in `silent` are lost on the way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits: list[Limit] = []
        self.lost: set[Key] = set()

    def limit(self, node_id: str, order: Limit) -> None:
        self.limits.append(order)
        if (order.attempt_id, order.rank) not in self.lost:
            super().limit(node_id, order)


class Site(World):
    """Nodes with enough money, and one job that runs on them for at most an hour."""

    def __init__(self, limit: str = "1000", nodes: int = 1, **spec: Any) -> None:
        super().__init__()
        self.orders = self.backend = Orders(self.clock)
        self.backend.serve(self.fleet)
        for facts in (FACTS, SECOND_NODE)[:nodes]:
            self.backend.connect(facts)
        self.apply(BUDGET % limit)
        self.job: JobRecord = self.submit(nodes=nodes, **spec)
        self.cycle()
        self.backend.report()
        assert self.job.attempt is not None
        self.attempt: AttemptRecord = self.job.attempt
        assert self.job.state is JobState.RUNNING
        self.events.clear()

    def update(self, **changes: Any) -> None:
        """Decided and applied, but on no disk yet."""
        events = jobs.update(self.state, self.job, changes, self.engine.now())
        self.engine.commit(events, "ann")

    def durable(self, report: bool = False) -> None:
        self.writer.flush()
        if report:
            self.backend.report()
            self.writer.flush()

    def worst(self, limit_us: int) -> int:
        return cumulative(self.attempt.rate, limit_us + OVERHEAD_US)

    def held(self) -> int:
        (hold,) = self.state.ledger.open_holds(self.attempt.id)
        return hold.nanos

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_longer_limit_is_held_for_before_a_node_hears_of_it() -> None:
    site = Site()
    assert site.held() == site.worst(HOUR_US)
    site.update(time_limit_us=3 * HOUR_US)
    assert (site.attempt.time_limit_us, site.held()) == (3 * HOUR_US, site.worst(3 * HOUR_US))
    assert site.orders.limits == []
    site.durable()
    assert site.orders.limits == [Limit(site.attempt.id, 0, 1, 3 * HOUR_US)]
    assert site.told(LimitTaken) == []
    assert [one.alloc.rank for one in site.attempt.unlimited()] == [0]
    site.durable(report=True)
    assert site.told(LimitTaken) == [
        LimitTaken(site.attempt.id, 0, 1, 0, 3 * HOUR_US, site.worst(3 * HOUR_US))
    ]
    assert (site.attempt.unlimited(), site.attempt.wanted_limit_us) == ([], 0)
    assert site.held() == site.worst(3 * HOUR_US)
    assert site.job.spec.time_limit_us == 3 * HOUR_US
    assert site.state.ledger.violations() == []


def test_a_shorter_limit_is_believed_and_its_money_free_once_it_is_taken() -> None:
    site = Site()
    site.clock.advance(600 * SECOND_US)
    site.update(time_limit_us=HOUR_US // 2)
    site.durable()
    assert (site.attempt.time_limit_us, site.held()) == (HOUR_US, site.worst(HOUR_US))
    site.backend.report()
    assert site.attempt.time_limit_us == HOUR_US // 2
    assert site.held() + site.attempt.settled_nanos == site.worst(HOUR_US // 2)
    assert site.state.ledger.violations() == []
    row = site.state.members
    assert site.attempt.taken == {0: 600 * SECOND_US}
    assert list(row.ends_at[:1]) == [site.attempt.started_at + HOUR_US // 2 + OVERHEAD_US]


@pytest.mark.parametrize(
    ("changes", "events"),
    [
        ({"time_limit_us": HOUR_US}, []),
        ({"priority": 7}, [JobUpdated]),
        ({"time_limit_us": 2 * HOUR_US}, [JobUpdated, LimitChanged]),
        ({"time_limit_us": 0}, [JobUpdated, LimitChanged]),  # the cluster's own, a day
        ({"time_limit_us": 2 * HOUR_US, "comment": "more"}, [JobUpdated, LimitChanged]),
        ({"max_cost_nanos": 10**15, "currency": "USD"}, [JobUpdated]),  # pays for all of it
        ({"max_cost_nanos": 5 * 10**8, "currency": "USD"}, [JobUpdated, LimitChanged]),
    ],
)
def test_only_a_change_of_the_limit_concerns_what_runs(changes: dict[str, Any], events: list[type]) -> None:
    site = Site()
    made = jobs.update(site.state, site.job, changes, site.engine.now())
    assert [type(one) for one in made] == events


def test_max_cost_cuts_the_limit_of_what_runs_to_what_it_pays_for() -> None:
    site = Site()
    half = site.worst(HOUR_US // 2)
    site.update(max_cost_nanos=half, currency="USD")
    site.durable(report=True)
    assert site.attempt.cut_by_budget
    assert HOUR_US // 2 <= site.attempt.time_limit_us <= HOUR_US // 2 + SECOND_US
    assert site.held() == half
    site.exited_of(site.attempt, EndCause.TIME_LIMIT, started=True, held_us=1)
    assert (site.job.state, site.job.message) == (JobState.FAILED, "budget.max_cost was reached")


def test_a_limit_that_no_budget_has_room_for_is_refused_with_the_sum() -> None:
    site = Site("2")
    limit_nanos = 2 * 10**9
    site.update(time_limit_us=2 * HOUR_US)
    assert site.held() == site.worst(2 * HOUR_US) < limit_nanos
    with pytest.raises(BudgetExceeded) as refused:
        site.update(time_limit_us=3 * HOUR_US)
    more, room = site.worst(3 * HOUR_US) - site.worst(2 * HOUR_US), limit_nanos - site.worst(2 * HOUR_US)
    assert refused.value.message == (
        f"budget plenty has no room for a time limit of 3h00m for job 1: it may cost 0.96 USD more,"
        f" {format_nanos(room)} USD are free; ask for a shorter limit, or raise the budget"
    )
    assert refused.value.facts == {
        "budget": "plenty",
        "needed": format_nanos(more),
        "room": format_nanos(room),
        "currency": "USD",
        "reason": "BudgetExhausted",
    }
    assert (site.attempt.limit_order, site.held()) == (1, site.worst(2 * HOUR_US))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"time_limit_us": 600 * SECOND_US}, "has run for 10m00s, longer than a time limit of 10m00s; give"),
        ({"max_cost_nanos": 1, "currency": "USD"}, "does not pay for job 1, which costs"),
        ({"nodes": 2}, "its nodes cannot change, since nodes, limits and money were promised"),
        ({"project": "q"}, "only priority, comment, idle snooze, time limit and max cost can"),
        ({"max_price_nanos_per_hour": 1, "currency": "USD"}, "its max price cannot change"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_a_way_out(changes: dict[str, Any], said: str) -> None:
    site = Site()
    site.clock.advance(600 * SECOND_US)
    with pytest.raises(WrongState) as refused:
        site.update(**changes)
    assert said in refused.value.message
    assert "`bursar cancel 1`" in refused.value.message
    assert site.attempt.limit_order == 0


def test_a_job_that_is_stopped_keeps_its_limit() -> None:
    site = Site()
    site.stop(site.attempt)
    with pytest.raises(WrongState, match="is being stopped, so its time limit cannot change"):
        site.update(time_limit_us=2 * HOUR_US)


def test_of_a_gang_nothing_is_believed_before_all_have_taken_it() -> None:
    site = Site(nodes=2)
    site.orders.lost = {(site.attempt.id, 1)}
    site.update(time_limit_us=HOUR_US // 2)
    site.durable(report=True)
    assert [one.rank for one in site.orders.limits] == [0, 1]
    assert site.told(LimitTaken) == [LimitTaken(site.attempt.id, 0, 1)]
    assert (site.attempt.time_limit_us, site.held()) == (HOUR_US, site.worst(HOUR_US))
    assert [one.alloc.rank for one in site.attempt.unlimited()] == [1]
    site.orders.lost.clear()
    site.backend.disconnect("n-2")
    site.backend.connect(SECOND_NODE)
    assert site.orders.limits[2:] == [Limit(site.attempt.id, 1, 1, HOUR_US // 2)]
    site.durable(report=True)
    assert (site.attempt.time_limit_us, site.held()) == (HOUR_US // 2, site.worst(HOUR_US // 2))


def test_what_the_rest_of_a_gang_has_taken_is_in_force_when_the_last_has_ended() -> None:
    site = Site(nodes=2)
    site.orders.lost = {(site.attempt.id, 1)}
    site.update(time_limit_us=HOUR_US // 2)
    site.durable(report=True)
    site.backend.finish(site.attempt.id, 1)
    site.backend.report()
    assert site.attempt.time_limit_us == HOUR_US // 2


def test_it_is_said_again_after_a_restart_of_the_daemon_and_not_once_it_is_taken() -> None:
    site = Site()
    site.orders.lost = {(site.attempt.id, 0)}
    site.update(time_limit_us=2 * HOUR_US)
    site.durable()
    site.orders.lost.clear()
    for _ in range(2):
        site.restart()
        site.backend.connect(FACTS)
        site.durable(report=True)
    assert site.orders.limits == 2 * [Limit(site.attempt.id, 0, 1, 2 * HOUR_US)]
    assert site.attempt.unlimited() == []


def test_of_two_orders_the_newest_counts_and_the_longest_is_held_for() -> None:
    site = Site()
    site.update(time_limit_us=4 * HOUR_US)
    site.durable()
    site.update(time_limit_us=2 * HOUR_US)
    site.durable()
    assert (site.attempt.time_limit_us, site.held()) == (4 * HOUR_US, site.worst(4 * HOUR_US))
    node = site.node()
    site.fleet.limit_taken(node, words.LimitTaken(site.attempt.id, 0, 1))  # late: of the first
    assert site.attempt.time_limit_us == 4 * HOUR_US
    site.fleet.limit_taken(node, words.LimitTaken(site.attempt.id, 0, 2))
    assert (site.attempt.time_limit_us, site.held()) == (2 * HOUR_US, site.worst(2 * HOUR_US))


def test_a_limit_that_passed_on_its_way_ends_nobody_earlier_than_it_was_heard() -> None:
    site = Site()
    site.backend.disconnect("n-1")
    site.update(time_limit_us=HOUR_US // 2)
    site.durable()
    site.clock.advance(HOUR_US * 3 // 4)
    site.backend.connect(FACTS)
    site.durable(report=True)
    assert site.attempt.time_limit_us == HOUR_US * 3 // 4
    assert site.node().mode == "open"
    assert site.attempt.members[0].charged_us == HOUR_US * 3 // 4


def test_it_is_never_billed_for_longer_than_the_limit_in_force_and_its_grace() -> None:
    site = Site()
    site.update(time_limit_us=HOUR_US // 2)
    site.durable(report=True)
    site.clock.advance(2 * HOUR_US)
    site.backend.report()
    assert site.attempt.members[0].charged_us == HOUR_US // 2 + OVERHEAD_US
    assert site.attempt.settled_nanos <= site.worst(HOUR_US // 2)
    assert site.state.ledger.overrun(site.attempt.id) == 0
    assert site.held() == site.worst(HOUR_US // 2) - site.attempt.settled_nanos


def test_a_node_that_does_not_live_by_a_shorter_limit_is_overdue_by_it() -> None:
    site = Site()
    site.update(time_limit_us=600 * SECOND_US)
    site.durable(report=True)
    last_us = site.clock.boot_us() + 600 * SECOND_US + OVERHEAD_US + site.state.limits.overdue_after_us
    while site.clock.boot_us() + 10 * SECOND_US < last_us:
        site.clock.advance(10 * SECOND_US)
        site.fleet.look()
    assert site.attempt.overdue == {}
    site.clock.advance(last_us + 1 - site.clock.boot_us())
    site.fleet.look()
    assert set(site.attempt.overdue) == {0}


def test_an_agent_of_an_older_release_is_not_asked_and_the_update_refused() -> None:
    site = Site(nodes=2)
    site.orders.fixed_limits = {"n-2"}
    with pytest.raises(WrongState, match="the agent on n-2 is of an older release") as refused:
        site.fleet.refuse_deaf(site.attempt)
    assert refused.value.facts["nodes"] == "n-2"
    site.update(time_limit_us=2 * HOUR_US)  # as it would be while that one is out of contact
    site.durable(report=True)
    assert [one.rank for one in site.orders.limits] == [0]
    assert [one.alloc.rank for one in site.attempt.unlimited()] == [1]


def test_a_member_that_cannot_is_told_once_and_asked_again() -> None:
    site = Site()
    site.update(time_limit_us=2 * HOUR_US)
    site.durable()
    node, key = site.node(), (site.attempt.id, 0)
    for _ in range(2):
        site.fleet.limit_taken(node, words.LimitTaken(*key, 1, "its supervisor\nis old"))
    assert site.told(LimitRefused) == []
    site.durable()
    assert site.told(LimitRefused) == [LimitRefused(*key, 1, "its supervisor is old")]
    site.fleet.limit_taken(node, words.LimitTaken(*key, 1))
    assert (site.attempt.unlimited(), site.attempt.refused) == ([], {})


def test_all_of_it_outlives_the_process() -> None:
    site = Site(nodes=2)
    site.orders.lost = {(site.attempt.id, 1)}
    site.update(time_limit_us=HOUR_US // 2)
    site.durable(report=True)
    again = image.decode(image.encode(site.state, site.engine.now()), site.state.limits)
    kept = again.attempts[site.attempt.id]
    assert kept == site.attempt
    assert (kept.wanted_limit_us, kept.taken) == (HOUR_US // 2, {0: 0})


def test_a_start_that_is_ordered_again_takes_the_wanted_limit_with_it() -> None:
    site = Site()
    site.update(time_limit_us=2 * HOUR_US)
    site.durable()
    node = site.node()
    ordered = site.orders.limits.copy()
    assert ordered == [Limit(site.attempt.id, 0, 1, 2 * HOUR_US)]
    site.fleet.assign_again(node, site.attempt.id, 0)
    site.fleet.assign_again(node, site.attempt.id, 1)  # no member of it is there
    site.fleet.assign_again(node, "att_none", 0)
    assert site.orders.limits == 2 * ordered
