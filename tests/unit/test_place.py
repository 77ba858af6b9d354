"""From a plan to events: what is verified against now, in groups that stand or fall together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from bursar.model import EndCause, NodeFacts, ReasonCode, ShareRates
from bursar.resources import ResourceRequest
from bursar_policies.decision import Plan, Rent, Return, Snapshot, Stop
from bursard.events import AttemptPlaced, Event, NodePriced, StopRequested
from bursard.fleet.testing import World
from bursard.place import GANG_PORT_FIRST, Dropped, LastPlan, carry_out, verify
from bursard.scheduler import plan, reason_of
from bursard.state.decide import jobs, nodes

BUDGET = """\
kind: Budget
name: b
spec: {scope: {project: p}, limit: 30 USD, period: month, enforcement: hard}
"""


class Site(World):
    """Two nodes of 8 CPUs."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("n-1", "n-2"):
            self.join(NodeFacts(name=name, cpu_milli=8_000, memory_bytes=1 << 34, pool="local"))

    def join(self, facts: NodeFacts) -> None:
        engine = self.engine
        self.engine.commit(
            nodes.hello(
                self.state, self.ids, engine.prices, facts=facts, boot_id="boot", boot_us=0, now=engine.now()
            ),
            "test",
        )

    def ask(self, cpus: int, **spec: object) -> str:
        return self.submit(options=(ResourceRequest(None, cpus * 1_000, 1 << 20),), **spec).id

    def planned(self) -> tuple[Snapshot, Plan]:
        shot = self.state.snapshot()
        return shot, plan(shot, self.engine.now())

    def check(self, shot: Snapshot, *group: object) -> list[Event] | Dropped:
        return verify(self.state, self.ids, shot, group)  # type: ignore[arg-type]

    def do(self, shot: Snapshot, wanted: Plan) -> Sequence[Dropped]:
        def commit(_what: str, events: Sequence[Event]) -> bool:
            return bool(self.engine.commit(events, "bursard"))

        return carry_out(self.state, self.ids, shot, wanted, commit).dropped


@pytest.fixture
def site() -> Site:
    return Site()


def dropped(answer: list[Event] | Dropped) -> str:
    assert isinstance(answer, Dropped), answer
    assert answer.reason.remedy
    return answer.reason.message


def test_a_start_that_still_holds_becomes_an_attempt(site):
    job_id = site.ask(8)
    shot, wanted = site.planned()
    assert site.do(shot, wanted) == ()
    attempt = site.state.jobs[job_id].attempt
    assert [m.alloc.cpu_milli for m in attempt.members] == [8_000]
    assert attempt.time_limit_us == 3_600_000_000


def test_a_job_cancelled_held_or_updated_meanwhile_is_not_started(site):
    cancelled, held, updated = site.ask(1), site.ask(1), site.ask(1)
    shot, wanted = site.planned()
    state, engine = site.state, site.engine
    engine.commit(jobs.cancel(state, state.jobs[cancelled], None), "ann")
    engine.commit(jobs.hold(state, state.jobs[held]), "ann")
    other = {"options": (ResourceRequest(None, 2_000, 1 << 20),)}
    engine.commit(jobs.update(state, state.jobs[updated], other), "ann")
    assert [one.reason.message for one in site.do(shot, wanted)] == [
        f"job {cancelled} no longer waits",
        f"job {held} no longer waits",
        f"job {updated} asks for something else by now",
    ]
    assert not state.attempts


def test_another_priority_alone_does_not_stop_a_start(site):
    job_id = site.ask(1)
    shot, wanted = site.planned()
    site.engine.commit(jobs.update(site.state, site.state.jobs[job_id], {"priority": 90}), "ann")
    assert site.do(shot, wanted) == ()


@pytest.mark.parametrize("change", ["price", "size", "drain", "taken"])
def test_a_node_that_changed_meanwhile_takes_no_start_planned_before(site, change):
    site.ask(8)
    shot, wanted = site.planned()
    (start,) = wanted.starts
    node = site.state.nodes[shot.nodes.ids[start.members[0].node]]
    if change == "price":
        site.engine.commit([NodePriced(node.id, "new", ShareRates(cpu=7))], "test")
    elif change == "size":
        site.join(NodeFacts(name=node.facts.name, cpu_milli=9_000, memory_bytes=1 << 34, pool="local"))
    elif change == "drain":
        site.engine.commit(nodes.scheduling(node, "drain", "x"), "test")
    else:
        site.engine.commit(site.check(shot, replace(start, job_id=site.ask(8))), "bursard")
    (one,) = site.do(shot, wanted)
    changed = f"node {node.facts.name} is another than it was planned for"
    full = f"node {node.facts.name} no longer has the room it was planned with"
    assert one.reason.message == (changed if change in ("price", "size") else full)


def test_a_change_of_another_node_stops_nothing(site):
    site.ask(8)
    shot, wanted = site.planned()
    others = [node for node in site.state.nodes.values() if node.row != wanted.starts[0].members[0].node]
    site.engine.commit([NodePriced(others[0].id, "new", ShareRates(cpu=7))], "test")
    assert site.do(shot, wanted) == ()


def test_a_budget_that_was_spent_meanwhile_is_not_passed(site):
    site.apply(BUDGET)
    site.ask(8)
    shot, wanted = site.planned()
    (start,) = wanted.starts
    assert start.hold_nanos > 0
    site.apply(BUDGET.replace("30 USD", "1 USD"))
    (one,) = site.do(shot, wanted)
    assert one.reason.code is ReasonCode.BUDGET_COMMITTED
    assert dict(one.reason.facts) == {
        "budget": "b", "room": str(10**9), "needed": str(start.hold_nanos)
    }  # fmt: skip


def test_a_group_is_done_whole_or_not_at_all(site):
    """The second of two starts does not fit beside the first, so that neither is made."""
    site.ask(6), site.ask(6)
    shot, wanted = site.planned()
    one, two = wanted.starts
    assert one.members[0].node != two.members[0].node
    beside = replace(two, members=one.members)
    answer = site.check(shot, one, beside)
    assert dropped(answer).endswith("no longer has the room it was planned with")
    assert answer.action == beside
    assert answer.group == (one, beside)
    placed = site.check(shot, one, two)
    assert [type(event) for event in placed] == [AttemptPlaced, AttemptPlaced]


def test_a_group_counts_its_own_holds(site):
    site.apply(BUDGET)
    site.ask(8), site.ask(8)
    shot, wanted = site.planned()
    one, two = (replace(start, hold_nanos=16 * 10**9) for start in wanted.starts)
    assert dropped(site.check(shot, one, two)) == "budget b no longer has room for the hold"
    assert isinstance(site.check(shot, one), list)


def test_a_job_is_not_started_twice_in_a_group(site):
    job_id = site.ask(1)
    shot, wanted = site.planned()
    (start,) = wanted.starts
    assert dropped(site.check(shot, start, start)) == f"job {job_id} no longer waits"


def test_gangs_of_one_group_do_not_share_a_port(site):
    site.ask(1, nodes=2), site.ask(1, nodes=2)
    shot, wanted = site.planned()
    placed = site.check(shot, *wanted.starts)
    assert [event.port for event in placed] == [GANG_PORT_FIRST, GANG_PORT_FIRST + 1]


def test_a_stop_asks_an_attempt_to_end_and_says_for_whom(site):
    job_id = site.ask(1)
    site.do(*site.planned())
    attempt, waits = site.state.jobs[job_id].attempt, site.ask(1)
    stop = Stop(attempt.id, EndCause.PREEMPTED, for_job=waits, message="for it")
    nobody = replace(stop, for_job="job_x")
    assert dropped(site.check(site.state.snapshot(), nobody)) == "job job_x no longer waits"
    events = site.check(site.state.snapshot(), stop)
    assert events == [StopRequested(attempt.id, EndCause.PREEMPTED, attempt.grace_us, "for it", waits)]
    site.engine.commit(events, "bursard")
    assert (attempt.state, attempt.stop_cause) == ("STOPPING", EndCause.PREEMPTED)
    gone = f"attempt {attempt.id} has ended or is ending"
    assert dropped(site.check(site.state.snapshot(), stop)) == gone


def test_an_attempt_is_not_stopped_twice_in_a_group(site):
    job_id = site.ask(1)
    site.do(*site.planned())
    stop = Stop(site.state.jobs[job_id].attempt.id, EndCause.PREEMPTED)
    assert "is ending" in dropped(site.check(site.state.snapshot(), stop, stop))


@pytest.mark.parametrize("action", [Rent("p5", 1), Return("node_1")], ids=repr)
def test_what_is_not_built_is_dropped_with_that_reason_and_what_it_stands_with(site, action):
    job_id = site.ask(1)
    shot, wanted = site.planned()
    (start,) = wanted.starts
    (one,) = site.do(shot, replace(wanted, groups=((start, action),)))
    assert one.reason.message == f"{type(action).__name__.lower()} is not built"
    assert one.reason.code is ReasonCode.MISCONFIGURED
    assert one.action == action
    assert site.state.jobs[job_id].attempt is None


def test_only_what_another_plan_may_do_calls_for_one(site):
    job_id = site.ask(1)
    shot, wanted = site.planned()
    refuse = carry_out(site.state, site.ids, shot, wanted, lambda _what, _events: False)
    assert (refuse.done, refuse.stale) == (0, False)
    rent = replace(wanted, groups=((Rent("x", 1),),))
    assert not carry_out(site.state, site.ids, shot, rent, lambda _what, _events: True).stale
    site.engine.commit(jobs.cancel(site.state, site.state.jobs[job_id], None), "ann")
    assert carry_out(site.state, site.ids, shot, wanted, lambda _what, _events: True).stale


def test_a_plan_names_what_it_was_made_of(site):
    shot, wanted = site.planned()
    assert (wanted.version, wanted.prices, wanted.policies) == (shot.version, shot.prices, shot.policies)
    assert wanted.at == site.engine.now()
    node = next(iter(site.state.nodes.values()))
    site.engine.commit([NodePriced(node.id, "new", ShareRates(cpu=7))], "test")
    site.apply(BUDGET)
    after, _ = site.planned()
    assert after.prices != shot.prices
    assert after.policies != shot.policies


def test_no_sentence_is_made_before_somebody_asks(site, monkeypatch):
    first = site.ask(9)
    asked: list[int] = []

    def counted(*arguments: object) -> object:
        asked.append(1)
        return reason_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("bursard.place.reason_of", counted)
    shot, wanted = site.planned()
    last = LastPlan(shot, wanted)
    key = site.state.pending.key_of(first)
    assert asked == []
    assert last.reason(key, first) == last.reason(key, first) == reason_of(shot, wanted, 0)
    assert asked == [1]
    assert last.reason((key[0], 99), first) is None
