"""A job says what it has cost so far before it is metered, and what was expected after it has ended."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.output import table_text
from bursar.cli.texts import job_text
from bursar.clock import HOUR_US, SECOND_US
from bursar.codec import view
from bursar.model import ArraySpec, EndCause, RetrySpec, ShareRates
from bursar.v1 import jobs_pb2 as pb
from bursard.events import NodePriced
from bursard.state.decide import nodes

PER_CPU_HOUR = 3_600_000_000
"""Nanos: a CPU costs a thousandth of a dollar a second."""


def price(desk: Any) -> None:
    """The node of 8 CPUs has a price, all of it for the CPUs."""
    desk.plan()  # which finds no price list; it looks again when one is applied
    node = next(iter(desk.state.nodes.values()))
    desk.engine.commit([NodePriced(node.id, "p1", ShareRates(0, 8 * PER_CPU_HOUR, 0))], "bursard")


async def shown(desk: Any, ref: str) -> Any:
    return view.job(await desk.service.Get(pb.GetJobRequest(job=ref), None))


def cost(job: Any) -> tuple[str, str, str | None, str | None]:
    """Settled, accrued, expected and most, in the amount's shortest form."""
    names = ("settled", "accrued", "estimate_expected", "estimate_max")
    amounts = [job["cost"][name] and job["cost"][name]["amount"].rstrip("0").rstrip(".") for name in names]
    return tuple(amounts)  # type: ignore[return-value]


def meter(desk: Any) -> None:
    """The node says what it has used until now."""
    node = next(iter(desk.state.nodes.values()))
    boot_us = desk.clock.boot_us()
    counters = [
        (attempt.id, 0, node.axis(boot_us) - attempt.members[0].started_at)
        for attempt in desk.state.attempts.values()
    ]
    events = nodes.usage(desk.state, node, boot_id="b", at_boot_us=boot_us, counters=counters)
    desk.engine.commit(events, "node:n1")


def test_a_running_job_shows_what_it_has_cost_so_far_as_an_estimate(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(time_limit_us=HOUR_US)
        waiting = await shown(desk, ref)
        desk.plan()
        assert cost(await shown(desk, ref))[:2] == ("0", "0")
        assert waiting["rate_per_hour"] is None
        desk.start_all()
        desk.clock.advance(30 * SECOND_US)
        running = await shown(desk, ref)
        assert cost(running)[:2] == ("0", "0.03")
        assert running["rate_per_hour"]["amount"] == "3.600000000"
        assert "~0.0300 USD so far (estimate; 0.00 USD settled)" in job_text(running)
        assert "~0.0300 USD" in table_text([running], JOB_COLUMNS, None)
        desk.end_all()
        ended = await shown(desk, ref)
        assert cost(ended) == ("0.001", "0.001", None, "3.61")
        assert ended["rate_per_hour"] is None
        assert "~" not in table_text([ended], JOB_COLUMNS, None)
        text = job_text(ended)
        assert re.search(r"cost +0.001000 USD\n", text)
        assert re.search(r"estimate +at most 3.61 USD\n", text)

    at_a_desk(story)


def test_where_no_price_is_known_neither_the_most_nor_the_rate_is_0(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(time_limit_us=HOUR_US)
        desk.plan()
        desk.start_all()
        running = await shown(desk, ref)
        assert (running["rate_per_hour"], cost(running)[3], running["cost"]["unknown"]) == (None, None, True)
        desk.end_all()
        assert cost(await shown(desk, ref))[3] is None

    at_a_desk(story)


def test_what_is_metered_is_no_estimate_and_is_counted_once(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(time_limit_us=HOUR_US)
        desk.plan()
        desk.start_all()
        desk.clock.advance(20 * SECOND_US)
        meter(desk)
        assert cost(await shown(desk, ref))[:2] == ("0.02", "0.02")
        desk.clock.advance(5 * SECOND_US)
        assert cost(await shown(desk, ref))[:2] == ("0.02", "0.025")

    at_a_desk(story)


def test_what_is_not_heard_of_costs_no_more_than_it_may_run(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(time_limit_us=60 * SECOND_US)
        desk.plan()
        desk.start_all()
        desk.clock.advance(24 * HOUR_US)
        job = await shown(desk, ref)
        assert cost(job)[1] == cost(job)[3] == "0.07"  # 60 s, 5 s of grace and 5 s

    at_a_desk(story)


def test_an_array_adds_up_what_its_live_tasks_have_cost(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(array=ArraySpec(range(4)), time_limit_us=HOUR_US)
        desk.plan()
        desk.start_all()
        desk.clock.advance(10 * SECOND_US)
        assert cost(await shown(desk, ref))[:2] == ("0", "0.04")
        desk.end_all()
        assert cost(await shown(desk, ref)) == ("0.004", "0.004", None, None)

    at_a_desk(story)


def test_an_array_holds_what_its_live_tasks_hold(at_a_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each task the largest of its holds, since they are the same money in several budgets."""
    holds = [SimpleNamespace(nanos=3), SimpleNamespace(nanos=5)]

    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(array=ArraySpec(range(4)), time_limit_us=HOUR_US)
        desk.plan()
        desk.start_all()
        assert (await desk.service.Get(pb.GetJobRequest(job=ref), None)).held_nanos == 0
        monkeypatch.setattr(desk.state.ledger, "open_holds", lambda attempt_id: holds)
        found = await desk.service.Get(pb.GetJobRequest(job=ref), None)
        assert (found.held_nanos, found.rate_nanos_per_hour) == (4 * 5, 4 * PER_CPU_HOUR)

    at_a_desk(story)


def test_of_a_job_that_never_ran_no_estimate_is_made_up(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit()
        await desk.verb("cancel", ref)
        ended = await shown(desk, ref)
        assert cost(ended) == ("0", "0", None, None)
        assert "estimate" not in job_text(ended)

    at_a_desk(story)


def test_a_job_that_failed_keeps_the_estimate_of_its_last_attempt(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(time_limit_us=HOUR_US)
        desk.plan()
        desk.start_all()
        desk.end_all(EndCause.FAILED)
        await desk.settled()
        assert cost(await shown(desk, ref))[2:] == (None, "3.61")

    at_a_desk(story)


def test_the_most_of_an_array_whose_price_fell_holds_what_it_has_cost(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(array=ArraySpec(range(12)), time_limit_us=HOUR_US)
        assert cost(await shown(desk, ref))[3] == "43.32"  # 12 of 3610 s
        desk.plan()
        assert cost(await shown(desk, ref))[3] == "43.32"
        desk.start_all()
        desk.clock.advance(1000 * SECOND_US)
        meter(desk)
        node = next(iter(desk.state.nodes.values()))
        desk.engine.commit([NodePriced(node.id, "p2", ShareRates(0, 8 * PER_CPU_HOUR // 1000, 0))], "bursard")
        # 8 at the price they were placed at, 4 at that of now.
        assert cost(await shown(desk, ref)) == ("8", "8", None, "28.89444")
        desk.end_all()
        desk.plan()
        assert cost(await shown(desk, ref)) == ("8", "8", None, "8.01444")

    at_a_desk(story)


def test_the_most_of_a_job_that_ran_before_holds_what_that_cost(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        ref = await desk.submit(time_limit_us=HOUR_US, retry=RetrySpec(on=("failed",), max=1))
        desk.plan()
        desk.start_all()
        desk.end_all(EndCause.FAILED)
        waiting = await shown(desk, ref)
        assert (waiting["state"], *cost(waiting)) == ("PENDING", "0.001", "0.001", None, "3.611")
        desk.plan()
        desk.start_all()
        assert cost(await shown(desk, ref))[3] == "3.611"
        desk.end_all(EndCause.FAILED)
        ended = await shown(desk, ref)
        assert (ended["state"], *cost(ended)) == ("FAILED", "0.002", "0.002", None, "3.611")

    at_a_desk(story)


@pytest.mark.parametrize(("per", "before", "after"), [("task", "12", "4.008"), ("job", "20", "3.615")])
def test_the_most_is_never_above_the_cap(per: str, before: str, after: str, at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        price(desk)
        cap = {"max_cost_nanos": (1 if per == "task" else 20) * 10**9, "max_cost_per": per}
        array = ArraySpec(range(12 if per == "task" else 6))
        ref = await desk.submit(array=array, time_limit_us=HOUR_US, currency="USD", **cap)
        assert cost(await shown(desk, ref))[3] == before
        desk.plan()
        desk.start_all()
        desk.end_all()
        assert cost(await shown(desk, ref))[3] == after

    at_a_desk(story)
