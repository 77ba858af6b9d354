"""FOCUS files held against a judge of the standard's rules, and the judge against broken files."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import Device, NodeFacts
from bursard.reports.files import PIECE_BYTES, csv_pieces, defused, parquet_pieces
from bursard.reports.focus import Coverage, FocusContext, focus_lines, stable_id
from bursard.reports.focus_columns import OWN_COLUMNS, focus_columns
from bursard.store import ChargeRow

GOLDEN = Path(__file__).parents[1] / "golden" / "focus-1.4.csv"
HOUR = 1_793_487_600 * SECOND_US  # 2026-11-01T00:00:00Z less an hour: rows fall into two months
COUNTS = {"1.4": 65, "1.2": 57, "1.0": 43}
NEVER_NULL = [
    "BilledCost",
    "BillingAccountId",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargeCategory",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ServiceCategory",
    "ServiceName",
]
NOT_NULL_FOR_USAGE = [
    "PricingQuantity",
    "PricingUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "PricingCategory",
    "SkuId",
    "ListUnitPrice",
    "ContractedUnitPrice",
    "SkuPriceId",
]
WHEN_THE_PRICE_IS_UNKNOWN = {"ListUnitPrice", "ContractedUnitPrice", "SkuPriceId"}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"AI and Machine Learning", "Compute"},
    "ServiceSubcategory": {"AI Platforms", "Machine Learning", "Virtual Machines", "Containers"},
    "x_WasteCategory": {"", "unallocated", "down", "overhead", "absorption"},
    "x_MeterConfidence": {"measured", "unknown-price", "no-unit-price"},
    "x_Late": {"true", "false"},
}
PAIRS = (
    ("BillingAccountId", "BillingAccountType"),
    ("SubAccountId", "SubAccountType"),
    ("PricingQuantity", "PricingUnit"),
    ("ConsumedQuantity", "ConsumedUnit"),
    ("InvoiceId", "InvoiceDetailId"),
    ("ResourceId", "ResourceType"),
)
NUMBERS = ("x_EnergyKWh", "x_Gpus", "x_GpuHours")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
UNIT = re.compile(r"((GPU|Core|Node)-)?Hours")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def judge(text: str, version: str = "1.4") -> list[str]:
    """Every rule of FOCUS that a file of ours can break, and our own that sums tie."""
    found: list[str] = []
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or ())
    if names != list(focus_columns(version)) or len(names) != COUNTS[version] + len(OWN_COLUMNS):
        return ["columns"]
    first_own = names.index(OWN_COLUMNS[0])
    if any(n.startswith("x_") for n in names[:first_own]) or tuple(names[first_own:]) != OWN_COLUMNS:
        found.append("x_ columns follow all others")
    parents: dict[str, set[str]] = defaultdict(set)
    skus: dict[str, set[str]] = defaultdict(set)
    prices: dict[str, set[tuple[str, str]]] = defaultdict(set)
    with localcontext() as exact:
        exact.prec = 80
        for row in reader:
            found += _judge_row({k: v or "" for k, v in row.items()})
            parents[row["ServiceName"]].add(f"{row['ServiceCategory']}/{row.get('ServiceSubcategory')}")
            if row["SkuPriceId"]:
                skus[row["SkuPriceId"]].add(row["SkuId"])
                prices[row["SkuPriceId"]].add((row["ListUnitPrice"], row["PricingUnit"]))
    found += [f"{name} has {len(one)} categories" for name, one in parents.items() if len(one) > 1]
    found += [f"{price} is of {len(one)} skus" for price, one in skus.items() if len(one) > 1]
    found += [f"{price} has {len(one)} unit prices" for price, one in prices.items() if len(one) > 1]
    return found


def _judge_row(row: dict[str, str]) -> list[str]:
    found = [f"{name} is null" for name in NEVER_NULL if not row[name]]
    unknown = row["x_MeterConfidence"] == "unknown-price"
    less = WHEN_THE_PRICE_IS_UNKNOWN if row["x_MeterConfidence"] != "measured" else set()
    if row["ChargeCategory"] == "Usage":
        missing = {name for name in NOT_NULL_FOR_USAGE if not row[name]}
        if missing - less:
            found.append(f"usage without {sorted(missing)}")
    elif row["ConsumedQuantity"]:
        found.append("a quantity was consumed by what is not usage")
    found += [f"{k}: {row[k]!r}" for k, v in ALLOWED.items() if k in row and row[k] not in v]
    found += [f"{a} and {b}" for a, b in PAIRS if a in row and b in row and bool(row[a]) != bool(row[b])]
    for name, value in row.items():
        if value in ("NULL", "None", "nan", "N/A", "null"):
            found.append(f"{name} says null as text")
        number = name.endswith(("Cost", "Quantity", "UnitPrice")) or name in NUMBERS
        if number and value and not NUMBER.fullmatch(value):
            found.append(f"{name} is no decimal: {value}")
        if not number and value.startswith(FORMULA):
            found.append(f"{name} is a formula")
        if name.endswith(("Start", "End")) and not TIME.fullmatch(value):
            found.append(f"{name} is no time: {value}")
        if name.endswith("Unit") and value and not UNIT.fullmatch(value):
            found.append(f"{name} is no unit: {value}")
    return found or _judge_values(row, unknown)


def _judge_values(row: dict[str, str], unknown: bool) -> list[str]:
    found = []
    if not row["ChargePeriodStart"] < row["ChargePeriodEnd"]:
        found.append("the charge period ends before it starts")
    if not row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"]:
        found.append("the charge is not in its billing period")
    if not row["BillingPeriodStart"].endswith("-01T00:00:00Z"):
        found.append("a billing period is a month")
    billed = Decimal(row["BilledCost"])
    if Decimal(row["EffectiveCost"]) != billed:
        found.append("billed is not effective")
    if unknown and (billed or row["ListUnitPrice"]):
        found.append("an unknown price has an amount")
    for cost in ("List", "Contracted"):
        price, amount = row[f"{cost}UnitPrice"], Decimal(row[f"{cost}Cost"])
        if price and Decimal(price) < 0:
            found.append(f"{cost}UnitPrice is negative")
        if price and Decimal(price) * Decimal(row["PricingQuantity"]) != amount:
            found.append(f"{cost}Cost is not price times quantity")
        if abs(amount - billed) >= Decimal("3e-9"):
            found.append(f"{cost}Cost is three nanos or more from what was billed")
    if "@" in row["SkuPriceId"]:
        found.append("SkuPriceId names the version of a document")
    if row["PricingQuantity"] != row["ConsumedQuantity"]:
        found.append("what is priced is not what was consumed")
    if row["PricingUnit"] == "GPU-Hours" and row["x_GpuHours"] != row["PricingQuantity"]:
        found.append("GPU-hours are not GPU-hours")
    for name in ("Tags", "SkuPriceDetails"):
        if row.get(name):
            value = json.loads(row[name])
            if not isinstance(value, dict) or any(isinstance(v, dict | list) for v in value.values()):
                found.append(f"{name} is not flat")
    return found


# ------------------------------------------------------------------ a small month

RATES = {"gpu_rate": 2_000_000_003, "cpu_rate": 300_000_001, "memory_rate": 100_000_007}
RATE = 2_400_000_011
"""Nanos per hour: of a quarter of a node with eight GPUs when a job holds it, and of all of one."""
GPUS = {"gpu_milli": 1500, "devices": 2, "cpu_milli": 3000, "memory_bytes": 16 << 30}


def charge(kind: str, start: int, end: int, nanos: int, **fields: Any) -> ChargeRow:
    row = ChargeRow(
        seq=1, kind=kind, node_id="node_1", node_name="n1", pool="p", attempt_id="", job_id="",
        job_number=0, rank=0, start_at=start, end_at=end, held_us=end - start, nanos=nanos, gpu=nanos, cpu=0,
        memory=0,
        price_id="costmodel/p@1", project="", user="", experiment="", model="", model_version="",
        labels="{}", simulated=0, gpu_milli=8000, devices=8, cpu_milli=8000, memory_bytes=64 << 30,
        posted_at=end + 1, **RATES,
    )  # fmt: skip
    return row._replace(**fields)


def used(start: int, end: int, attempt: str = "att_1", **fields: Any) -> ChargeRow:
    """What a job pays: of its share, each component by itself, rounded down as the ledger does."""
    since, until = start - HOUR, end - HOUR
    nanos = sum(rate * until // HOUR_US - rate * since // HOUR_US for rate in RATES.values())
    of_job = {
        "attempt_id": attempt, "job_id": "job_1", "job_number": 1, "project": "research/vision",
        "user": "ann", "experiment": "e", "model": "m", "labels": '{"team": "x"}', **GPUS,
    }  # fmt: skip
    return charge("usage", start, end, fields.pop("nanos", nanos), **(of_job | fields))


NO_GPU: dict[str, Any] = {"gpu_milli": 0, "devices": 0}
OLD: dict[str, Any] = {"price_id": "costmodel/o@2"}
UNKNOWN: dict[str, Any] = {"price_id": "", "gpu_rate": 0, "cpu_rate": 0, "memory_rate": 0}
MONTH = [
    used(HOUR + 1, HOUR + 7_000_003),
    used(HOUR + 7_000_003, HOUR + HOUR_US, project="=cmd()|x", experiment="@e", model="-1+2"),
    used(HOUR, HOUR + 999, attempt="att_2", node_id="node_2", node_name="n2", energy_millijoules=7_200_000),
    charge("idle", HOUR, HOUR + HOUR_US, RATE, node_id="node_2", node_name="n2"),
    charge("overhead", HOUR, HOUR + HOUR_US, -2),
    charge("absorption", HOUR, HOUR + HOUR_US, -400_000_000),
    charge("down", HOUR + HOUR_US, HOUR + HOUR_US + 5, 0, **UNKNOWN),
    used(HOUR + HOUR_US, HOUR + 2 * HOUR_US, simulated=1, nanos=0, **UNKNOWN),
    used(HOUR + HOUR_US, HOUR + 2 * HOUR_US, attempt="att_3", price_id="costmodel/p@2", **NO_GPU),
    used(HOUR + HOUR_US, HOUR + 2 * HOUR_US, attempt="att_4", price_id="costmodel/p@2"),
    charge("idle", HOUR + HOUR_US, HOUR + 2 * HOUR_US, RATE // 3, price_id="costmodel/p@2"),
    used(HOUR + HOUR_US, HOUR + 2 * HOUR_US, attempt="att_5", posted_at=HOUR + 40 * 24 * HOUR_US),
    charge("idle", HOUR + HOUR_US, HOUR + HOUR_US + 10, 7, **(UNKNOWN | OLD), node_id="node_3"),
]  # fmt: skip
NODES = {
    "node_1": NodeFacts(name="n1", cpu_milli=8000, memory_bytes=64 << 30, pool="p"),
    "node_2": NodeFacts(
        name="n2", cpu_milli=8000, memory_bytes=64 << 30, provider="aws", region="us-east-1", zone="a",
        instance_type="p5.48xlarge", market="spot", devices=(Device(0, "u", "H100"),),
    ),
}  # fmt: skip
ABOUT = FocusContext(cluster_id="c1", provider="Bursar c1", currency="USD", nodes=NODES)


def export(charges: list[ChargeRow] = MONTH, version: str = "1.4") -> str:
    ordered = sorted(charges, key=lambda row: row.start_at)
    return b"".join(csv_pieces(focus_lines(ordered, ABOUT), focus_columns(version))).decode()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("version", COUNTS)
def test_every_version_passes_the_judge(version: str) -> None:
    assert judge(export(version=version), version) == []


def test_the_file_is_the_golden_one() -> None:
    """A change of the format shows here; write `export()` to the file when it is meant."""
    assert export() == GOLDEN.read_text(encoding="utf-8")


def test_costs_sum_to_the_ledger_to_the_nano() -> None:
    for column in ("BilledCost", "EffectiveCost"):
        total = sum(Decimal(row[column]) for row in rows_of(export()))
        assert total * 10**9 == sum(row.nanos for row in MONTH)


def test_charges_of_one_attempt_node_and_hour_are_one_row() -> None:
    rows = [row for row in rows_of(export()) if row["x_AttemptId"] == "att_1" and row["SkuPriceId"]]
    assert [(r["ChargePeriodStart"][11:19], r["ChargePeriodEnd"][11:19]) for r in rows] == [
        ("23:00:00", "00:00:00")
    ]
    assert rows[0]["BilledCost"] == "2.400000011"


def row_of(attempt: str) -> dict[str, str]:
    return next(row for row in rows_of(export()) if row["x_AttemptId"] == attempt)


def test_a_share_of_gpus_is_priced_by_the_gpu_and_hour() -> None:
    row = row_of("att_4")
    assert (row["PricingQuantity"], row["PricingUnit"]) == ("1.500000000000000", "GPU-Hours")
    assert row["ListUnitPrice"] == "1.600000007333", "2.400000011 for one GPU and a half"
    assert Decimal(row["ListCost"]) == Decimal("1.600000007333") * Decimal("1.5")
    assert (row["x_Gpus"], row["x_GpuHours"]) == ("1.500", "1.500000000000000")
    assert (row["SkuMeter"], row["SkuId"]) == ("GPU Hours", "onprem/p/cpu/8c/gpu")
    details = json.loads(row["SkuPriceDetails"])
    assert details == {"CoreCount": 2, "GpuCount": 1, "MemorySize": 10.666667, "x_Pool": "p"}, "of one GPU"


def test_a_share_without_gpus_is_priced_by_the_core_and_hour() -> None:
    row = row_of("att_3")
    assert (row["PricingQuantity"], row["PricingUnit"]) == ("3.000000000000000", "Core-Hours")
    assert (row["ListUnitPrice"], row["x_Gpus"], row["x_GpuHours"]) == ("0.800000003667", "", "")


def test_what_nobody_held_is_priced_by_the_node_and_hour() -> None:
    idle = [row for row in rows_of(export()) if row["ChargeDescription"].startswith("part of node")]
    whole, third = (row for row in idle if row["SkuPriceId"])
    assert (whole["PricingQuantity"], whole["ListUnitPrice"]) == ("1.000000000000000", "2.400000011000")
    assert (third["PricingQuantity"], third["PricingUnit"]) == ("0.333333333055556", "Node-Hours")
    assert whole["PricingCategory"] == "Dynamic"
    assert (whole["HostProviderName"], whole["x_WasteCategory"]) == ("aws", "unallocated")


def test_an_id_of_a_price_stays_when_a_document_is_applied_anew_and_changes_with_the_price() -> None:
    def price(**fields: Any) -> str:
        return rows_of(export([used(HOUR, HOUR + 5, **fields)]))[0]["SkuPriceId"]

    assert price(price_id="costmodel/p@1") == price(price_id="costmodel/p@7")
    assert price() != price(gpu_rate=1)
    assert price() != price(cpu_milli=4000)
    assert price() != price(price_id="costmodel/q@1")
    assert stable_id("costmodel/rack-a@12") == "costmodel/rack-a"
    assert stable_id("pricebook/aws@3#aws/r1/p5/spot/2026-07-13T00:00:00Z") == "aws/r1/p5/spot"


def test_what_was_posted_a_day_after_its_month_had_ended_is_late() -> None:
    assert row_of("att_5")["x_Late"] == "true"
    assert {row["x_Late"] for row in rows_of(export()) if row["x_AttemptId"] != "att_5"} == {"false"}
    (november,) = {row["BillingPeriodEnd"] for row in rows_of(export([MONTH[-2]]))}
    assert november == "2026-12-01T00:00:00Z"
    day_after = 1_796_083_200 * SECOND_US + 24 * HOUR_US
    for posted_at, late in ((day_after - 1, "false"), (day_after, "true")):
        (row,) = rows_of(export([MONTH[-2]._replace(posted_at=posted_at)]))
        assert row["x_Late"] == late


def test_energy_is_in_kilowatt_hours() -> None:
    assert (row_of("att_2")["x_EnergyKWh"], row_of("att_4")["x_EnergyKWh"]) == ("0.002000000", "")


def test_carbon_is_of_the_energy_with_its_building_by_what_its_pool_said_then() -> None:
    asked = []

    def carbon(charge: ChargeRow) -> Fraction | None:
        asked.append((charge.pool, charge.start_at))
        return Fraction("1.54") * 381 if charge.pool == "p" else None

    about = msgspec.structs.replace(ABOUT, carbon=carbon)

    def grams(pool: str) -> list[str]:
        row = next(one for one in MONTH if one.attempt_id == "att_2" and one.energy_millijoules)
        text = b"".join(csv_pieces(focus_lines([row._replace(pool=pool)], about), focus_columns()))
        return [one["x_CarbonGrams"] for one in rows_of(text.decode())]

    assert grams("p") == ["1.173480000"], "0.002 kWh x 1.54 x 381 g"
    assert grams("q") == [""], "not known is not 0"
    assert asked == [("p", HOUR), ("q", HOUR)], "of the instant in which it was used"
    assert {row["x_CarbonGrams"] for row in rows_of(export())} == {""}


def test_an_unknown_price_is_not_a_price_of_0() -> None:
    coverage = Coverage()
    ordered = sorted(MONTH, key=lambda row: row.start_at)
    b"".join(csv_pieces(focus_lines(ordered, ABOUT, coverage), focus_columns()))
    rows = [row for row in rows_of(export()) if row["x_MeterConfidence"] == "unknown-price"]
    assert [row["ListUnitPrice"] for row in rows] == ["", ""]
    assert coverage.unknown_us == HOUR_US + 5
    assert coverage.nanos == sum(row.nanos for row in MONTH)
    assert coverage.rows == len(rows_of(export()))


def test_what_was_written_before_quantities_were_kept_has_no_unit_price() -> None:
    (row,) = (row for row in rows_of(export()) if row["x_MeterConfidence"] == "no-unit-price")
    assert (row["BilledCost"], row["ListUnitPrice"], row["SkuPriceId"]) == ("0.000000007", "", "")
    assert (row["PricingQuantity"], row["PricingUnit"]) == ("0.000000002777778", "Node-Hours")


def test_names_that_look_like_formulas_are_defused_and_numbers_are_not() -> None:
    text = export([used(HOUR, HOUR + 5, project="=1+1", labels='{"k": "=2"}'), MONTH[4]])
    first, second = sorted(rows_of(text), key=lambda row: row["ChargeCategory"], reverse=True)
    assert first["SubAccountId"] == first["x_Project"] == "'=1+1"
    assert second["BilledCost"] == "-0.000000002"


def test_a_name_with_a_comma_a_quote_or_a_brace_is_read_back_as_it_was() -> None:
    name = 'n{1}, "x"'
    (row,) = rows_of(export([used(HOUR, HOUR + 5, node_name=name)]))
    assert row["ResourceName"] == name
    assert row["ChargeDescription"] == f"share of node {name} held by job 1"


def test_parquet_says_the_same_as_csv() -> None:
    lines = focus_lines(sorted(MONTH, key=lambda row: row.start_at), ABOUT)
    data = b"".join(parquet_pieces(lines, focus_columns()))
    table = pq.read_table(io.BytesIO(data))
    assert table.column_names == list(focus_columns())
    assert sum(table["BilledCost"].to_pylist()) * 10**9 == sum(row.nanos for row in MONTH)
    for have, want in zip(table.to_pylist(), rows_of(export()), strict=True):
        for name in ("ListCost", "PricingQuantity", "ContractedUnitPrice", "x_GpuHours", "x_EnergyKWh"):
            assert (have[name] is None) == (want[name] == "")
            assert have[name] is None or have[name] == Decimal(want[name])
        for name in ("SkuPriceId", "x_AttemptId", "x_Late", "ResourceName", "Tags"):
            assert (have[name] or "") == want[name].removeprefix("'")
        assert have["ChargePeriodStart"].strftime("%Y-%m-%dT%H:%M:%SZ") == want["ChargePeriodStart"]
        if have["ListUnitPrice"] is not None:
            with localcontext() as exact:
                exact.prec = 60
                assert have["ListUnitPrice"] * have["PricingQuantity"] == have["ListCost"]


def test_a_file_without_charges_still_has_its_header() -> None:
    assert judge(export([])) == []
    assert pq.read_table(io.BytesIO(b"".join(parquet_pieces([], focus_columns())))).num_rows == 0


def test_a_large_file_comes_in_pieces() -> None:
    many = [used(HOUR + i, HOUR + i + 1, attempt=f"att_{i}") for i in range(2_000)]
    pieces = list(csv_pieces(focus_lines(many, ABOUT), focus_columns()))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 2 * PIECE_BYTES


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"1\.4, 1\.2, 1\.0"):
        focus_columns("1.1")


@settings(max_examples=50)
@given(
    rates=st.tuples(*[st.integers(0, 10**13)] * 3),
    start=st.integers(0, HOUR_US - 1),
    length=st.integers(1, HOUR_US),
    gpu_milli=st.integers(0, 16_000),
)
def test_quantity_times_unit_price_is_what_was_billed_but_for_what_the_ledger_rounds_down(
    rates: tuple[int, int, int], start: int, length: int, gpu_milli: int
) -> None:
    end = min(start + length, HOUR_US)
    nanos = sum(rate * end // HOUR_US - rate * start // HOUR_US for rate in rates)
    row = used(HOUR + start, HOUR + end, nanos=nanos, gpu_milli=gpu_milli, gpu_rate=rates[0],
               cpu_rate=rates[1], memory_rate=rates[2])  # fmt: skip
    (line,) = focus_lines([row], ABOUT)
    assert abs(line.product - nanos * 10**18) < 3 * 10**18 + 10**16
    if gpu_milli:
        assert line.quantity is not None
        assert line.quantity == line.gpu_hours
        assert abs(line.quantity - Fraction(gpu_milli * row.held_us * 10**15, 1000 * HOUR_US)) <= Fraction(
            1, 2
        )


# ------------------------------------------------------------------ the judge can fail


def change(column: str, value: str, match: Callable[[dict[str, str]], bool]) -> str:
    rows = rows_of(export())
    row = next(row for row in rows if match(row))
    row[column] = value
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


MUTATIONS = [
    ("BilledCost", ""), ("BilledCost", "1.5e3"), ("BilledCost", "2.400000015"), ("EffectiveCost", "0.1"),
    ("ListCost", "2.400000011"), ("ContractedCost", "3.05"), ("ListUnitPrice", "-1"), ("ListUnitPrice", ""),
    ("PricingQuantity", "2"), ("PricingQuantity", ""), ("PricingUnit", "hours"), ("PricingUnit", ""),
    ("ConsumedUnit", "gpu-hours"), ("ConsumedQuantity", ""), ("ChargeCategory", "Nonsense"),
    ("ChargeCategory", "Adjustment"), ("ChargeClass", "Late"), ("PricingCategory", "Spot"),
    ("PricingCategory", ""), ("ServiceCategory", "Compute"), ("ServiceName", ""),
    ("ServiceSubcategory", "Containers"), ("SkuId", ""), ("SkuId", "other"), ("SkuPriceId", ""),
    ("Tags", '{"a": {"b": 1}}'), ("Tags", "[1]"), ("SkuPriceDetails", '{"a": [1]}'),
    ("ChargePeriodStart", "2026-11-01 00:00:00"), ("ChargePeriodStart", "2026-12-24T00:00:00Z"),
    ("ChargePeriodEnd", "2026-10-01T00:00:00Z"), ("BillingPeriodStart", "2026-10-02T00:00:00Z"),
    ("BillingPeriodEnd", ""), ("BillingCurrency", ""), ("InvoiceIssuerName", ""), ("SubAccountType", ""),
    ("InvoiceId", "i-1"), ("RegionId", "NULL"), ("x_WasteCategory", "lost"), ("x_Project", "=1"),
    ("x_MeterConfidence", "unknown-price"), ("ResourceType", ""), ("ListUnitPrice", "1.5"),
    ("SkuPriceId", "costmodel/p@1"), ("ConsumedQuantity", "1.5"), ("x_GpuHours", "2"), ("x_Late", "maybe"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), MUTATIONS)
def test_the_judge_finds_a_broken_file(column: str, value: str) -> None:
    broken = change(column, value, lambda row: row["x_AttemptId"] == "att_1" and row["SkuPriceId"] != "")
    if (column, value) == ("SkuId", "other"):
        # Of one price there must be another row with the right one.
        broken = change(column, value, lambda row: row["x_AttemptId"] == "att_4")
    assert judge(broken) != []


def test_the_judge_finds_a_missing_and_a_misplaced_column() -> None:
    header, rest = export().split("\n", 1)
    names = header.split(",")
    assert judge(",".join([*names[1:], names[0]]) + "\n" + rest) == ["columns"]
    assert judge(",".join(names[:-1]) + "\n" + rest) == ["columns"]


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_as_a_formula_does(first: str) -> None:
    assert defused(f"{first}1") == f"'{first}1"
    assert defused(f"a{first}") == f"a{first}"
