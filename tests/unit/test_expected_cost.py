"""What a job is expected to cost: what its past runs cost, or nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.cli.texts import job_text, plan_text
from bursar.clock import HOUR_US, SECOND_US
from bursar.codec import view
from bursar.codec.spec import spec_to_wire
from bursar.model import ArraySpec, JobSpec, ShareRates
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursard.events import NodePriced
from bursard.services import history
from bursard.state.runs import PastRuns

RATE = 3_600_000_000_000
"""Nanos per hour of the whole node, all for its 8 CPUs: a CPU-second costs 0.125 USD."""


def spec(**known: Any) -> JobSpec:
    asked = {
        "options": (ResourceRequest(None, 1_000, 1 << 30),),
        "time_limit_us": HOUR_US,
        "command": ("true",),
    }
    return JobSpec(**({"project": "p", "name": "train"} | asked | known))


def priced(site: Site) -> None:
    [node] = site.engine.state.nodes.values()
    site.engine.commit([NodePriced(node.id, "p1", ShareRates(0, RATE, 0))], "bursard")


async def plan(site: Site, job: JobSpec) -> Any:
    request = pb.PlanRequest(spec=spec_to_wire(job))
    (status, details), [wire] = await site.ask("Jobs.Plan", request, token=site.token("ann", "admin"))
    assert status == "OK", details
    return view.plan(wire)


def amount(money: Any) -> float | None:
    return None if money is None else float(money["amount"])


@pytest.mark.parametrize(("name", "why"), [("train", "fewer than 3 past runs"), ("", "a job without a name")])
def test_without_past_runs_it_costs_at_most_something_and_nobody_knows_what(name: str, why: str) -> None:
    async def story(site: Site) -> None:
        priced(site)
        for _ in range(2):
            site.run(site.job("ann", "p", name="train"))
        told = await plan(site, spec(name=name))
        assert told["expected_cost"] is told["expected_cost_per_task"] is None
        most = amount(told["worst_case_cost"])
        assert most is not None
        assert most > 0
        [line] = [line for line in plan_text(told, 0).splitlines() if line.startswith("expected")]
        assert line.split("  ", 1)[1].strip().startswith(f"at most {most:.2f} USD  ({why}")

    play(story)


def test_a_cap_makes_no_hour_cheaper_where_nothing_is_free() -> None:
    async def story(site: Site) -> None:
        priced(site)
        site.place(site.job("ann", "p", options=(ResourceRequest(None, 8_000, 1 << 30),)))
        told = await plan(site, spec(max_cost_nanos=3 * 10**9, currency="USD"))
        assert told["nodes"] == []
        assert amount(told["rate_per_hour"]) == 450  # of one CPU
        assert amount(told["worst_case_cost"]) == 3

    play(story)


def test_more_nodes_than_there_are_are_told_with_the_command_that_brings_them() -> None:
    async def story(site: Site) -> None:
        told = await plan(site, spec(nodes=3))
        assert told["reason"]["message"] == "the cluster has 1 node, you ask 3"
        assert told["reason"]["remedy"] == (
            "add nodes (each bursar-agent that joins is one; of `bursar up`: --agents 3), or lower --nodes"
        )

    play(story)


def test_three_past_runs_say_what_is_expected_in_plan_and_show() -> None:
    async def story(site: Site) -> None:
        priced(site)
        for _ in range(3):
            site.run(site.job("ann", "p", name="train"))
        told = await plan(site, spec())
        assert amount(told["expected_cost"]) == 7.5  # a minute of one CPU
        job = site.job("ann", "p", name="train")
        _, [wire] = await site.ask("Jobs.Get", pb.GetJobRequest(job=job), token=site.token("ann", "admin"))
        shown = view.job(wire)
        assert amount(shown["cost"]["estimate_expected"]) == 7.5
        assert "7.50 USD expected, at most" in job_text(shown)

    play(story)


def test_an_array_is_expected_to_cost_what_its_tasks_do_and_past_arrays_are_taken_by_task() -> None:
    async def story(site: Site) -> None:
        priced(site)
        for _ in range(3):
            array = site.job("ann", "p", name="train", array=ArraySpec(((0, 2, 1),)))
            for index in (0, 1):
                site.run(f"{array}.{index}")
        told = await plan(site, spec(array=ArraySpec(((0, 10, 1),))))
        assert amount(told["expected_cost_per_task"]) == 7.5
        assert amount(told["expected_cost"]) == 75
        text = plan_text(told, 0)
        assert "about 75.00 USD (10 tasks, each 7.50 USD: p90 7.50 USD, 6 runs like it)" in " ".join(
            text.split()
        )
        assert " each task\n" in text

    play(story)


def test_no_more_is_expected_than_it_can_cost() -> None:
    async def story(site: Site) -> None:
        priced(site)
        for _ in range(3):
            site.run(site.job("ann", "p", name="train"))
        told = await plan(site, spec(time_limit_us=SECOND_US))
        assert told["expected_cost"] == told["worst_case_cost"]

    play(story)


@pytest.mark.parametrize(
    ("costs", "median"), [([1, 2, 9], 2), ([0, 2, 5, 100], 3), ([1, 4, 4, 8], 4), ([1, 1, 2, 2, 9, 9], 2)]
)
def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle(
    costs: list[int], median: int
) -> None:
    assert history._median(costs) == median


def test_past_runs_count_at_the_price_of_now_and_those_of_before_they_were_kept_at_their_cost() -> None:
    async def story(site: Site) -> None:
        [node] = site.engine.state.nodes.values()
        for rate in (480, 960, 1_920, 48_000):  # of 8 CPUs; a minute of one costs 1, 2, 4 and 100 dollars
            priced_at = ShareRates(0, rate * 10**9, 0)
            site.engine.commit([NodePriced(node.id, f"p{rate}", priced_at)], "bursard")
            site.run(site.job("ann", "p", name="train"))
        told = await plan(site, spec())
        # What they took, at the price of now.
        assert told["expected_cost"]["amount"] == told["expected_cost_p90"]["amount"] == "100.000000000"
        assert (told["expected_runs"], told["expected_basis"]) == (4, "the median of 4 runs like it")
        site.engine.state.runs = PastRuns()  # as of a daemon whose image is of before they were kept
        told = await plan(site, spec())
        assert told["expected_cost"]["amount"] == "3.000000000"
        assert told["expected_basis"] == "the median of 4 past runs of this name and size"
        assert told["expected_cost_p90"] is told["expected_runs"] is None

    play(story)


@pytest.mark.parametrize("size", [{"nodes": 2}, {"options": (ResourceRequest(None, 2_000, 1 << 30),)}])
def test_runs_of_another_size_say_nothing_of_what_it_costs(size: dict[str, Any]) -> None:
    async def story(site: Site) -> None:
        priced(site)
        for _ in range(3):
            site.run(site.job("ann", "p", name="train"))
        told = await plan(site, spec(**size))
        assert told["expected_cost"] is None
        assert told["expected_basis"] == "fewer than 3 past runs of this name and size to go by"

    play(story)
