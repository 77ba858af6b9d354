"""What waits and fits nowhere gets a machine, pays for its launch, and what is idle is given back."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from msgspec.structs import replace
from rented_site import CLOUD, POOL, Inline, Site, done

from bursar.clock import HOUR_US, SECOND_US, Instant, VirtualClock, format_instant
from bursar.errors import InvalidRequest, NotFound, ServerUnavailable, WrongState
from bursar.model import ArraySpec, EndCause, JobState, ReasonCode
from bursar.resources import GpuRequest, ResourceRequest
from bursar_agent.link.identity import Door
from bursar_policies.document import parse_documents
from bursard.access.identity import Identity, Role, set_caller
from bursard.events import MachineIntended, MachineJoined, NodeMetered
from bursard.fleet.testing import FACTS, World
from bursard.machines import renting
from bursard.machines.errors import error_of
from bursard.machines.houses import BookRates
from bursard.machines.opening import open_local
from bursard.machines.provider import (
    Billing,
    Capabilities,
    CloudError,
    Instance,
    InstanceState,
    Kind,
    Wanted,
)
from bursard.services import clouds
from bursard.services.planning import plan_view
from bursard.state import MachineState
from bursard.state import image as state_image
from bursard.state.decide import jobs, policies
from bursard.state.decide import machines as decide_machines

BUDGET = "kind: Budget\nname: b\nspec: {scope: {project: p}, limit: %s USD}\n"
THREE_HUNDRED = ArraySpec(tuple(range(300)))
HUGE = (ResourceRequest(None, 9_000_000, 1 << 20),)
MINUTE_US = 60 * SECOND_US


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_job_that_fits_nowhere_gets_the_cheapest_machine_runs_there_and_the_machine_is_given_back(
    site: Site,
) -> None:
    job = site.large()
    site.pass_time(4)
    (machine,) = site.machines
    assert (machine.instance_type, machine.market, machine.pool) == ("cpu.small", "spot", "rented")
    assert (machine.job_id, machine.why) == (job.id, f"job {job.display} fits on no node")
    site.pass_time(30)
    assert job.attempt is not None
    assert machine.state is MachineState.UP
    assert site.world.node(machine.name).facts.market == "spot"
    site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=5 * SECOND_US)
    site.pass_time(59)
    assert machine.state is MachineState.UP
    site.pass_time(20)
    assert site.machines == []
    assert site.world.state.nodes == {}
    assert site.gone()[0].reason == "idle for 1m00s"
    assert site.provider.list_owned("c")[0].gone


def test_every_nano_from_the_first_billed_second_to_the_last_is_somebodys(site: Site) -> None:
    job = site.large()
    for _ in range(40):
        site.second()
    assert job.attempt is not None
    site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=5 * SECOND_US)
    site.pass_time(90)
    joined, paid = (one for one in site.world.events if isinstance(one, MachineJoined))
    assert (joined.pending, paid.pending) == (True, False)
    (gone,) = site.gone()
    rows = site.rows()
    billed_from = joined.charges[0].start
    assert sum(row.nanos for row in rows) == 1_800_000_000 * (gone.billed_until - billed_from) // HOUR_US
    launch = [row for row in rows if row.attempt_id == joined.machine_id]
    assert [(row.kind, row.job_id) for row in launch] == [("startup", job.id)]
    assert sum(row.nanos for row in launch) == 1_800_000_000 * (joined.through - billed_from) // HOUR_US > 0
    assert {row.kind for row in rows} == {"startup", "keep-alive", "usage", "idle"}
    of_job = [row for row in rows if row.kind in ("startup", "usage")]
    assert job.settled_nanos == sum(row.nanos for row in of_job)
    actual = sum(one.nanos for one in site.provider.actuals(0, 2**62))
    assert sum(row.nanos for row in rows) == actual, "the provider bills just that"


def test_a_short_life_costs_what_the_provider_bills_at_least(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL.replace("keep_alive: 1m", "keep_alive: 10s"))
    job = site.large()
    site.pass_time(30)
    assert job.attempt is not None
    site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=SECOND_US)
    site.pass_time(30)
    rows = site.rows()
    assert sum(row.nanos for row in rows) == 1_800_000_000 // 60
    assert sum(row.nanos for row in rows) == sum(one.nanos for one in site.provider.actuals(0, 2**62))


def test_what_a_provider_does_not_bill_is_a_refund_of_the_node_and_no_jobs(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + "faults: [{call: vanish, after: 30s}]\n")
    billing = Billing(interrupted_free_us=HOUR_US)
    site.provider.capabilities = Capabilities(billing=billing, notice_us=0)
    job = site.large()
    for _ in range(60):
        site.second()
    (gone,) = site.gone()
    assert gone.reason == "it was taken back; one that is taken back within 1h00m is free"
    (refund,) = [row for row in site.rows() if row.kind == "refund"]
    rest = [row for row in site.rows() if row.node_id == refund.node_id and row.kind != "refund"]
    assert (refund.nanos, refund.job_id) == (-sum(row.nanos for row in rest), "")
    assert (refund.gpu + refund.cpu + refund.memory, refund.gpu) == (refund.nanos, 0)
    assert {row.kind for row in rest} == {"startup", "keep-alive", "usage", "idle"}
    assert job.settled_nanos >= sum(row.nanos for row in rest if row.job_id) > 0


def test_what_jobs_leave_of_a_machine_is_idle_and_the_whole_of_it_is_kept_alive(site: Site) -> None:
    job = site.world.submit()
    for _ in range(40):
        site.second()
    assert job.attempt is not None
    before = {row.kind: row.nanos for row in site.rows()}
    assert set(before) == {"startup", "keep-alive", "usage", "idle"}
    assert before["keep-alive"] == 500_000, "the second until its job starts"
    site.world.backend.finish(job.attempt.id, 0)
    for _ in range(10):
        site.second()
    after = {row.kind: row.nanos for row in site.rows()}
    assert after["idle"] == before["idle"]
    assert after["keep-alive"] == 5_500_000, "ten seconds more of 1.80 an hour"


def test_around_a_window_a_machine_is_kept_alive_and_in_it_it_is_reserved(site: Site) -> None:
    site.world.submit()
    for _ in range(40):
        site.second()
    (job,) = site.world.state.jobs.values()
    assert job.attempt is not None
    site.world.backend.finish(job.attempt.id, 0)
    site.second()
    before = {row.kind: row.nanos for row in site.rows()}
    now = site.world.engine.now()
    start, end = (format_instant(Instant(now + seconds * SECOND_US)) for seconds in (3, 7))
    (machine,) = site.machines
    site.world.apply(
        f"kind: Reservation\nname: r\nspec: {{nodes: [{machine.name}], start: {start}, end: {end},"
        " maintenance: true}\n"
    )
    site.pass_time(10)
    site.second()
    after = {row.kind: row.nanos for row in site.rows()}
    assert after["idle"] == before["idle"]
    assert abs(after["reserved"] - 2_000_000) <= 3, "four seconds of 1.80 an hour"
    assert abs(after["keep-alive"] - before["keep-alive"] - 3_500_000) <= 3, "the seven others"


def test_the_launch_of_a_machine_in_a_window_is_its_jobs_and_reserved_when_it_has_none(site: Site) -> None:
    site.large()
    while not site.world.state.nodes:
        site.pass_time(1)
    (machine,), state, now = site.machines, site.world.state, site.world.engine.now()
    start, end = (format_instant(Instant(now + seconds * SECOND_US)) for seconds in (3, 7))
    site.world.apply(
        f"kind: Reservation\nname: r\nspec: {{nodes: [{machine.name}], start: {start}, end: {end},"
        " for: {projects: [p]}}\n"
    )
    prices = site.world.engine.prices
    (joined,) = decide_machines.welcome(state, prices, machine.name, now + 10 * SECOND_US)
    assert isinstance(joined, MachineJoined)
    assert {one.kind for one in joined.charges} == {"startup"}
    machine.job_id, machine.holding = "", False
    *told, joined = decide_machines.welcome(state, prices, machine.name, now + 10 * SECOND_US)
    kinds = [rest.kind for one in told if isinstance(one, NodeMetered) for rest in one.rest]
    assert kinds == ["idle", "reserved", "idle"]


def test_from_its_reboot_on_a_machine_is_kept_alive(site: Site) -> None:
    job = site.world.submit()
    for _ in range(40):
        site.second()
    assert job.attempt is not None
    site.world.backend.finish(job.attempt.id, 0)
    site.second()
    before = {row.kind: row.nanos for row in site.rows()}
    clock, (machine,) = site.world.clock, site.machines
    site.world.backend.disconnect(machine.name)
    clock.advance(10 * SECOND_US)
    running, off_us = clock.boot_us, clock.boot_us() - 4 * SECOND_US
    clock.boot_us = lambda: running() - off_us  # type: ignore[method-assign]
    site.world.backend.connect(site.agents[machine.name], "boot-2")
    after = {row.kind: row.nanos for row in site.rows()}
    assert after["idle"] == before["idle"]
    assert abs(after["down"] - 3_000_000) <= 3, "six seconds of 1.80 an hour"
    assert abs(after["keep-alive"] - before["keep-alive"] - 2_000_000) <= 3


def test_money_is_held_for_the_launch_and_the_run_before_the_call(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.apply(BUDGET % 100)
    job = site.large()
    site.pass_time(4)
    (intended,) = [one for one in site.world.events if isinstance(one, MachineIntended)]
    ((budget, start, nanos),) = [(one.budget, one.period_start, one.nanos) for one in intended.holds]
    boot = 1_800_000_000 * 2 // 60
    assert budget == "b"
    assert nanos > boot + 1_800_000_000 * 3 // 4 * 85 // 100 // 10, "launch and an hour of its share"
    assert site.world.state.ledger.held("b", start) == nanos
    restored = state_image.decode(state_image.encode(site.world.state, 1))
    assert restored.ledger.held("b", start) == nanos
    assert restored.machines == site.world.state.machines
    site.pass_time(30)
    site.second()
    assert job.attempt is not None
    held = site.world.state.ledger.held("b", start)
    used = job.attempt.settled_nanos
    assert held + used == job.attempt.holds[0].nanos, "what the launch did not cost went back"
    assert site.world.state.ledger.settled("b", start) == job.settled_nanos > 0


def test_a_launch_that_its_budget_does_not_hold_is_not_made_and_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.apply(BUDGET % "0.05")
    job = site.large()
    site.pass_time(6)
    assert site.machines == []
    assert "pool rented: a machine needs" in site.renting.notes[job.id]
    assert "to come up" in site.renting.notes[job.id]


def test_a_job_that_ends_while_its_machine_comes_up_gets_its_money_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.apply(BUDGET % 100)
    job = site.large()
    site.pass_time(4)
    (machine,) = site.machines
    period = site.world.state.budgets.records["b"].period_start
    assert site.world.state.ledger.held("b", period) > 0
    site.world.engine.commit(jobs.cancel(site.world.state, job, 0), "ann")
    assert site.world.state.ledger.held("b", period) == 0
    site.pass_time(30)
    assert site.machines == []
    assert site.gone()[0].reason == "the job that it was for is over"
    assert machine.job_id == ""


def test_a_budget_that_opens_while_a_machine_comes_up_pays_for_the_launch(tmp_path: Path) -> None:
    site = Site(tmp_path)
    job = site.large()
    site.pass_time(4)
    site.world.apply(BUDGET % 100)
    ledger, period = site.world.state.ledger, site.world.state.budgets.records["b"].period_start
    assert ledger.held("b", period) == 1_800_000_000 * 2 // 60, "two minutes to come up in"
    site.world.apply(BUDGET.replace("b\n", "w\n") % 99)
    site.world.apply((BUDGET % 99).replace("}, limit", ", user: ann}, limit"))
    assert [ledger.held(name, period) for name in "bw"] == [1_800_000_000 * 2 // 60] * 2, "and keeps it"
    site.pass_time(30)
    site.second()
    (launched,) = [row.nanos for row in site.rows() if row.kind == "startup"]
    used = sum(row.nanos for row in site.rows() if row.kind == "usage")
    assert [ledger.settled(name, period) for name in "bw"] == [launched + used] * 2
    assert job.settled_nanos == launched + used > used > 0
    assert job.attempt is not None
    assert ledger.held("b", period) == job.attempt.holds[0].nanos - used


def test_a_budget_that_opens_takes_in_no_launch_of_another_scope_or_one_that_is_over(tmp_path: Path) -> None:
    site = Site(tmp_path)
    job = site.large()
    site.pass_time(4)
    site.world.apply((BUDGET % 100).replace("project: p", "project: q"))
    ledger, period = site.world.state.ledger, site.world.state.budgets.records["b"].period_start
    assert ledger.held("b", period) == 0
    site.world.engine.commit(jobs.cancel(site.world.state, job, 0), "ann")
    site.world.apply(BUDGET % 100)
    assert ledger.held("b", period) == 0


def test_what_budgets_go_by_does_not_change_while_a_machine_comes_up(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.apply(BUDGET % 100)
    job, other = site.large(), site.world.submit(options=(ResourceRequest(None, 64_000, 1 << 20),))
    site.pass_time(4)
    (machine,) = site.machines
    now = site.world.engine.now()
    with pytest.raises(WrongState, match=f"{machine.name} is coming up .* its project, labels cannot change"):
        jobs.update(site.world.state, job, {"project": "q", "labels": (("a", "b"),)}, now)
    assert jobs.update(site.world.state, other, {"project": "q"}, now)
    assert jobs.update(site.world.state, job, {"priority": 70}, now)
    site.pass_time(8)
    site.world.engine.commit(policies.remove(site.world.state, "Budget", "b"), "ann")
    with pytest.raises(WrongState, match="is coming up"):
        jobs.update(site.world.state, job, {"model": "m"}, now)


def test_limits_of_a_pool_are_kept(tmp_path: Path) -> None:
    site = Site(tmp_path)
    found = [site.large() for _ in range(4)]
    site.pass_time(10)
    assert len(site.machines) == 2
    notes = {site.renting.notes.get(job.id) for job in found} - {None}
    assert notes == {"pool rented: has 2 machines, its limit is 2"}


def test_a_spend_rate_is_never_passed(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL.replace("machines: 2", "machines: 9, spend_rate: 4 USD/h"))
    for _ in range(4):
        site.large()
    site.pass_time(10)
    assert [one.rate for one in site.machines] == [1_800_000_000, 1_800_000_000]


def test_small_jobs_share_a_machine_that_is_on_its_way(site: Site) -> None:
    for _ in range(4):
        site.world.submit()
    site.pass_time(15)
    assert len(site.machines) == 1
    site.pass_time(20)
    assert len(site.machines) == 1
    assert all(job.attempt is not None for job in site.world.state.jobs.values())


def test_a_job_gets_what_it_asks_for_and_no_machine_that_could_not_hold_it(site: Site) -> None:
    gpu = site.world.submit(options=(ResourceRequest(GpuRequest(count=1, types=("L4",)), 1_000, 1 << 20),))
    huge = site.world.submit(options=(ResourceRequest(None, 64_000, 1 << 20),))
    site.pass_time(6)
    assert [one.instance_type for one in site.machines] == ["gpu.small"]
    assert site.machines[0].job_id == gpu.id
    assert site.why(huge).endswith(
        "; nothing is rented for it: pool rented: none of its 3 offers could hold the job"
    )


def test_what_no_machine_could_hold_keeps_nobody_elses_jobs_from_machines(site: Site) -> None:
    site.world.submit(user="eve", options=HUGE, array=THREE_HUNDRED)
    for cpus in range(10, 120):
        site.world.submit(user="eve", options=(ResourceRequest(None, cpus * 1_000, 1 << 20),))
    own, other = site.large(user="eve"), site.large(user="ann")
    site.pass_time(4)
    assert {one.job_id for one in site.machines} == {own.id, other.id}


def test_jobs_that_are_refused_for_money_keep_nobody_elses_jobs_from_machines(site: Site) -> None:
    for limit_s in range(150):
        site.large(user="eve", max_cost_nanos=1 + limit_s)
    other = site.large(user="ann")
    site.pass_time(4)
    assert [one.job_id for one in site.machines] == [other.id]


def test_each_user_has_as_many_places_among_the_jobs_that_machines_are_rented_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renting, "WISHES_MAX", 5)
    eves = [site.large(user="eve", max_cost_nanos=1 + row) for row in range(4)]
    anns = [site.large(user="ann", time_limit_us=HOUR_US + row) for row in range(2)]
    first, second, third = (site.large(user=user) for user in ("bob", "ann", "eve"))
    site.cycle()
    found = [one.job.id for one in site.renting.wishes()]
    assert found == [eves[0].id, eves[1].id, anns[0].id, anns[1].id, first.id]
    assert {second.id, third.id}.isdisjoint(found)


def test_a_job_that_a_machine_could_hold_and_no_look_has_come_to_is_told_of_the_pool(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renting, "WISHES_MAX", 0)
    job = site.large()
    site.pass_time(3)
    said = "pool rented has machines that could hold it, and rents them for jobs in their turn"
    assert site.why(job) == f"the cluster has 0 nodes, you ask 1; nothing is rented for it: {said}"


def test_what_a_machine_could_hold_is_known_anew_when_the_pool_changes(site: Site) -> None:
    job = site.large()
    site.world.apply(POOL.replace("provider: local,", "provider: local, offers: {gpus: [H100]},"))
    site.pass_time(4)
    assert site.machines == []
    site.world.apply(POOL)
    site.pass_time(4)
    assert [one.job_id for one in site.machines] == [job.id]


@pytest.mark.parametrize("noise", [b"\0noise", b'{"machines": {"\xff": 1}}'])
def test_a_machine_whose_provider_has_lost_its_list_is_gone_and_billed_until_it_was_missed(
    site: Site, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    site.large()
    site.pass_time(100)
    (machine,) = site.machines
    site.world.engine.commit(decide_machines.ending(site.world.state, machine.id, "ann ended it"), "ann")
    site.world.writer.flush()
    site.file.write_bytes(noise)
    site.die(5)
    assert [one.message for one in caplog.records if vars(one).get("provider") == "local"] == [
        "the list of the provider's machines cannot be read and was set aside: those of the records are given"
        " up as gone, unless it lists them again"
    ]
    missed_at = site.world.engine.now() + SECOND_US
    site.pass_time(70)
    (gone,) = site.gone()
    assert (gone.machine_id, gone.reason, gone.billed_until) == (machine.id, "ann ended it", missed_at)
    assert machine.name not in {node.facts.name for node in site.world.state.nodes.values()}
    (other,) = site.machines
    assert other.provider_id not in ("", machine.provider_id), "no name is given twice"


def test_what_is_free_here_is_taken_first(site: Site) -> None:
    site.world.backend.connect(FACTS)
    site.large()
    site.pass_time(6)
    assert site.machines == []


def test_a_waiting_job_says_which_machine_comes_for_it(site: Site) -> None:
    job = site.large()
    site.pass_time(10)
    reason = site.renting.reason(job.id)
    assert reason is not None
    assert reason.code is ReasonCode.PROVISIONING
    assert reason.message.startswith(
        "a cpu.small of local in home-a (spot, 1.8 USD/h) is launching for it, since"
    )
    assert site.renting.reason("job_none") is None
    (machine,) = site.machines
    boots = machine.intended_at + 20 * SECOND_US
    assert site.renting.comes_at(job.id) == boots > site.world.engine.now(), "as the offer says of its boot"
    assert site.renting.comes_at("job_none") == 0
    site.renting.houses["local"].offers.clear()
    assert site.renting.comes_at(job.id) == machine.intended_at + 180 * SECOND_US, "where nobody knows better"
    site.pass_time(30)
    assert site.renting.reason(job.id) is None


def test_a_machine_that_nobody_answers_from_is_given_back_and_its_type_left_alone(site: Site) -> None:
    site.hello = lambda: None  # type: ignore[method-assign]
    job = site.large()
    site.pass_time(140)
    assert site.gone()[0].reason == "its agent has not said hello within 120 s"
    assert [(one.market, one.job_id) for one in site.machines] == [("on-demand", job.id)]
    idle = [row for row in site.rows() if row.kind != "idle"]
    assert idle == [], "what never came up is not its job's"


def test_a_plan_knows_what_would_be_rented_and_why_nothing_would(site: Site) -> None:
    job = site.large()
    job_class = site.world.state.class_of(job)
    assert site.renting.would_rent(job, job_class) == "", "no price was asked for yet"
    site.pass_time(1)
    found = site.renting.would_rent(job, job_class)
    assert not isinstance(found, str)
    provider, choice, most = found
    assert (provider, choice.offer.place.market, most) == ("local", "spot", choice.whole_nanos)
    assert (choice.boot_nanos, choice.rate_nanos_per_hour) == (60_000_000, 900_073_242)
    assert abs(choice.run_nanos - choice.rate_nanos_per_hour * job_class.hold_us // HOUR_US) <= 3
    huge = site.world.submit(options=(ResourceRequest(None, 64_000, 1 << 20),))
    why = site.renting.would_rent(huge, site.world.state.class_of(huge))
    assert why == "pool rented: none of its 3 offers could hold the job"
    assert site.machines == []


def test_what_is_planned_for_a_machine_that_is_to_be_rented_is_its_price_and_its_time(site: Site) -> None:
    set_caller(Identity("ann", Role.ADMIN))
    engine, spec = site.world.engine, site.large().spec
    site.pass_time(1)
    found = done(plan_view(engine, "ann", spec, rents=site.renting))
    boot_us = 20 * SECOND_US
    assert (found.starts_now, found.expected_start_at) == (False, engine.now() + boot_us)
    assert found.rate_nanos_per_hour == 900_073_242
    whole = found.worst_case_nanos
    assert whole == found.hold_nanos == found.task_worst_case_nanos
    of_its_run = found.rate_nanos_per_hour * found.worst_case_us // HOUR_US
    assert abs(whole - of_its_run - 60_000_000) <= 3, "its launch is paid for too"


def test_a_machine_whose_agent_ends_at_once_is_gone_and_its_type_left_alone(site: Site) -> None:
    site.hello = lambda: None  # type: ignore[method-assign]
    site.large()
    site.pass_time(26)
    site.runs.alive_ids.clear()
    site.pass_time(8)
    assert site.gone()[0].reason == "its process is gone"
    assert [one.market for one in site.machines] == ["on-demand"]


def test_an_agent_is_welcome_when_its_machine_is_paid_for_and_not_before_nor_after(site: Site) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    facts = replace(machine.facts)
    with pytest.raises(ServerUnavailable, match="is not listed by local yet"):
        site.world.backend.connect(facts)
    site.hello = lambda: None  # type: ignore[method-assign]
    site.pass_time(25)
    site.world.engine.commit([], "t")
    done(site.renting.commit([site.renting.giving_back._ending(machine, "asked")]))
    with pytest.raises(WrongState, match="is to end: asked"):
        site.world.backend.connect(facts)


def test_what_runs_on_a_machine_that_vanishes_waits_again_and_the_books_close(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + "faults: [{call: vanish, after: 30s}]\n")
    job = site.large()
    site.pass_time(60)
    (gone,) = site.gone()
    assert gone.reason == "it was taken back"
    assert job.attempts[0].cause is EndCause.NODE_LOST
    rows = [row for row in site.rows() if row.node_id == job.attempts[0].members[0].alloc.node_id]
    assert min(row.start_at for row in rows) < max(row.end_at for row in rows) == gone.billed_until
    assert sum(row.nanos for row in rows) == 1_800_000_000 // 60


def test_a_machine_is_drained_at_the_end_of_its_lifetime_and_its_job_waits_again(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL.replace("max_lifetime: 2h", "max_lifetime: 10m"))
    job = site.large()
    site.pass_time(40)
    attempt = job.attempt
    assert attempt is not None
    site.world.clock.advance(10 * MINUTE_US)
    site.pass_time(1)
    assert attempt.stop_cause is EndCause.PREEMPTED
    assert attempt.stop_message.endswith("its lifetime of 10m00s is over")
    assert site.machines[0].state is MachineState.UP


def test_a_daemon_that_starts_again_goes_on_with_what_it_has(site: Site) -> None:
    job = site.large()
    site.pass_time(4)
    site.world.restart()
    site.open()
    site.pass_time(40)
    assert len(site.machines) == 1
    assert job.attempt is not None
    assert len(site.provider.list_owned("c")) == 1


def test_a_pool_that_is_removed_gives_its_machines_back(site: Site) -> None:
    job = site.large()
    site.pass_time(40)
    site.world.engine.commit(policies.remove(site.world.state, "CloudPool", "rented"), "t")
    assert job.attempt is not None
    site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=SECOND_US)
    site.pass_time(15)
    assert site.machines == []
    assert site.gone()[0].reason == "pool rented was removed"


def test_prices_of_the_provider_are_in_the_books_as_documents(site: Site) -> None:
    site.pass_time(1)
    document = site.world.state.policies["PriceBook", "cloud-local"]
    assert document.version == 1
    site.pass_time(2)
    assert site.world.state.policies["PriceBook", "cloud-local"].version == 1


def test_a_check_names_what_a_pool_could_rent(site: Site) -> None:
    checks = done(site.renting.check())
    assert [(one.name, one.good, one.says) for one in checks][1:] == [("pool rented", True, "3 offers")]


def test_a_pool_of_which_nothing_could_be_rented_is_refused(site: Site) -> None:
    text = POOL.replace("limits:", "regions: [hom], limits:")
    with pytest.raises(
        InvalidRequest, match=r"pool.yaml:1: CloudPool rented: the provider local has no machine"
    ):
        done(site.renting.refuse_empty(parse_documents(text, "pool.yaml")))
    done(site.renting.refuse_empty(parse_documents(POOL, "pool.yaml")))


def test_a_daemon_that_cannot_reach_the_provider_of_its_machines_does_not_start(
    site: Site, tmp_path: Path
) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    with pytest.raises(InvalidRequest, match=rf"1 machine of provider local \({machine.name}\) may"):
        open_local(site.world.state, Path(), tmp_path, site.world.clock.now)
    file = tmp_path / "cloud.yaml"
    file.write_text(CLOUD.replace("USD", "EUR"))
    with pytest.raises(InvalidRequest, match="has prices in EUR, and these books are in USD"):
        open_local(site.world.state, file, tmp_path, site.world.clock.now)
    file.write_text(CLOUD)
    assert open_local(site.world.state, file, tmp_path, site.world.clock.now) is not None


def test_a_daemon_without_a_cloud_rents_nothing(tmp_path: Path) -> None:
    assert open_local(World().state, Path(), tmp_path, VirtualClock().now) is None


def test_an_agents_token_goes_before_the_kernels_word_on_a_unix_socket_too(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("node_secret\n")
    token.chmod(0o600)
    door = Door("unix:///run/s", token)
    door.check()
    assert done(door.metadata()) == (("authorization", "Bearer node_secret"),)
    token.chmod(0o644)
    with pytest.raises(InvalidRequest, match="can be read by others"):
        door.check()


def test_a_machine_is_listed_with_what_it_has_cost_and_ended_when_somebody_says_so(site: Site) -> None:
    state, ann = site.world.state, Identity("ann", Role.ADMIN)
    job = site.large()
    site.pass_time(4)
    (machine,) = site.machines
    shown = clouds.machine_view(state, machine, ann, site.world.engine.now())
    assert (shown.name, shown.state, shown.job, shown.cost_nanos) == (
        machine.name,
        "launching",
        job.display,
        0,
    )
    stranger = clouds.machine_view(state, machine, Identity("eve", None), site.world.engine.now())
    assert (stranger.name, stranger.job) == (machine.name, "")
    site.pass_time(30)
    now = machine.billed_from + HOUR_US
    shown = clouds.machine_view(state, clouds.find(state, machine.name), ann, now)
    assert (shown.state, shown.job, shown.rate_nanos_per_hour) == ("up", "", 1_800_000_000)
    assert 0 <= 1_800_000_000 - shown.cost_nanos < 10, "for an hour, rounded down in each part of it"
    assert shown.ends_at == machine.intended_at + 2 * HOUR_US
    done(site.renting.commit(clouds.end(state, machine, "ann ended it")))
    assert (machine.state, machine.reason) == (MachineState.ENDING, "ann ended it")
    assert site.world.node(machine.name).mode == "drain"
    with pytest.raises(WrongState, match="is to end already: ann ended it"):
        clouds.end(state, machine, "again")
    site.pass_time(20)
    assert job.attempts[0].cause is EndCause.NODE_LOST
    with pytest.raises(NotFound, match="there is no machine"):
        clouds.find(state, machine.name)


@pytest.mark.parametrize("call", ["offers", "list_owned", "create"])
def test_a_provider_that_answers_nonsense_is_asked_again_and_ends_nothing(
    call: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A call stumbles over an answer. 2. The answers are well again: one machine, one node."""
    job = site.large()

    def nonsense(*_: object) -> object:
        raise KeyError("instances")

    with monkeypatch.context() as broken:
        broken.setattr(site.provider, call, nonsense)
        for _ in range(20):
            with contextlib.suppress(CloudError):
                site.pass_time(1)
    assert job.attempt is None
    site.pass_time(600)
    assert job.attempt is not None
    assert len(site.provider.list_owned("c")) == 1
    assert len(site.world.state.nodes) == 1


def test_a_daemon_that_rents_nothing_says_what_would_make_it() -> None:
    (check,) = done(clouds.checks(None)).checks
    assert (check.good, check.says) == (False, "this daemon rents no machines")
    assert "--local-cloud FILE" in check.remedy


def test_a_machine_that_is_released_takes_nothing_new_and_goes_once_nothing_runs_there(site: Site) -> None:
    state, ann = site.world.state, Identity("ann", Role.ADMIN)
    job = site.large()
    site.pass_time(4)
    (machine,) = site.machines
    with pytest.raises(WrongState, match="comes up for a job; `bursar cloud terminate "):
        clouds.release(state, machine, "ann released it")
    site.pass_time(30)
    assert job.attempt is not None
    done(site.renting.commit(clouds.release(state, machine, "ann released it: enough")))
    shown = clouds.machine_view(state, machine, ann, site.world.engine.now())
    assert (shown.state, shown.reason) == ("draining", "released: ann released it: enough")
    assert (shown.attempt, shown.why) == (job.attempt.id, f"job {job.display} fits on no node")
    stranger = clouds.machine_view(state, machine, Identity("eve", None), site.world.engine.now())
    assert stranger.attempt == ""
    site.pass_time(100)
    assert machine.state is MachineState.UP, "its job runs"
    site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=5 * SECOND_US)
    site.pass_time(4)
    assert (machine.state, machine.reason) == (MachineState.ENDING, "released: ann released it: enough")
    with pytest.raises(WrongState, match="is to end already: released: "):
        clouds.release(state, machine, "again")
    assert job.attempt is None
    assert job.state is JobState.SUCCEEDED


def test_a_stock_out_that_is_said_after_the_order_was_accepted_counts_as_if_it_were_said_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. An order is accepted. 2. Then its machine is gone, which never ran. 3. That place is left alone."""
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    assert machine.state is MachineState.LAUNCHING
    keeper = site.renting.houses["local"].keeper
    place, (listed,) = keeper.place_of(machine), site.provider.list_owned(site.world.state.cluster_id)
    gone = replace(listed, state=InstanceState.GONE, billed_from=0, message="no L4 is left")

    def poll(provider_id: str) -> Instance:
        raise error_of("gcp", "ZONE_RESOURCE_POOL_EXHAUSTED", "no L4 is left", place)

    with monkeypatch.context() as late:
        late.setattr(site.provider, "list_owned", lambda *_: [gone])
        late.setattr(site.provider, "poll", poll)
        site.pass_time(1)
    assert machine.id not in site.world.state.machines
    block = keeper.blocks.of(place, site.world.engine.now())
    assert block is not None
    assert (block.kind, block.why) == (Kind.CAPACITY, "ZONE_RESOURCE_POOL_EXHAUSTED: no L4 is left")
    assert block.scope.zone == place.zone
    assert site.rows() == []


@pytest.mark.parametrize("source", ["ann's list", "the provider itself"])
def test_a_price_of_the_books_stays_as_old_as_it_is_and_one_of_the_provider_is_written_down(
    source: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.world.apply(
        "kind: PriceBook\nname: ann\nspec:\n  source: ann's list\n  currency: USD\n  prices:\n"
        "    - {provider: local, region: home, instance_type: cpu.small, market: on-demand, price: 3 USD/h}\n"
    )
    offers = [
        replace(one, source=source)
        for one in site.provider.offers(Wanted(instance_types=("cpu.small",), markets=("on-demand",)))
    ]
    monkeypatch.setattr(site.provider, "offers", lambda wanted: offers)
    rates = BookRates(site.world.engine.now)
    site.renting = Inline(
        site.world.engine, [site.provider], "unix:///s", lambda: site.last, site.cut, rates=rates
    )
    site.pass_time(1)
    assert (("PriceBook", "cloud-local") in site.world.state.policies) == (source != "ann's list")


def test_what_a_provider_asks_now_counts_before_a_dated_price_of_the_books_and_is_written_down_once(
    site: Site,
) -> None:
    """1. The books have an older price. 2. The provider says another. 3. An hour later it says the same."""
    site.world.apply(
        "kind: PriceBook\nname: ann\nspec:\n  source: ann's list\n  currency: USD\n  prices:\n"
        "    - {provider: local, region: home, instance_type: cpu.small, market: on-demand, price: 3 USD/h,"
        " valid_from: 2025-12-01T00:00:00Z}\n"
    )
    site.pass_time(1)
    engine, key = site.world.engine, ("PriceBook", "cloud-local")
    written = site.world.state.policies[key]

    def rate() -> int:
        at = Instant(engine.now())
        quote = engine.prices.lookup_machine("local", "home", "cpu.small", "on-demand", at)
        assert quote is not None
        return quote.rate_nanos_per_hour

    assert rate() == 3_600_000_000
    site.world.clock.advance(2 * HOUR_US)
    site.pass_time(1)
    assert site.world.state.policies[key] == written
    assert rate() == 3_600_000_000


def test_what_waits_rents_nothing_once_renting_is_closed_until_the_daemon_starts_again(site: Site) -> None:
    site.large()
    site.renting.is_closed = True
    site.pass_time(60)
    assert site.machines == []
    site.open()
    site.pass_time(10)
    assert len(site.machines) == 1
