"""Commitments over real books: the report and the FOCUS rows say the same, and no nano is lost."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from cloud_month import BOOK, RESERVED, month
from money_daemon import Daemon, in_a_daemon

from bursar.errors import InvalidRequest
from bursar.v1 import money_pb2 as pb

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
        await daemon.policies.Delete(pb.PolicyRequest(kind="Commitment", name="reserved"), None)
        assert (await table(daemon))["rows"] == []

    in_a_daemon(story)
