"""What is told where a service waits, and where others wait behind one: it has no time limit."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon
from service_site import BUDGET, Site

from bursar.cli.texts import plan_text, start_text
from bursar.clock import HOUR_US
from bursar.codec import view
from bursar.errors import BudgetExceeded
from bursar.model import JobSpec, ReasonCode, ServiceSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursard.access.identity import Identity, Role
from bursard.services import planning
from bursard.services.census import Census
from bursard.state.decide import services as decide

ROOT = Identity("root", Role.ADMIN)
CHAT = ServiceSpec(replicas_min=1, replicas_max=1)
NO_PLAN: Any = SimpleNamespace(last=None, rents=None)
GPUS = (ResourceRequest(GpuRequest(2), 1_000, 1 << 30),)


def test_an_update_that_its_budget_can_never_pay_for_is_told_no_time_limit() -> None:
    site = Site(replicas_min=1, replicas_max=2)
    site.world.apply(BUDGET.replace("100 USD", "3 USD"))
    more = (ResourceRequest(None, 63_000, 1 << 20),)
    with pytest.raises(BudgetExceeded) as refused:
        decide.update(site.world.state, site.job, msgspec.structs.replace(site.job.spec, options=more))
    told = refused.value.message
    assert "ask for less for each replica, or raise the budget" in told
    assert "time limit" not in told
    assert "max_cost" not in told


def test_a_service_that_waits_for_money_is_told_what_services_take() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, BUDGET.replace("100 USD", "0.01 USD"))
        daemon.node("a")
        spec = JobSpec(name="chat", project="p", options=GPUS, service=CHAT)
        wire = await planning.plan_view(daemon.engine, "ann", spec)
        assert wire.reason.code in (ReasonCode.BUDGET_COMMITTED, ReasonCode.BUDGET_EXHAUSTED)
        assert "time-limit" not in wire.reason.remedy
        assert "ask for less for each replica, or for fewer of them" in wire.reason.remedy
        assert "raise the budget by" in wire.reason.remedy

    in_a_daemon(story)


def test_what_waits_behind_a_service_is_told_no_date_and_the_service_by_name() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.submit(name="chat", project="p", options=GPUS, time_limit_us=0, service=CHAT)
        job_id = daemon.submit(name="behind", project="p", options=GPUS)
        job = daemon.engine.state.jobs[job_id]
        told = view.explain(await planning.explain_view(daemon.engine, NO_PLAN, job))
        plan = view.plan(await planning.plan_view(daemon.engine, "ann", job.spec))
        for one in (told, plan):
            assert one["expected_start_at"] is None
            assert "service chat (job 1) may hold the room it needs" in one["reason"]["remedy"]
            assert "does not end by itself" in one["reason"]["remedy"]
        assert start_text(plan, daemon.engine.now()) == "unknown"
        assert "365d" not in plan_text(plan, daemon.engine.now())

    in_a_daemon(story)


def test_behind_a_job_with_a_limit_a_date_is_told_as_before_also_beside_a_service() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.node("b")
        daemon.submit(name="chat", project="p", options=GPUS, time_limit_us=0, service=CHAT)
        daemon.submit(name="first", project="p", options=GPUS)
        job = daemon.engine.state.jobs[daemon.submit(name="behind", project="p", options=GPUS)]
        wire = await planning.explain_view(daemon.engine, NO_PLAN, job)
        assert 0 < wire.expected_start_at - daemon.engine.now() < 10 * HOUR_US
        assert "service" not in wire.reason.remedy

    in_a_daemon(story)


def test_the_queue_counts_a_replica_that_waits_with_its_reason() -> None:
    site = Site(replicas_min=2, replicas_max=2)
    site.world.backend.finish(site.live()[0].id, 0, exit_code=1)
    site.world.backend.report()
    assert site.job.state.value == "RUNNING"
    counts = asyncio.run(Census(site.world.engine, NO_PLAN).seen_by(ROOT))
    reasons = {(one.state, one.jobs): one.reason for one in counts}
    assert reasons.pop(("RUNNING", 1)) == ""
    assert list(reasons.values()) != [""]
    assert len(reasons) == 1


def test_a_node_that_is_not_there_yet_is_said_to_be_so_with_words_behind_the_colon() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.node("a")
        daemon.node("b")
        [node] = [one for one in daemon.engine.state.nodes.values() if one.facts.name == "b"]
        node.connected, node.changed_at = False, daemon.engine.now()
        assert planning._away(node, daemon.engine.now()) == "down: its agent is not connected"

    in_a_daemon(story)
