"""A statement says to the last digit what `cost` says, by whatever it is asked, in each of its forms."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.clock import DAY_US, HOUR_US
from bursar.v1 import money_pb2 as pb

BUDGET = "kind: Budget\nname: vision\nspec:\n  scope: {project: nlp}\n  limit: 40 USD\n  period: month\n"
SPENT = (
    {"project": "nlp/a", "model": "m", "labels": (("cost-center", "R-1"),)},
    {"project": "nlp/b", "model": "", "labels": (("cost-center", "R-2"), ("team", "x"))},
    {"project": "ops", "model": "m"},
)


async def two_months(daemon: Daemon) -> None:
    """Three jobs an hour or so in November, two of them in December; limits change in between."""
    await daemon.apply(COST_MODEL, BUDGET)
    daemon.node("a", gpus=4)
    for spec in SPENT:
        daemon.submit(**spec)
    daemon.clock.advance(2 * HOUR_US + 7_919)
    daemon.meter()
    for attempt in list(daemon.engine.state.attempts.values()):
        daemon.finish(attempt.job_id)
    daemon.clock.advance(30 * DAY_US)
    await daemon.apply(BUDGET.replace("40", "55"))
    for spec in SPENT[1:]:
        daemon.submit(**spec)
    daemon.clock.advance(HOUR_US + 31)
    daemon.meter()


async def document(daemon: Daemon, form: str = "json", **more: str) -> Any:
    data, _ = await daemon.report(kind="statement", format=form, **more)
    return json.loads(data) if form == "json" else data.decode()


@pytest.mark.parametrize("project", ["", "nlp"])
def test_every_part_is_what_cost_says_and_so_is_the_period_before(project: str) -> None:
    async def story(daemon: Daemon) -> None:
        await two_months(daemon)
        by = "project,cost-center,user,model,label:team,team"
        found = await document(daemon, period="2026-12", by=by, project=project)
        assert [group["by"] for group in found["groups"]] == by.split(",")
        for group in found["groups"]:
            request = pb.CostRequest(by=[group["by"]], period="2026-12", compare="previous", project=project)
            cost = await daemon.money.Cost(request, None)
            assert [
                (row["name"], row["cost"]["amount"], row["before"]["amount"], row["jobs"], row["held_s"])
                for row in group["rows"]
            ] == [
                (row.keys[0], amount(row.nanos), amount(row.before_nanos), row.jobs, row.held_us / 1e6)
                for row in cost.rows
            ]
            assert (found["total"]["amount"], found["before"]["amount"]) == (
                amount(cost.total.nanos), amount(cost.total.before_nanos)
            )  # fmt: skip
            assert cost.total.nanos > 0 < cost.total.before_nanos
            for form in ("text", "html", "csv"):
                told = await document(daemon, form, period="2026-12", by=by, project=project)
                for row in cost.rows:
                    assert amount(row.nanos) in told
                    assert amount(row.before_nanos) in told

    in_a_daemon(story)


def amount(nanos: int) -> str:
    return f"{Decimal(nanos) / 10**9:.9f}"


def test_budgets_stand_with_the_limit_that_the_period_ended_with_and_what_cost_says_of_their_scope() -> None:
    async def story(daemon: Daemon) -> None:
        await two_months(daemon)
        for period, limit in (("2026-11", "40.000000000"), ("2026-12", "55.000000000")):
            [row] = (await document(daemon, period=period))["budgets"]
            cost = await daemon.money.Cost(pb.CostRequest(period=period, project="nlp"), None)
            assert (row["budget"], row["limit"]["amount"], row["settled"]["amount"]) == (
                "vision", limit, amount(cost.total.nanos)
            )  # fmt: skip
            lines = csv.DictReader(io.StringIO(await document(daemon, "csv", period=period)))
            assert [(one["name"], one["cost"]) for one in lines if one["line"] == "budget_limit"] == [
                ("vision", limit)
            ]
            assert limit in await document(daemon, "html", period=period)
        assert (await document(daemon, period="2026-12", project="ops"))["budgets"] == []

    in_a_daemon(story)


def test_the_pictures_days_sum_to_what_jobs_pay() -> None:
    async def story(daemon: Daemon) -> None:
        await two_months(daemon)
        html = await document(daemon, "html", period="2026-11")
        titles = [line.partition("<title>")[2].partition("<")[0] for line in html.splitlines()]
        days = [title for title in titles if title.startswith("2026-11")]
        found = await document(daemon, period="2026-11")
        assert sum(Decimal(title.rpartition(": ")[2]) for title in days) == Decimal(found["total"]["amount"])

    in_a_daemon(story)
