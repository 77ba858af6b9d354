"""A gang that lacks room gets all machines that it lacks, of one offer, or none; its money is held whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rented_site import CLOUD, LARGE, POOL, Site, done

from bursar.clock import HOUR_US
from bursar.model import Reason, ReasonCode
from bursar.resources import ResourceRequest
from bursard.access.identity import Identity, Role, set_caller
from bursard.events import MachineIntended
from bursard.fleet.testing import FACTS
from bursard.machines.provider import Join, Place
from bursard.services.planning import plan_view
from bursard.state import JobRecord
from bursard.state.decide import jobs

WIDE = POOL.replace("machines: 2", "machines: 9")
BUDGET = "kind: Budget\nname: b\nspec: {scope: {project: p}, limit: %s USD}\n"
TWO_ZONES = CLOUD.replace("[home-a]", "[home-a, home-b]")


def gang(site: Site, nodes: int = 3) -> JobRecord:
    return site.world.submit(options=LARGE, nodes=nodes)


def room(site: Site) -> tuple[int, int]:
    """What is held and settled of the budget."""
    ledger, period = site.world.state.ledger, site.world.state.budgets.records["b"].period_start
    return ledger.held("b", period), ledger.settled("b", period)


def silent(site: Site, name: str) -> Callable[[], None]:
    """The agent of a machine says nothing until what is returned is called."""
    hello, kept = site.hello, dict[str, tuple[Join, Place]]()

    def others() -> None:
        if name in site.runs.joins:
            kept[name] = site.runs.joins.pop(name)
        hello()

    def speak() -> None:
        site.hello = hello  # type: ignore[method-assign]
        site.runs.joins |= kept

    site.hello = others  # type: ignore[method-assign]
    return speak


def test_a_gang_gets_its_machines_at_once_runs_on_them_and_they_are_given_back(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    job = gang(site)
    site.pass_time(3)
    assert [(one.instance_type, one.market, one.job_id) for one in site.machines] == [
        ("cpu.small", "spot", job.id)
    ] * 3
    assert {one.why for one in site.machines} == {f"job {job.display} lacks 3 of its 3 nodes"}
    reason = site.renting.reason(job.id)
    assert reason is not None
    assert reason.code is ReasonCode.PROVISIONING
    assert reason.message.endswith("; and 2 more")
    site.pass_time(40)
    assert job.attempt is not None
    assert len(job.attempt.members) == 3
    assert len(site.machines) == 3
    for rank in range(3):
        site.world.backend.finish(job.attempt.id, rank)
    site.second()
    site.pass_time(80)
    assert site.machines == []
    assert len(site.gone()) == 3


def test_members_for_which_there_is_room_need_no_machine(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    site.world.backend.connect(FACTS)
    job = gang(site)
    site.pass_time(4)
    assert len(site.machines) == 2
    site.pass_time(40)
    assert job.attempt is not None
    assert len(site.machines) == 2


def test_a_gang_whose_money_does_not_do_for_all_of_it_gets_no_machine(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    site.world.apply(BUDGET % 2)  # enough for two: 0.06 each to come up, and 0.9 for an hour
    job = gang(site)
    site.pass_time(8)
    assert site.machines == []
    assert "pool rented: 3 machines need" in site.renting.notes[job.id]
    site.world.apply(BUDGET.replace("b\n", "b\nversion: 1\n") % 100)
    site.pass_time(4)
    assert len(site.machines) == 3


def test_a_cap_of_the_job_is_of_the_whole_gang(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    job = site.world.submit(options=LARGE, nodes=3, max_cost_nanos=50_000_000)
    site.pass_time(5)
    assert site.machines == []
    assert "3 machines need" in site.renting.notes[job.id]
    assert "max_cost leaves 0.05" in site.renting.notes[job.id]
    dear = site.world.submit(options=LARGE, nodes=3, max_price_nanos_per_hour=1_000_000_000)
    site.pass_time(5)
    assert site.renting.notes[dear.id] == (
        "pool rented: its share would cost 2.700219726 an hour, above max_price"
    )


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ("machines: 2", "pool rented rents at most 2 machines for one job, you ask 3"),
        ("machines: 9, per_job_machines: 2", "pool rented rents at most 2 machines for one job, you ask 3"),
        ("machines: 9, per_user_machines: 2", "pool rented rents at most 2 machines for one job, you ask 3"),
        (
            "machines: 9, per_project_machines: 2",
            "pool rented rents at most 2 machines for one job, you ask 3",
        ),
        (
            "machines: 9, spend_rate: 5 USD/h",
            "pool rented: spends 0 an hour, and 5.4 more would pass its limit of 5 USD/h",
        ),
    ],
)
def test_limits_of_a_pool_are_for_all_machines_of_a_gang_together(
    tmp_path: Path, limits: str, why: str
) -> None:
    site = Site(tmp_path, POOL.replace("machines: 2", limits))
    job = gang(site)
    site.pass_time(5)
    assert site.machines == []
    assert site.why(job).endswith(f"; nothing is rented for it: {why}")
    pair = gang(site, 2)
    site.pass_time(5)
    assert {one.job_id for one in site.machines} == {pair.id}


def test_what_is_held_for_the_run_stays_held_until_the_last_machine_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE.replace("keep_alive: 1m", "keep_alive: 10s"))
    site.world.apply(BUDGET % 20)
    job = gang(site)
    site.pass_time(3)
    held = [intent.holds[0].nanos for intent in site.world.events if isinstance(intent, MachineIntended)]
    assert room(site) == (sum(held), 0)
    late = silent(site, site.machines[2].name)
    for _ in range(50):
        site.pass_time(1)
        assert sum(room(site)) <= 20_000_000_000
    here = [one for one in site.machines if one.node_id]
    assert len(here) == 2, "idle for longer than they are kept, they wait for the third"
    assert all(one.holding for one in here)
    now_held, settled = room(site)
    assert now_held + settled == sum(held), "what was billed came out of what was held"
    late()
    site.pass_time(5)
    site.second()
    assert job.attempt is not None
    assert room(site)[0] + job.attempt.settled_nanos == job.attempt.holds[0].nanos
    assert not any(one.holding for one in site.machines)


def test_where_one_is_refused_the_others_are_not_asked_for_and_the_next_place_is(tmp_path: Path) -> None:
    fault = "faults: [{call: create, code: NoCapacity, zone: home-a, market: spot, after: 1}]\n"
    site = Site(tmp_path, WIDE, TWO_ZONES + fault.replace(", after: 1", ""))
    job = gang(site)
    site.pass_time(3)
    said = {one.reason for one in site.gone()}
    assert sum(reason.startswith("it was one of 3, and another one was refused: ") for reason in said) == 1
    assert len(site.gone()) == 3
    site.pass_time(3)
    assert {(one.zone, one.market) for one in site.machines} == {("home-b", "spot")}
    assert len(site.machines) == 3
    site.pass_time(40)
    assert job.attempt is not None


def test_a_machine_that_never_comes_is_replaced_near_the_others_and_no_more_is_held(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE, TWO_ZONES)
    site.world.apply(BUDGET % 20)
    job = gang(site)
    site.pass_time(3)
    lost = site.machines[0]
    silent(site, lost.name)
    for _ in range(200):
        site.pass_time(1)
        assert sum(room(site)) <= 20_000_000_000
        if job.attempt is not None:
            break
    assert job.attempt is not None
    assert len(job.attempt.members) == 3
    assert len([one for one in site.world.events if isinstance(one, MachineIntended)]) == 4
    assert {one.zone for one in site.machines} == {lost.zone}


def test_a_gang_that_ends_while_its_machines_come_gets_all_its_money_back(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    site.world.apply(BUDGET % 20)
    job = gang(site)
    site.pass_time(4)
    assert room(site)[0] > 0
    site.world.engine.commit(jobs.cancel(site.world.state, job, 0), "ann")
    assert room(site)[0] == 0
    site.pass_time(40)
    assert site.machines == []


def test_a_plan_says_how_many_would_be_rented_and_what_all_of_them_cost(tmp_path: Path) -> None:
    site = Site(tmp_path, WIDE)
    set_caller(Identity("ann", Role.ADMIN))
    engine, spec = site.world.engine, gang(site).spec
    site.pass_time(1)
    found = done(plan_view(engine, "ann", spec, rents=site.renting))
    assert found.reason.message.startswith(
        "3 of its 3 nodes lack room: 3 cpu.small of local in home-a (spot, 1.8 USD/h each) are rented for it"
    )
    assert found.rate_nanos_per_hour == 3 * 900_073_242
    of_the_run = found.rate_nanos_per_hour * found.worst_case_us // HOUR_US
    assert abs(found.hold_nanos - of_the_run - 3 * 60_000_000) <= 9, "three launches are paid for too"
    # The cloud may give fewer spot machines than that, by its quota: the others are rented on demand.
    assert abs(found.worst_case_nanos - 2 * found.hold_nanos) <= 18, "on demand is twice as dear"
    assert "with all on demand where fewer spot machines are given" in found.reason.remedy
    alone = site.world.submit(options=LARGE).spec
    found = done(plan_view(engine, "ann", alone, rents=site.renting))
    assert found.worst_case_nanos == found.hold_nanos, "for one machine it is the one that is told"
    only = POOL.replace("machines: 2", "machines: 9, spend_rate: 6 USD/h").replace("b\n", "b\nversion: 1\n")
    site.world.apply(only)
    found = done(plan_view(engine, "ann", spec, rents=site.renting))
    assert found.worst_case_nanos == found.hold_nanos, "the pool never rents so many on demand"


def test_a_gang_costs_no_more_than_its_plan_says_where_a_quota_leaves_it_fewer_spot_machines(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, WIDE, CLOUD + "quotas: {spot: 1}\n")
    set_caller(Identity("ann", Role.ADMIN))
    site.world.apply(BUDGET % 100)
    job = gang(site)
    site.pass_time(1)
    told = done(plan_view(site.world.engine, "ann", job.spec, rents=site.renting))
    site.pass_time(60)
    assert sorted(one.market for one in site.machines) == ["on-demand", "on-demand", "spot"]
    assert told.hold_nanos < room(site)[0] <= told.worst_case_nanos


def test_a_plan_says_of_what_passes_that_it_is_so_now(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL, CLOUD + "quotas: {spot: 0, on-demand: 0}\n")
    set_caller(Identity("ann", Role.ADMIN))
    job = gang(site, 1)
    site.pass_time(6)
    found = done(plan_view(site.world.engine, "ann", job.spec, rents=site.renting))
    assert "; no machine is rented for it now: pool rented: cpu.small in home-a: " in found.reason.message
    never = site.world.submit(options=(ResourceRequest(None, 64_000, 1 << 20),))
    found = done(plan_view(site.world.engine, "ann", never.spec, rents=site.renting))
    assert "; nothing would be rented for it: pool rented: none of its 3 offers" in found.reason.message


def test_a_gang_beyond_the_limit_of_its_pool_is_told_never_with_the_limit(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL.replace("machines: 2", "machines: 3"))
    own, most, more = gang(site, 9), gang(site, 3), gang(site, 4)
    site.pass_time(6)
    never = "; nothing is rented for it: pool rented rents at most 3 machines for one job, you ask {}"
    assert site.why(own).endswith(never.format(9))
    assert site.why(more).endswith(never.format(4))
    reason = site.renting.told(
        Reason(ReasonCode.EXCEEDS_NODE_CAPACITY, "the cluster has 0 nodes", "lower --nodes"),
        own.spec,
        site.world.state.class_of(own),
    )
    assert reason.code is ReasonCode.EXCEEDS_NODE_CAPACITY
    assert reason.remedy.startswith("lower --nodes, add nodes, or have the limits of a pool raised")
    planned = site.renting.would_rent(own, site.world.state.class_of(own))
    assert planned == "pool rented rents at most 3 machines for one job, you ask 9"
    assert {one.job_id for one in site.machines} == {most.id}
    site.world.backend.connect(FACTS)
    assert site.renting.why_unheld(site.world.state.class_of(more)) == "", "a node of the site may have one"
