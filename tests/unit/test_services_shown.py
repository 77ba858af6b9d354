"""What is said of services where jobs are shown: their own words, and no worst case."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from service_site import BUDGET, Site

from bursar.cli.jobs import _why
from bursar.cli.services import _text, _use_lines
from bursar.cli.services import shown as service_shown
from bursar.cli.submit import _say_without_fallback
from bursar.cli.texts import job_text, plan_text
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.model import JobState, ReasonCode, ServiceSpec
from bursar.v1 import services_pb2, types_pb2
from bursard.access.identity import Identity, Role, set_caller
from bursard.cycle import reason_of
from bursard.services import planning
from bursard.services.serviceviews import service_view
from bursard.services.views import job_view
from bursard.state.arrays import told_state, waits
from bursard.state.decide.outlooks import Outlooks

DAY = 86_400_000_000
ME = Identity("ann", Role.ADMIN)


def shown(site: Site, job: Any = None) -> Any:
    return view.job(job_view(site.world.state, job or site.job, seen_by=ME, now=site.world.engine.now()))


def test_a_service_has_no_time_limit_no_worst_case_and_says_how_many_replicas_run() -> None:
    site = Site(replicas_min=2, replicas_max=4)
    row = shown(site)
    assert (row["type"], row["time_limit_s"], row["cost"]["estimate_max"]) == ("service", None, None)
    assert row["service"] == {"revision": 1, "replicas_min": 2, "replicas_max": 4}
    assert _why(row) == "2 of 2..4 replicas"
    text = job_text(row)
    assert "time limit  none: it runs until it is cancelled" in text
    assert "service     2 of 2..4 replicas run, revision 1; more in `bursar service show chat`" in text
    assert "array" not in text
    assert "estimate" not in text
    assert "366d" not in text


def test_a_replica_says_what_is_paid_for_and_no_limit() -> None:
    site = Site()
    site.world.apply(BUDGET)
    site.world.backend.finish(site.live()[0].id, 0)
    site.world.backend.report()
    site.turn()
    row = shown(site, site.world.state.tasks[site.job.id][0])
    assert "paid for 30m00s; renewed while the budget pays" in job_text(row)
    assert "366d" not in job_text(row)


def test_a_service_that_nobody_asks_says_so_and_nothing_of_arrays() -> None:
    site = Site(replicas_min=0, replicas_max=4)
    reason = reason_of(site.world.state, None, site.job, site.world.engine.now())
    assert reason is not None
    assert (site.job.state, reason.code) == (JobState.PENDING, ReasonCode.NO_REQUESTS)
    assert "bursar service scale chat 1..N" in reason.remedy
    assert _why({**shown(site), "reason": {"code": reason.code}}) == "0 of 0..4 replicas NoRequests"


@pytest.mark.parametrize(("least", "said"), [(1, "replicas  1 to 4: "), (4, "replicas  4: ")])
def test_a_plan_of_a_service_says_what_it_costs_by_the_hour(least: int, said: str) -> None:
    site = Site(replicas_min=least, replicas_max=4)
    spec, each = site.job.spec, site.live()[0].rate

    async def ask() -> Any:
        set_caller(ME)
        return await planning.plan_view(site.world.engine, "ann", spec)

    plan = view.plan(asyncio.run(ask()))
    assert plan["worst_case_cost"] is plan["expected_cost"] is plan["time_limit_s"] is None
    assert Decimal(plan["service"]["rate_max_per_hour"]["amount"]) == Decimal(4 * each).scaleb(-9)
    text = plan_text(plan, site.world.engine.now())
    assert said in text
    assert "fallback" not in text
    noted = {**plan, "placed_because": "first; fallback: no service small is there now"}
    assert "fallback  no service small is there now" in plan_text(noted, site.world.engine.now())
    assert ", until it is cancelled" in text
    assert "worst case" not in text


def running_nanos(site: Site) -> tuple[int, int]:
    """Of a budget's outlook: what runs is expected to cost, and what waits."""
    found, _ = Outlooks(site.world.state).of(["b"], site.world.engine.now())["b"]
    return found.running, found.queued


def test_replicas_that_a_service_must_have_last_in_forecasts_however_often_they_ended() -> None:
    site = Site(replicas_min=1, replicas_max=3)
    site.world.apply(BUDGET)
    for _ in range(5):
        site.world.backend.finish(site.live()[0].id, 0)
        site.world.backend.report()
        site.turn(400)
    [attempt] = site.live()
    running, queued = running_nanos(site)
    assert running == attempt.rate * 24 * 366
    assert queued == 0, "places that are not open are not waiting for anything"


def test_replicas_that_came_with_the_load_are_expected_to_go() -> None:
    site = Site(replicas_min=1, replicas_max=2, target=1, down_delay_us=3600 * SECOND_US)
    site.world.apply(BUDGET)
    site.world.backend.finish(site.live()[0].id, 0)
    site.world.backend.report()
    site.turn(ready=True)
    for _ in range(5):
        site.asks(busy=2)
        site.turn(1, ready=True)
    assert len(site.live()) == 2
    rate = site.live()[0].rate
    assert running_nanos(site)[0] == rate * (24 * 366 + 1)


def served(**use: int) -> services_pb2.Service:
    wire = services_pb2.Service(name="chat", currency="USD", number=1, use_since=DAY)
    wire.settled.nanos, wire.use_cost.nanos = "9000000000", "8000000000"
    wire.use.CopyFrom(types_pb2.ServiceUse(**use))
    wire.use.idle.nanos = "2000000000"
    return wire


def test_a_service_says_what_it_was_asked_and_what_that_cost() -> None:
    row = view.service(served(requests=5, failed=1, tokens_in=1500, tokens_out=500, counted=3, estimated=1))
    assert (row["requests"], row["tokens_in"], row["tokens_out"]) == (5, 1500, 500)
    assert {name: one["amount"] for name, one in row["cost"].items() if isinstance(one, dict)} == {
        "settled": "9.000000000", "charged": "8.000000000", "idle": "2.000000000",
        "per_request": "2.000000000", "per_million_tokens": "4000.000000000",
    }  # fmt: skip
    assert row["cost"]["coverage"] == 0.75
    assert _use_lines(row) == [
        "  asked      5 requests, 1500 tokens read, 500 written, 75% of them counted;"
        " since 1970-01-02 00:00:00Z",
        "             2.00 USD a request, 4,000.00 USD for 1M tokens, 2.00 USD of 8.00 USD idle",
    ]


def test_what_would_be_divided_by_nothing_is_not_known() -> None:
    row = view.service(served(requests=2, failed=2))
    assert row["cost"]["per_request"] is row["cost"]["per_million_tokens"] is row["cost"]["coverage"] is None
    assert _use_lines(view.service(served())) == []


def test_a_service_is_shown_with_how_it_balances_and_who_answers_for_it() -> None:
    site = Site(fallback="small", balance="prefix")
    text = _text(service_row(site))
    assert "  balance    prefix\n" in text
    assert "  fallback   small, and no service of that name, owner and project is there" in text
    site.world.submit(name="small", time_limit_us=0, service=ServiceSpec(replicas_min=2))
    site.turn()
    row = service_row(site)
    assert (row["balance"], row["fallback"], row["fallback_state"]) == ("prefix", "small", "starting")
    assert "  fallback   small (starting)\n" in _text(row)
    alone = Site()
    row = service_row(alone)
    assert (row["balance"], row["fallback"], row["fallback_state"]) == ("least-outstanding", None, None)
    assert "fallback" not in _text(row)


def service_row(site: Site) -> Any:
    set_caller(ME)
    cycle: Any = SimpleNamespace(last=None, rents=None)
    return service_shown(view.service(service_view(site.world.engine, cycle, site.keeper, site.job, ME)))


def test_what_waits_has_a_service_of_which_a_replica_waits_and_one_that_runs_whole_not() -> None:
    site = Site(replicas_min=2, replicas_max=3)
    assert not waits(site.job)
    site.world.backend.finish(site.live()[0].id, 0)
    site.world.backend.report()
    site.world.writer.flush()
    assert waits(site.job)
    assert (site.job.state, told_state(site.job)) == (JobState.RUNNING, JobState.RUNNING)


def test_who_submits_a_service_without_its_plan_is_told_that_nobody_would_answer_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def client(state: str) -> Any:
        wire = services_pb2.Service(name="chat", user="ann", project="p", fallback="small", currency="USD")
        wire.fallback_state = state
        return SimpleNamespace(services=lambda _: [wire])

    _say_without_fallback(client("missing"), "job_1")
    assert capsys.readouterr().err == "fallback: no service small of ann in project p is there now\n"
    _say_without_fallback(client("ready"), "job_1")
    assert capsys.readouterr().err == ""
