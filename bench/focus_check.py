"""A FOCUS 1.2 file against the rule model of the standard, row by row; and how fast a large one is written.

Run     BURSAR_BENCH_DATA=DIR python bench/focus_check.py FILE.csv   (DIR/focus/model-1.2.json: the rules)
        python bench/focus_check.py --rows 1000000                   (writes so many, as CSV and as Parquet)
Output  rules that were broken, each with how often and the first row; exit code 1 when there are any. Of the
        second: seconds of CPU, the peak of memory, and bytes, for each form.
Limits  rules that no file can be held to (what a provider publishes) have no check in the model.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import Device, NodeFacts
from bursard.reports.files import FORMATS
from bursard.reports.focus import FocusContext, focus_lines
from bursard.reports.focus_columns import focus_columns
from bursard.store import ChargeRow

Row = Mapping[str, str]
Rule = Mapping[str, Any]
_UNIT = re.compile(r"[A-Z0-9][A-Za-z0-9 ]*(-(Hours|Days|Months|Seconds|Minutes|Years))?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_MISPUT = frozenset(
    [
        "InvoiceId-C-005-C",
        "CommitmentDiscountCategory-C-005-M",
        "CommitmentDiscountStatus-C-003-C",
        "CommitmentDiscountStatus-C-004-C",
        "CommitmentDiscountStatus-C-005-M",
        "CapacityReservationStatus-C-004-C",
    ]
)
"""Rules of the model that lost their condition: invoices, commitments and reservations asked of everybody."""
START = 1_793_487_600 * SECOND_US
NODES = 200


# ------------------------------------------------------------------ the rules


class Model:
    """The standard's rules, each asked of a row."""

    def __init__(self, path: Path) -> None:
        self._rules: Mapping[str, Rule] = json.loads(path.read_text())["ModelRules"]
        self._distinct: dict[tuple[str, str], dict[str, set[str]]] = {}

    def must(self) -> Iterator[tuple[str, Rule]]:
        """Rules that bind, but for those that only gather others."""
        for name, rule in self._rules.items():
            criteria = rule["ValidationCriteria"]
            asked = criteria["Requirement"].get("CheckFunction", "")
            if (
                name not in _MISPUT
                and criteria["Keyword"] in ("MUST", "MUST NOT")
                and asked
                and not self._gathers(criteria)
            ):
                yield name, criteria

    def _gathers(self, criteria: Rule) -> bool:
        items = criteria["Requirement"].get("Items", ())
        return bool(items) and all(item["CheckFunction"] == "CheckModelRule" for item in items)

    def conditions(self) -> dict[str, list[Rule]]:
        """Of each rule, the conditions of the rules that gather it: it binds where all of them hold."""
        found: dict[str, list[Rule]] = {}
        for rule in self._rules.values():
            criteria = rule["ValidationCriteria"]
            for item in criteria["Requirement"].get("Items", ()):
                if item["CheckFunction"] == "CheckModelRule" and criteria["Condition"]:
                    found.setdefault(item["ModelRuleId"], []).append(criteria["Condition"])
        return found

    def holds(self, check: Rule, row: Row) -> bool:
        """Is one check true of a row?"""
        kind = check.get("CheckFunction", "")
        if not kind:
            return True
        if kind in ("AND", "OR"):
            every = (self.holds(item, row) for item in check["Items"])
            return all(every) if kind == "AND" else any(every)
        if kind == "CheckModelRule":
            return self.holds(self._rules[check["ModelRuleId"]]["ValidationCriteria"]["Requirement"], row)
        if kind in ("CheckSameValue", "CheckNotSameValue"):
            same = row.get(check["ColumnAName"], "") == row.get(check["ColumnBName"], "")
            return bool(same == (kind == "CheckSameValue"))
        if kind == "CheckDistinctCount":
            return self._distinct_holds(check, row)
        if kind == "ColumnByColumnEqualsColumnValue":
            return _product_holds(check, row)
        return _value_holds(kind, check, row)

    def _distinct_holds(self, check: Rule, row: Row) -> bool:
        pair = (check["ColumnAName"], check["ColumnBName"])
        one, other = (row.get(name, "") for name in pair)
        if not one:
            return True
        seen = self._distinct.setdefault(pair, {}).setdefault(one, set())
        seen.add(other)
        return len(seen) <= int(check["ExpectedCount"])


def _product_holds(check: Rule, row: Row) -> bool:
    values = [row.get(check[name], "") for name in ("ColumnAName", "ColumnBName", "ResultColumnName")]
    if not all(values):
        return True
    one, other, product = map(Decimal, values)
    return one * other == product


def _value_holds(kind: str, check: Rule, row: Row) -> bool:
    name = check.get("ColumnName", check.get("CheckCondition", ""))  # as it is written in two rules
    value = row.get(name, "")
    if kind == "ColumnPresent":
        return name in row
    if kind in ("CheckValue", "CheckNotValue"):
        wanted = check["Value"]
        same = value == ("" if wanted is None else str(wanted))
        if isinstance(wanted, int) and _NUMBER.fullmatch(value):
            same = Decimal(value) == wanted  # `0.000000000` is 0
        return bool(same) == (kind == "CheckValue")
    if not value:
        return True
    if kind == "CheckGreaterOrEqualThanValue":
        return Decimal(value) >= Decimal(str(check["Value"]))
    if kind in ("TypeDecimal", "FormatNumeric", "CheckDecimalValue"):
        return bool(_NUMBER.fullmatch(value))
    if kind in ("TypeDateTime", "FormatDateTime"):
        return bool(_TIME.fullmatch(value))
    if kind == "FormatUnit":
        return bool(_UNIT.fullmatch(value))
    if kind in ("FormatCurrency", "CheckNationalCurrency"):
        return bool(re.fullmatch("[A-Z]{3}", value))
    if kind == "FormatKeyValue":
        found = json.loads(value)
        return isinstance(found, dict) and not any(isinstance(one, dict | list) for one in found.values())
    return kind in ("TypeString", "FormatString")


def check(path: Path, model: Model) -> int:
    """Print what is broken."""
    broken: Counter[str] = Counter()
    first: dict[str, int] = {}
    rules, conditions = list(model.must()), model.conditions()
    prices: dict[str, tuple[str, str]] = {}
    with localcontext() as exact, path.open(newline="") as stream:
        exact.prec = 80
        count = 0
        for count, row in enumerate(csv.DictReader(stream), 1):
            for name, criteria in rules:
                asked = [*conditions.get(name, ()), criteria["Condition"]]
                if all(model.holds(one, row) for one in asked if one) and not model.holds(
                    criteria["Requirement"], row
                ):
                    broken[name] += 1
                    first.setdefault(name, count)
            if row.get("SkuPriceId"):
                said = (row["ListUnitPrice"], row["PricingUnit"])
                if prices.setdefault(row["SkuPriceId"], said) != said:
                    broken["a SkuPriceId has one unit price"] += 1
                    first.setdefault("a SkuPriceId has one unit price", count)
    for name, times in broken.most_common():
        wording = next((one["MustSatisfy"] for rule, one in rules if rule == name), "")
        print(f"{name}: {times} rows, first {first[name]}: {wording}")
    print(f"{count} rows, {len(rules)} rules, {len(broken)} broken")
    return bool(broken)


# ------------------------------------------------------------------ a large month


def charges(count: int) -> Iterator[ChargeRow]:
    """Of 200 nodes, each with eight attempts and some idle time in every hour."""
    made, hour = 0, 0
    while True:
        start = START + hour * HOUR_US
        for node in range(NODES):
            for rank in range(9):
                if made == count:
                    return
                made += 1
                yield _charge(start, node, rank, hour)
        hour += 1


def _charge(start: int, node: int, rank: int, hour: int) -> ChargeRow:
    idle = rank == 8
    job = 0 if idle else 1 + (node * 8 + rank) * 40 + hour // 24
    return ChargeRow(
        1, "idle" if idle else "usage", f"node_{node:04d}", f"rack-{node:03d}", "onprem",
        "" if idle else f"att_{job:08d}", "" if idle else f"job_{job:08d}", job, 0, start, start + HOUR_US,
        HOUR_US, 1_362_000_001 if not idle else 400_000_003, 1_157_700_001, 136_200_000, 68_100_000,
        "costmodel/rack-a@3", "" if idle else f"team-{node % 40}/p", "" if idle else f"u{rank}", "", "", "",
        "{}", 0, 1000, 1, 12_000, 128 << 30, 1_157_700_001, 136_200_000, 68_100_000, 0, start + HOUR_US,
    )  # fmt: skip


def measure(count: int) -> None:
    """Write a file of so many rows in each form, to nowhere."""
    devices = tuple(Device(i, f"g{i}", "H100", 80 << 30) for i in range(8))
    nodes = {
        f"node_{node:04d}": NodeFacts(
            name=f"rack-{node:03d}", cpu_milli=96_000, memory_bytes=1 << 40, devices=devices, pool="onprem"
        )
        for node in range(NODES)
    }
    about = FocusContext(cluster_id="c1", provider="Bursar c1", currency="USD", nodes=nodes)
    for form, write in FORMATS.items():
        began = time.process_time()
        size = sum(map(len, write(focus_lines(charges(count), about), focus_columns())))
        took = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{form}: {count} rows in {took:.1f} s of CPU, {size / 1e6:.0f} MB, peak {peak} MiB")


def main() -> int:
    """Check a file, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    asked = parser.parse_args()
    if asked.rows:
        measure(asked.rows)
    if asked.file is None:
        return 0
    folder = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "focus" / "model-1.2.json"
    if not folder.exists():
        sys.exit(f"no rule model at {folder}; set BURSAR_BENCH_DATA to the folder that holds focus/")
    return check(asked.file, Model(folder))


if __name__ == "__main__":
    sys.exit(main())
