"""`report models`: each version costs what the books say, and a unit what the jobs cost that told it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon
from msgspec.structs import replace

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest
from bursar.model import ArraySpec, EndCause, Progress
from bursar.v1 import money_pb2 as pb
from bursard.state.documents import decode

UNKNOWN = "elsewhere"


async def rows(
    daemon: Daemon, **request: str
) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, Any]]:
    data, _ = await daemon.report(kind="models", format="json", **request)
    page = json.loads(data)
    return {(row["model"], row["version"]): row for row in page["rows"]}, page["total"]


def nanos(amount: dict[str, str]) -> int:
    return int(Decimal(amount["amount"]) * 10**9)


def test_each_version_of_a_model_costs_what_the_books_say_and_all_add_up_to_what_jobs_paid() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.run(model="llama", model_version="v1")
        daemon.run(hours=2, model="llama", model_version="v2")
        daemon.run(model="llama", model_version="v2")
        daemon.run()
        found, total = await rows(daemon)
        assert list(found) == [("", ""), ("llama", "v1"), ("llama", "v2")]
        assert [row["runs"] for row in found.values()] == [1, 1, 2]
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-11", by=["model", "model_version"]), None)
        books = {tuple(row.keys): row.nanos for row in cost.rows if row.jobs}
        assert {names: nanos(row["cost"]) for names, row in found.items()} == books
        assert nanos(total["cost"]) == sum(books.values()) > 0
        assert total["runs"] == 4
        assert nanos(found["llama", "v2"]["cost_per_run"]) == (books["llama", "v2"] + 1) // 2
        assert abs(sum(row["share_percent"] for row in found.values()) - 100) < 0.001
        assert found["llama", "v1"]["gpu_hours"] == 1 + 7_919 / HOUR_US

    in_a_daemon(story)


def test_a_unit_costs_what_the_jobs_that_told_it_cost_and_nothing_of_those_that_did_not() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        telling = daemon.run(model="m", told=Progress(step=400, tokens=3_000_000))
        half = daemon.run(hours=2, model="m", told=Progress(step=100))
        daemon.run(hours=5, model="m")
        found, total = await rows(daemon)
        row = found["m", ""]
        documents = {one: daemon.store.find_job(one) for one in (telling, half)}
        paid = {one: decode(row.document).settled_nanos for one, row in documents.items() if row is not None}
        assert (row["runs"], row["runs_that_told"], row["steps"], row["tokens"]) == (3, 2, 500, 3_000_000)
        assert nanos(row["cost_per_step"]) == round(Decimal(sum(paid.values())) / 500)
        assert nanos(row["cost_per_million_tokens"]) == round(Decimal(paid[telling]) / 3)
        assert row["samples"] is None
        assert row["cost_per_million_samples"] is None
        assert total["cost_per_step"] == row["cost_per_step"]

    in_a_daemon(story)


def test_work_that_a_later_attempt_did_not_keep_is_not_counted() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        job_id = daemon.run(model="m", told=Progress(step=80))
        record = daemon.engine.state.jobs[job_id].attempts[0].members[0]
        assert record.report is not None
        assert record.report.progress == Progress(step=80)
        state = daemon.engine.state
        lost = type(record.report)(cause=EndCause.NODE_LOST, progress=Progress(step=100))
        first = replace(state.jobs[job_id].attempts[0], members=[replace(record, report=lost)], id="att_lost")
        state.jobs[job_id].attempts.insert(0, first)
        found, _ = await rows(daemon)
        assert found["m", ""]["steps"] == 80

    in_a_daemon(story)


def test_time_at_no_known_price_is_not_known_and_a_project_narrows_it() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("u", pool=UNKNOWN)
        daemon.run(model="m", project="a/b")
        found, total = await rows(daemon)
        row = found["m", ""]
        assert [row[name] for name in ("cost", "share_percent", "cost_per_run")] == [None] * 3
        assert total["cost"] is None
        assert list((await rows(daemon, project="a"))[0]) == [("m", "")]
        with pytest.raises(
            InvalidRequest, match="there is no job, charge, budget, quota or grant of project 'b'"
        ):
            await rows(daemon, project="b")

    in_a_daemon(story)


def test_a_job_that_was_given_another_model_is_a_run_of_that_one_alone() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        moved = daemon.run(model="m", told=Progress(step=100))
        daemon.run(model="m", told=Progress(step=50))
        retag = pb.Retag(model="n")
        await daemon.money.Correct(pb.CorrectRequest(job=moved, reason="named wrong", retag=retag), None)
        found, total = await rows(daemon)
        told = {name: (row["runs"], row["runs_that_told"], row["steps"]) for (name, _), row in found.items()}
        assert told == {"m": (1, 1, 50), "n": (1, 1, 100)}
        assert (total["runs"], total["steps"]) == (2, 150)
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-11", by=["model"]), None)
        assert {row.keys[0]: row.jobs for row in cost.rows} == {"m": 1, "n": 1}
        assert cost.total.jobs == 2

    in_a_daemon(story)


def test_a_run_and_its_work_count_in_the_month_in_which_it_ended_alone() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.clock.advance(29 * DAY_US + 21 * HOUR_US)  # two hours before December
        daemon.meter()
        daemon.run(hours=5, model="m", told=Progress(step=100))
        await daemon.engine.durable()
        november, december = [(await rows(daemon, period=one))[0]["m", ""] for one in ("2026-11", "2026-12")]
        assert [(row["runs"], row["steps"]) for row in (november, december)] == [(0, None), (1, 100)]
        assert nanos(november["cost"]) > 0
        assert november["cost_per_run"] is None
        assert nanos(december["cost_per_run"]) == nanos(november["cost"]) + nanos(december["cost"])
        whole = (await rows(daemon, period="2026-Q4"))[0]["m", ""]
        assert (whole["runs"], whole["steps"], whole["cost_per_run"]) == (1, 100, whole["cost"])

    in_a_daemon(story)


def test_a_month_with_nothing_but_a_correction_has_no_run_and_no_cost_of_one() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        job_id = daemon.run(model="m", told=Progress(step=10))
        daemon.clock.advance(31 * DAY_US)
        daemon.meter()
        await daemon.engine.durable()
        await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11", force=True), None)
        await daemon.money.Correct(pb.CorrectRequest(job=job_id, to_ppm=500_000, reason="outage"), None)
        row = (await rows(daemon, period="2026-12"))[0]["m", ""]
        assert nanos(row["cost"]) < 0
        units = [row[name] for name in ("steps", "cost_per_run", "cost_per_step")]
        assert (row["runs"], units) == (0, [None, None, None])
        assert (await rows(daemon))[0]["m", ""]["runs"] == 1

    in_a_daemon(story)


def test_an_array_is_one_run_once_its_last_task_has_ended_and_each_task_told_its_own_work() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        array_id = daemon.submit(model="m", array=ArraySpec((0, 1)))
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        first, last = [job.id for job in daemon.engine.state.jobs.values() if job.parent_id == array_id]
        daemon.finish(first, Progress(step=3))
        await daemon.engine.durable()
        row = (await rows(daemon))[0]["m", ""]
        assert (row["runs"], row["steps"]) == (0, 3)
        daemon.finish(last, Progress(step=4))
        await daemon.engine.durable()
        row = (await rows(daemon))[0]["m", ""]
        assert (row["runs"], row["steps"]) == (1, 7)
        assert row["cost_per_run"] == row["cost"]

    in_a_daemon(story)
