"""Commitments over real books: the report and the FOCUS rows say the same, and no nano is lost."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from cloud_month import BOOK, RESERVED, machine, month
from hypothesis import given
from hypothesis import strategies as st
from money_daemon import Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2 as pb
from bursar_policies.commitments import Promise
from bursar_policies.specs import CommitmentSpec
from bursard.reports.commitments import Change, promises
from bursard.state.decide import nodes

PLAN = """kind: Commitment
name: plan
spec:
  provider: aws
  type: savings-plan
  hourly: 2.5 USD/h
  rates:
    - {instance_type: p5.x, rate: 5 USD/h}
    - {instance_type: g6.x, rate: 1.7 USD/h}
  start: 2026-11-01T02:00:00Z
  end: 2027-11-01T00:00:00Z
"""


WHOLE = ResourceRequest(GpuRequest(2), 8_000, 64 << 30)
DECEMBER = 1_796_083_200_000_000


async def table(daemon: Daemon, **more: str) -> dict[str, Any]:
    found = json.loads((await daemon.report(kind="commitments", format="json", **more))[0])
    assert isinstance(found, dict)
    return found


async def focus(daemon: Daemon, **more: str) -> list[dict[str, str]]:
    text = (await daemon.report(kind="focus", **more))[0].decode()
    return list(csv.DictReader(io.StringIO(text)))


def total(rows: Sequence[dict[str, str]], column: str) -> Decimal:
    return sum((Decimal(row[column]) for row in rows if row[column]), Decimal())


def amount(row: dict[str, Any], name: str) -> Decimal:
    return Decimal(row[name]["amount"])


def test_used_and_unused_are_the_fees_of_the_hours_that_have_passed() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED, PLAN)
        found = await table(daemon)
        rows = {row["commitment"]: row for row in found["rows"]}
        hours = {"reserved": 6, "plan": 4}  # November 1st, from 0 and from 2 on, up to 6:20
        assert amount(rows["plan"], "fee") == Decimal("2.5") * hours["plan"]
        upfront = 2_000_000_000_007 * hours["reserved"] // 720
        assert amount(rows["reserved"], "fee") * 10**9 == upfront + hours["reserved"] * 10**9
        for row in (*rows.values(), found["total"]):
            assert amount(row, "used") + amount(row, "unused") == amount(row, "fee")
            assert amount(row, "at_list") - amount(row, "fee") == amount(row, "saved")
        assert amount(rows["reserved"], "used") > 0 < amount(rows["plan"], "used")

    in_a_daemon(story)


def test_the_rows_of_focus_are_the_report_and_what_jobs_pay_stays_as_it_was() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon)
        before = await focus(daemon)
        await daemon.apply(RESERVED, PLAN)
        after = await focus(daemon)
        found = await table(daemon)
        assert total(after, "BilledCost") == total(before, "BilledCost")
        assert total(after, "PricingQuantity") >= total(before, "PricingQuantity")
        assert total(after, "x_GpuHours") == total(before, "x_GpuHours")
        used = [row for row in after if row["CommitmentDiscountStatus"] == "Used"]
        unused = [row for row in after if row["CommitmentDiscountStatus"] == "Unused"]
        for name in ("reserved", "plan"):
            [row] = [row for row in found["rows"] if row["commitment"] == name]
            mine = [one for one in used if one["CommitmentDiscountName"] == name]
            rest = [one for one in unused if one["CommitmentDiscountName"] == name]
            assert total(mine, "EffectiveCost") == amount(row, "used")
            assert total(rest, "EffectiveCost") == amount(row, "unused")
            assert total(mine, "BilledCost") == amount(row, "at_list")
        saved = amount(found["total"], "at_list") - amount(found["total"], "fee")
        assert total(after, "EffectiveCost") == total(before, "EffectiveCost") - saved
        assert {row["x_JobId"] for row in unused} == {""}
        assert {row["BilledCost"] for row in unused} == {"0.000000000"}
        assert {row["ConsumedQuantity"] for row in unused} == {""}
        assert {row["ResourceId"] for row in unused} <= {"commitment/reserved", "commitment/plan"}
        assert any(row["x_JobId"] for row in used)
        assert {row["PricingCategory"] for row in used} == {"Committed"}

    in_a_daemon(story)


def test_every_row_costs_its_unit_price_times_its_quantity_also_when_a_part_of_it_is_covered() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED, PLAN)
        rows = await focus(daemon)
        priced = [row for row in rows if row["ListUnitPrice"]]
        assert priced
        for row in priced:
            assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(row["ListCost"])
        assert [row["ChargePeriodStart"] for row in rows] == sorted(row["ChargePeriodStart"] for row in rows)
        assert all(
            row["ResourceName"] != "s" for row in rows if row["CommitmentDiscountStatus"]
        )  # never spot
        assert {
            json.loads(row["CommitmentProgramEligibilityDetails"])["CommitmentPrograms"][0]["ProgramType"]
            for row in rows if row["CommitmentProgramEligibilityDetails"]
        } == {"Reservation"}  # fmt: skip

    in_a_daemon(story)


def test_a_project_has_its_part_of_what_was_used_and_nothing_of_what_was_not() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED)
        whole = [row for row in await focus(daemon) if row["x_Project"]]
        parts = [row for name in ("x", "y") for row in await focus(daemon, project=name)]
        assert not [row for row in parts if row["CommitmentDiscountStatus"] == "Unused"]
        assert abs(total(parts, "EffectiveCost") - total(whole, "EffectiveCost")) < Decimal("0.00000002")

    in_a_daemon(story)


def test_parquet_says_what_csv_says() -> None:
    pq = pytest.importorskip("pyarrow.parquet")

    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED, PLAN)
        data = (await daemon.report(kind="focus", format="parquet"))[0]
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        told = await focus(daemon)
        for name in ("EffectiveCost", "CommitmentDiscountQuantity", "ConsumedQuantity"):
            assert [row[name] for row in rows] == [Decimal(row[name]) if row[name] else None for row in told]

    in_a_daemon(story)


def test_commitments_are_of_the_site_and_of_its_currency() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(BOOK)
        assert (await table(daemon))["rows"] == []
        with pytest.raises(InvalidRequest, match="is in EUR, this cluster keeps its books in USD"):
            await daemon.apply(RESERVED.replace("USD", "EUR"))
        with pytest.raises(InvalidRequest, match="commitments is of the whole site"):
            await table(daemon, project="x")
        await daemon.apply(RESERVED)
        daemon.clock.advance(2 * HOUR_US)
        whole = (await table(daemon))["rows"]
        await daemon.policies.Delete(pb.PolicyRequest(kind="Commitment", name="reserved"), None)
        assert (await table(daemon))["rows"] == whole, "hours in which it was in force were paid for"
        daemon.clock.advance(5 * HOUR_US)
        assert (await table(daemon))["rows"] == whole

    in_a_daemon(story)


def test_a_document_of_today_changes_no_hour_that_was_told_before() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED)
        daemon.clock.advance(HOUR_US - daemon.engine.now() % HOUR_US)
        [before] = (await table(daemon))["rows"]
        await daemon.apply(
            RESERVED.replace("hourly: 1 USD/h", "hourly: 5 USD/h").replace("quantity: 1", "quantity: 2")
        )
        [same] = (await table(daemon))["rows"]
        assert same | {"covers": ""} == before | {"covers": ""}
        daemon.clock.advance(3 * HOUR_US)
        [after] = (await table(daemon))["rows"]
        start, hours = 6, 3  # hours of the term that had passed, and that came since
        upfront = 2_000_000_000_007
        more = upfront * (start + 1 + hours) // 720 - upfront * (start + 1) // 720
        assert (amount(after, "fee") - amount(before, "fee")) * 10**9 == 5 * 10**9 * hours + more
        bought = [row for row in await focus(daemon) if row["ChargeCategory"] == "Purchase"]
        assert [
            (row["ChargeFrequency"], row["ListUnitPrice"], row["PricingQuantity"][:2]) for row in bought
        ] == [
            ("One-Time", "2000.000000007000", "1."),
            ("Recurring", "1.000000000000", "7."),
            ("Recurring", "5.000000000000", "3."),
        ]

    in_a_daemon(story)


def test_a_month_that_was_published_before_a_commitment_was_written_down_stays_as_it_was() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon)
        november = await focus(daemon, period="2026-11")
        daemon.clock.advance(34 * 24 * HOUR_US)
        daemon.meter()
        await daemon.apply(RESERVED.replace("2026-12-01", "2027-01-01"))
        told = await focus(daemon, period="2026-11")
        assert [row for row in told if row["ChargePeriodStart"] < "2026-11-01T06"] == [
            row for row in november if row["ChargePeriodStart"] < "2026-11-01T06"
        ]
        assert not [row for row in told if row["CommitmentDiscountId"]]
        assert (await table(daemon, period="2026-11"))["rows"] == []
        [row] = (await table(daemon, period="2026-12"))["rows"]
        hours = (daemon.engine.now() - DECEMBER) // HOUR_US
        assert amount(row, "fee") > hours > 0, "from the first hour of the month that is open"

    in_a_daemon(story)


def test_a_month_that_was_closed_before_a_commitment_was_written_down_stays_as_it_was() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon)
        daemon.clock.advance(DECEMBER + 2 * HOUR_US - daemon.engine.now())
        daemon.meter()
        await daemon.engine.durable()
        closed = await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11"), None)
        assert closed.state == "closed"
        november = await focus(daemon, period="2026-11")
        await daemon.apply(RESERVED.replace("2026-12-01", "2027-01-01"))
        assert await focus(daemon, period="2026-11") == november
        assert (await table(daemon, period="2026-11"))["rows"] == []
        [row] = (await table(daemon, period="2026-12"))["rows"]
        assert amount(row, "fee") > 2, "from the first hour of the month that is open"
        await daemon.policies.Delete(pb.PolicyRequest(kind="Commitment", name="reserved"), None)
        assert await focus(daemon, period="2026-11") == november

    in_a_daemon(story)


def test_what_was_written_down_before_a_month_was_closed_is_told_as_before_in_it() -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED.replace("2026-12-01", "2027-01-01"))
        daemon.clock.advance(DECEMBER + 2 * HOUR_US - daemon.engine.now())
        daemon.meter()
        await daemon.engine.durable()
        before = (await table(daemon))["rows"]
        await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11"), None)
        assert (await table(daemon))["rows"] == before != []

    in_a_daemon(story)


def test_what_was_paid_for_a_commitment_is_over_its_term_all_that_its_rows_cost() -> None:
    async def story(daemon: Daemon) -> None:
        short = RESERVED.replace("end: 2026-12-01T00", "end: 2026-11-01T05")
        await month(daemon, short, PLAN.replace("end: 2027-11-01T00", "end: 2026-11-01T06"))
        rows = await focus(daemon)
        bought = [row for row in rows if row["ChargeCategory"] == "Purchase"]
        assert [row["ChargePeriodStart"] for row in rows] == sorted(row["ChargePeriodStart"] for row in rows)
        for name in ("reserved", "plan"):
            paid = [row for row in bought if row["CommitmentDiscountName"] == name]
            parts = [
                row
                for row in rows
                if row["CommitmentDiscountName"] == name and row["CommitmentDiscountStatus"]
            ]
            assert (
                total(paid, "ListCost") == total(paid, "ContractedCost") == total(parts, "EffectiveCost") > 0
            )
        assert total(bought, "BilledCost") == total(bought, "EffectiveCost") == 0, (
            "another one sends the invoice"
        )
        assert {row["InvoiceIssuerName"] for row in bought} == {"aws"}
        assert {row["CommitmentDiscountStatus"] for row in bought} == {""}
        assert not [row for row in await focus(daemon, project="x") if row["ChargeCategory"] == "Purchase"]

    in_a_daemon(story)


@given(
    st.lists(
        st.tuples(st.integers(0, 40 * 24), st.booleans(), st.integers(0, 50 * 24)), min_size=1, max_size=8
    )
)
def test_whatever_is_applied_and_removed_one_version_is_in_force_at_a_time_and_the_past_stays(
    asked: list[tuple[int, bool, int]],
) -> None:
    since = 1_793_491_200_000_000
    spec = CommitmentSpec("aws", "reservation", "USD", since, since + 1000 * HOUR_US, hourly_nanos=1)
    changes, at = [], since
    for version, (hours, there, _) in enumerate(sorted(asked), 1):
        at = since + hours * HOUR_US + version
        changes.append(Change("a", version, at, spec if there else None))
    for made in range(1, len(changes) + 1):
        found = promises(changes[:made])
        assert all(one.until <= two.since for one, two in pairwise(found))
        before = promises(changes[: made - 1])
        now = changes[made - 1].at // HOUR_US * HOUR_US
        for hour in range(since, now, 7 * HOUR_US) if before else ():
            assert _keys(found, hour) == _keys(before, hour)


@given(
    st.lists(st.tuples(st.integers(0, 60 * 24), st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.lists(st.integers(0, 60 * 24), max_size=3),
)
def test_nothing_that_is_applied_or_removed_after_a_close_is_told_of_what_is_closed(
    asked: list[tuple[int, bool, bool]], closes: list[int]
) -> None:
    """Also by a clock that goes back: changes come in any order of their instants."""
    since = DECEMBER - 30 * 24 * HOUR_US
    spec = CommitmentSpec("aws", "reservation", "USD", since, since + 1500 * HOUR_US, hourly_nanos=1)
    changes = list[Change]()
    for made, (hours, there, dated) in enumerate(asked):
        closed = since + max([0, *closes[:made]]) * HOUR_US
        at = since + hours * HOUR_US
        one = Change("a", made + 1, at, spec if there else None, dated, closed)
        before, after = promises(changes), promises([*changes, one])
        for hour in range(since, closed, 11 * HOUR_US):
            assert _keys(before, hour) == _keys(after, hour)
        changes.append(one)


def _keys(found: Sequence[Promise], hour: int) -> list[str]:
    return [one.key for one in found if one.since <= hour < one.until]


DEARER = BOOK.replace("price: 7.000000001 USD/h", "price: 14 USD/h")


@pytest.mark.parametrize("busy", [False, True])
def test_a_machine_whose_price_changed_uses_whole_hours_of_its_reservation(busy: bool) -> None:
    """Half an hour at 7 and half at 14, then an hour at 14; what runs on pays 7 all the time."""

    async def story(daemon: Daemon) -> None:
        await daemon.apply(BOOK, RESERVED)
        machine(daemon, "a", "p5.x")
        job = daemon.submit(project="x", options=(WHOLE,)) if busy else ""
        daemon.clock.advance(HOUR_US // 2)
        daemon.meter()
        await daemon.apply(DEARER)
        state, engine = daemon.engine.state, daemon.engine
        engine.commit(nodes.reprice(state, engine.prices, engine.now()), "bursard")
        daemon.clock.advance(HOUR_US * 3 // 2)
        daemon.meter()
        if busy:
            daemon.finish(job)
        [row] = (await table(daemon))["rows"]
        # From 1 o'clock on; nothing ran in the hour before it, and its fee was for nothing.
        assert amount(row, "unused") * 3 == pytest.approx(amount(row, "fee"), abs=Decimal("0.000001"))
        listed = Decimal(14 if busy else "24.5")
        assert amount(row, "at_list") == pytest.approx(listed, abs=Decimal("0.00001"))

    in_a_daemon(story)
