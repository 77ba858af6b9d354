"""What a plan says is left of budgets afterwards: all tasks placed that they pay for, and how many."""

from __future__ import annotations

from typing import Any

import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.cli.texts import plan_text
from bursar.clock import HOUR_US
from bursar.codec import results, view
from bursar.model import ArraySpec, CheckpointSpec, JobSpec
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursard.services.planning import plan_view
from bursard.state.admission import cheapest_hold, cheapest_rate

TEN = ArraySpec(((0, 10, 1),))
BUDGETS = """\
kind: Budget
name: {name}
spec: {{scope: {{project: p}}, limit: {limit} USD, period: month, enforcement: {enforcement}}}
"""


def spec(**known: Any) -> JobSpec:
    asked = {"options": (ResourceRequest(None, 1_000, 1 << 30),), "time_limit_us": 2 * HOUR_US}
    return JobSpec(**({"project": "p", "command": ("true",)} | asked | known))


async def site(daemon: Daemon, **limits: str) -> int:
    """What one task costs at most."""
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    for name, limit in limits.items():
        await daemon.apply(BUDGETS.format(name=name, limit=limit, enforcement=name))
    return int((await plan(daemon, spec())).worst_case_nanos)


async def plan(daemon: Daemon, job: JobSpec) -> pb.PlanResponse:
    return await plan_view(daemon.engine, "ann", job)


def rooms(wire: pb.PlanResponse) -> dict[str, tuple[int, int]]:
    return {one.budget: (one.tasks_paid, one.room_after_nanos) for one in wire.budgets}


def lines(wire: pb.PlanResponse, *names: str) -> list[str]:
    text = plan_text(view.plan(wire), 0)
    return [line.strip() for line in text.splitlines() if line.startswith(names)]


@pytest.mark.parametrize(("hard", "paid"), [("90", 10), ("0.5", 6), ("0.01", 0)])
def test_of_an_array_what_is_left_is_of_all_tasks_that_are_paid_for(hard: str, paid: int) -> None:
    async def story(daemon: Daemon) -> None:
        each = await site(daemon, hard=hard, soft="1")
        limit, soft = round(float(hard) * 10**9), 10**9
        assert min(10, limit // each) == paid
        wire = await plan(daemon, spec(array=TEN))
        assert rooms(wire) == {"hard": (paid, limit - paid * each), "soft": (0, soft - paid * each)}
        assert (wire.tasks_paid, wire.tasks, wire.starts_now) == (paid, 10, paid > 0)
        row, typed = view.plan(wire), results.plan(wire)
        assert (row["tasks_paid"], [one["tasks_paid"] for one in row["budgets"]]) == (paid, [paid, None])
        assert (typed.tasks_paid, [one.tasks_paid for one in typed.budgets]) == (paid, [paid, None])
        assert typed.budgets[0].available_after.nanos == limit - paid * each
        told = {10: "pays 10 tasks, ", 6: "pays 6 of 10 tasks, ", 0: "pays 0 of 10 tasks, "}[paid]
        assert lines(wire, "budget")[0].startswith(f"budget      hard: {told}")
        started = {10: "start       now", 6: "start       now, 6 of 10 tasks are paid for"}.get(paid)
        assert not started or lines(wire, "start") == [started]

    in_a_daemon(story)


def test_the_cap_of_an_array_is_one_of_what_pays() -> None:
    async def story(daemon: Daemon) -> None:
        each = await site(daemon, hard="0.5")
        capped = {"max_cost_nanos": 4 * each + 1, "currency": "USD", "max_cost_per": "job"}
        wire = await plan(daemon, spec(array=TEN, **capped))
        assert rooms(wire) == {"hard": (6, 5 * 10**8 - 4 * each), "max_cost of the array": (4, 1)}
        assert wire.tasks_paid == 4

    in_a_daemon(story)


def test_of_one_job_the_worst_case_is_taken_also_where_it_has_no_room_yet() -> None:
    async def story(daemon: Daemon) -> None:
        each = await site(daemon, hard="3")
        assert rooms(await plan(daemon, spec())) == {"hard": (0, 3 * 10**9 - each)}
        daemon.submit(project="p", options=(ResourceRequest(None, 8_000, 1 << 30),))
        room = daemon.engine.state.budgets.rooms(daemon.engine.state.ledger)["hard"].room_nanos
        waits = spec(options=(ResourceRequest(None, 2_000, 1 << 30),))
        wire = await plan(daemon, waits)
        assert not wire.starts_now
        assert rooms(wire) == {"hard": (0, room - wire.worst_case_nanos)}
        assert view.plan(wire)["tasks_paid"] is None

    in_a_daemon(story)


def test_a_worst_case_says_what_time_it_is_of_and_is_that_at_the_price_it_names() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        wire = await plan(daemon, spec(checkpoint=CheckpointSpec("TERM", 60_000_000)))
        assert wire.worst_case_us == 2 * HOUR_US + 65_000_000
        assert wire.worst_case_nanos == wire.rate_nanos_per_hour * wire.worst_case_us // HOUR_US
        assert lines(wire, "worst case")[0].endswith("(if it runs its whole 2h00m and takes 1m05s to end)")
        assert view.plan(wire)["worst_case_s"] == 7265
        daemon.submit(options=(ResourceRequest(None, 8_000, 1 << 30),))
        for cpus in (1_000, 3_000, 7_000):
            wire = await plan(daemon, spec(options=(ResourceRequest(None, cpus, 1 << 30),)))
            assert not wire.starts_now
            assert wire.worst_case_nanos == wire.rate_nanos_per_hour * wire.worst_case_us // HOUR_US

    in_a_daemon(story)


def test_the_cheapest_hold_is_what_a_plan_holds_to_the_nano() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        state = daemon.engine.state
        for cpus, hours in ((1_000, 1), (3_000, 7), (7_000, 11)):
            asked = spec(options=(ResourceRequest(None, cpus, (1 << 30) + 7),), time_limit_us=hours * HOUR_US)
            wire = await plan(daemon, asked)
            job_class = state.class_of_spec(asked, (), state.time_limit_of(asked))
            assert cheapest_hold(state, job_class) == wire.worst_case_nanos
            assert cheapest_rate(state, job_class) == wire.rate_nanos_per_hour

    in_a_daemon(story)


def test_a_plan_counts_who_is_ahead() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        whole = {"options": (ResourceRequest(None, 8_000, 1 << 30),)}
        for _ in range(3):
            daemon.submit(**whole, time_limit_us=9 * HOUR_US)
        wire = await plan(daemon, spec(**whole))
        assert (wire.starts_now, wire.ahead_total) == (False, 2)
        grace_us = wire.worst_case_us - wire.time_limit_us
        assert wire.expected_start_at == daemon.engine.now() + 3 * (9 * HOUR_US + grace_us)
        assert wire.ahead_counted
        assert lines(wire, "start")[0].endswith(
            " if what runs and the 2 jobs ahead of it take their whole limits"
        )

    in_a_daemon(story)
