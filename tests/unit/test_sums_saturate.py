"""Answers whose terms are bounded and whose sums are not: of counters they say at least so much, of money the
exact amount, and never fail.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from whole_site import Site, play

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.codec import results as made
from bursar.codec import view
from bursar.codec.amounts import MOST, exact, put_amounts, saturated
from bursar.codec.spec import spec_to_wire
from bursar.model import (
    ArraySpec,
    Device,
    DeviceShare,
    EndCause,
    JobSpec,
    MemberAllocation,
    NodeFacts,
    ShareRates,
)
from bursar.money import Money
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import money_pb2
from bursard.events import ExitReport, MemberEnded, NodePriced
from bursard.fleet import believe
from bursard.fleet.testing import FACTS as WORLD_FACTS
from bursard.fleet.testing import World
from bursard.reports.budgets import BudgetView
from bursard.reports.cost import CostRow
from bursard.services.asked_cost import _row
from bursard.services.budgets import _budget
from bursard.services.views import _memory_share
from bursard.state import Limits, MemberRecord, NodeRecord, State, image
from bursard.store import schema

CPU_MAX_US = 100 * 366 * DAY_US * 1024
HUGE_RATE = 1_250_000_000_000_000_000
"""Of a node of 8 CPUs: one costs 156 million an hour, and 60 days of it more than one amount can be."""
FACTS = NodeFacts(name="n", cpu_milli=8_000, memory_bytes=1 << 30)
LONG: dict[str, Any] = {
    "options": (ResourceRequest(None, 1_000, 1 << 30),),
    "time_limit_us": 60 * DAY_US,
    "command": ("true",),
}


def test_a_value_saturates_at_what_a_field_holds() -> None:
    assert [saturated(value) for value in (-5, 0, MOST, MOST + 1, 2**70)] == [-5, 0, MOST, MOST, MOST]
    assert saturated(-(2**63)) == saturated(-(2**70)) == -(2**63)


def test_cpu_time_and_energy_of_a_gang_at_their_bounds_are_shown_to_everybody() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "p")
        member = site.place(job).members[0]
        report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, cpu_us=CPU_MAX_US)
        member.report = msgspec.structs.replace(
            report, gpu_energy_millijoules=2**62, gpu_energy_source="measured"
        )
        attempt = site.engine.state.jobs[job].attempt
        assert attempt is not None
        attempt.members.extend([member] * 9)
        token = site.token("ann", "admin")
        status, [wire] = await site.ask("Jobs.Get", pb.GetJobRequest(job=job), token=token)
        assert (status[0], wire.cpu_us, wire.gpu_energy_millijoules) == ("OK", MOST, MOST)
        status, [page] = await site.ask("Jobs.List", pb.ListJobsRequest(), token=token)
        assert (status[0], [one.id for one in page.jobs]) == ("OK", [job])

    play(story)


def test_devices_of_an_older_log_that_are_too_large_together_are_shown() -> None:
    devices = tuple(Device(index, "", "H100", 2**60) for index in range(16))
    node = NodeRecord(id="node_1", row=0, facts=msgspec.structs.replace(FACTS, devices=devices), boot_id="b")
    assert _memory_share(node, [DeviceShare(index, 1_000) for index in range(16)]) == MOST
    assert _memory_share(node, [DeviceShare(0, 500)]) == 2**59


def test_money_past_64_bits_is_told_exactly_in_plan_list_and_explain() -> None:
    worst = HUGE_RATE // 8 * (60 * DAY_US + 10 * SECOND_US) // HOUR_US

    async def story(site: Site) -> None:
        [node] = site.engine.state.nodes.values()
        site.engine.commit([NodePriced(node.id, "p1", ShareRates(0, HUGE_RATE, 0))], "bursard")
        token = site.token("ann", "admin")
        spec = JobSpec(project="p", name="big", array=ArraySpec(((0, 9, 1),)), **LONG)
        request = pb.PlanRequest(spec=spec_to_wire(spec))
        status, [wire] = await site.ask("Jobs.Plan", request, token=token)
        assert (status[0], wire.starts_now, wire.worst_case_nanos) == ("OK", True, MOST)
        assert exact(wire, "task_worst_case_nanos") == worst
        assert exact(wire, "worst_case_nanos") == 9 * worst
        assert made.plan(wire).cost_at_most == Money(9 * worst, "USD")
        assert view.plan(wire)["worst_case_cost_per_task"]["amount"].startswith("2250")
        job = site.job("ann", "p", **LONG)
        status, [explained] = await site.ask("Jobs.Explain", pb.ExplainRequest(job=job), token=token)
        assert (status[0], exact(explained.job, "estimate_max_nanos")) == ("OK", worst)
        site.place(job)
        status, [page] = await site.ask("Jobs.List", pb.ListJobsRequest(), token=token)
        assert (status[0], page.jobs[0].held_nanos) == ("OK", 0)
        assert made.job(page.jobs[0]).cost_at_most == Money(worst, "USD")

    play(story)


def consumed(devices: int = 0, **said: Any) -> ExitReport:
    shares = tuple(DeviceShare(index, 1_000) for index in range(devices))
    alloc = MemberAllocation(
        rank=0,
        node_id="node_1",
        devices=shares,
        cpu_milli=1_000,
        memory_bytes=1,
        rates=ShareRates(),
        price_id="",
    )
    report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=SECOND_US // 2)
    return believe.consumed(FACTS, MemberRecord(alloc, "b"), msgspec.structs.replace(report, **said))


@pytest.mark.parametrize(
    ("said_us", "kept_us"),
    [(0, 0), (4 * SECOND_US, 4 * SECOND_US), (12 * SECOND_US, 12 * SECOND_US), (CPU_MAX_US, 12 * SECOND_US)],
)
def test_cpu_time_is_at_most_that_of_all_cores_while_it_was_held(said_us: int, kept_us: int) -> None:
    """Half a second, and one of slack, of eight cores."""
    assert consumed(cpu_us=said_us).cpu_us == kept_us


@pytest.mark.parametrize(
    ("devices", "said", "kept"),
    [
        (0, 1, (0, "")),
        (0, 10**15, (0, "")),
        (1, 4_500_000, (4_500_000, "measured")),
        (1, 4_500_001, (0, "")),
        (2, 9_000_000, (9_000_000, "measured")),
        (2, 10**15, (0, "")),
    ],
)
def test_energy_is_known_only_of_devices_and_up_to_what_they_can_draw(
    devices: int, said: int, kept: tuple[int, str]
) -> None:
    """1.5 seconds at 3,000 W each."""
    found = consumed(devices, gpu_energy_millijoules=said, gpu_energy_source="measured")
    assert (found.gpu_energy_millijoules, found.gpu_energy_source) == kept


def test_an_end_that_used_more_than_its_node_could_give_is_kept_cut() -> None:
    world = World()
    world.backend.connect(WORLD_FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    attempt = job.attempt
    assert attempt is not None
    said: dict[str, Any] = {"gpu_energy_millijoules": 10**15, "gpu_energy_source": "measured"}
    world.exited_of(attempt, EndCause.COMPLETED, exit_code=0, held_us=1, cpu_us=CPU_MAX_US, **said)
    [end] = [event for event in world.events if isinstance(event, MemberEnded)]
    most_us = (end.report.held_us + believe.MEMBER_SLACK_US) * WORLD_FACTS.cpu_milli // 1000
    assert end.report.cpu_us == most_us
    assert (end.report.gpu_energy_millijoules, end.report.gpu_energy_source) == (0, "")


@pytest.mark.parametrize("nanos", [0, -7, MOST, -MOST - 1, MOST + 1, -(10**21), 10**30])
def test_money_of_any_size_is_exact_on_the_wire(nanos: int) -> None:
    wire = money_pb2.CostRow()
    put_amounts(wire, nanos=nanos)
    again = money_pb2.CostRow.FromString(wire.SerializeToString())
    assert exact(again, "nanos") == nanos
    assert again.nanos == saturated(nanos)
    assert again.HasField("nanos_wide") == (saturated(nanos) != nanos)


def test_a_budget_and_a_cost_of_ten_to_the_twelve_units_read_as_they_are() -> None:
    stands = (10**21, 7, 10**20, "KRW", 0, 0, 1)
    wire = _budget(State(), BudgetView("b", "project p", "month", "hard", "worst-case", *stands))
    shown, found = view.budget(wire), made.budget(wire)
    assert shown["limit"] == {"amount": "1000000000000.000000000", "currency": "KRW"}
    assert shown["available"]["amount"] == "899999999999.999999993"
    assert (found.limit, found.available) == (Money(10**21, "KRW"), Money(10**21 - 7 - 10**20, "KRW"))
    asked = CostRow(("p",), nanos=10**21, gpu=10**20, gpu_milli_us=3_600_000_000_500)
    row = _row(asked, asked, False)
    assert view.cost_row(row, ["project"], "KRW")["cost"]["amount"] == "1000000000000.000000000"
    assert view.cost_row(row, ["project"], "KRW")["gpu_cost"]["amount"] == "100000000000.000000000"
    assert view.cost_row(row, ["project"], "KRW")["gpu_s"] == 3600.0


def test_a_limit_of_twelve_billion_is_kept_and_decided_on() -> None:
    world = World()
    world.apply(
        "kind: Budget\nname: large\nspec: {scope: {project: p}, limit: 12000000000 USD, period: month}\n"
    )
    (room,) = world.state.budgets.rooms(world.state.ledger).values()
    assert room.room_nanos == 12 * 10**18 > MOST
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert again.budgets.records["large"].spec.limit.nanos == 12 * 10**18
    world.backend.connect(WORLD_FACTS)
    job = world.submit()
    world.cycle()
    assert job.attempt is not None
    (left,) = world.state.budgets.rooms(world.state.ledger).values()
    assert 0 < left.held_nanos == 12 * 10**18 - left.room_nanos


def test_a_limit_of_the_size_of_files_is_named_and_not_the_disk_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = sqlite3.OperationalError("disk I/O error")
    problem.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    monkeypatch.setattr(schema.resource, "getrlimit", lambda which: (schema.resource.RLIM_INFINITY,) * 2)
    assert "the disk fails" in schema.unavailable(problem, Path("bursard.db")).message
    monkeypatch.setattr(schema.resource, "getrlimit", lambda which: (65_536, 65_536))
    said = schema.unavailable(problem, Path("bursard.db")).message
    assert "65536 bytes at most" in said
    assert "ulimit -f unlimited" in said
    assert "disk fails" not in said


def test_a_sum_that_is_too_large_for_the_store_is_no_damage() -> None:
    connection = schema.connect_memory()
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute(f"select sum(n) from (select {MOST} as n union all select 1)").fetchone()
    said = schema.unavailable(caught.value, Path("bursard.db")).message
    assert "nothing is damaged" in said
    assert "restore" not in said
