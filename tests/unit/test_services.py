"""Services: places of replicas, what becomes of one that ends, updates, drains, leases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from service_site import BUDGET, MINUTE_US, Site

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import BudgetExceeded, InvalidRequest, RateLimited, WrongState
from bursar.model import EndCause, JobState, Reason, ReasonCode, ServiceSpec
from bursar.v1 import services_pb2 as pb
from bursard.fleet.testing import FACTS, World
from bursard.services import serviceviews
from bursard.services.serviceviews import route_view
from bursard.services.serving import ServicesService
from bursard.serving.board import Gateway
from bursard.serving.keeper import Keeper
from bursard.state import JobRecord, image
from bursard.state.decide import jobs
from bursard.state.decide import services as decide


def replicas(job: JobRecord, world: World) -> list[tuple[int, str]]:
    tasks = world.state.tasks[job.id].values()
    return sorted((task.array_index, task.state.value) for task in tasks if task.has_slot)


def test_a_service_starts_as_many_replicas_as_it_must_have_each_at_a_port_of_its_own() -> None:
    site = Site(port=9000, replicas_min=2, replicas_max=4)
    assert replicas(site.job, site.world) == [(0, "RUNNING"), (1, "RUNNING")]
    assert sorted(attempt.port for attempt in site.live()) == [9000, 9001]
    assert {order.port for order in site.world.backend.probed.values()} == {9000, 9001}


def test_another_service_of_the_same_name_is_refused() -> None:
    site = Site()
    with pytest.raises(InvalidRequest, match="there is a service chat already"):
        site.world.submit(name="chat", time_limit_us=0, service=ServiceSpec())


@pytest.mark.parametrize("cause", [EndCause.COMPLETED, EndCause.FAILED, EndCause.OUT_OF_MEMORY])
def test_a_replica_that_ends_is_started_again_whatever_it_ended_of(cause: EndCause) -> None:
    site = Site()
    first = site.live()[0]
    site.world.exited_of(first, cause, started=True, started_boot_us=first.members[0].started_at)
    site.turn()
    [second] = site.live()
    assert second.id != first.id
    assert site.job.state is JobState.RUNNING


def test_a_replica_that_completes_while_its_service_is_cancelled_is_not_started_again() -> None:
    site = Site()
    [replica] = site.live()
    site.world.engine.commit(jobs.cancel(site.world.state, site.job, None), "ann")
    site.world.exited_of(
        replica, EndCause.COMPLETED, started=True, started_boot_us=replica.members[0].started_at
    )
    site.turn(60)
    assert site.live() == []
    assert site.job.state is JobState.CANCELLED


def test_a_replica_that_ends_in_a_row_waits_longer_each_time_and_says_why() -> None:
    site = Site()
    waits = []
    for _ in range(8):
        task = site.world.state.tasks[site.job.id][0]
        attempt = site.live()[0]
        site.world.backend.finish(attempt.id, 0, exit_code=3)
        site.world.backend.report()
        waits.append(max(task.retry_at - site.world.engine.now(), 0) // SECOND_US)
        site.turn(waits[-1] + 1)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_replica_that_ran_long_begins_a_new_row() -> None:
    site = Site()
    for seconds in (0, 0, 700):
        site.turn(seconds)
        site.world.backend.finish(site.live()[0].id, 0, exit_code=3)
        site.world.backend.report()
        site.turn(15)
    assert site.world.state.tasks[site.job.id][0].free_retries == 1


def test_fewer_replicas_are_wanted_and_one_with_requests_in_hand_answers_first() -> None:
    site = Site(replicas_min=2, replicas_max=2, drain_us=MINUTE_US)
    site.turn(ready=True)
    busy = {attempt.id: 1 for attempt in site.live()}
    site.asks(busy=2, outstanding=busy)
    site.world.engine.commit(decide.scale(site.world.state, site.job, 1, 1), "ann")
    site.turn(ready=True)
    site.asks(busy=2, outstanding=busy)
    site.turn()
    assert len(site.live()) == 2, "it has a request in hand"
    [gone] = site.keeper.board.draining
    left = {attempt_id: one for attempt_id, one in busy.items() if attempt_id != gone}
    site.asks(busy=1, outstanding=left)
    site.turn()
    assert [attempt.id for attempt in site.live()] == list(left)
    site.turn(5)
    assert len(site.live()) == 1, "its place is not wanted any more"
    assert site.findings() == []


def test_a_replica_that_does_not_finish_what_it_has_in_hand_goes_after_its_drain() -> None:
    site = Site(replicas_min=2, replicas_max=2, drain_us=20 * SECOND_US)
    site.turn(ready=True)
    busy = {attempt.id: 1 for attempt in site.live()}
    site.asks(busy=2, outstanding=busy)
    site.world.engine.commit(decide.scale(site.world.state, site.job, 1, 1), "ann")
    for _ in range(2):
        site.turn()
        site.asks(busy=2, outstanding=busy)
    assert len(site.live()) == 2
    site.turn(20)
    site.turn()
    assert len(site.live()) == 1


def test_a_request_at_zero_starts_one_replica_however_many_wait() -> None:
    site = Site(replicas_min=0, replicas_max=8, target=1)
    assert site.live() == []
    site.asks(waiting=100)
    for _ in range(5):
        site.turn(1)
        site.asks(waiting=100, busy=100)
    assert len(site.live()) == 1
    assert site.findings() == []


def test_without_requests_no_replica_is_kept() -> None:
    site = Site(replicas_min=0, replicas_max=8, zero_after_us=90 * SECOND_US)
    site.asks(waiting=1)
    site.turn(1, ready=True)
    for _ in range(85):
        site.turn(1)
        site.asks()
    assert len(site.live()) == 1
    for _ in range(10):
        site.turn(1)
        site.asks()
    assert site.live() == []
    assert site.job.state is JobState.RUNNING


def updated(site: Site, **changes: Any) -> None:
    spec = msgspec.structs.replace(site.job.spec, **changes)
    site.world.engine.commit(decide.update(site.world.state, site.job, spec), "ann")


def test_an_update_goes_replica_by_replica_and_never_has_fewer_ready() -> None:
    site = Site(replicas_min=3, replicas_max=3)
    site.turn(ready=True)
    old = {attempt.id for attempt in site.live()}
    updated(site, command=("true", "2"))
    seen = []
    for _ in range(12):
        site.asks()
        site.turn(1)
        ready = site.keeper.board.ready
        seen.append(sum(attempt.id in ready and ready[attempt.id].ready for attempt in site.live()))
        site.turn(0, ready=True)
        assert len(site.live()) <= 4
    assert min(seen) >= 3
    assert old.isdisjoint(attempt.id for attempt in site.live())
    assert {task.spec.service.revision for task, _ in site.keeper.live(site.job)} == {2}
    assert len(site.live()) == 3


def test_a_revision_that_never_gets_ready_takes_nothing_from_the_one_before() -> None:
    site = Site(replicas_min=2, replicas_max=2)
    site.turn(ready=True)
    old = {attempt.id for attempt in site.live()}
    updated(site, command=("false",))
    for _ in range(5):
        site.turn(1)
        for attempt in site.live():
            if attempt.id not in old:
                site.world.backend.finish(attempt.id, 0, exit_code=1)
        site.world.backend.report()
    assert old <= {attempt.id for attempt in site.live()}


def test_a_rollback_is_the_revision_before_as_a_new_one() -> None:
    site = Site()
    with pytest.raises(WrongState, match="no other revision"):
        decide.rollback(site.world.state, site.job)
    updated(site, command=("true", "2"))
    site.world.engine.commit(decide.rollback(site.world.state, site.job), "ann")
    assert site.job.spec.command == ("true",)
    assert site.job.spec.service is not None
    assert site.job.spec.service.revision == 3


def test_an_update_that_changes_nothing_is_none() -> None:
    site = Site()
    assert decide.update(site.world.state, site.job, site.job.spec) == []


def test_a_place_of_a_service_cannot_be_cancelled_alone() -> None:
    site = Site()
    with pytest.raises(WrongState, match="bursar service scale chat N"):
        jobs.cancel(site.world.state, site.world.state.tasks[site.job.id][0], None)


def test_a_cancelled_service_ends_with_its_replicas() -> None:
    site = Site(replicas_min=2, replicas_max=4)
    site.world.engine.commit(jobs.cancel(site.world.state, site.job, None), "ann")
    site.turn()
    site.turn()
    assert site.job.state is JobState.CANCELLED


def test_a_replica_that_is_not_ready_in_time_is_replaced() -> None:
    site = Site(start_timeout_us=30 * SECOND_US)
    first = site.live()[0]
    site.world.backend.ready(first.id, False, "/health answers 503")
    site.turn(29)
    assert site.live() == [first]
    site.turn(2)
    site.turn()
    assert first.message == "not ready for 30 s: /health answers 503"
    assert site.live() != [first]


def test_its_budget_holds_leases_and_no_worst_case() -> None:
    site = Site(replicas_min=1, replicas_max=1)
    site.world.apply(BUDGET)
    site.world.backend.finish(site.live()[0].id, 0)
    site.world.backend.report()
    site.turn()
    [attempt] = site.live()
    assert attempt.lease_us == HOUR_US // 2
    assert attempt.time_limit_us == HOUR_US // 2
    assert sum(hold.nanos for hold in attempt.holds) < attempt.rate


def test_more_replicas_than_it_was_submitted_with_have_places() -> None:
    site = Site(replicas_min=1, replicas_max=1)
    site.world.engine.commit(decide.scale(site.world.state, site.job, 5, 6), "ann")
    site.turn()
    assert len(site.live()) == 5
    assert site.findings() == []


def test_a_price_cap_bounds_the_replicas() -> None:
    site = Site(replicas_min=1, replicas_max=6, target=1)
    site.turn(ready=True)
    rate = site.live()[0].rate
    capped = msgspec.structs.replace(
        site.job.spec, max_price_nanos_per_hour=rate * 3 + 1, currency="USD",
        service=msgspec.structs.replace(site.job.spec.service, replicas_min=6),
    )  # fmt: skip
    site.world.engine.commit(decide.update(site.world.state, site.job, capped), "ann")
    for _ in range(10):
        site.turn(1, ready=True)
    assert len(site.live()) == 3


def test_an_image_and_a_replay_have_the_service_as_it_was() -> None:
    site = Site(replicas_min=2, replicas_max=4)
    world = site.world
    issued = decide.new_key(
        world.state, world.ids, site.job, sha256="f" * 64, user="ann", name="ci", project="p",
        requests_per_minute=5,
    )  # fmt: skip
    world.engine.commit(issued, "ann")
    updated(site, command=("true", "2"))
    world.writer.flush()
    again = image.decode(image.encode(world.state, world.engine.now()))
    replayed = world.killed().state
    for other in (again, replayed):
        job = other.jobs[site.job.id]
        assert job.spec == site.job.spec
        assert job.replaced == site.job.replaced
        assert job.array == site.job.array
        assert other.service_keys == world.state.service_keys
        assert {key: task.spec for key, task in other.tasks[job.id].items()} == {
            key: task.spec for key, task in world.state.tasks[job.id].items()
        }


def test_what_a_gateway_tells_twice_is_taken_once() -> None:
    site = Site()
    state = site.world.state
    for seq, many in ((1, 1), (1, 0), (2, 1)):
        events = decide.metered(state, site.job, "g", seq, 0, 1, 1, ())
        assert len(events) == many
        site.world.engine.commit(events, "gateway:g")


def test_a_key_that_lapses_after_all_that_a_message_can_say_is_refused() -> None:
    site = Site()
    with pytest.raises(InvalidRequest, match="year 9999"):
        decide.new_key(
            site.world.state, site.world.ids, site.job, sha256="f" * 64, user="ann", name="ci", project="p",
            expires_at=2**63,
        )  # fmt: skip


def test_a_service_that_too_many_gateways_told_of_stops_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setattr(decide, "GATEWAYS_MAX", 1)
    calls = ServicesService(site.world.engine, SimpleNamespace(), site.keeper)  # type: ignore[arg-type]
    for gateway in ("one", "two"):
        now = site.world.engine.now()
        minute = pb.ServiceMinute(seq=1, job_id=site.job.id, minute=now, busy_us=1, capacity_us=1)
        assert calls._meter(pb.SyncRequest(gateway=gateway, minutes=[minute])) == 1
    assert site.job.gateways == {"one": 1}


def test_a_daemon_that_begins_anew_does_not_take_a_busy_service_for_one_that_nobody_asks() -> None:
    site = Site(replicas_min=0, replicas_max=4)
    site.asks(waiting=1)
    site.turn(1, ready=True)
    site.asks(busy=4)
    [before] = site.live()
    site.keeper = Keeper(site.world.engine)
    site.world.fleet.replicas.readied = site.keeper.readied
    site.turn(1)
    site.turn(1, ready=True)  # its agent is heard before its gateway
    site.turn(1)
    assert site.live() == [before]
    assert before.stop_cause is None
    assert not site.keeper.board.draining
    site.turn(5 * 60, ready=True)
    site.turn(1)
    assert site.live() == []


def test_an_update_names_money_of_the_site_as_a_submit_does() -> None:
    site = Site()
    priced = msgspec.structs.replace(site.job.spec, max_price_nanos_per_hour=10**12, currency="EUR")
    with pytest.raises(InvalidRequest, match="EUR"):
        decide.update(site.world.state, site.job, priced)


def issue(site: Site, count: int = 1, **more: int) -> None:
    for _ in range(count):
        events = decide.new_key(
            site.world.state, site.world.ids, site.job, sha256="f" * 64, user="ann", name="", project="p",
            now=site.world.engine.now(), **more,
        )  # fmt: skip
        site.world.engine.commit(events, "ann")


def test_keys_are_so_many_of_one_service_and_those_that_lapsed_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decide, "KEYS_MAX", 3)
    site = Site()
    issue(site, 3, expires_at=site.world.engine.now() + MINUTE_US)
    with pytest.raises(RateLimited, match="service chat has 3 keys already"):
        issue(site)
    site.world.clock.advance(MINUTE_US)
    issue(site, 3)
    with pytest.raises(RateLimited):
        issue(site)


def test_all_services_together_have_no_more_keys_than_a_gateway_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decide, "KEYS_OF_SITE_MAX", 2)
    site = Site()
    issue(site, 2)
    with pytest.raises(RateLimited, match="all services together have 2 keys"):
        issue(site)


def test_a_key_that_lapsed_leaves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "LAPSED_MAX", 2)
    site = Site()
    issue(site, 5, expires_at=site.world.engine.now() + MINUTE_US)
    issue(site)
    site.turn(59)
    assert len(site.world.state.service_keys) == 6
    for _ in range(4):
        site.turn(20)
    assert [key.expires_at for key in site.world.state.service_keys.values()] == [0]


def capped(site: Site, nanos: int) -> Any:
    return msgspec.structs.replace(
        site.job.spec, max_cost_nanos=nanos, max_cost_per="job", currency="USD", command=("true", "2")
    )


def test_an_update_sets_no_cap_below_what_the_service_has_committed() -> None:
    site = Site()
    site.world.apply(BUDGET)
    site.world.backend.finish(site.live()[0].id, 0)
    site.world.backend.report()
    site.turn(1)
    committed = site.world.state.array_money[site.job.id].committed_nanos
    assert committed > 1
    with pytest.raises(BudgetExceeded, match=r"max_cost .* of service chat is below"):
        decide.update(site.world.state, site.job, capped(site, committed - 1))


def test_an_update_changes_no_mark_while_a_machine_comes_up_for_the_service() -> None:
    site = Site()
    machine = SimpleNamespace(holding=True, job_id=f"{site.job.id}.0", name="m1")
    site.world.state.machines["m"] = machine  # type: ignore[assignment]
    other = msgspec.structs.replace(site.job.spec, labels=(("team", "b"),))
    with pytest.raises(WrongState, match="machine m1 is coming up for job"):
        decide.update(site.world.state, site.job, other)
    assert decide.update(site.world.state, site.job, msgspec.structs.replace(site.job.spec, command=("a",)))


def full(site: Site, **service: Any) -> None:
    """Its node has room for what it runs, and for no more; then it is updated."""
    for attempt in site.live():
        site.world.backend.ready(attempt.id)
    room = sum(attempt.members[0].alloc.cpu_milli for attempt in site.live())
    site.world.backend.connect(msgspec.structs.replace(FACTS, cpu_milli=room))
    other = msgspec.structs.replace(site.job.spec.service, **service)
    updated(site, command=("true", "2"), service=other)


def turns(site: Site, many: int) -> list[int]:
    """So many seconds; how many replicas were ready in each."""
    seen = []
    for _ in range(many):
        site.asks()
        site.turn(1)
        ready = site.keeper.board.ready
        live = [
            one for one in site.live() if one.stop_cause is None and one.id not in site.keeper.board.draining
        ]
        seen.append(sum(one.id in ready and ready[one.id].ready for one in live))
        site.turn(0, ready=True)
    return seen


def revisions(site: Site) -> list[int]:
    return [task.spec.service.revision for task, _ in site.keeper.live(site.job) if task.spec.service]


def test_an_update_without_room_takes_one_old_replica_after_another_down_where_it_may() -> None:
    site = Site(replicas_min=3, replicas_max=3)
    site.turn(ready=True)
    full(site, max_unavailable=1)
    seen = turns(site, 60)
    assert revisions(site) == [2, 2, 2]
    assert min(seen) == 2
    assert site.findings() == []


def test_an_update_without_room_waits_where_nothing_may_be_missing() -> None:
    site = Site(replicas_min=2, replicas_max=2)
    site.turn(ready=True)
    full(site)
    assert min(turns(site, 40)) == 2
    assert revisions(site) == [1, 1]


def test_an_update_with_room_takes_nothing_down_first_whatever_may_be_missing() -> None:
    site = Site(replicas_min=2, replicas_max=2, max_unavailable=2)
    site.turn(ready=True)
    updated(site, command=("true", "2"))
    assert min(turns(site, 30)) >= 2
    assert revisions(site) == [2, 2]


def test_an_update_may_ask_for_no_room_at_all() -> None:
    site = Site(replicas_min=3, replicas_max=3, max_surge=0, max_unavailable=1)
    site.turn(ready=True)
    updated(site, command=("true", "2"))
    seen = []
    for _ in range(40):
        seen += turns(site, 1)
        assert len(site.live()) <= 3
    assert revisions(site) == [2, 2, 2]
    assert min(seen) == 2


def test_a_revision_that_never_gets_ready_takes_no_more_down_than_may_be_missing() -> None:
    site = Site(replicas_min=3, replicas_max=3)
    site.turn(ready=True)
    old = {attempt.id for attempt in site.live()}
    full(site, max_unavailable=1)
    for _ in range(60):
        site.asks()
        site.turn(1)
    assert len(old & {attempt.id for attempt in site.live()}) == 2


def gateway_at(boot_id: str) -> Gateway:
    return Gateway("g", boot_id, "", 0)


def routed(site: Site) -> list[int]:
    """Of the replicas that gateways are told of, their revisions."""
    cycle: Any = SimpleNamespace(last=None, rents=None)
    boot_id = next(iter(site.world.state.nodes.values())).boot_id
    route = route_view(site.world.engine, cycle, site.keeper, site.job, gateway_at(boot_id))
    told = {one.attempt_id for one in route.replicas}
    live = site.keeper.live(site.job)
    return sorted(task.spec.service.revision for task, one in live if one.id in told and task.spec.service)


def test_gateways_are_told_what_replicas_cost_and_what_hard_budgets_have_left() -> None:
    site = Site()
    site.turn(ready=True)
    world = site.world
    cycle: Any = SimpleNamespace(last=None, rents=None)
    boot_id = next(iter(world.state.nodes.values())).boot_id

    def told() -> Any:
        return route_view(world.engine, cycle, site.keeper, site.job, gateway_at(boot_id))

    assert not told().HasField("budget_left")
    rates = {one.attempt_id: int(one.rate.nanos) for one in told().replicas}
    assert rates == {attempt.id: attempt.rate for attempt in site.live()}
    assert told().currency == world.state.currency
    for name, limit, enforcement in (("soft", 1, "soft"), ("a", 900, "hard"), ("b", 800, "hard")):
        world.apply(
            f"kind: Budget\nname: {name}\nspec: {{scope: {{project: p}}, limit: {limit} USD,"
            f" period: month, enforcement: {enforcement}}}\n"
        )
    room = world.state.budgets.room(world.state.budgets.records["b"], world.state.ledger).room_nanos
    assert room <= 800 * 10**9
    assert int(told().budget_left.nanos) == room


@pytest.mark.parametrize("budget", ["own", "above"])
def test_holders_of_keys_are_told_amounts_of_their_project_s_budgets_and_no_other_budget(
    budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    for name, scope in (("own", "project: p"), ("above", "user: ann")):
        site.world.apply(
            f"kind: Budget\nname: {name}\nspec: {{scope: {{{scope}}}, limit: 43.2 USD, period: month}}\n"
        )
    facts = {"budget": budget, "limit": 43_200_000_000, "held": 7, "rate_nanos_per_hour": 5 * 10**8}
    reason = Reason(
        ReasonCode.BUDGET_COMMITTED, f"budget {budget} has 1 USD left of 43.20 USD (42 USD settled)", "wait",
        tuple((name, str(value)) for name, value in facts.items()),
    )  # fmt: skip
    monkeypatch.setattr(serviceviews, "waiting_reason", lambda *_: (reason, 1))
    cycle: Any = SimpleNamespace(last=None, rents=None)
    told = route_view(site.world.engine, cycle, site.keeper, site.job, gateway_at("elsewhere")).refused
    shown = {"rate_per_hour": "0.500000000", "currency": "USD"}
    if budget == "own":
        shown |= {"budget": "own", "limit": "43.200000000", "held": "0.000000007"}
    assert dict(told.facts) == shown
    assert ("43.20" in told.message) == ("own" in told.message) == (budget == "own")


def test_a_blue_green_update_switches_all_at_once_when_all_are_ready() -> None:
    site = Site(replicas_min=3, replicas_max=3, strategy="blue-green")
    site.turn(ready=True)
    updated(site, command=("true", "2"))
    site.turn(1)
    assert len(site.live()) == 6
    seen = [routed(site)]
    fresh = [one for task, one in site.keeper.live(site.job) if task.spec.service.revision == 2]  # type: ignore[union-attr]
    for attempt in fresh:
        site.world.backend.ready(attempt.id)
        site.asks()
        site.turn(1)
        seen.append(routed(site))
    assert seen == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 2, 2]]
    turns(site, 5)
    assert revisions(site) == [2, 2, 2]
    assert site.findings() == []


def test_a_blue_green_revision_that_never_gets_ready_is_never_asked() -> None:
    site = Site(replicas_min=2, replicas_max=2, strategy="blue-green")
    site.turn(ready=True)
    updated(site, command=("false",))
    for _ in range(20):
        site.asks()
        site.turn(1)
        assert routed(site) == [1, 1]
