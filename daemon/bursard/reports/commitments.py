"""What became of commitments: of each hour's fee what was used and what was not, and what it covered.

Why     a discount that was paid for is spent whether it is used or not, so used and unused add up to the fees
        of the time, to the nano. What it covers is node time of the books, at the price that the books have:
        nothing of what jobs pay changes by it. A machine is known by the price it was booked at, so that one
        that is gone counts too.
Dates   each hour is told by the documents that were in force in it, so a new document changes no hour that
        was told before. The first of a name counts from its start on, since what it promises was bought
        before anybody wrote it down; but in no month that was published when it was applied: that was
        closed, or whose day for what comes late was over.
Hours   a machine's hours are what each part of its cost is of the list price that this part was booked at: an
        hour in which the price changed, or whose job pays the price of its placement, is a whole one too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

from bursar.clock import HOUR_US, Instant
from bursar_policies.commitments import Hour, Promise, Usage, waterfall
from bursar_policies.compile import FOREVER, PriceTable
from bursar_policies.specs import CommitmentSpec
from bursard.reports.cost import ppm
from bursard.reports.focus import machine_of
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period, month_of
from bursard.reports.statement_words import percent_text
from bursard.store import ADJUSTMENTS, LATE_AFTER_US, ChargeFilter, ChargeSum, Dim, Unposted, Views

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


class Change(NamedTuple):
    """A document was applied, or is in force no more (`spec` None). `at`: since when; `dated`: it says so.
    `closed`: before this instant all months were closed when it was made.
    """

    name: str
    version: int
    at: int
    spec: CommitmentSpec | None
    dated: bool = False
    closed: int = 0


def promises(changes: Iterable[Change]) -> tuple[Promise, ...]:
    """What was in force when, by name and time. `changes`: in the order in which they were made."""
    found: dict[str, list[Promise]] = {}
    for one in changes:
        since = one.at - one.at % HOUR_US
        if one.spec is None:
            since += HOUR_US * (one.at > since)  # it was in force for a part of that hour
        elif one.name not in found and not one.dated:
            open_since = month_of(max(one.at - LATE_AFTER_US, 0))[0]
            since = min(since, max(one.spec.start, open_since))
        since = max(since, one.closed)  # also by a clock that was set back
        mine = found.setdefault(one.name, [])
        mine[:] = [each._replace(until=min(each.until, since)) for each in mine if each.since < since]
        if one.spec is not None:
            mine.append(Promise(one.name, one.version, one.spec, since, FOREVER))
    return tuple(one for name in sorted(found) for one in found[name])


class Commitments(NamedTuple):
    """All there were; what machines cost; and now: hours that have not passed are not told of."""

    promises: Sequence[Promise]
    prices: PriceTable
    now: int

    def within(self, period: Period) -> tuple[Sequence[Promise], range]:
        """Those of a period, and starts of its hours that have passed, from the first of any of them on."""
        until = min(period.until, self.now - self.now % HOUR_US)
        since = period.since + -period.since % HOUR_US
        hours = [(one, one.hours(since, until)) for one in self.promises]
        some = [(one, each) for one, each in hours if each]
        return [one for one, _ in some], range(
            min((each[0] for _, each in some), default=until), until, HOUR_US
        )


def covered(views: Views, period: Period, unposted: Unposted, about: Commitments) -> Covered:
    """Hold each hour's machines against the commitments; hours without machines have fees too."""
    mine, hours = about.within(period)
    providers = {one.spec.provider for one in mine}
    by_hour: dict[int, list[Usage]] = {}
    eligible = 0
    for usage, hour in _usages(_node_hours(views, period, unposted), about.prices):
        if usage.provider in providers and hour < hours.stop:
            by_hour.setdefault(hour, []).append(usage)
            eligible += usage.nanos
    found = {
        hour: waterfall(
            by_hour.get(hour, ()),
            [(one.key, one.spec) for one in mine if one.since <= hour < one.until],
            hour,
        )
        for hour in hours
    }
    return Covered(found, eligible)


NodeHours = Mapping[tuple[int, str], tuple[str, Mapping[str, int]]]


def _node_hours(views: Views, period: Period, unposted: Unposted) -> NodeHours:
    """By hour and node: what it is (`aws/r/type/on-demand`), and what its time cost, by the id of a price."""
    query = ChargeFilter(since=period.since, until=period.until)
    by = [Dim.HOUR, Dim.NODE_ID, Dim.KIND, Dim.CLASS, Dim.PRICE]
    found: dict[tuple[int, str], tuple[str, Counter[str]]] = {}
    for part in views.charge_sums(by, query, unposted):
        key, what = (int(part.keys[0]), str(part.keys[1])), _machine(part)
        if what:
            costs = found[key][1] if key in found else Counter[str]()
            costs[str(part.keys[4])] += part.nanos
            found[key] = (what, costs)
    return found


def _machine(part: ChargeSum) -> str:
    kind, kept_as, price_id = map(str, part.keys[2:])
    if kind in ADJUSTMENTS or kept_as == "correction":
        return ""
    return machine_of(price_id)


def _usages(node_hours: NodeHours, prices: PriceTable) -> Iterator[tuple[Usage, int]]:
    rates = _ListRates(prices)
    for (hour, node_id), (what, costs) in node_hours.items():
        nanos = sum(costs.values())
        each = [(part, rates.of(what, price_id, hour)) for price_id, part in costs.items() if part > 0]
        if nanos <= 0 or not all(rate for _, rate in each):
            continue
        hours = sum((Fraction(part, rate) for part, rate in each), Fraction(0))
        provider, region, instance_type, _ = _parts(what)
        yield Usage(node_id, provider, region, instance_type, nanos, max(round(nanos / hours), 1)), hour


class _ListRates:
    """What a whole hour of a machine cost at list, by the price that it was booked at."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices
        self._booked: dict[str, dict[str, int]] = {}
        self._then: dict[tuple[str, int], int] = {}

    def of(self, what: str, price_id: str, hour: int) -> int:
        """Nanos; 0: it is not known. Of a price that no document has any more, that of the hour's end."""
        if what not in self._booked:
            known = self._prices.history(*_parts(what))
            self._booked[what] = {quote.price_id: quote.list_nanos_per_hour for _, _, quote in known}
        if rate := self._booked[what].get(price_id, 0):
            return rate
        if (what, hour) not in self._then:
            quote = self._prices.lookup_machine(*_parts(what), Instant(hour + HOUR_US - 1))
            self._then[what, hour] = quote.list_nanos_per_hour if quote is not None else 0
        return self._then[what, hour]


def _parts(what: str) -> tuple[str, str, str, str]:
    provider, region, instance_type, market = what.split("/")
    return provider, region, instance_type, market


def commitments(views: Views, period: Period, currency: str, unposted: Unposted, about: Commitments) -> Page:
    """Each commitment over a period, and the total. `saved`: what was covered at list, less the fee."""
    found = covered(views, period, unposted, about)
    mine, _ = about.within(period)
    names = {one.key: one.name for one in mine}
    newest = {one.name: one.spec for one in mine}
    sums: dict[str, Counter[str]] = {name: Counter() for name in newest}
    for hour in found.hours.values():
        for spent in hour.spent:
            told = {"fee": spent.fee, "used": spent.used, "unused": spent.unused}
            sums[names[spent.commitment]].update(told)
        for piece in hour.pieces:
            sums[names[piece.commitment]].update(at_list=piece.nanos)
    whole = Counter[str]()
    for one in sums.values():
        whole.update(one)
    rows = [
        (name, spec.of_type, spec.provider, _covers(spec), *_amounts(sums[name]))
        for name, spec in sorted(newest.items())
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
    yield "Hours that have passed, each by the documents that were in force in it."
