"""Waste, idle, utilization and budgets: rows that add up to the books, and what is not known said as such."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import ANN, BUDGET, COST_MODEL, Daemon, in_a_daemon
from msgspec.structs import replace

from bursar.cli.output import human
from bursar.cli.texts import ATTEMPT_COLUMNS
from bursar.clock import HOUR_US
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.model import DeviceUse, EndCause
from bursar.v1 import money_pb2 as pb
from bursard.events import ExitReport
from bursard.reports.machines import utilization
from bursard.reports.pages import Column, Page, csv_pieces, json_pieces, text_pieces
from bursard.reports.period import find_period
from bursard.reports.waste import MEANINGS, UNTOLD
from bursard.services.views import job_view
from bursard.state.decide import attempts
from bursard.state.decide import jobs as decide_jobs
from bursard.store import ChargeFilter, ChargeSum, ScratchStore, Unposted


def end(daemon: Daemon, job_id: str, cause: EndCause) -> None:
    state = daemon.engine.state
    attempt = state.jobs[job_id].attempt
    assert attempt is not None
    node = state.nodes[attempt.members[0].alloc.node_id]
    held = node.axis(daemon.clock.boot_us()) - attempt.members[0].started_at
    report = ExitReport(cause=cause, exit_code=0 if cause is EndCause.COMPLETED else 1, held_us=held)
    daemon.engine.commit(attempts.exited(state, node, attempt.id, 0, report, 0), "node")


async def work(daemon: Daemon) -> dict[str, str]:
    """One job of each end on two nodes, one of them with no known price; and one that goes on."""
    await daemon.apply(COST_MODEL, BUDGET)
    daemon.node("a", gpus=4)
    daemon.node("u", pool="elsewhere", gpus=1)
    jobs = {}
    for cause in (EndCause.COMPLETED, EndCause.FAILED, EndCause.CANCELLED):
        jobs[cause.value] = daemon.submit(project="research/vision")
        daemon.clock.advance(HOUR_US + 7_919)
        daemon.meter()
        end(daemon, jobs[cause.value], cause)
    jobs["running"] = daemon.submit(project="ops")
    daemon.clock.advance(HOUR_US // 2)
    daemon.meter()
    return jobs


async def page(daemon: Daemon, kind: str, form: str = "json", period: str = "2026-11", **more: str) -> Any:
    request = pb.ReportRequest(kind=kind, period=period, format=form, **more)
    data = b"".join([chunk.data async for chunk in daemon.money.Report(request, None)]).decode()
    return json.loads(data) if form == "json" else data


def nanos(amount: dict[str, str] | None) -> int:
    assert amount is not None
    return int(Decimal(amount["amount"]) * 10**9)


def test_the_categories_of_waste_exclude_each_other_and_sum_to_the_node_cost_to_the_nano() -> None:
    async def story(daemon: Daemon) -> None:
        jobs = await work(daemon)
        found = await page(daemon, "waste")
        rows = {row["category"]: row for row in found["rows"]}
        books = await daemon.engine.books()
        of_job: Counter[str] = Counter()
        of_kind: Counter[str] = Counter()
        for row in daemon.store.charges(ChargeFilter(), books):
            of_kind[row.kind] += row.nanos
            if row.kind == "usage":
                of_job[row.job_id] += row.nanos
        assert nanos(rows["productive"]["cost"]) == of_job[jobs["completed"]] > 0
        assert nanos(rows["failed"]["cost"]) == of_job[jobs["failed"]] > 0
        assert nanos(rows["cancelled"]["cost"]) == of_job[jobs["cancelled"]] > 0
        assert nanos(rows["in_progress"]["cost"]) == of_job[jobs["running"]] > 0
        assert nanos(rows["unallocated"]["cost"]) == of_kind["idle"] > 0
        assert nanos(rows["absorption"]["cost"]) == of_kind["absorption"] < 0
        told = sum(nanos(row["cost"]) for name, row in rows.items() if name in MEANINGS)
        statement = await page(daemon, "statement")
        assert told == nanos(found["total"]["cost"]) == nanos(statement["node_cost"]) == sum(of_kind.values())
        assert {name for name in rows if rows[name]["cost"] is None} == set(UNTOLD)
        assert found["status"] == "provisional"

    in_a_daemon(story)


def test_what_gpus_did_nothing_for_is_a_row_of_its_own_and_the_rest_stays_where_it_was() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("n")
        job = daemon.submit(project="research", command=("true",))
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        use = DeviceUse(
            heard_us=HOUR_US // 2, idle_us=HOUR_US // 4, empty_us=HOUR_US // 8, launch_us=HOUR_US // 10
        )
        daemon.finish(job, use=use)
        found = await page(daemon, "waste")
        rows = {row["category"]: nanos(row["cost"]) for row in found["rows"] if row["cost"] is not None}
        books = await daemon.engine.books()
        usage = [row for row in daemon.store.charges(ChargeFilter(), books) if row.kind == "usage"]
        gpu = sum(row.gpu for row in usage)
        assert abs(rows["held_idle"] - gpu * 3 // 8) <= 1_000
        assert abs(rows["launch_bound"] - gpu // 10) <= 1_000
        parts = rows["productive"] + rows["held_idle"] + rows["launch_bound"]
        assert parts == sum(row.nanos for row in usage)
        assert sum(rows.values()) == nanos(found["total"]["cost"])

    in_a_daemon(story)


def test_the_waste_of_a_project_is_of_what_its_jobs_paid() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        found = await page(daemon, "waste", project="research")
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-11", project="research"), None)
        assert nanos(found["total"]["cost"]) == cost.total.nanos > 0
        assert "unallocated" not in {row["category"] for row in found["rows"]}

    in_a_daemon(story)


def test_what_somebody_ended_to_run_again_is_requeued_and_nothing_interrupted_it() -> None:
    async def story(daemon: Daemon) -> None:
        jobs = await work(daemon)
        state = daemon.engine.state
        job = state.jobs[jobs["running"]]
        first = job.attempts[-1]
        daemon.engine.commit(decide_jobs.requeue(state, job), "ann")
        end(daemon, job.id, EndCause.PREEMPTED)
        assert first.state == "ENDED"
        rows = {row["category"]: row for row in (await page(daemon, "waste"))["rows"]}
        assert nanos(rows["requeued"]["cost"]) == first.settled_nanos > 0
        assert nanos(rows["interrupted"]["cost"]) == nanos(rows["in_progress"]["cost"]) == 0
        shown = view.job(job_view(state, job, seen_by=ANN, now=daemon.engine.now()))
        [row] = human(shown["attempts"], ATTEMPT_COLUMNS[-1])
        assert (row, shown["attempts"][0]["end_cause"]) == ("requeued", "preempted")

    in_a_daemon(story)


def test_what_a_lost_node_ended_is_interrupted_and_a_correction_is_a_row_of_its_own() -> None:
    async def story(daemon: Daemon) -> None:
        jobs = await work(daemon)
        state = daemon.engine.state
        attempt = state.jobs[jobs["running"]].attempt
        assert attempt is not None
        node = state.nodes[attempt.members[0].alloc.node_id]
        daemon.engine.commit(attempts.lost(state, node, attempt.id, 0, "rebooted", 0), "node")
        request = pb.CorrectRequest(job=jobs["failed"], to_ppm=0, reason="outage")
        await daemon.money.Correct(request, None)
        rows = {row["category"]: row for row in (await page(daemon, "waste"))["rows"]}
        assert nanos(rows["in_progress"]["cost"]) == 0
        assert nanos(rows["interrupted"]["cost"]) > 0
        assert nanos(rows["corrections"]["cost"]) == -nanos(rows["failed"]["cost"]) < 0

    in_a_daemon(story)


def test_idle_and_utilization_are_the_statements_numbers_by_node() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        statement = await page(daemon, "statement")
        idle = await page(daemon, "idle")
        assert nanos(idle["total"]["cost"]) == nanos(statement["idle"])
        unpriced = next(row for row in idle["rows"] if row["node"] == "u")
        assert (unpriced["cost"], unpriced["share_percent"]) == (None, None)
        assert unpriced["at_no_known_price_hours"] == unpriced["time_hours"] > 3
        used = await page(daemon, "utilization")
        rows = {row["node"]: row for row in used["rows"]}
        parts = ("held", "idle", "down", "unknown", "startup", "overhead", "refund")
        assert nanos(rows["a"]["overhead"]) == nanos(statement["overhead"])
        assert nanos(rows["a"]["cost"]) == nanos(statement["node_cost"])
        assert sum(nanos(rows["a"][part]) for part in parts) == nanos(statement["node_cost"])
        ratio = Decimal(nanos(rows["a"]["held"])) / nanos(rows["a"]["cost"])
        assert abs(Decimal(str(rows["a"]["utilization_percent"])) / 100 - ratio) < Decimal("0.000001")
        gpu_us = (
            sum(row.gpu_milli * row.held_us for row in daemon.store.charges(ChargeFilter(kinds=("usage",))))
            // 1000
        )
        assert rows["a"]["gpu_hours"] >= gpu_us / HOUR_US > 3
        assert rows["u"]["utilization_percent"] is None

    in_a_daemon(story)


def test_budgets_are_held_against_what_was_settled_in_their_own_period() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        (row,) = (await page(daemon, "budgets"))["rows"]
        (budget,) = (await daemon.money.Budgets(pb.BudgetsRequest(), None)).budgets
        assert (row["budget"], row["every"], row["since"]) == ("vision", "month", "2026-11-01T00:00:00Z")
        assert nanos(row["settled"]) == budget.settled_nanos > 0
        assert nanos(row["available"]) == 90 * 10**9 - budget.settled_nanos - budget.held_nanos
        (before,) = (await page(daemon, "budgets", period="2026-09"))["rows"]
        assert (before["since"], before["settled"], before["used_percent"]) == (
            "2026-09-01T00:00:00Z",
            None,
            None,
        )
        assert (await page(daemon, "budgets", project="ops"))["rows"] == []

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"kind": "idle", "project": "ops"}, "project: nodes are of no project"),
        (
            {"kind": "waste", "format": "parquet"},
            "format: 'parquet' is not written for waste; known: text, csv",
        ),
        ({"kind": "statement", "timezone": "Europe/Berlin"}, "timezone: the months of statement are of UTC"),
        (
            {"kind": "focus", "period": "2026-Q4"},
            "period: focus is of a month or a day such as 2026-11, and 2026-Q4",
        ),
        (
            {"kind": "wast"},
            "known: focus, statement, anomalies, bills, budgets, chargeback, commitments, energy, idle, "
            "models, quotas, utilization",
        ),
    ],
)
def test_a_report_that_cannot_be_is_refused(request_: dict[str, str], message: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await page(
                daemon,
                **{
                    "form": request_.get("format", "json"),
                    **{k: v for k, v in request_.items() if k != "format"},
                },
            )

    in_a_daemon(story)


SHOWN = Page(
    kind="waste",
    period=find_period("2026-10", 0, "Europe/Berlin"),
    currency="EUR",
    columns=(
        Column("category"),
        Column("cost", "money"),
        Column("time", "hours"),
        Column("share", "percent"),
    ),
    rows=(("=cmd", 5, 3_600_000_000, 333_333), ("held\nidle", None, None, None)),
    total=("total", -1, 0, 1_000_000),
    notes=("A note.",),
)


def test_a_page_drops_what_matters_least_and_never_cuts_what_it_says() -> None:
    reason = "attempt 1 failed 123456.78, attempt 2 preempted 99.10, attempt 3 completed 12.00, 4 more"
    columns = (
        Column("project", wrap=True), Column("cost", "money", drop=1), Column("usual", "money", drop=2),
        Column("more", "money"), Column("mostly", wrap=True),
    )  # fmt: skip
    row = ("research/vision/segmentation", 10**20, 10**19, 9 * 10**19, reason)
    page = replace(SHOWN, columns=columns, rows=(row,), total=(), notes=("word " * 30,))
    lines = b"".join(text_pieces(page)).decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["project", "more", "mostly"]
    assert "(no room here for cost, usual: CSV and JSON have all)" in lines
    column = lines[2].index("mostly")
    assert " ".join(line[column:] for line in lines[3 : lines.index("", 3) - 1]).split() == reason.split()
    (whole,) = csv.DictReader(io.StringIO(b"".join(csv_pieces(page)).decode()))
    assert (whole["cost"], whole["mostly"]) == ("100000000000.000000000", reason)


def test_a_page_says_the_same_in_every_form_and_defuses_what_a_spreadsheet_would_run() -> None:
    assert b"".join(text_pieces(SHOWN)).decode().splitlines() == [
        "Waste 2026-10, in EUR, days of Europe/Berlin: provisional",
        "",
        "category           cost       time      share",
        "=cmd        0.000000005      1.000   33.3333%",
        "held?idle     not known  not known  not known",
        "total      -0.000000001      0.000  100.0000%",
        "",
        "A note.",
    ]
    alone = b"".join(text_pieces(replace(SHOWN, total=()))).decode()
    assert [line.split(" ")[0] for line in alone.splitlines()[2:5]] == ["category", "=cmd", "held?idle"]
    assert "total" not in alone
    lines = list(csv.DictReader(io.StringIO(b"".join(csv_pieces(SHOWN)).decode())))
    assert lines[0] == {
        "category": "'=cmd", "cost": "0.000000005", "time_hours": "1.0", "share_percent": "33.3333",
        "currency": "EUR", "period": "2026-10", "since": "2026-09-30T22:00:00Z",
        "until": "2026-10-31T23:00:00Z", "timezone": "Europe/Berlin", "status": "provisional",
    }  # fmt: skip
    assert [lines[1][name] for name in ("category", "cost", "time_hours")] == ["held\nidle", "", ""]
    document = json.loads(b"".join(json_pieces(SHOWN)))
    assert document["rows"][0] == {
        "category": "=cmd", "cost": {"amount": "0.000000005", "currency": "EUR"}, "time_hours": 1.0,
        "share_percent": 33.3333,
    }  # fmt: skip
    assert document["rows"][1]["cost"] is None


def test_hours_are_the_same_to_the_last_digit_in_csv_and_json() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        for kind in ("utilization", "idle"):
            rows = (await page(daemon, kind))["rows"]
            lines = list(csv.DictReader(io.StringIO(await page(daemon, kind, form="csv"))))
            names = [name for name in lines[0] if name.endswith("_hours")]
            assert [[float(line[name]) for name in names] for line in lines[: len(rows)]] == [
                [row[name] for name in names] for row in rows
            ]
            assert any(row[name] != round(row[name], 3) for name in names for row in rows)

    in_a_daemon(story)


def test_hours_in_csv_are_plain_decimals_however_few_they_are() -> None:
    short = replace(SHOWN, columns=(Column("time", "hours"),), rows=((1,), (-1,)), total=())
    first, second = csv.DictReader(io.StringIO(b"".join(csv_pieces(short)).decode()))
    assert first["time_hours"].startswith("0.0000000002777")
    assert second["time_hours"] == "-" + first["time_hours"]
    assert float(first["time_hours"]) == json.loads(b"".join(json_pieces(short)))["rows"][0]["time_hours"]


def test_a_period_that_begins_within_an_hour_says_so_with_the_answer() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        for zone, minutes in (("Asia/Kolkata", 30), ("Asia/Kathmandu", 45)):
            (note,) = [one for one in (await page(daemon, "idle", timezone=zone))["notes"] if zone in one]
            assert f"up to {minutes} min of this period are counted in the one before" in note
        for zone in ("", "Europe/Berlin"):
            notes = (await page(daemon, "idle", timezone=zone))["notes"]
            assert not [one for one in notes if "whole hours of UTC" in one]

    in_a_daemon(story)


def test_every_cost_of_a_node_has_its_column_in_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"usage": 7, "idle": 11, "reserved": 13, "keep-alive": 17, "down": 19, "unknown": 23}
    kinds |= {"startup": 29, "overhead": 31, "refund": -37}
    sums = [ChargeSum(("p", "a", kind), nanos, 0, 0, 0, 0, 0, 1, 0, 0) for kind, nanos in kinds.items()]
    store = ScratchStore()
    monkeypatch.setattr(store, "charge_sums", lambda *_: sums)
    made = utilization(store, SHOWN.period, "USD", Unposted(0, ()))
    row = dict(zip([column.name for column in made.columns], made.rows[0], strict=True))
    beside = {kind: kinds[kind] for kind in ("startup", "overhead", "refund", "down", "unknown")}
    assert {name: row[name] for name in beside} == beside
    assert (row["held"], row["idle"], row["cost"]) == (7, 41, sum(kinds.values()))
