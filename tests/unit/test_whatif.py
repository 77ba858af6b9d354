"""`whatif`: the usage of a period at other prices; the same prices make no difference, nothing is booked."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from money_daemon import BUDGET, COST_MODEL, Daemon, in_a_daemon
from msgspec.structs import replace

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.model import Device, NodeFacts
from bursar.v1 import money_pb2 as pb
from bursard.state.decide import machines, nodes

BOOK = (
    "kind: PriceBook\nname: try\nspec:\n  source: s\n  currency: USD\n  prices:\n"
    "    - {provider: aws, region: r, instance_type: t, market: spot, price: 1 USD/h}\n"
)


async def tried(
    daemon: Daemon, *texts: str, **request: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    sources = [pb.PolicySource(name=f"f{number}.yaml", text=text) for number, text in enumerate(texts)]
    asked = pb.ReportRequest(
        kind="whatif", sources=sources, **{"period": "2026-11", "format": "json", **request}
    )
    data = b"".join([chunk.data async for chunk in daemon.money.Report(asked, None)])
    page = json.loads(data)
    return {row[request.get("by", "project")]: row for row in page["rows"]}, page["total"]


def nanos(amount: dict[str, str]) -> int:
    return int(Decimal(amount["amount"]) * 10**9)


def model(capex: str, *lines: str) -> str:
    return COST_MODEL.replace("100003 USD", f"{capex} USD") + "".join(f"  {line}\n" for line in lines)


async def worked(daemon: Daemon) -> None:
    await daemon.apply(COST_MODEL)
    daemon.node("a", gpus=3)
    daemon.run(project="x/y", model="m")
    daemon.run(hours=3, project="z")


@pytest.mark.parametrize("by", ["project", "user", "experiment", "model", "pool", "node"])
def test_the_prices_in_force_make_no_difference_to_the_nano(by: str) -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        rows, total = await tried(daemon, COST_MODEL, by=by)
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-11", by=[by]), None)
        assert {name: nanos(row["charged"]) for name, row in rows.items()} == {
            row.keys[0]: row.nanos for row in cost.rows if row.jobs
        }
        for row in (*rows.values(), total):
            assert (nanos(row["difference"]), row["change_percent"], row["not_tried_hours"]) == (0, 0, 0)
        assert nanos(total["what_if"]) == sum(nanos(row["what_if"]) for row in rows.values()) > 0

    in_a_daemon(story)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 10_000_000))
def test_a_node_of_twice_the_price_makes_every_job_pay_twice_but_for_rounding(capex: int) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(model(str(capex)))
        daemon.node("a", gpus=3)
        daemon.run(project="x")
        rows, _ = await tried(daemon, model(str(2 * capex)))
        row = rows["x"]
        assert abs(nanos(row["what_if"]) - 2 * nanos(row["charged"])) <= 3 * 10
        assert nanos(row["difference"]) == nanos(row["what_if"]) - nanos(row["charged"])
        assert row["held_hours"] == 1 + 7_919 / HOUR_US

    in_a_daemon(story)


def test_another_practical_capacity_changes_what_jobs_pay_and_no_book() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        postings = await daemon.report(kind="statement", format="json")
        rows, total = await tried(daemon, COST_MODEL + "  practical_capacity: 40%\n")
        assert total["change_percent"] == pytest.approx(100, abs=0.0001)
        assert rows["z"]["change_percent"] == pytest.approx(100, abs=0.0001)
        assert await daemon.report(kind="statement", format="json") == postings

    in_a_daemon(story)


def test_what_the_given_prices_do_not_price_stays_as_charged_and_is_counted() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        _, total = await tried(daemon, BOOK)
        assert total["not_tried_hours"] == total["held_hours"] > 4
        assert nanos(total["what_if"]) == nanos(total["charged"]) > 0
        jobs = list(daemon.engine.state.jobs)
        await daemon.money.Correct(
            pb.CorrectRequest(job=jobs[-1] if jobs else "2", to_ppm=0, reason="r"), None
        )
        rows, total = await tried(daemon, model("200006"))
        assert nanos(rows["z"]["what_if"]) == nanos(rows["z"]["charged"]) == 0
        assert rows["z"]["not_tried_hours"] == rows["z"]["held_hours"] > 3
        assert nanos(total["difference"]) == nanos(rows["x/y"]["difference"]) > 0

    in_a_daemon(story)


def test_a_project_narrows_it_and_a_month_without_work_is_empty() -> None:
    async def story(daemon: Daemon) -> None:
        await worked(daemon)
        assert list((await tried(daemon, COST_MODEL, project="x"))[0]) == ["x/y"]
        assert list((await tried(daemon, COST_MODEL, by="model"))[0]) == ["", "m"]
        rows, total = await tried(daemon, COST_MODEL, period="2026-10")
        assert (rows, total["change_percent"], nanos(total["charged"])) == ({}, None, 0)

    in_a_daemon(story)


def test_the_launch_of_a_rented_machine_is_tried_as_what_ran_on_it_is() -> None:
    async def story(daemon: Daemon) -> None:
        state, engine = daemon.engine.state, daemon.engine
        await daemon.apply(BOOK)
        job_id = daemon.submit(project="x")
        facts = NodeFacts(
            name="", cpu_milli=8_000, memory_bytes=64 << 30, pool="p", provider="aws", region="r",
            instance_type="t", market="spot",
            devices=tuple(Device(i, f"u{i}", "H100", 80 << 30, simulated=True) for i in (0, 1)),
        )  # fmt: skip
        launch = machines.Launch("p", job_id, (), facts, 10**9)
        place = {"provider": "aws", "region": "r", "zone": "z", "instance_type": "t", "market": "spot"}
        far = daemon.clock.now() + 9 * HOUR_US
        intent = machines.intend(state, engine.ids, **place, why="w", lease_until=far, launch=launch)
        engine.commit(intent, "bursard")
        (machine,) = state.machines.values()
        engine.commit(machines.launched(state, machine.id, "i-1"), "bursard")
        since = engine.now()
        engine.commit(machines.rise(state, engine.ids, engine.prices, machine.id, since, since), "bursard")
        daemon.clock.advance(HOUR_US // 2)
        engine.commit(machines.welcome(state, engine.prices, machine.name, engine.now()), "bursard")
        engine.commit(
            nodes.hello(
                state, engine.ids, engine.prices, facts=replace(facts, name=machine.name), boot_id="b",
                boot_us=daemon.clock.boot_us(), now=engine.now(),
            ),
            f"node:{machine.name}",
        )  # fmt: skip
        daemon.run(project="y")
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-11", by=["project"]), None)
        rows, total = await tried(daemon, BOOK.replace("price: 1 ", "price: 2 "))
        paid = {row.keys[0]: row.nanos for row in cost.rows}
        assert {name: nanos(row["charged"]) for name, row in rows.items()} == paid
        assert paid["x"] > 10**9 // 2, "half an hour of all of it, and what it ran"
        assert abs(nanos(total["difference"]) - nanos(total["charged"])) <= 6, "twice, but for rounding"
        assert total["not_tried_hours"] == 0

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("texts", "request_", "words"),
    [
        ((), {}, "sources: there are no prices to try"),
        ((BOOK,) * 257, {}, "257 files are more than 256 at once"),
        ((BUDGET,), {}, "f0.yaml:1: Budget vision is no price; a what-if takes PriceBook and CostModel"),
        (
            (BOOK, COST_MODEL.replace("USD", "EUR")),
            {},
            "f1.yaml:1: CostModel p is in EUR, this cluster keeps",
        ),
        ((BOOK.replace("USD", "EUR"),), {}, "f0.yaml:1: PriceBook try is in EUR"),
        ((COST_MODEL + "  lif: 3y\n",), {}, "lif"),
        (
            (COST_MODEL,),
            {"by": "label:a"},
            "by: 'label:a' is not what a what-if is grouped by; known: project,",
        ),
        ((COST_MODEL,), {"format": "parquet"}, "format: 'parquet' is not written for whatif"),
        ((COST_MODEL,), {"kind": "waste"}, "sources: are of whatif alone"),
        ((), {"kind": "idle", "by": "user"}, "by: is of energy, statement and whatif alone"),
    ],
)
def test_what_cannot_be_tried_is_refused(
    texts: tuple[str, ...], request_: dict[str, Any], words: str
) -> None:
    async def story(daemon: Daemon) -> None:
        sources = [pb.PolicySource(name=f"f{number}.yaml", text=text) for number, text in enumerate(texts)]
        asked = pb.ReportRequest(sources=sources, **{"kind": "whatif", "period": "2026-11", **request_})
        with pytest.raises(InvalidRequest) as caught:
            _ = [chunk async for chunk in daemon.money.Report(asked, None)]
        assert words in str(caught.value)

    in_a_daemon(story)
