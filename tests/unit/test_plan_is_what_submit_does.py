"""A plan says what a submit would do: it refuses what that refuses, and says what it would wait for."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from whole_site import START, Site, play

from bursar.cli.texts import plan_text, start_text
from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant, parse_instant
from bursar.codec import view
from bursar.codec.spec import spec_to_wire
from bursar.jobfile import parse_job
from bursar.model import ArraySpec, Dependency, Device, JobSpec, NodeFacts, ServiceSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursar_policies.compile import Applied
from bursar_policies.document import parse_documents
from bursard.state.decide import nodes

BOOK = """\
kind: PriceBook
name: cloud
spec:
  source: made up
  currency: USD
  prices:
    - {provider: aws, region: r, instance_type: p5, market: on-demand, price: 55 USD/h,
       gpus: "H100:8", gpu_memory: 80GB}
---
kind: CostModel
name: rack
spec:
  {pool: rack, node_capex: 1000 USD, useful_life: 5y, gpus: {MI300X: {capex: 10 USD}, other: {capex: 1 USD}}}
"""


def spec(**known: Any) -> JobSpec:
    asked = {
        "options": (ResourceRequest(None, 1_000, 1 << 30),),
        "time_limit_us": HOUR_US,
        "command": ("true",),
    }
    return JobSpec(**({"project": "p", "name": "train"} | asked | known))


def gpus(*kinds: str) -> JobSpec:
    return spec(options=(ResourceRequest(GpuRequest(1, kinds), 1_000, 1 << 30),))


async def told(site: Site, method: str, job: JobSpec) -> tuple[tuple[str, str], Any]:
    asked = {"Jobs.Plan": pb.PlanRequest, "Jobs.Submit": pb.SubmitRequest}[method](spec=spec_to_wire(job))
    verdict, answers = await site.ask(method, asked, token=site.token("ann", "admin"))
    return verdict, answers[0] if answers else None


async def plan(site: Site, job: JobSpec) -> Any:
    (status, details), wire = await told(site, "Jobs.Plan", job)
    assert status == "OK", details
    return view.plan(wire)


async def both(site: Site, job: JobSpec) -> tuple[str, str]:
    """What both say of a job that they refuse."""
    planned, _ = await told(site, "Jobs.Plan", job)
    submitted, _ = await told(site, "Jobs.Submit", job)
    assert planned == submitted
    return planned


def failed(site: Site) -> str:
    """The number of a job that has failed."""
    job = site.job("ann", "p")
    for _ in range(4):
        if job not in site.engine.state.pending:
            break
        site.fail_to_start(job, "no such program")
    [number] = [n for n, one in site.engine.state.numbers.items() if one == job] or ["1"]
    return str(number)


def test_a_plan_of_a_service_that_runs_is_of_its_update_and_a_second_one_is_refused() -> None:
    async def story(site: Site) -> None:
        small = spec(name="small", time_limit_us=0, service=ServiceSpec(port=8000))
        assert (await told(site, "Jobs.Submit", small))[0][0] == "OK"
        row = await plan(site, small)
        said = str(row)
        assert (
            "service small runs already (job 1): `bursar service update small FILE` would change it" in said
        )
        (status, details), _ = await told(site, "Jobs.Submit", small)
        assert (status, "there is a service small already" in details) == ("INVALID_ARGUMENT", True)
        (status, _), _ = await told(site, "Jobs.Plan", replace(small, project="q"))
        assert status == "INVALID_ARGUMENT", "an update keeps the project"

    play(story)


def test_a_plan_says_that_the_service_which_is_to_answer_is_not_there() -> None:
    async def story(site: Site) -> None:
        small = spec(name="small", time_limit_us=0, service=ServiceSpec(port=8000))
        chat = spec(name="chat", time_limit_us=0, service=ServiceSpec(port=8000, fallback="small"))
        said = "fallback: no service small of ann in project p is there now"
        assert said in str(await plan(site, chat))
        await told(site, "Jobs.Submit", small)
        assert "fallback: no service" not in str(await plan(site, chat))

    play(story)


def test_after_a_job_that_has_failed_a_plan_refuses_as_submit_does_in_the_words_that_were_typed() -> None:
    async def story(site: Site) -> None:
        number = failed(site)
        status, details = await both(site, spec(depends_on=(Dependency(number, "succeeded"),)))
        assert status == "INVALID_ARGUMENT"
        assert details == (
            f"depends_on: job {number} has already ended FAILED, so `when: succeeded` can never come true"
        )
        assert (await plan(site, spec(depends_on=(Dependency(number, "failed"),))))["starts_now"] is True

    play(story)


def test_after_a_job_that_runs_a_plan_starts_nowhere_yet_and_says_what_it_waits_for() -> None:
    async def story(site: Site) -> None:
        site.job("ann", "p")
        made = spec(depends_on=(Dependency("1", "finished"),))
        row = await plan(site, made)
        assert (row["starts_now"], row["expected_start_at"]) == (False, None)
        assert (row["reason"]["code"], row["reason"]["message"]) == (
            "Dependency",
            "waits for job 1 (finished)",
        )
        assert [line for line in plan_text(row, START).splitlines() if line.startswith("start")] == [
            "start       unknown"
        ]
        _, answer = await told(site, "Jobs.Submit", made)
        assert answer.job.reason.message == row["reason"]["message"]

    play(story)


def test_before_its_begin_time_and_on_hold_a_plan_starts_nowhere_yet() -> None:
    async def story(site: Site) -> None:
        begin = Instant(START + 90 * SECOND_US)
        row = await plan(site, spec(begin_after=begin))
        assert (row["starts_now"], row["reason"]["code"]) == (False, "BeginTime")
        assert row["expected_start_at"] == format_instant(begin)
        assert (await plan(site, spec(held=True)))["reason"]["code"] == "Held"
        assert (await plan(site, spec(begin_after=Instant(START))))["starts_now"] is True

    play(story)


def test_a_plan_refuses_what_would_pass_the_limit_of_pending_jobs() -> None:
    async def story(site: Site) -> None:
        site.engine.state.limits = replace(site.engine.state.limits, pending_max=3)
        status, details = await both(site, spec(array=ArraySpec(((0, 4, 1),))))
        assert (status, "would pass the limit of 3" in details) == ("RESOURCE_EXHAUSTED", True)
        assert (await plan(site, spec(array=ArraySpec(((0, 3, 1),)))))["starts_now"] is True

    play(story)


def test_nobody_knows_when_a_job_starts_whose_room_is_reserved_for_another() -> None:
    row: dict[str, Any] = {
        "starts_now": False, "expected_start_at": None, "ahead_total": 0, "reason": None,
        "ahead_counted": False,
    }  # fmt: skip
    assert start_text(row, START) == "unknown"
    row["expected_start_at"] = format_instant(START - 5 * SECOND_US)
    assert start_text(row, START) == "room for it any moment if what runs takes its whole limit"
    row["expected_start_at"] = format_instant(START + 5 * SECOND_US)
    room = "room for it at 2026-11-01 01:00:05Z (in 5s) if what runs takes its whole limit"
    assert start_text(row, START) == room
    assert start_text(row | {"ahead_total": 2}, START) == f"not before the 2 jobs ahead of it; {room}"
    counted = row | {"ahead_total": 2, "ahead_counted": True}
    assert start_text(counted, START) == (
        "at 2026-11-01 01:00:05Z (in 5s) if what runs and the 2 jobs ahead of it take their whole limits"
    )
    rented = row | {"reason": {"code": "Provisioning", "message": "", "remedy": ""}}
    assert start_text(rented, START).startswith("about ")
    assert start_text(rented, START).endswith("), once the machine has come up")
    assert start_text(row | {"ahead_total": 1}, START).startswith("not before the 1 job ahead of it; ")
    row["reason"] = {"code": "BeginTime", "message": "", "remedy": ""}
    assert start_text(row, START) == "not before 2026-11-01 01:00:05Z (in 5s)"


# --- kinds of devices


def with_prices(site: Site) -> None:
    site.engine._catalog = tuple(Applied(one, version=0) for one in parse_documents(BOOK, "book"))
    site.engine._prices = None


def joins(site: Site, facts: NodeFacts) -> None:
    state = site.engine.state
    events = nodes.hello(
        state, site.engine.ids, site.engine.prices, facts=facts, boot_id="b",
        boot_us=site.clock.boot_us(), now=site.engine.now(),
    )  # fmt: skip
    site.engine.commit(events, "node")


def with_node(site: Site, kind: str, pool: str = "") -> None:
    device = Device(0, f"GPU-{kind}", kind, 80 << 30)
    facts = NodeFacts(
        name=f"n-{kind.lower()}", cpu_milli=8_000, memory_bytes=64 << 30, devices=(device,), pool=pool
    )
    joins(site, facts)


@pytest.mark.parametrize(
    ("kinds", "wrong", "hint"),
    [
        (("BANANA",), "BANANA", "known are A100, H100, MI300X"),
        (("H10",), "H10", "did you mean H100?"),
        (("H100X8",), "H100X8", "did you mean H100:8?"),
        (("MI300",), "MI300", "did you mean MI300X?"),
        (("H100", "H1OO"), "H1OO", "did you mean H100?"),
        (("OTHER",), "OTHER", "known are A100, H100, MI300X"),
    ],
)
def test_a_kind_that_nobody_knows_is_refused_with_the_nearest(
    kinds: tuple[str, ...], wrong: str, hint: str
) -> None:
    async def story(site: Site) -> None:
        with_prices(site)
        with_node(site, "A100")
        assert await both(site, gpus(*kinds)) == (
            "INVALID_ARGUMENT",
            f"gpus: no node has a {wrong}, and no price or cost model names one; {hint}",
        )
        job = site.job("ann", "p")
        request = pb.UpdateRequest(job=job, gpus=types_pb2.GpuRequest(count=1, types=kinds, milli=1000))
        (status, details), _ = await site.ask("Jobs.Update", request, token=site.token("ann", "admin"))
        assert (status, details.endswith(hint)) == ("INVALID_ARGUMENT", True)

    play(story)


@pytest.mark.parametrize("kind", ["H100", "MI300X"])
def test_a_kind_that_a_price_or_a_cost_model_names_waits_though_no_node_has_it(kind: str) -> None:
    async def story(site: Site) -> None:
        with_prices(site)
        with_node(site, "A100")
        row = await plan(site, gpus(kind))
        assert row["reason"]["code"] == "ExceedsNodeCapacity"
        verdict, answer = await told(site, "Jobs.Submit", gpus(kind))
        assert (verdict[0], answer.job.state) == ("OK", "PENDING")

    play(story)


def test_a_kind_of_a_node_is_known_and_where_no_kind_is_known_none_is_refused() -> None:
    async def story(site: Site) -> None:
        assert (await told(site, "Jobs.Submit", gpus("BANANA")))[0][0] == "OK"
        with_node(site, "A100")
        assert (await plan(site, gpus("A100")))["starts_now"] is True
        assert (await told(site, "Jobs.Submit", gpus("BANANA")))[0][0] == "INVALID_ARGUMENT"
        any_kind = spec(options=(ResourceRequest(GpuRequest(1, ()), 1_000, 1 << 30),))
        assert (await plan(site, any_kind))["starts_now"] is True

    play(story)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({}, True),
        ({"constraints": (("bigmem", "*"),)}, False),
        ({"spot_policy": "spot"}, False),
        ({"nodes": 3}, False),
    ],
)
def test_a_place_that_there_is_not_has_no_price(asked: dict[str, Any], place: bool) -> None:
    async def story(site: Site) -> None:
        with_prices(site)
        with_node(site, "MI300X", "rack")
        row = await plan(site, spec(held=True, **asked))
        priced = [row[key] is not None for key in ("rate_per_hour", "worst_case_cost")]
        assert (priced, row["starts_now"]) == ([place, place], False)

    play(story)


RANGE = """\
nodes: 1..3
resources: {gpus: "H100:2..8", cpus: 1}
throughput: {H100x2: 2, H100x4: 3.5, H100x8: 6}
time_limit: 1h
deadline: %s
run: "true"
"""


def test_a_plan_of_a_promised_job_is_of_the_size_and_the_place_that_are_promised() -> None:
    async def story(site: Site) -> None:
        with_prices(site)
        devices = tuple(Device(index, f"GPU-{index}", "H100", 80 << 30) for index in range(8))
        for name in ("a", "b", "c"):
            facts = NodeFacts(
                name=name, cpu_milli=8_000, memory_bytes=64 << 30, devices=devices,
                provider="aws", region="r", instance_type="p5",
            )  # fmt: skip
            joins(site, facts)
        asked = parse_job(RANGE % format_instant(Instant(START + 9 * HOUR_US)), "j", "")
        row = await plan(site, replace(asked, project="p"))
        [member] = row["nodes"]
        promise = row["promise"]
        assert (member["gpus"], row["starts_now"], row["reason"]) == (2, True, None)
        assert member["rate_per_hour"] == row["rate_per_hour"]
        assert row["worst_case_cost"] == promise["cost_at_most"]
        assert (row["worst_case_nodes"], row["worst_case_gpus"]) == (None, None)
        assert row["time_limit_s"] == 1800, "an hour at speed 1 is half of one at speed 2"
        assert float(row["rate_per_hour"]["amount"]) < 55 / 2

    play(story)


def test_a_plan_of_a_promised_job_that_waits_has_the_place_that_is_kept_for_it() -> None:
    async def story(site: Site) -> None:
        whole = (ResourceRequest(None, 8_000, 1 << 30),)
        site.place(site.job("ann", "p", options=whole))
        row = await plan(site, spec(options=whole, deadline_at=Instant(START + 9 * HOUR_US)))
        assert [member["node"] for member in row["nodes"]] == ["n1"]
        assert (row["starts_now"], row["promise"]["state"]) == (False, "promised")
        assert row["reason"] is not None
        assert START < parse_instant(row["expected_start_at"]) <= parse_instant(row["promise"]["starts_by"])

    play(story)
