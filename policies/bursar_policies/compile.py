"""Price documents compiled into tables: what a machine costs per hour, at any instant.

Owns    the rate of an owned node (`node_rate`) and the lookup of every price (`PriceTable`).
Input   documents with the instant each took effect. Output: `PriceQuote`s, or None for *unknown*.
Why     prices are dated facts: a lookup at a past instant must give what it gave then, so all
        versions are kept and a later one never reaches back before its own effect.

Arithmetic is exact (Fraction) and rounded once, half to even, into int nanos per hour.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Final

import msgspec

from bursar.clock import HOUR_US, Instant, format_instant
from bursar.model import NodeFacts, ShareRates
from bursar.model.check import GPUS_MAX
from bursar.money import NANOS_MAX, split_largest_remainder
from bursar_policies.specs import CostModelSpec, Document, Power, PriceBookSpec, PriceRow, Weights
from bursar_policies.tariffs import mean_over, next_change, price_at

HOURS_PER_YEAR: Final = 8760
HOURS_PER_MONTH: Final = 730
DEFAULT_WEIGHTS: Final = Weights(Decimal("0.85"), Decimal("0.10"), Decimal("0.05"))
"""Shares of a GPU machine's price; GPUs are about 85 % of an 8-GPU node's purchase price."""
PARTS: Final = ("capex", "energy", "colo", "support", "staff")
"""Parts of the cost of an owned node, in the order of `NodeRate.parts`."""
FOREVER: Final = 2**63 - 1


class CostPart(msgspec.Struct, frozen=True):
    """One part of a node's cost per hour, for `explain`."""

    name: str
    nanos_per_hour: int


class NodeRate(msgspec.Struct, frozen=True):
    """What an owned node costs per hour.

    Attributes:
        parts: capex, energy, colo, support, staff; they sum to `capacity_nanos_per_hour`.
        capacity_nanos_per_hour: cost over all hours: what is spent whether used or not. This is what
            the node costs its site.
        standard_nanos_per_hour: cost over the hours that can be sold (practical capacity). This
            is what jobs are charged: it does not rise when demand falls.
        components: `standard_nanos_per_hour` split into GPU, CPU and memory.
        cost: `capacity_nanos_per_hour` split likewise.
        mean_nanos_per_hour: the capacity rate in the mean of a week, where the tariff goes by the hour.
    """

    parts: tuple[CostPart, ...]
    capacity_nanos_per_hour: int
    standard_nanos_per_hour: int
    components: ShareRates
    cost: ShareRates
    currency: str
    mean_nanos_per_hour: int

    @property
    def marginal_nanos_per_hour(self) -> int:
        """What an hour of use adds to what is spent anyway: the energy."""
        return next(part.nanos_per_hour for part in self.parts if part.name == "energy")

    def full_absorption_nanos_per_hour(self, utilization: Fraction) -> int:
        """The rate at which the hours really sold, a share of all, would have paid for the node."""
        if utilization <= 0:
            raise ValueError("utilization must be more than 0: no hours sold cannot pay anything")
        return round(self.capacity_nanos_per_hour / utilization)


class Applied(msgspec.Struct, frozen=True):
    """A document and when it held.

    Attributes:
        version: counts the versions of one (kind, name), from 1.
        effective_from: 0 for since ever (the shipped catalogue).
        effective_until: when it was removed; `FOREVER` while it was not. A newer version of the
            same name ends it by itself.
    """

    document: Document
    version: int = 1
    effective_from: int = 0
    effective_until: int = FOREVER


class PriceQuote(msgspec.Struct, frozen=True):
    """The price of one machine at one instant, and where it comes from.

    Attributes:
        rate_nanos_per_hour: the *charge* rate: what jobs pay for all of the machine.
        components: the charge rate split by component; they sum to it, exactly.
        price_id: `pricebook/<name>@<version>#<key>` or `costmodel/<name>@<version>`; names the
            same fact for ever.
        stable_id: what is priced, free of documents' versions: the same through every change of price.
        cost: the *cost* rate by component: what the machine costs its site.
        list_nanos_per_hour: before any discount: of any other market the on-demand price; 0: unknown.
        marginal_nanos_per_hour: what an hour of use adds to what is spent anyway.
        as_of: date of the fact. valid_until: `FOREVER` when no end is known.
        parts: for `explain`, of cost models only.
        mean_nanos_per_hour: the cost rate in the mean of a week, of a tariff by the hour; 0 of others.
    """

    rate_nanos_per_hour: int
    currency: str
    price_id: str
    source: str
    as_of: Instant
    valid_from: Instant
    valid_until: Instant
    components: ShareRates
    cost: ShareRates
    stable_id: str
    list_nanos_per_hour: int
    marginal_nanos_per_hour: int
    parts: tuple[CostPart, ...] = ()
    mean_nanos_per_hour: int = 0

    @property
    def effective_nanos_per_hour(self) -> int:
        """What an hour costs once purchases are spread over their life: the cost rate."""
        return self.cost.total


class Offer(msgspec.Struct, frozen=True):
    """A machine that can be rented, with its price.

    Attributes:
        per_gpu_nanos_per_hour: rounded down; 0 without GPUs.
        cpu_milli, memory_bytes: 0 when the price books do not say.
    """

    provider: str
    region: str
    instance_type: str
    market: str
    quote: PriceQuote
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu_type: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0

    @property
    def per_gpu_nanos_per_hour(self) -> int:
        """Price per GPU and hour."""
        return self.quote.rate_nanos_per_hour // self.gpu_count if self.gpu_count else 0


# ------------------------------------------------------------------ owned nodes


def node_rate(
    spec: CostModelSpec,
    gpus: Sequence[tuple[str, int]] = (),
    *,
    has_memory: bool = True,
    tariff_nanos: int | None = None,
) -> NodeRate:
    """The cost per hour of one node of a pool.

    Args:
        spec: the pool's cost model.
        gpus: (type, count) of the node's devices; they add what `spec.gpus` says of them.
        has_memory: False gives memory no share (a node that reports none).
        tariff_nanos: what a kWh costs now, of a tariff by the hour; without it the mean of a week.

    Returns:
        Straight-line capex over the useful life, energy at the load factor, rent by power,
        support and staff; `standard = capacity / practical_capacity`, at the mean of a week's tariff.
    """
    capex, gpu_capex, _ = _purchase(spec, gpus)
    exact = _parts(spec, gpus, tariff_nanos)
    # Documents in force since before larger rates were refused.
    capacity = min(round(sum(exact, Fraction(0))), NANOS_MAX)
    mean = capacity
    if tariff_nanos is not None:
        mean = min(round(sum(_parts(spec, gpus), Fraction(0))), NANOS_MAX)
    standard = min(round(mean / Fraction(spec.practical_capacity)), NANOS_MAX)
    parts = split_largest_remainder(capacity, _integers(exact))
    has_gpu = any(count for _, count in gpus)
    weights = spec.component_weights or _capex_weights(capex, gpu_capex)
    return NodeRate(
        tuple(CostPart(name, nanos) for name, nanos in zip(PARTS, parts, strict=True)),
        capacity,
        standard,
        split_components(standard, weights, has_gpu=has_gpu, has_memory=has_memory),
        split_components(capacity, weights, has_gpu=has_gpu, has_memory=has_memory),
        spec.node_capex.currency,
        mean,
    )


def dearest_rate(spec: CostModelSpec) -> int:
    """Nanos per hour that jobs would pay for a node of the pool with as many of its dearest devices as a node
    may have. It may be more than a rate can be.
    """
    kinds = [((device.gpu_type, GPUS_MAX),) for device in spec.gpus]
    most = max(spec.power.hours) if spec.power is not None and spec.power.hours else None
    costs = (sum(_parts(spec, gpus, most), Fraction(0)) for gpus in ((), *kinds))
    return round(max(costs) / Fraction(spec.practical_capacity))


def _parts(
    spec: CostModelSpec, gpus: Sequence[tuple[str, int]], tariff_nanos: int | None = None
) -> tuple[Fraction, ...]:
    """Nanos per hour of each of `PARTS`."""
    capex, _, watts = _purchase(spec, gpus)
    network = capex * (1 + Fraction(spec.network))
    life_hours = Fraction(spec.useful_life_us, HOUR_US)
    kilowatts = Fraction(watts, 1000)
    energy = Fraction(0)
    if spec.power is not None:
        load = Fraction(spec.power.load_factor) * Fraction(spec.power.pue)
        energy = kilowatts * load * (spec.power.tariff.nanos if tariff_nanos is None else tariff_nanos)
    staff = Fraction(0)
    if spec.salary is not None and spec.nodes_per_fte:
        staff = Fraction(spec.salary.nanos, spec.nodes_per_fte * HOURS_PER_YEAR)
    return (
        network * (1 - Fraction(spec.residual)) / life_hours,
        energy,
        kilowatts * (spec.colo.nanos if spec.colo else 0) / HOURS_PER_MONTH,
        Fraction(spec.support) * capex / HOURS_PER_YEAR,
        staff,
    )


def _purchase(spec: CostModelSpec, gpus: Sequence[tuple[str, int]]) -> tuple[Fraction, Fraction, int]:
    """Capex of the node, the part its listed GPUs add, and its watts."""
    by_type = {device.gpu_type: device for device in spec.gpus}
    added, watts = 0, spec.power.max_watts if spec.power else 0
    for gpu_type, count in gpus:
        device = by_type.get(gpu_type) or by_type.get("other")
        if device is not None:
            added += device.capex.nanos * count
            watts += device.max_watts * count
    return Fraction(spec.node_capex.nanos + added), Fraction(added), watts


def _capex_weights(capex: Fraction, gpu_capex: Fraction) -> Weights:
    """Weights by what the GPUs cost in the purchase; CPU and memory share the rest two to one."""
    if not gpu_capex:
        return DEFAULT_WEIGHTS
    # A millionth is far below what a purchase price is known to.
    gpu = Decimal(round(gpu_capex / capex * 1_000_000)) / 1_000_000
    rest = 1 - gpu
    return Weights(gpu, rest * 2 / 3, rest / 3)


def split_components(
    rate_nanos_per_hour: int, weights: Weights | None, *, has_gpu: bool, has_memory: bool = True
) -> ShareRates:
    """Split a machine's rate over the components it has; the parts sum to the rate, exactly."""
    chosen = weights or DEFAULT_WEIGHTS
    gpu, cpu, memory = _integers(
        (
            Fraction(chosen.gpu) if has_gpu else Fraction(0),
            Fraction(chosen.cpu),
            Fraction(chosen.memory) if has_memory else Fraction(0),
        )
    )
    if gpu + cpu + memory == 0:
        cpu = 1  # every machine has CPUs: somebody must carry the price
    return ShareRates(*split_largest_remainder(rate_nanos_per_hour, (gpu, cpu, memory)))


def _integers(values: Sequence[Fraction]) -> list[int]:
    """The values as integers in the same proportion."""
    common = lcm(*(value.denominator for value in values))
    return [int(value * common) for value in values]


# ------------------------------------------------------------------ the table


CloudKey = tuple[str, str, str, str]
"""(provider, region, instance_type, market)."""


class _Fact:
    """One price row or cost model in one document version, with the time it can hold."""

    __slots__ = ("applied", "end", "priority", "quotes", "row", "start")

    def __init__(self, applied: Applied, row: PriceRow | None, end: int) -> None:
        valid_from = row.valid_from if row else 0
        valid_until = (row.valid_until if row else 0) or FOREVER
        self.applied = applied
        self.row = row
        self.start = max(applied.effective_from, valid_from)
        self.end = min(end, valid_until)
        name = applied.document.name
        self.priority = (valid_from, applied.effective_from, applied.version, name)
        self.quotes: dict[tuple[tuple[tuple[str, int], ...], bool, int | None], PriceQuote] = {}

    @property
    def power(self) -> Power | None:
        """Of a cost model that says it."""
        spec = self.applied.document.spec
        return spec.power if isinstance(spec, CostModelSpec) else None

    def tariff_at(self, at: int) -> int | None:
        """What a kWh costs at an instant, of a tariff by the hour; None of any other."""
        power = self.power
        return price_at(power, at) if power is not None and power.hours else None


class _Series:
    """The facts of one key cut into segments, so that a lookup is one bisection."""

    __slots__ = ("starts", "winners")

    def __init__(self, facts: list[_Fact]) -> None:
        self.starts: list[int] = []
        self.winners: list[_Fact | None] = []
        pending = sorted(facts, key=lambda fact: fact.start)
        cuts = sorted({fact.start for fact in facts} | {fact.end for fact in facts})
        # Newest first: a heap of what has begun, ordered by falling priority.
        ranks = {
            id(fact): rank for rank, fact in enumerate(sorted(facts, key=lambda f: f.priority, reverse=True))
        }
        begun: list[tuple[int, _Fact]] = []
        at = 0
        for cut in cuts:
            while at < len(pending) and pending[at].start <= cut:
                heapq.heappush(begun, (ranks[id(pending[at])], pending[at]))
                at += 1
            while begun and begun[0][1].end <= cut:
                heapq.heappop(begun)
            winner = begun[0][1] if begun else None
            if not self.winners or self.winners[-1] is not winner:
                self.starts.append(cut)
                self.winners.append(winner)

    def at(self, instant: int) -> _Fact | None:
        index = bisect_right(self.starts, instant) - 1
        return self.winners[index] if index >= 0 else None

    def segments(self) -> Iterator[tuple[int, int, _Fact]]:
        ends = [*self.starts[1:], FOREVER]
        for start, end, fact in zip(self.starts, ends, self.winners, strict=True):
            if fact is not None:
                yield start, end, fact


class PriceTable:
    """All prices, by machine and time. Immutable once built; build a new one when a document comes.

    A price that nobody stated is None, *unknown*, and never 0: in particular a spot machine
    without a spot price does not fall back to the on-demand price.
    """

    def __init__(self, applied: Iterable[Applied] = ()) -> None:
        """Compile documents; kinds other than PriceBook and CostModel are passed over."""
        cloud: dict[CloudKey, list[_Fact]] = {}
        pools: dict[str, list[_Fact]] = {}
        for entry, end in _version_ends(applied):
            spec = entry.document.spec
            if isinstance(spec, CostModelSpec):
                pools.setdefault(spec.pool, []).append(_Fact(entry, None, end))
            elif isinstance(spec, PriceBookSpec):
                for row in spec.prices:
                    key = (row.provider, row.region, row.instance_type, row.market)
                    cloud.setdefault(key, []).append(_Fact(entry, row, end))
        self._shapes = _shapes(fact.row for facts in cloud.values() for fact in facts if fact.row)
        self._cloud = {key: _Series(_alive(facts)) for key, facts in sorted(cloud.items())}
        self._pools = {pool: _Series(_alive(facts)) for pool, facts in pools.items()}
        shapes = {shape[2] for shape in self._shapes.values()}
        models = (fact.applied.document.spec for facts in pools.values() for fact in facts)
        owned = {gpu.gpu_type for spec in models if isinstance(spec, CostModelSpec) for gpu in spec.gpus}
        self._gpu_types = frozenset(shapes | owned) - {"", "other"}
        series = (*self._cloud.values(), *self._pools.values())
        self._by_hour = [
            self._pools[pool]
            for pool, facts in pools.items()
            if any(fact.power is not None and fact.power.hours for fact in facts)
        ]
        """Pools whose price changes with the hour."""
        self._changes = sorted({start for one in series for start in one.starts})

    def gpu_types(self) -> frozenset[str]:
        """Every kind of GPU that a machine or a cost model names, at whatever time."""
        return self._gpu_types

    def next_change(self, after: int) -> int:
        """The first instant after this one at which any price begins or ends; `FOREVER` when none does."""
        index = bisect_right(self._changes, after)
        coming = self._changes[index] if index < len(self._changes) else FOREVER
        tariffs = (fact.power for one in self._by_hour if (fact := one.at(after)) is not None)
        return min([coming, *(next_change(power, after) for power in tariffs if power is not None)])

    def lookup(self, facts: NodeFacts, at: Instant) -> PriceQuote | None:
        """The price of a node at an instant: of its machine type, else of its pool's cost model."""
        if facts.instance_type:
            quote = self._lookup_zone(facts, at) or self.lookup_machine(
                facts.provider, facts.region, facts.instance_type, facts.market, at
            )
            if quote is not None or facts.provider != "onprem":
                return quote
        counts: dict[str, int] = {}
        for device in facts.devices:
            counts[device.type] = counts.get(device.type, 0) + 1
        gpus = tuple(sorted(counts.items()))
        return self.lookup_pool(facts.pool, at, gpus, has_memory=facts.memory_bytes > 0)

    def _lookup_zone(self, facts: NodeFacts, at: Instant) -> PriceQuote | None:
        """A price that a zone has of its own, as spot machines may: it goes before the region's."""
        series = self._cloud.get((facts.provider, facts.zone, facts.instance_type, facts.market))
        fact = series.at(at) if series and facts.zone != facts.region else None
        if fact is None or fact.row is None:
            return None
        quote = self._machine_quote(fact, at)
        if quote.list_nanos_per_hour:
            return quote
        listed = self._list_rate(fact.row, facts.region, quote.currency, at)
        return msgspec.structs.replace(quote, list_nanos_per_hour=listed)

    def lookup_machine(
        self, provider: str, region: str, instance_type: str, market: str, at: Instant
    ) -> PriceQuote | None:
        """The price of a cloud machine type at an instant."""
        series = self._cloud.get((provider, region, instance_type, market))
        fact = series.at(at) if series else None
        return None if fact is None else self._machine_quote(fact, at)

    def lookup_pool(
        self,
        pool: str,
        at: Instant,
        gpus: tuple[tuple[str, int], ...] = (),
        *,
        has_memory: bool = True,
    ) -> PriceQuote | None:
        """The price of a node of an owned pool at an instant; `gpus` are (type, count) pairs."""
        series = self._pools.get(pool)
        fact = series.at(at) if series else None
        if fact is None:
            return None
        tariff_nanos = fact.tariff_at(at)
        quote = fact.quotes.get((gpus, has_memory, tariff_nanos))
        if quote is None:
            quote = _model_quote(fact, gpus, has_memory, tariff_nanos)
            fact.quotes[(gpus, has_memory, tariff_nanos)] = quote
        return quote

    def carbon_of(self, pool: str, at: Instant) -> Fraction | None:
        """Grams of CO2e that a kWh of a device stands for in an owned pool at an instant: with what its
        building takes for each (PUE), of the grid there. None where its cost model does not say.
        """
        power = self._power_of(pool, at)
        if power is None or power.carbon is None:
            return None
        return Fraction(power.pue) * Fraction(power.carbon)

    def energy_price_of(self, pool: str, since: Instant, until: Instant) -> Fraction | None:
        """Nanos that a kWh of a device costs in an owned pool from one instant to another, in the mean of
        that time, with what its building takes for each (PUE). None where its cost model does not say.
        """
        power = self._power_of(pool, since)
        return None if power is None else Fraction(power.pue) * mean_over(power, since, until)

    def tariff_by_hour(self, pool: str) -> bool:
        """Does what a kWh costs there change with the hour, or did it ever?"""
        return any(series is self._pools.get(pool) for series in self._by_hour)

    def _power_of(self, pool: str, at: Instant) -> Power | None:
        series = self._pools.get(pool)
        fact = series.at(at) if series else None
        return None if fact is None else fact.power

    def carbon_changes(self, pool: str, before: Instant) -> int:
        """Since when what a kWh stands for there may be what it is at an instant; 0: since ever."""
        series = self._pools.get(pool)
        if series is None:
            return 0
        index = bisect_right(series.starts, before) - 1
        return series.starts[index] if index > 0 else 0

    def prices(
        self,
        at: Instant,
        *,
        provider: str = "",
        region: str = "",
        instance_type: str = "",
        market: str = "",
    ) -> Iterator[Offer]:
        """Cloud prices in force (`prices ls`), by provider, region, type, market; "" means any.

        Made when asked for: an imported table has tens of thousands.
        """
        wanted = (provider, region, instance_type, market)
        for key, series in self._cloud.items():
            if all(not want or want == have for want, have in zip(wanted, key, strict=True)):
                fact = series.at(at)
                if fact is not None:
                    yield self._offer(key, fact, at)

    def machines(self) -> Iterator[CloudKey]:
        """Every (provider, region, instance type, market) that ever had a price, in order."""
        return iter(self._cloud)

    def history(
        self, provider: str, region: str, instance_type: str, market: str
    ) -> tuple[tuple[Instant, Instant, PriceQuote], ...]:
        """Every price a machine has had: (from, until, quote), oldest first (`prices history`)."""
        series = self._cloud.get((provider, region, instance_type, market))
        return tuple(
            (Instant(start), Instant(end), self._machine_quote(fact, start))
            for start, end, fact in (series.segments() if series else ())
        )

    def pool_history(
        self, pool: str, gpus: tuple[tuple[str, int], ...] = (), *, has_memory: bool = True
    ) -> tuple[tuple[Instant, Instant, PriceQuote], ...]:
        """The same of a node of an owned pool; the first begins when its cost model was in force."""
        series = self._pools.get(pool)
        return tuple(
            (Instant(start), Instant(end), _model_quote(fact, gpus, has_memory))
            for start, end, fact in (series.segments() if series else ())
        )

    def offers(
        self,
        at: Instant,
        *,
        gpu_types: Sequence[str] = (),
        gpu_count: int = 0,
        gpu_memory_bytes: int = 0,
        cpu_milli: int = 0,
        memory_bytes: int = 0,
        markets: Sequence[str] = (),
    ) -> tuple[Offer, ...]:
        """Machines that are large enough, the cheapest per hour first, then per GPU.

        Args:
            at: the instant of the prices.
            gpu_types: acceptable types, upper case; empty means any.
            gpu_count: at least so many GPUs; 0 asks for none and leaves out GPU machines.
            gpu_memory_bytes: at least, of each GPU.
            cpu_milli: at least; a machine whose CPUs are not stated does not qualify.
            memory_bytes: at least, likewise.
            markets: acceptable markets; empty means any.
        """
        found = [
            offer
            for offer in self.prices(at)
            if (offer.gpu_count >= gpu_count if gpu_count else offer.gpu_count == 0)
            and (not gpu_types or not gpu_count or offer.gpu_type in gpu_types)
            and offer.gpu_memory_bytes >= gpu_memory_bytes
            and offer.cpu_milli >= cpu_milli
            and offer.memory_bytes >= memory_bytes
            and (not markets or offer.market in markets)
        ]
        return tuple(sorted(found, key=_offer_rank))

    def _offer(self, key: CloudKey, fact: _Fact, at: int) -> Offer:
        provider, region, instance_type, market = key
        cpu_milli, memory_bytes, gpu_type, gpu_count, gpu_memory = self._shapes[key[0], key[2]]
        return Offer(
            provider, region, instance_type, market, self._machine_quote(fact, at),
            cpu_milli, memory_bytes, gpu_type, gpu_count, gpu_memory,
        )  # fmt: skip

    def _machine_quote(self, fact: _Fact, at: int) -> PriceQuote:
        row = fact.row
        assert row is not None
        quote = fact.quotes.get(((), True, None))
        if quote is None:
            spec = fact.applied.document.spec
            assert isinstance(spec, PriceBookSpec)
            shape = self._shapes[row.provider, row.instance_type]
            quote = _row_quote(fact, row, spec, has_gpu=shape[3] > 0)
            fact.quotes[((), True, None)] = quote
        if row.market != "on-demand":
            # The list price has a life of its own: what it is depends on the instant asked about.
            listed = self._list_rate(row, row.region, quote.currency, at)
            return msgspec.structs.replace(quote, list_nanos_per_hour=listed)
        return quote

    def _list_rate(self, row: PriceRow, region: str, currency: str, at: int) -> int:
        series = self._cloud.get((row.provider, region, row.instance_type, "on-demand"))
        fact = series.at(at) if series else None
        if fact is None or fact.row is None:
            return 0
        spec = fact.applied.document.spec
        assert isinstance(spec, PriceBookSpec)
        return fact.row.rate_nanos_per_hour if spec.currency == currency else 0


def _alive(facts: list[_Fact]) -> list[_Fact]:
    """Facts that hold at some time; one replaced before it began never does."""
    return [fact for fact in facts if fact.start < fact.end]


def _version_ends(applied: Iterable[Applied]) -> Iterator[tuple[Applied, int]]:
    """Each document version with the instant at which it stops to hold."""
    groups: dict[tuple[str, str], list[Applied]] = {}
    for entry in applied:
        groups.setdefault((entry.document.kind, entry.document.name), []).append(entry)
    for versions in groups.values():
        versions.sort(key=lambda entry: entry.version)
        # A later version that takes effect earlier (a plan pulled forward) wins from there on.
        end = FOREVER
        for entry in reversed(versions):
            yield entry, min(end, entry.effective_until)
            end = min(end, entry.effective_from)


Shape = tuple[int, int, str, int, int]
"""cpu_milli, memory_bytes, gpu_type, gpu_count, gpu_memory_bytes."""


def _shapes(rows: Iterable[PriceRow]) -> dict[tuple[str, str], Shape]:
    """What each machine type is: any row may say, the rows that are silent borrow it."""
    shapes: dict[tuple[str, str], Shape] = {}
    for row in rows:
        own = (
            row.cpu_milli, row.memory_bytes, row.gpu_type, row.gpu_count, row.gpu_memory_bytes
        )  # fmt: skip
        key = (row.provider, row.instance_type)
        if key not in shapes or shapes[key] < own:
            shapes[key] = own
    return shapes


def _offer_rank(offer: Offer) -> tuple[str, int, int, str, str, str, str]:
    quote = offer.quote
    return (
        quote.currency, quote.rate_nanos_per_hour, offer.per_gpu_nanos_per_hour,
        offer.provider, offer.region, offer.instance_type, offer.market,
    )  # fmt: skip


def _row_quote(fact: _Fact, row: PriceRow, spec: PriceBookSpec, *, has_gpu: bool) -> PriceQuote:
    applied = fact.applied
    key = f"{row.provider}/{row.region}/{row.instance_type}/{row.market}"
    since = f"/{format_instant(row.valid_from)}" if row.valid_from else ""
    parts = split_components(row.rate_nanos_per_hour, spec.component_weights, has_gpu=has_gpu)
    return PriceQuote(
        rate_nanos_per_hour=row.rate_nanos_per_hour,
        currency=spec.currency,
        price_id=f"pricebook/{applied.document.name}@{applied.version}#{key}{since}",
        source=row.source or spec.source,
        as_of=Instant(row.valid_from),
        valid_from=Instant(fact.start),
        valid_until=Instant(fact.end),
        components=parts,
        cost=parts,
        stable_id=key,
        list_nanos_per_hour=row.rate_nanos_per_hour,
        marginal_nanos_per_hour=row.rate_nanos_per_hour,
    )


def _model_quote(
    fact: _Fact, gpus: tuple[tuple[str, int], ...], has_memory: bool, tariff_nanos: int | None = None
) -> PriceQuote:
    applied, spec = fact.applied, fact.applied.document.spec
    assert isinstance(spec, CostModelSpec)
    rate = node_rate(spec, gpus, has_memory=has_memory, tariff_nanos=tariff_nanos)
    name = applied.document.name
    return PriceQuote(
        rate_nanos_per_hour=rate.standard_nanos_per_hour,
        currency=rate.currency,
        price_id=f"costmodel/{name}@{applied.version}",
        source=f"cost model {name}",
        as_of=Instant(applied.effective_from),
        valid_from=Instant(fact.start),
        valid_until=Instant(fact.end),
        components=rate.components,
        cost=rate.cost,
        stable_id=f"costmodel/{name}",
        list_nanos_per_hour=rate.standard_nanos_per_hour,
        marginal_nanos_per_hour=rate.marginal_nanos_per_hour,
        parts=rate.parts,
        mean_nanos_per_hour=0 if tariff_nanos is None else rate.mean_nanos_per_hour,
    )
