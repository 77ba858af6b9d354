"""What became of commitments: of each hour's fee what was used and what was not, and what it covered.

Why     a discount that was paid for is spent whether it is used or not, so used and unused add up to the fees
        of the time, to the nano. What it covers is node time of the books, at the price that the books have:
        nothing of what jobs pay changes by it. A machine is known by the price it was booked at, so that one
        that is gone counts too.
Limits  documents are those in force now. A machine's hours are its cost over the list price of the hour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bursar.clock import HOUR_US, Instant
from bursar_policies.commitments import Hour, Usage, waterfall
from bursar_policies.compile import PriceTable
from bursar_policies.specs import CommitmentSpec
from bursard.reports.cost import ppm
from bursard.reports.focus import machine_of
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.reports.statement_words import percent_text
from bursard.store import ADJUSTMENTS, ChargeFilter, ChargeSum, Dim, Unposted, Views

_COLUMNS: Final = (
    Column("commitment", wrap=True), Column("type", drop=6), Column("provider", drop=7),
    Column("covers", wrap=True, drop=4), Column("fee", "money"), Column("used", "money", drop=2),
    Column("unused", "money"), Column("utilization", "percent"), Column("at_list", "money", drop=5),
    Column("saved", "money", drop=1), Column("saving", "percent", drop=3),
)  # fmt: skip


class Covered(NamedTuple):
    """A period, hour by hour. `eligible`: what all machines on demand of these providers cost at list."""

    hours: Mapping[int, Hour]
    eligible: int


class Commitments(NamedTuple):
    """In force, by name; what machines cost; and now: hours that have not passed are not told of."""

    named: Sequence[tuple[str, CommitmentSpec]]
    prices: PriceTable
    now: int


def covered(views: Views, period: Period, unposted: Unposted, about: Commitments) -> Covered:
    """Hold each hour's machines against the commitments; hours without machines have fees too."""
    providers = {spec.provider for _, spec in about.named}
    by_hour: dict[int, list[Usage]] = {}
    eligible = 0
    until = min(period.until, about.now - about.now % HOUR_US)
    for usage, hour in _usages(_node_hours(views, period, unposted), about.prices):
        if usage.provider in providers and hour < until:
            by_hour.setdefault(hour, []).append(usage)
            eligible += usage.nanos
    first = max(
        period.since + -period.since % HOUR_US, min((spec.start for _, spec in about.named), default=0)
    )
    hours = (waterfall(by_hour.get(hour, ()), about.named, hour) for hour in range(first, until, HOUR_US))
    return Covered(dict(zip(range(first, until, HOUR_US), hours, strict=True)), eligible)


NodeHours = Mapping[tuple[int, str], tuple[str, int]]


def _node_hours(views: Views, period: Period, unposted: Unposted) -> NodeHours:
    """By hour and node: what it is (`aws/r/type/on-demand`), and what its time cost."""
    query = ChargeFilter(since=period.since, until=period.until)
    by = [Dim.HOUR, Dim.NODE_ID, Dim.KIND, Dim.CLASS, Dim.PRICE]
    found: dict[tuple[int, str], tuple[str, int]] = {}
    for part in views.charge_sums(by, query, unposted):
        key, what = (int(part.keys[0]), str(part.keys[1])), _machine(part)
        if what:
            found[key] = (what, found.get(key, ("", 0))[1] + part.nanos)
    return found


def _machine(part: ChargeSum) -> str:
    kind, kept_as, price_id = map(str, part.keys[2:])
    if kind in ADJUSTMENTS or kept_as == "correction":
        return ""
    return machine_of(price_id)


def _usages(node_hours: NodeHours, prices: PriceTable) -> Iterator[tuple[Usage, int]]:
    rates: dict[tuple[str, int], int] = {}
    for (hour, node_id), (what, nanos) in node_hours.items():
        if (what, hour) not in rates:
            quote = prices.lookup_machine(*_parts(what), Instant(hour + HOUR_US - 1))
            rates[what, hour] = quote.list_nanos_per_hour if quote is not None else 0
        if (rate := rates[what, hour]) and nanos > 0:
            provider, region, instance_type, _ = _parts(what)
            yield Usage(node_id, provider, region, instance_type, nanos, rate), hour


def _parts(what: str) -> tuple[str, str, str, str]:
    provider, region, instance_type, market = what.split("/")
    return provider, region, instance_type, market


def commitments(views: Views, period: Period, currency: str, unposted: Unposted, about: Commitments) -> Page:
    """Each commitment over a period, and the total. `saved`: what was covered at list, less the fee."""
    found = covered(views, period, unposted, about)
    sums: dict[str, Counter[str]] = {name: Counter() for name, _ in about.named}
    for hour in found.hours.values():
        for spent in hour.spent:
            sums[spent.commitment].update(fee=spent.fee, used=spent.used, unused=spent.unused)
        for piece in hour.pieces:
            sums[piece.commitment].update(at_list=piece.nanos)
    whole = Counter[str]()
    for one in sums.values():
        whole.update(one)
    rows = [
        (name, spec.of_type, spec.provider, _covers(spec), *_amounts(sums[name]))
        for name, spec in about.named
    ]
    return Page(
        kind="commitments",
        period=period,
        currency=currency,
        columns=_COLUMNS,
        rows=tuple(rows),
        total=("total", "", "", "", *_amounts(whole)),
        notes=tuple(_notes(found, whole)),
    )


def _amounts(sums: Counter[str]) -> tuple[Cell, ...]:
    fee, at_list = sums["fee"], sums["at_list"]
    saved = at_list - fee
    return (
        fee, sums["used"], sums["unused"], ppm(sums["used"], fee), at_list, saved, ppm(saved, at_list),
    )  # fmt: skip


def _covers(spec: CommitmentSpec) -> str:
    if spec.quantity:
        return f"{spec.quantity} x {spec.instance_type} in {spec.region}"
    types = f"{len(spec.rates)} types"
    return f"{types} of {spec.family} in {spec.region}" if spec.family else types


def _notes(found: Covered, whole: Counter[str]) -> Iterator[str]:
    share = ppm(whole["at_list"], found.eligible)
    if share is not None:
        effective = ppm(whole["at_list"] - whole["fee"], found.eligible)
        yield (
            f"Coverage: {percent_text(share)} of what machines on demand cost at list; of all of it"
            f" {percent_text(effective)} is saved (effective saving rate)."
        )
    else:
        yield "No machine ran on demand at a provider of these commitments."
    yield "Used and unused are the fee, to the nano. Unused is of no job, and what jobs pay stays as it is."
    yield "Hours that have passed, by the documents in force now."
