"""A plan of a service says what tokens and a cold start cost, by what a service of its name did before."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from money_daemon import COST_MODEL, Daemon, in_a_daemon
from service_site import Site

from bursar.cli.texts import plan_text
from bursar.clock import HOUR_US, SECOND_US
from bursar.codec import view
from bursar.model import JobSpec, ServiceSpec
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2
from bursar.v1 import money_pb2 as pb
from bursard.access.identity import Grant, Identity, Role
from bursard.events import KeyUse, ServiceMetered
from bursard.reports.serving import minutes_of
from bursard.services import planning, serviceplan
from bursard.services.serviceplan import LOADS, learned

MINUTE_US = 60 * SECOND_US
ANN = Identity("ann", Role.ADMIN)
STRANGER = Identity("zoe", None, grants=(Grant(Role.SUBMITTER, "other"),))
CHAT = ServiceSpec(replicas_min=1, replicas_max=4, target=4)
COLD_US = 34 * SECOND_US


def spec_of(daemon: Daemon, job_id: str, **changed: Any) -> JobSpec:
    return msgspec.structs.replace(daemon.engine.state.jobs[job_id].spec, **changed)


async def planned(daemon: Daemon, spec: JobSpec, by: Identity = ANN) -> jobs_pb2.PlanResponse:
    wire = await planning.plan_view(daemon.engine, by.name, spec)
    await serviceplan.expect(daemon.engine, wire, spec, by, lambda _: COLD_US)
    return wire


async def served(
    daemon: Daemon, minutes: int, busy: int, tokens: int, failed: int = 0, gateways: str = "g"
) -> str:
    """One replica of `chat` for so many minutes, with `busy` of four requests in hand all the time."""
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    job_id = daemon.submit(name="chat", project="p", time_limit_us=0, service=CHAT)
    for minute in range(minutes):
        at = daemon.clock.now()
        daemon.clock.advance(MINUTE_US)
        daemon.meter()
        use = KeyUse("k1", requests=10, failed=failed, tokens_in=tokens, tokens_out=tokens)
        for gateway in gateways:
            told = ServiceMetered(job_id, gateway, minute + 1, at, busy * MINUTE_US, 4 * MINUTE_US, (use,))
            daemon.engine.commit([told], gateway)
    await daemon.engine.durable()
    return job_id


def test_what_tokens_cost_at_the_load_that_was_measured_is_what_the_books_say() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await served(daemon, minutes=60, busy=1, tokens=500)
        plan = (await planned(daemon, spec_of(daemon, job_id))).service
        assert (plan.measured_minutes, plan.measured_load_percent) == (60, 25)
        assert plan.tokens_per_hour == 4 * 60_000
        answer = await daemon.money.Cost(pb.CostRequest(by=["service"]), None)
        booked = Decimal(answer.total.nanos) * 10**6 / 60_000
        at = {one.load_percent: Decimal(one.per_million_tokens.nanos) for one in plan.loads}
        assert sorted(at) == sorted(LOADS)
        assert at[100] * 4 == pytest.approx(booked, rel=Decimal("1e-5"))
        assert at[30] * 30 == pytest.approx(at[100] * 100, rel=Decimal("1e-5"))

    in_a_daemon(story)


def test_several_gateways_before_one_replica_count_it_once() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await served(daemon, minutes=60, busy=1, tokens=500, gateways="ghi")
        plan = (await planned(daemon, spec_of(daemon, job_id))).service
        assert plan.measured_load_percent == 75
        assert plan.tokens_per_hour == 4 * 60_000

    in_a_daemon(story)


def test_people_read_what_a_million_tokens_and_a_cold_start_cost() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await served(daemon, minutes=30, busy=1, tokens=500)
        bigger = (ResourceRequest(None, 2_000, 1 << 20),)
        plan = view.plan(await planned(daemon, spec_of(daemon, job_id, options=bigger)))
        text = plan_text(plan, daemon.clock.now())
        assert "by 30 minutes of job 1 at 25 % load, which had other resources" in text
        assert "at 30 %, " in text
        assert "at 100 % load" in text
        assert "34s, " in text
        assert plan["service"]["measured"]["requests_per_hour"] == 4 * 600

    in_a_daemon(story)


def test_of_what_counts_no_tokens_a_thousand_requests_are_told() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await served(daemon, minutes=10, busy=2, tokens=0, failed=1)
        plan = view.plan(await planned(daemon, spec_of(daemon, job_id)))
        loads = plan["service"]["loads"]
        assert [one["per_million_tokens"] for one in loads] == [None] * 3
        assert plan["service"]["measured"]["requests_per_hour"] == 2 * 9 * 60, (
            "those that failed do not count"
        )
        assert "1k requests" in plan_text(plan, daemon.clock.now())

    in_a_daemon(story)


def test_nothing_is_told_by_a_service_of_another_project_or_of_which_costs_are_not_for_the_caller() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await served(daemon, minutes=10, busy=2, tokens=5)
        for spec, by in (
            (spec_of(daemon, job_id, project="other"), ANN),
            (spec_of(daemon, job_id, name="talk"), ANN),
            (spec_of(daemon, job_id), STRANGER),
        ):
            plan = (await planned(daemon, spec, by)).service
            assert not plan.measured_job
            assert not plan.loads
            assert not plan.cold_us

    in_a_daemon(story)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**9)),
        max_size=5,
    ),
    st.integers(1, 1_000),
)
def test_a_load_is_at_most_all_and_what_is_done_never_negative(
    told: list[tuple[int, int, int, int]], target: int
) -> None:
    events = [
        ServiceMetered(
            "j", "g", at, at * MINUTE_US, busy, room, (KeyUse("k", requests=asked, tokens_out=tokens),)
        )
        for at, (busy, room, asked, tokens) in enumerate(told)
    ]
    found = learned(minutes_of(events).values(), target)
    if found is None:
        assert not any(busy and asked for busy, _, asked, _ in told)
    else:
        assert 0 <= found.load_percent <= 100
        assert found.tokens >= 0
        busy_us = sum(busy for busy, *_ in told)
        assert found.requests * busy_us <= target * HOUR_US * sum(asked for busy, _, asked, _ in told if busy)


def test_a_replica_that_is_ready_again_did_not_start_again() -> None:
    site = Site(replicas_min=1)
    site.turn(30, ready=True)
    cold_us, attempt = site.keeper.board.cold_us(site.job.id), site.live()[0]
    site.turn(3_600)
    for ready in (False, True):
        site.keeper.readied(attempt.id, ready, "")
    assert site.keeper.board.cold_us(site.job.id) == cold_us
