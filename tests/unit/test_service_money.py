"""What the Money and Policies services answer, over a real engine and writer and a memory store."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Awaitable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import BUDGET, COST_MODEL, START, Daemon, in_a_daemon

from bursar.clock import HOUR_US, SECOND_US
from bursar.codec import view
from bursar.errors import (
    BudgetExceeded,
    InvalidRequest,
    NotBuilt,
    NotFound,
    PolicyInvalid,
    StaleVersion,
    WrongState,
)
from bursar.model import ArraySpec
from bursar.model.peaks import PEAK_TFLOPS
from bursar.money import NANOS, parse_money
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import Applied
from bursar_policies.document import catalog_dir, parse_files
from bursard.reports.period import read_period
from bursard.reports.statement import Statement, statement
from bursard.services.money import CHUNK_BYTES
from bursard.services.prices import read_gpus
from bursard.state.decide import nodes
from bursard.state.tables import still_to_cost
from bursard.store import ChargeRow


async def work(daemon: Daemon) -> list[str]:
    """Two projects on three nodes, one of which has no known price."""
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    daemon.node("b", gpus=0)
    first = daemon.submit(project="research/vision", experiment="e1", model="m")
    second = daemon.submit(project="ops", array=ArraySpec((0, 1), 1), time_limit_us=HOUR_US)
    daemon.clock.advance(HOUR_US + 123_457)
    daemon.meter()
    daemon.finish(f"{second}.0")
    daemon.node("u", pool="elsewhere", gpus=4)
    third = daemon.submit(project="ops", options=(ResourceRequest(GpuRequest(4), 1_000, 1 << 30),))
    daemon.clock.advance(HOUR_US // 3 + 1)
    return [first, second, third]


def cost(daemon: Daemon, **request: Any) -> Awaitable[pb.CostResponse]:
    return daemon.money.Cost(pb.CostRequest(**request), None)


def test_cost_rows_sum_to_the_total_and_include_running_work() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        answer = await cost(daemon, by=["project"])
        assert daemon.settled == 1
        rows = {row.keys[0]: row for row in answer.rows}
        assert set(rows) == {"research/vision", "ops"}
        assert sum(row.nanos for row in answer.rows) == answer.total.nanos > 0
        state = daemon.engine.state
        vision = next(job for job in state.jobs.values() if job.spec.project == "research/vision")
        assert rows["research/vision"].nanos == vision.settled_nanos
        assert rows["ops"].unknown_us == HOUR_US // 3 + 1
        assert answer.total.jobs == sum(row.jobs for row in answer.rows)

    in_a_daemon(story)


def test_cost_with_idle_is_what_the_nodes_cost() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        answer = await cost(daemon, by=["node", "kind"], include_idle=True)
        state = daemon.engine.state
        spent = -sum(v for k, v in state.ledger.balances.items() if k.startswith("node/"))
        assert answer.total.nanos == spent == sum(row.nanos for row in answer.rows)
        for node in state.nodes.values():
            if node.price_id:
                of_node = sum(row.nanos for row in answer.rows if row.keys[0] == node.facts.name)
                length = node.through - node.axis_start
                rates = (node.cost_rates.gpu, node.cost_rates.cpu, node.cost_rates.memory)
                assert of_node == sum(rate * length // HOUR_US for rate in rates)

    in_a_daemon(story)


def test_cost_of_an_array_takes_all_its_tasks() -> None:
    async def story(daemon: Daemon) -> None:
        _, array, _ = await work(daemon)
        everything = await cost(daemon, by=["job"])
        by_task = {row.keys[0]: row.nanos for row in everything.rows}
        for ref in (array, "2"):
            answer = await cost(daemon, job=ref)
            assert answer.total.nanos == by_task[f"{array}.0"] + by_task.get(f"{array}.1", 0) > 0
        for ref in (f"{array}.0", "2[0]"):
            assert (await cost(daemon, job=ref)).total.nanos == by_task[f"{array}.0"]
        with pytest.raises(NotFound):
            await cost(daemon, job="nothing")

    in_a_daemon(story)


def test_cost_refuses_what_it_cannot_group_by() -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match="colour"):
            await cost(daemon, by=["colour"])
        with pytest.raises(InvalidRequest, match="until"):
            await cost(daemon, since=5, until=5)

    in_a_daemon(story)


def test_days_are_shown_as_dates() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        assert [row.keys[0] for row in (await cost(daemon, by=["day"])).rows] == ["2026-11-01"]

    in_a_daemon(story)


def test_budget_shows_what_is_held_and_by_whom() -> None:
    async def story(daemon: Daemon) -> None:
        assert await daemon.apply(BUDGET) == [("vision", "created", 1)]
        first, *_ = await work(daemon)
        found = await daemon.money.Budgets(pb.BudgetsRequest(name="vision"), None)
        (budget,) = found.budgets
        assert list(budget.live_jobs) == [first]
        attempt = daemon.engine.state.jobs[first].attempt
        assert attempt is not None
        assert budget.settled_nanos + budget.held_nanos == attempt.holds[0].nanos > 0
        assert (budget.limit_nanos, budget.period, budget.scope) == (90 * NANOS, "month", "project research")
        with pytest.raises(NotFound):
            await daemon.money.Budgets(pb.BudgetsRequest(name="none"), None)

    in_a_daemon(story)


def test_focus_ties_with_cost_to_the_nano() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        data, chunks = await daemon.report(kind="focus")
        total = (await cost(daemon, include_idle=True)).total.nanos
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        assert sum(Decimal(row["EffectiveCost"]) for row in rows) * 10**9 == total
        assert chunks[0].file_name == "focus-2026-11-v1.4.csv"
        assert {row["x_Simulated"] for row in rows} == {"true", "false"}
        parquet, _ = await daemon.report(kind="focus", format="parquet", focus_version="1.2")
        assert parquet[:4] == b"PAR1"
        mine, _ = await daemon.report(kind="focus", project="research")
        assert {r["x_Project"] for r in csv.DictReader(io.StringIO(mine.decode()))} == {"research/vision"}

    in_a_daemon(story)


def test_the_control_of_a_statement_finds_a_charge_that_is_lost_and_one_that_is_doubled() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        await daemon.settle(True)
        books = await daemon.engine.books()
        priced = [row for row in books.rows if row.nanos and row.kind == "idle"]
        assert priced
        views, period = daemon.engine.views, read_period("2026-11")

        def difference(rows: Sequence[ChargeRow]) -> int:
            found = statement(views, period, "USD", books._replace(rows=tuple(rows)))
            assert found.facts_nanos > 0
            return found.difference_nanos

        assert difference(books.rows) == 0
        for row in priced:
            assert difference([one for one in books.rows if one is not row]) == -row.nanos
            assert difference([*books.rows, row]) == row.nanos

    in_a_daemon(story)


def test_the_control_still_finds_what_was_planted_in_a_month_that_had_no_price_for_some_seconds() -> None:
    async def story(daemon: Daemon) -> None:
        first, *_ = await work(daemon)
        there_us = HOUR_US // 3 + 1  # of the node that has no price at all
        for lacking_us in (2 * HOUR_US + HOUR_US // 2, 7 * SECOND_US + 1):
            await daemon.policies.Delete(pb.PolicyRequest(name="p"), None)
            daemon.clock.advance(3 * SECOND_US + 1)
            daemon.meter()
            daemon.submit(project="ops")
            daemon.clock.advance(lacking_us - 3 * SECOND_US - 1)
            await daemon.apply(COST_MODEL)
            daemon.clock.advance(11 * SECOND_US + 3)
            daemon.meter()
            there_us += lacking_us + 11 * SECOND_US + 3
        daemon.finish(first)
        await daemon.settle(True)
        books = await daemon.engine.books()
        views, period = daemon.engine.views, read_period("2026-11")

        def page(rows: Sequence[ChargeRow]) -> Statement:
            return statement(views, period, "USD", books._replace(rows=tuple(rows)))

        honest = page(books.rows)
        assert honest.facts_nanos > 0
        assert honest.difference_nanos == 0
        assert honest.unpriced_us == there_us + 2 * (2 * HOUR_US + HOUR_US // 2 + 7 * SECOND_US + 1)
        assert honest.left_out == 1
        # All of it is in the hour that had no price for some of it.
        changed = [row for row in books.rows if row.nanos]
        assert {row.kind for row in changed} >= {"usage", "idle"}
        for row in changed:
            others = [one for one in books.rows if one is not row]
            more = row._replace(nanos=row.nanos + 1, cpu=row.cpu + 1)
            assert page([*others, more]).difference_nanos == 1
            assert page(others).difference_nanos != 0
        text = (await daemon.report(kind="statement"))[0].decode()
        assert "node-hours at no known price are left out of the last two" in text

    in_a_daemon(story)


def test_statement_adds_up_to_what_the_nodes_cost() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        text, chunks = await daemon.report(kind="statement")
        assert chunks[0].file_name == "statement-2026-11.txt"
        assert "difference             0.000000000" in text.decode()
        assert "no known price" in text.decode()
        document = json.loads((await daemon.report(kind="statement", format="json"))[0])
        total = (await cost(daemon, include_idle=True)).total.nanos
        assert Decimal(document["node_cost"]["amount"]) * NANOS == total
        lines = list(
            csv.DictReader(io.StringIO((await daemon.report(kind="statement", format="csv"))[0].decode()))
        )
        [end] = [at for at, line in enumerate(lines) if line["line"] == "node_cost"]
        parts = sum(Decimal(line["cost"]) for line in lines[:end] if line["line"] != "total")
        assert parts == Decimal(lines[end]["cost"]) == Decimal(total) / NANOS

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"kind": "nonsense"}, InvalidRequest, "focus, statement"),
        ({"kind": "focus", "format": "xlsx"}, InvalidRequest, "csv, parquet"),
        ({"kind": "focus", "focus_version": "2"}, InvalidRequest, r"1\.4"),
    ],
)
def test_a_report_that_is_not_written_is_refused_before_any_work(
    request_: dict[str, str], error: type[Exception], words: str
) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(error, match=words):
            await daemon.report(**request_)
        assert daemon.settled == 0

    in_a_daemon(story)


@pytest.mark.parametrize("period", ["2026", "2026-13", "2026-02-30", "", "0000-01", "2026-1-1"])
def test_a_period_that_is_none_is_refused(period: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match="2026-11"):
            async for _ in daemon.money.Report(pb.ReportRequest(kind="focus", period=period), None):
                pass

    in_a_daemon(story)


def test_a_large_report_leaves_the_loop_free_and_comes_in_chunks() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        for _ in range(400):
            job_id = daemon.submit(experiment="e" * 200)
            daemon.clock.advance(30 * SECOND_US)
            daemon.finish(job_id)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        data, chunks = await daemon.report(kind="focus")
        counting.cancel()
        assert len(data) > CHUNK_BYTES
        assert max(len(chunk.data) for chunk in chunks) <= CHUNK_BYTES
        assert [bool(chunk.file_name) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        assert turns > len(chunks)

    in_a_daemon(story)


def test_a_reader_that_leaves_stops_the_report() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        stream = daemon.money.Report(pb.ReportRequest(kind="focus", period="2026-11"), None)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]

    in_a_daemon(story)


def with_catalog(daemon: Daemon) -> None:
    files = [(path.name, path.read_bytes()) for path in sorted(catalog_dir().glob("*.yaml"))]
    daemon.engine._catalog = tuple(Applied(document, 0) for document in parse_files(files))
    daemon.engine._prices = None


def test_offers_are_ranked_by_price_and_by_price_per_gpu() -> None:
    async def story(daemon: Daemon) -> None:
        with_catalog(daemon)
        await daemon.apply(COST_MODEL)
        daemon.node("a", gpus=8)
        answer = await daemon.money.Prices(pb.PricesRequest(gpus="H100:8"), None)
        rates = [price.rate_nanos_per_hour for price in answer.prices]
        assert rates == sorted(rates)
        assert all(price.gpus >= 8 and price.gpu_type == "H100" for price in answer.prices)
        assert {"p", ""} <= {price.pool for price in answer.prices}
        each = await daemon.money.Prices(pb.PricesRequest(gpus="H100:1", sort="gpu-price", limit=3), None)
        per_gpu = [price.rate_per_gpu_nanos_per_hour for price in each.prices]
        assert per_gpu == sorted(per_gpu)
        assert len(per_gpu) == 3
        # By what their GPUs could do at most: kinds that are dearer by the hour may be cheaper by the work.
        for asked in ({"gpus": "A100:1"}, {"provider": "gcp", "market": "on-demand"}, {}):
            most = await daemon.money.Prices(pb.PricesRequest(sort="pflop-day", **asked), None)
            rows = [view.price(one) for one in most.prices]
            work = [row["cost_per_peak_pflop_day"] for row in rows]
            known = [Decimal(one["amount"]) for one in work if one is not None]
            assert known == sorted(known)
            assert known
            assert work[len(known) :] == [None] * (len(work) - len(known))
            for row in rows[: len(known)]:
                peak = PEAK_TFLOPS[row["gpu_type"]]
                each = Decimal(row["rate_per_gpu_hour"]["amount"]) * 24_000 / peak
                assert abs(Decimal(row["cost_per_peak_pflop_day"]["amount"]) - each) < Decimal("0.00000001")

    in_a_daemon(story)


def test_an_offer_of_a_kind_that_nobody_has_is_refused_with_the_nearest() -> None:
    async def story(daemon: Daemon) -> None:
        with_catalog(daemon)
        with pytest.raises(InvalidRequest, match="no node has a NOSUCH"):
            await daemon.money.Prices(pb.PricesRequest(gpus="nosuch:1"), None)
        with pytest.raises(InvalidRequest, match="did you mean H100:8"):
            await daemon.money.Prices(pb.PricesRequest(gpus="H100x8"), None)

    in_a_daemon(story)


@pytest.mark.parametrize("text", ["H100:2..8", "H100:2-8", "H100:2+", "H100:2.."])
def test_a_range_of_gpus_has_no_one_offer(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is a range, .* ask for one, such as H100:2$"):
        read_gpus(text)


def test_prices_are_filtered_and_history_keeps_what_ended() -> None:
    async def story(daemon: Daemon) -> None:
        with_catalog(daemon)
        ls = await daemon.money.Prices(pb.PricesRequest(provider="aws", market="on-demand"), None)
        assert {price.provider for price in ls.prices} == {"aws"}
        book = (
            "kind: PriceBook\nname: b\nspec:\n  source: s\n  currency: USD\n  prices:\n"
            "    - {provider: x, region: r, instance_type: t, market: spot, price: %s USD/h}\n"
        )
        await daemon.apply(book % 5)
        daemon.clock.advance(HOUR_US)
        await daemon.apply(book % 6)
        history = await daemon.money.Prices(pb.PricesRequest(provider="x", history=True), None)
        assert [price.rate_nanos_per_hour // NANOS for price in history.prices] == [5, 6]
        assert history.prices[0].valid_until == history.prices[1].valid_from == START + HOUR_US

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("H100:8", (("H100",), 8, 0)),
        ("4", ((), 4, 0)),
        ("A100|H100:80GB:4", (("A100", "H100"), 4, 80 * 10**9)),
        ("h100", (("H100",), 1, 0)),
    ],
)
def test_gpus_of_an_offer_are_read(text: str, want: tuple[tuple[str, ...], int, int]) -> None:
    assert read_gpus(text) == want


@pytest.mark.parametrize("text", ["H100:0", "H100:0.5", "8:8", "H100:A100", "H100:-1", ":", "H100:99"])
def test_gpus_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_gpus(text)


# ------------------------------------------------------------------ policies


def test_applying_again_changes_nothing_and_says_so() -> None:
    async def story(daemon: Daemon) -> None:
        assert await daemon.apply(BUDGET, COST_MODEL) == [("vision", "created", 1), ("p", "created", 1)]
        changed = BUDGET.replace("90", "95")
        assert await daemon.apply(changed, COST_MODEL) == [("vision", "changed", 2), ("p", "unchanged", 1)]
        new = await daemon.policies.Get(pb.PolicyRequest(name="vision"), None)
        old = await daemon.policies.Get(pb.PolicyRequest(name="vision", version=1), None)
        assert (new.version, new.text, new.applied_by) == (2, changed, "ann")
        assert (old.version, old.text) == (1, BUDGET)
        listed = await daemon.policies.List(pb.ListPoliciesRequest(), None)
        assert [(one.kind, one.name) for one in listed.policies] == [("Budget", "vision"), ("CostModel", "p")]

    in_a_daemon(story)


def test_a_node_has_its_price_once_apply_has_answered() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.node("a")
        (node,) = daemon.engine.state.nodes.values()
        assert node.price_id == ""
        await daemon.apply(COST_MODEL)
        assert node.price_id == "costmodel/p@1"
        await daemon.policies.Delete(pb.PolicyRequest(name="p"), None)
        assert node.price_id == ""
        # The name goes on counting: an old price id must never mean a new price.
        await daemon.apply(COST_MODEL.replace("100003", "5"))
        assert node.price_id == "costmodel/p@2"

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (BUDGET.replace("spec:", "version: 7\nspec:"), StaleVersion, "version 0"),
        (BUDGET.replace("limit", "limmit"), PolicyInvalid, "limit"),
        (BUDGET.replace("USD", "EUR"), InvalidRequest, "EUR"),
        (BUDGET.replace("spec:", "effective_at: 2027-01-01T00:00:00Z\nspec:"), NotBuilt, "future"),
        (COST_MODEL.replace("spec:", "effective_at: 2025-01-01T00:00:00Z\nspec:"), InvalidRequest, "passed"),
        ("kind: IdlePolicy\nname: q\nspec: {}\n", PolicyInvalid, "judges nothing"),
    ],
)
def test_a_bad_document_is_refused_with_all_that_came_with_it(
    text: str, error: type[Exception], words: str
) -> None:
    async def story(daemon: Daemon) -> None:
        version = daemon.engine.state.version
        for call in (daemon.policies.Check, daemon.policies.Apply):
            sources = [
                pb.PolicySource(
                    name="good", text="kind: PlacementPolicy\nname: x\nspec: {strategy: spread}\n"
                )
            ]
            sources.append(pb.PolicySource(name="bad", text=text))
            with pytest.raises(error, match=words):
                await call(pb.ApplyRequest(sources=sources), None)
        assert daemon.engine.state.version == version

    in_a_daemon(story)


def test_check_says_what_apply_would_do_and_changes_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        version = daemon.engine.state.version
        request = pb.ApplyRequest(sources=[pb.PolicySource(name="f", text=BUDGET + "---\n" + COST_MODEL)])
        answer = await daemon.policies.Check(request, None)
        assert [(one.name, one.change) for one in answer.policies] == [
            ("vision", "created"),
            ("p", "unchanged"),
        ]
        assert daemon.engine.state.version == version

    in_a_daemon(story)


def test_a_future_price_takes_effect_in_time() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        later = COST_MODEL.replace("spec:", "effective_at: 2026-11-02T00:00:00Z\nspec:").replace(
            "100003", "9"
        )
        assert await daemon.apply(later) == [("p", "changed", 2)]
        (node,) = daemon.engine.state.nodes.values()
        assert node.price_id == "costmodel/p@1"
        daemon.clock.advance(24 * HOUR_US)
        daemon.engine.commit(
            nodes.reprice(daemon.engine.state, daemon.engine.prices, daemon.engine.now()), "t"
        )
        assert node.price_id == "costmodel/p@2"

    in_a_daemon(story)


def test_a_limit_below_what_is_promised_is_refused() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(BUDGET)
        await work(daemon)
        with pytest.raises(BudgetExceeded, match="held"):
            await daemon.apply(BUDGET.replace("90", "1"))
        assert await daemon.apply(BUDGET.replace("90", "91")) == [("vision", "changed", 2)]

    in_a_daemon(story)


# ------------------------------------------------------------------ what the account of a budget opens with


async def opened(daemon: Daemon, text: str, check: bool = False) -> pb.BudgetOpening:
    call = daemon.policies.Check if check else daemon.policies.Apply
    answer = await call(pb.ApplyRequest(sources=[pb.PolicySource(name="f", text=text)]), None)
    return answer.policies[0].opening


def account(daemon: Daemon, name: str = "vision") -> tuple[int, int]:
    state = daemon.engine.state
    start = state.budgets.records[name].period_start
    return state.ledger.settled(name, start), state.ledger.held(name, start)


def worst_cases(daemon: Daemon, project: str) -> int:
    state = daemon.engine.state
    return sum(
        still_to_cost(one)
        for one in state.attempts.values()
        if state.jobs[one.job_id].spec.project.startswith(project)
    )


def test_a_budget_opens_with_what_its_scope_has_cost_and_with_what_runs_under_it() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        daemon.meter()
        spent, held = (await cost(daemon, project="research")).total.nanos, worst_cases(daemon, "research")
        told = await opened(daemon, BUDGET, check=True)
        assert daemon.engine.state.budgets.records == {}
        assert told == await opened(daemon, BUDGET)
        assert (told.settled_nanos, told.held_nanos, told.attempts) == (spent, held, 1)
        assert (told.since, told.currency) == (1_793_491_200 * SECOND_US, "USD")
        assert account(daemon) == (spent, held)
        assert spent > 0 < held
        (job,) = [one for one in daemon.engine.state.jobs.values() if one.budgets]
        assert (job.spec.project, job.budgets, job.hard_budgets) == (
            "research/vision", ("vision",), ("vision",)
        )  # fmt: skip
        daemon.clock.advance(HOUR_US // 2)
        daemon.meter()
        after = (await cost(daemon, project="research")).total.nanos
        assert account(daemon) == (after, spent + held - after)
        assert after > spent
        daemon.finish(job.id)
        assert account(daemon) == ((await cost(daemon, project="research")).total.nanos, 0)

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("change", "project"),
    [
        (("research", "ops"), "ops"),
        (("month", "day"), "research"),
        (("period: month", "period: one-time"), "research"),
        (("month", "month\n  timezone: Asia/Tokyo"), "research"),
    ],
)
def test_a_budget_that_counts_something_else_keeps_nothing_and_loses_nothing(
    change: tuple[str, str], project: str
) -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        daemon.meter()
        await daemon.apply(BUDGET, BUDGET.replace("vision", "other"))
        before = account(daemon)
        await daemon.apply(BUDGET.replace(*change))
        settled = (await cost(daemon, project=project)).total.nanos
        assert account(daemon) == (settled, worst_cases(daemon, project))
        assert settled > 0
        assert account(daemon, "other") == ((await cost(daemon, project="research")).total.nanos, before[1])
        assert daemon.engine.state.ledger.violations() == []

    in_a_daemon(story)


def test_removing_and_applying_again_is_as_if_it_had_always_been_there() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(BUDGET)
        await work(daemon)
        daemon.meter()
        before = account(daemon)
        await daemon.policies.Delete(pb.PolicyRequest(name="vision"), None)
        assert [one.budgets for one in daemon.engine.state.jobs.values() if one.attempt] == [(), (), ()]
        assert daemon.engine.state.ledger.violations() == []
        daemon.clock.advance(HOUR_US // 2)
        daemon.meter()
        await daemon.apply(BUDGET)
        settled = (await cost(daemon, project="research")).total.nanos
        assert account(daemon) == (settled, sum(before) - settled)
        assert settled > before[0]

    in_a_daemon(story)


def test_a_limit_that_the_scope_has_passed_already_is_refused_with_the_figures() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        daemon.meter()
        for limit, call in (("0.004 USD", daemon.policies.Check), ("1 USD", daemon.policies.Apply)):
            text = BUDGET.replace("90 USD", limit)
            with pytest.raises(BudgetExceeded) as refused:
                await call(pb.ApplyRequest(sources=[pb.PolicySource(name="f", text=text)]), None)
            words = r"a limit of (.*) is below the .* held in this period; set (.*) or more"
            told = re.search(words, str(refused.value))
            assert told is not None
            assert parse_money(told[1]) == parse_money(limit)
        least = (await cost(daemon, project="research")).total.nanos + worst_cases(daemon, "research")
        assert least <= parse_money(told[2]).nanos < least + NANOS // 100
        assert daemon.engine.state.budgets.records == {}
        soft = BUDGET.replace("90 USD", "1 USD\n  enforcement: soft")
        assert (await opened(daemon, soft)).settled_nanos == account(daemon)[0] > 0

    in_a_daemon(story)


def test_a_budget_may_count_from_an_instant() -> None:
    async def story(daemon: Daemon) -> None:
        await work(daemon)
        since = START + HOUR_US
        told = await opened(daemon, BUDGET + "  counts_from: 2026-11-01T02:00:00Z\n")
        daemon.clock.advance(HOUR_US // 2)
        daemon.meter()
        late = (await cost(daemon, project="research", since=since)).total.nanos
        assert account(daemon)[0] == late < (await cost(daemon, project="research")).total.nanos
        assert told.since == since
        with pytest.raises(InvalidRequest, match="2026-11-02T00:00:00Z has not come yet"):
            await daemon.apply(BUDGET + "  counts_from: 2026-11-02T00:00:00Z\n")
        with pytest.raises(PolicyInvalid, match="must be a full hour of UTC"):
            await daemon.apply(BUDGET + "  counts_from: 2026-11-01T01:30:00Z\n")

    in_a_daemon(story)


def test_what_is_charged_while_the_books_are_read_is_in_the_account() -> None:
    async def story(daemon: Daemon) -> None:
        first, _, third = await work(daemon)
        books = daemon.engine.books

        async def slow() -> Any:
            found = await books()
            daemon.clock.advance(HOUR_US // 4)
            daemon.meter()
            daemon.finish(first)
            daemon.finish(third)
            return found

        daemon.engine.books = slow  # type: ignore[method-assign]
        await daemon.apply(BUDGET, BUDGET.replace("vision", "all").replace("project: research", "user: ann"))
        daemon.engine.books = books  # type: ignore[method-assign]
        assert account(daemon) == ((await cost(daemon, project="research")).total.nanos, 0)
        assert account(daemon, "all")[0] == (await cost(daemon, user="ann")).total.nanos
        assert daemon.engine.meters == []

    in_a_daemon(story)


def test_what_changed_while_the_books_were_read_is_read_again() -> None:
    """A commit was refused, so what had been heard of it is not true."""

    async def story(daemon: Daemon) -> None:
        await work(daemon)
        daemon.meter()
        books = daemon.engine.books
        calls: list[str] = []

        async def slow() -> Any:
            found = await books()
            calls.append("read")
            daemon.engine.meters = daemon.engine.meters if len(calls) > 1 else []
            return found

        daemon.engine.books = slow  # type: ignore[method-assign]
        await daemon.apply(BUDGET)
        assert calls == ["read", "read"]
        assert account(daemon)[0] == (await cost(daemon, project="research")).total.nanos > 0

        async def never() -> Any:
            daemon.engine.meters = []
            return await books()

        daemon.engine.books = never  # type: ignore[method-assign]
        with pytest.raises(WrongState, match="apply the documents again"):
            await daemon.apply(BUDGET.replace("research", "ops"))

    in_a_daemon(story)


def test_a_removed_document_can_still_be_read() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(BUDGET)
        gone = await daemon.policies.Delete(pb.PolicyRequest(kind="Budget", name="vision"), None)
        assert (gone.change, gone.text) == ("removed", BUDGET)
        with pytest.raises(NotFound):
            await daemon.policies.Get(pb.PolicyRequest(name="vision"), None)
        old = await daemon.policies.Get(pb.PolicyRequest(name="vision", version=1), None)
        assert old.text == BUDGET
        with pytest.raises(NotFound):
            await daemon.policies.Delete(pb.PolicyRequest(name="vision"), None)

    in_a_daemon(story)
