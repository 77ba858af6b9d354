"""Charges as FOCUS rows: one per (attempt, node, hour), and the idle, down and rounding rows beside them.

Owns    what each FOCUS column says of a charge. `focus_columns` has the columns, `files` the formats.
Why     finance tools read this without knowing Bursar, so a row must be right by the standard's rules: costs
        are the ledger's nanos, quantities are what was consumed, and a unit price is the price's own: the
        same for every row of its `SkuPriceId`, and never an average of amounts.

What was consumed: of an attempt with GPUs their hours, of another the hours of its CPUs, of a node's own
time node-hours, weighted as its components are priced. What else a share has (CPUs and memory beside a GPU)
is in the unit price, which is therefore that of a share of this shape: `SkuPriceDetails` says which, for one
unit. A `SkuPriceId` names machine, shape and price, the latter by a digest: documents may change their
version, and another price has another id.

How exactly: quantities have 15 places, unit prices 12, and the list cost is their product, unrounded, in 27.
It differs from the billed cost by what the ledger rounds down: less than three nanos an interval, one for
each component.

Who sells: the cluster is its own provider (an internal price list, chargeback), so all costs are its to
bill. Rows are not splits of another provider's charges, hence no `Allocated*` columns are set; what no job
holds is a row of its own, without a sub account. Rounding, variance and absorption are adjustments, which
have no quantity. An unknown price is not 0: such a row has costs 0, as it must, but no unit price, and says
so in `x_MeterConfidence`; so does one of before quantities were kept.

A correction is of the month in which it was booked and of the time that it corrects: `Correction` is its
class where that was in a month before. Of the month that is still open, where the standard knows no such
class, it is an adjustment.

What a commitment covers of a machine's hour is rows of its own: `Used`, with the same billed and list cost,
since what jobs pay does not change, and as effective cost its part of the fee. What was not used is a row of
the commitment, `Unused`, which is of no job. All effective costs of an hour add up to its fees and to what
was not covered, to the nano. What the provider is paid for it is a `Purchase`: all at its start, or for each
hour. Another one bills that, so it has no billed cost here, and its effective cost is in the other rows: over
whole terms the list cost of purchases is the effective cost of `Used` and `Unused`, as long as one upfront is
told of from the start of a term to its end.

For speed a row is two parts: what is the same for all rows of one owner, made once, and the few cells that
are not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import NodeFacts
from bursar.resources import MILLI
from bursar_policies.attribution import Owner
from bursar_policies.commitments import Hour, Piece, Promise, Purchase, Spent
from bursar_policies.specs import CommitmentSpec
from bursard.ledger import PAID
from bursard.reports.focus_columns import PRICE_PLACES, QUANTITY_PLACES, SCALES
from bursard.reports.period import month_of
from bursard.store import ADJUSTMENTS, LATE_AFTER_US, ChargeRow

Cell = str | int | None
"""Instants are ints (microseconds, whole seconds), decimals at the scale of their column; None is null."""

_GIB = 1 << 30
_QUANTITY: int = 10**QUANTITY_PLACES
_PRICE_OF_NANO: int = 10 ** (PRICE_PLACES - 9)
COST_OF_ONE_NANO: int = 10 ** (SCALES["ListCost"] - 9)
_KWH_MILLIJOULES = 3_600_000_000
_REMEMBERED = 20_000
"""Owners whose constant cells are kept; after that all are made anew."""
_WASTE = {
    "startup": "launch",
    "idle": "unallocated",
    "reserved": "reserved",
    "keep-alive": "keep-alive",
    "down": "down",
    "unknown": "unknown",
    "overhead": "overhead",
    "variance": "variance",
    "absorption": "absorption",
    "refund": "refund",
}
_WORDS = {
    "usage": "share of node {node} held by job {job}",
    "startup": "launch of node {node} for job {job}",
    "idle": "part of node {node} that no job held",
    "reserved": "part of node {node} that no job held while it was reserved",
    "keep-alive": "node {node} while no job ran there",
    "down": "node {node} while it was down",
    "unknown": "node {node} while nobody knew what it did",
    "overhead": "rounding between the cost of node {node} and its shares",
    "variance": "what jobs on node {node} are to pay beyond the prices that they were placed at",
    "absorption": "cost of the shares of node {node} beyond what jobs are to pay for them",
    "refund": "what the provider of node {node} did not bill",
}


def _unsaid(charge: ChargeRow) -> Fraction | None:
    return None


def _nobodys(charge: ChargeRow) -> Owner:
    return Owner("", "")


def _unknown(charge: ChargeRow) -> str:
    return "unknown"


class FocusContext(msgspec.Struct, frozen=True):
    """What charges do not carry themselves.

    Attributes:
        cluster_id: the billing account. provider: its display name; issuer and service provider.
        nodes: facts by node id.
        covered: by start of an hour, what commitments covered; promises: these by key. unused: its rows too.
        purchases: what was paid for them, by time.
        carbon: of a charge with energy, grams of CO2e for a kWh of its devices over all of its attempt; None
            where nobody says.
        energy_source: of a charge with energy, whence that is known: measured, modelled, simulated, unknown.
        owner: of a charge, whose team and cost centre.
    """

    cluster_id: str
    provider: str
    currency: str
    nodes: Mapping[str, NodeFacts]
    covered: Mapping[int, Hour] = {}
    promises: Mapping[str, Promise] = {}
    unused: bool = False
    purchases: Sequence[Purchase] = ()
    carbon: Callable[[ChargeRow], Fraction | None] = _unsaid
    energy_source: Callable[[ChargeRow], str] = _unknown
    owner: Callable[[ChargeRow], Owner] = _nobodys


class Coverage(msgspec.Struct):
    """How much of what was exported has a known price."""

    rows: int = 0
    nanos: int = 0
    held_us: int = 0
    unknown_us: int = 0


class Constant(msgspec.Struct):
    """What is the same in all rows of one owner.

    Attributes:
        cells: by column. price: of one unit, at `PRICE_PLACES`; None without one.
        unit_milli: thousandths of a unit held; 0: the quantity is the amount in units of the price.
        counted: it has a quantity.
        texts: the cells as a format writes them, made by the format.
    """

    cells: dict[str, Cell]
    price: int | None
    unit_milli: int
    gpu_milli: int
    words: str
    month_end: int
    counted: bool
    texts: list[str] = []


class Line(NamedTuple):
    """One row. `quantity`, `gpu_hours` at `QUANTITY_PLACES`; `product` at the scale of `ListCost`.

    `effective`: where it is not `nanos`. `committed`: of a commitment, at `QUANTITY_PLACES`. `unused`: it is
    of one, and nothing was consumed.
    """

    constant: Constant
    nanos: int
    start: int
    end: int
    quantity: int | None
    product: int
    description: str
    job_id: str
    attempt_id: str
    gpu_hours: int | None
    energy: int | None
    carbon: int | None
    energy_source: str | None
    late: bool
    effective: int | None = None
    committed: int | None = None
    unused: bool = False


class _Group(msgspec.Struct):
    """The charges of one row. All of them agree in all but time and amount."""

    first: ChargeRow
    start: int
    end: int
    held_us: int = 0
    nanos: int = 0
    energy: int = 0
    posted_at: int = 0

    def add(self, charge: ChargeRow) -> None:
        self.start = min(self.start, charge.used_from)
        self.end = max(self.end, charge.used_until)
        self.held_us += charge.held_us
        self.nanos += charge.nanos
        self.energy += charge.energy_millijoules
        self.posted_at = max(self.posted_at, charge.posted_at)


def focus_lines(
    charges: Iterable[ChargeRow], context: FocusContext, coverage: Coverage | None = None
) -> Iterator[Line]:
    """Rows in order of time; a file takes the columns of its version.

    Args:
        charges: in order of `start_at`, as the store gives them; only one hour is kept in memory.
        coverage: filled while rows are taken.
    """
    maker = _Maker(context, coverage if coverage is not None else Coverage())
    groups: dict[tuple[str, ...], _Group] = {}
    until = -1
    for charge in charges:
        if charge.start_at >= until:
            yield from maker.lines(groups)
            until = charge.start_at - charge.start_at % HOUR_US + HOUR_US
            yield from maker.unused(until - HOUR_US)
            yield from maker.purchased(until)
            maker.hour = until - HOUR_US
            maker.month = month_of(charge.start_at)
        # Of one price a node may cost more in one part of an hour than in another: by its tariff.
        key: tuple[str, ...] = (
            charge.kind, charge.attempt_id, charge.node_id, charge.price_id, str(charge.rate),
        )  # fmt: skip
        if charge.corrects:
            key = (
                *key,
                str(charge.rank),
                f"{charge.for_start:020} {charge.corrects}",
                str(charge.held_us < 0),
            )
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(charge, charge.used_from, charge.for_end or charge.end_at)
        group.add(charge)
    yield from maker.lines(groups)
    yield from maker.unused(None)
    yield from maker.purchased(None)


class _Maker:
    """Rows of one file."""

    def __init__(self, context: FocusContext, coverage: Coverage) -> None:
        self._context = context
        self._coverage = coverage
        self.month, self.hour = (0, 0), 0
        """Of what is made."""
        self._spent = iter(sorted(context.covered)) if context.unused else iter(())
        self._next_spent = next(self._spent, None)
        self._purchases = sorted(context.purchases, key=lambda one: (-one.start, one.key, one.upfront))
        self._used: dict[tuple[int, str], tuple[Constant, Constant]] = {}
        self._machines: dict[str, _Machine] = {}
        self._constants: dict[tuple[object, ...], Constant] = {}

    def lines(self, groups: dict[tuple[str, ...], _Group]) -> Iterator[Line]:
        """The rows of one hour, which is left empty."""
        ordered = [group for _, group in sorted(groups.items(), key=lambda item: (item[1].start, item[0]))]
        groups.clear()
        hour = self._context.covered.get(self.hour)
        if hour is None or not hour.pieces:
            yield from map(self._line, ordered)
            return
        pieces: dict[str, list[Piece]] = {}
        for piece in hour.pieces:
            pieces.setdefault(piece.key, []).append(piece)
        told = Counter[str]()
        for group in ordered:
            node_id, line = group.first.node_id, self._line(group)
            if node_id in pieces and coverable(group.first):
                yield from self._parts(line, pieces[node_id], told[node_id])
                told[node_id] += line.nanos
            else:
                yield line

    def _parts(self, line: Line, pieces: Sequence[Piece], before: int) -> Iterator[Line]:
        """What each commitment covers of a row, and the rest of it. `before`: of its node, told already."""
        done, after, told = 0, before + line.nanos, (line.energy, line.carbon, line.energy_source)
        for piece in pieces:
            covered = _cut(piece.nanos, before, after, piece.of)
            effective = _cut(piece.effective, before, after, piece.of)
            if not covered and not effective:  # of a fee above the list price a part of a nano may be covered
                continue
            made = _share(line, done, done + covered)
            spec = self._context.promises[piece.commitment].spec
            amount = int(piece.hours * _QUANTITY) if spec.quantity else piece.effective * _PER_NANO
            yield made._replace(
                constant=self._committed(line.constant, piece.commitment),
                effective=effective,
                committed=_cut(amount, before, after, piece.of),
                energy=told[0],
                carbon=told[1],
                energy_source=told[2],
            )
            done, told = done + covered, (None, None, None)
            self._coverage.rows += 1
        if done == 0:
            yield line
        elif done != line.nanos:
            yield _share(line, done, line.nanos)._replace(energy=None, carbon=None, energy_source=None)
        else:
            self._coverage.rows -= 1

    def _committed(self, constant: Constant, name: str) -> Constant:
        """The same, of what a commitment covers."""
        found = self._used.get((id(constant), name))
        if found is None:
            if len(self._used) >= _REMEMBERED:
                self._used.clear()
            cells = constant.cells | {
                "PricingCategory": "Committed",
                **_discount(name, self._context, "Used"),
            }
            made = msgspec.structs.replace(constant, cells=cells, texts=[])
            found = self._used[id(constant), name] = (constant, made)
        return found[1]

    def unused(self, before: int | None) -> Iterator[Line]:
        """What was not used of commitments, of the hours that were not told yet."""
        while self._next_spent is not None and (before is None or self._next_spent < before):
            hour = self._next_spent
            yield from self.purchased(hour + 1)
            for spent in self._context.covered[hour].spent:
                if spent.unused:
                    self._coverage.rows += 1
                    yield _unused(spent, hour, self._context)
            self._next_spent = next(self._spent, None)

    def purchased(self, before: int | None) -> Iterator[Line]:
        """What was paid for commitments, of the time that was not told yet."""
        while self._purchases and (before is None or self._purchases[-1].start < before):
            self._coverage.rows += 1
            yield _purchase(self._purchases.pop(), self._context)

    def _line(self, group: _Group) -> Line:
        charge = group.first
        coverage = self._coverage
        coverage.rows += 1
        coverage.nanos += group.nanos
        if charge.kind not in ADJUSTMENTS:
            coverage.held_us += group.held_us
            coverage.unknown_us += 0 if charge.price_id else group.held_us
        constant = self._constant(charge)
        quantity = gpu_hours = None
        product = group.nanos * COST_OF_ONE_NANO
        if constant.counted:
            quantity = _quantity(constant, group)
            if constant.price is not None:
                product = quantity * constant.price
            if constant.gpu_milli:
                gpu_hours = _scaled_hours(constant.gpu_milli * group.held_us, MILLI)
        return Line(
            constant,
            group.nanos,
            # Whole seconds, as the format asks; they stay inside the hour.
            group.start - group.start % SECOND_US,
            group.end + -group.end % SECOND_US,
            quantity,
            product,
            constant.words.format(job=charge.job_number),
            charge.job_id,
            charge.attempt_id,
            gpu_hours,
            _kwh(group.energy) if group.energy else None,
            self._carbon(charge, group.energy) if group.energy else None,
            self._context.energy_source(charge) if group.energy else None,
            charge.told_late or group.posted_at >= constant.month_end + LATE_AFTER_US,
        )

    def _carbon(self, charge: ChargeRow, millijoules: int) -> int | None:
        """Grams at nine places, with the building's part; None where nobody says what a kWh stands for."""
        each = self._context.carbon(charge)
        return int(each * millijoules * 10**9 / _KWH_MILLIJOULES) if each is not None else None

    def _constant(self, charge: ChargeRow) -> Constant:
        month = self.month
        about = (charge.corrects, charge.for_start, charge.reason) if charge.corrects else None
        owner = self._context.owner(charge)
        key = (month, charge.kind, charge[2:5], charge[16:31], about, owner)
        found = self._constants.get(key)
        if found is None:
            if len(self._constants) >= _REMEMBERED:
                self._constants.clear()
            machine = self._machines.get(charge.node_id)
            if machine is None:
                machine = _machine(self._context.nodes.get(charge.node_id), charge)
                self._machines[charge.node_id] = machine
            found = self._constants[key] = _constant(charge, month, machine, self._context)
            found.cells |= owner_cells(owner)
        return found


def coverable(charge: ChargeRow) -> bool:
    """Is it time of a machine that was on demand, as commitments cover it?"""
    if charge.kind in ADJUSTMENTS or charge.reason:
        return False
    return bool(machine_of(charge.price_id))


def machine_of(price_id: str) -> str:
    """`aws/REGION/TYPE/on-demand`, of such a price; empty of any other."""
    what = stable_id(price_id)
    return what if what.count("/") == 3 and what.endswith("/on-demand") else ""


def _kwh(millijoules: int) -> int:
    """At nine places; what is taken back is what was told, with its sign turned."""
    size = abs(millijoules) * 10**9 // _KWH_MILLIJOULES
    return size if millijoules > 0 else -size


def _cut(value: int, start: int, end: int, of: int) -> int:
    """The part of a value between two places of a whole; parts that meet add up."""
    return value * end // of - value * start // of


def _share(line: Line, start: int, end: int) -> Line:
    """The part of a row between two places of its amount."""
    quantity = None if line.quantity is None else _cut(line.quantity, start, end, line.nanos)
    price = line.constant.price
    if quantity is not None and price is not None:
        product = quantity * price
    else:
        product = (end - start) * COST_OF_ONE_NANO
    gpu_hours = None if line.gpu_hours is None else _cut(line.gpu_hours, start, end, line.nanos)
    return line._replace(nanos=end - start, quantity=quantity, product=product, gpu_hours=gpu_hours)


def _discount(key: str, context: FocusContext, status: str | None) -> dict[str, Cell]:
    name, spec = context.promises[key].name, context.promises[key].spec
    return {
        "CommitmentDiscountId": f"commitment/{name}",
        "CommitmentDiscountName": name,
        "CommitmentDiscountCategory": "Usage" if spec.quantity else "Spend",
        "CommitmentDiscountType": _TYPES[spec.of_type],
        "CommitmentDiscountStatus": status,
        "CommitmentDiscountUnit": "Hours" if spec.quantity else context.currency,
    }


_TYPES = {
    "reservation": "Reservation",
    "savings-plan": "Savings Plan",
    "committed-use": "Committed Use Discount",
}
_PER_NANO: int = 10 ** (QUANTITY_PLACES - 9)


def _unused(spent: Spent, hour: int, context: FocusContext) -> Line:
    """A row of the commitment itself: what it cost and nobody used."""
    promise, month = context.promises[spent.commitment], month_of(hour)
    name, spec = promise.name, promise.spec
    unit = "Hours" if spec.quantity else context.currency
    cells: dict[str, Cell] = {
        **platform_cells(context, month),
        **_discount(spent.commitment, context, "Unused"),
        **_of_commitment(name, spec),
        "ChargeCategory": "Usage",
        "PricingCategory": "Committed",
        "PricingUnit": unit,
        "SkuMeter": "Unused Commitment",
        "SkuPriceId": f"commitment/{name}|unused",
        "x_WasteCategory": "unused-commitment",
        "x_MeterConfidence": "measured",
        "x_Simulated": "false",
        **dict.fromkeys(_UNIT_PRICES, 0),
    }
    quantity = int(spent.unused_hours * _QUANTITY) if spec.quantity else spent.unused * _PER_NANO
    words = f"what was not used of commitment {name}"
    return Line(
        Constant(cells, 0, 0, 0, words, month[1], True),
        *(0, hour, hour + HOUR_US, quantity, 0, words, "", "", None, None, None, None, False),
        effective=spent.unused,
        committed=quantity,
        unused=True,
    )


def _of_commitment(name: str, spec: CommitmentSpec) -> dict[str, Cell]:
    """What rows of the commitment itself say of what they are of."""
    return {
        "HostProviderName": spec.provider,
        "RegionId": spec.region or None,
        "RegionName": spec.region or None,
        "ResourceId": f"commitment/{name}",
        "ResourceName": name,
        "ResourceType": "Commitment",
        "SkuId": f"commitment/{spec.provider}/{spec.of_type}",
    }


def _purchase(bought: Purchase, context: FocusContext) -> Line:
    """What the provider is paid: it sends the invoice, so nothing of it is billed here."""
    promise, month = context.promises[bought.key], month_of(bought.start)
    name, spec = promise.name, promise.spec
    nanos = spec.upfront_nanos if bought.upfront else spec.hourly_nanos
    price = nanos * _PRICE_OF_NANO
    quantity = _QUANTITY if bought.upfront else bought.hours * _QUANTITY
    cells: dict[str, Cell] = {
        **platform_cells(context, month),
        **_discount(bought.key, context, None),
        **_of_commitment(name, spec),
        "ChargeCategory": "Purchase",
        "ChargeFrequency": "One-Time" if bought.upfront else "Recurring",
        "InvoiceIssuerName": spec.provider,
        "ServiceProviderName": spec.provider,
        "ProviderName": spec.provider,
        "PublisherName": spec.provider,
        "PricingCategory": "Standard",
        "PricingUnit": "Commitments" if bought.upfront else "Hours",
        "SkuMeter": "Commitment Purchase",
        "SkuPriceId": f"commitment/{name}|{'upfront' if bought.upfront else 'hourly'}|{nanos}",
        "x_MeterConfidence": "measured",
        "x_Simulated": "false",
        **dict.fromkeys(_UNIT_PRICES, price),
    }
    hours = bought.hours * spec.quantity * _QUANTITY if spec.quantity else bought.nanos * _PER_NANO
    words = f"purchase of commitment {name}, {'upfront' if bought.upfront else 'by the hour'}"
    return Line(
        Constant(cells, price, 0, 0, words, month[1], True),
        *(0, bought.start, bought.end, quantity, quantity * price, words, "", "", None, None, None, None),
        late=False,
        effective=0,
        committed=hours,
        unused=True,
    )


_UNIT_PRICES = (
    "ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
)  # fmt: skip


def owner_cells(owner: Owner) -> dict[str, Cell]:
    """Whose it is."""
    return {"x_Team": owner.team or None, "x_CostCenter": owner.cost_center or None}


def platform_cells(context: FocusContext, month: tuple[int, int]) -> dict[str, Cell]:
    """What every row of this cluster says."""
    return {
        "BillingAccountId": context.cluster_id,
        "BillingAccountName": context.provider,
        "BillingAccountType": "Cluster",
        "BillingCurrency": context.currency,
        "BillingPeriodStart": month[0],
        "BillingPeriodEnd": month[1],
        "ChargeFrequency": "Usage-Based",
        "InvoiceIssuerName": context.provider,
        "PricingCurrency": context.currency,
        "ProviderName": context.provider,
        "PublisherName": context.provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "AI Compute",
        "ServiceProviderName": context.provider,
        "ServiceSubcategory": "AI Platforms",
    }


def _scaled_hours(units_us: int, of: int = 1) -> int:
    """Microseconds of something as its hours at `QUANTITY_PLACES`, to the nearest."""
    whole = HOUR_US * of
    return (units_us * _QUANTITY * 2 + whole) // (2 * whole)


def _quantity(constant: Constant, group: _Group) -> int:
    if constant.unit_milli:
        return _scaled_hours(constant.unit_milli * group.held_us, MILLI)
    if constant.price:
        # The part of a node that nobody held, each component weighted as it is priced.
        nanos = group.nanos * _QUANTITY * _PRICE_OF_NANO
        return (nanos * 2 + constant.price) // (2 * constant.price)
    return _scaled_hours(group.held_us)


class _Machine(msgspec.Struct, frozen=True):
    """What the columns say of a node."""

    sku: str
    details: Mapping[str, object]
    kind: str
    host: str
    region: str | None
    zone: str | None
    category: str


def _machine(facts: NodeFacts | None, charge: ChargeRow) -> _Machine:
    if facts is None:  # forgotten since; the charge still names it
        return _Machine(f"machine/{charge.pool}", {}, "Node", "", None, None, "Standard")
    gpus = f"{facts.devices[0].type}x{len(facts.devices)}" if facts.devices else "cpu"
    shape = facts.instance_type or f"{facts.pool}/{gpus}/{facts.cpu_milli // 1000}c"
    details: dict[str, object] = {"x_Pool": facts.pool}
    if facts.devices:
        details["x_GpuType"] = facts.devices[0].type
    if facts.instance_type:
        details["InstanceType"] = facts.instance_type
    return _Machine(
        sku=f"{facts.provider}/{shape}",
        details=details,
        kind="GPU Node" if facts.devices else "CPU Node",
        host="" if facts.provider == "onprem" else facts.provider,
        region=facts.region or None,
        zone=facts.zone or None,
        category="Dynamic" if facts.market == "spot" else "Standard",
    )


def _constant(
    charge: ChargeRow, month: tuple[int, int], machine: _Machine, context: FocusContext
) -> Constant:
    published = charge.corrects > 0 and charge.for_start < month[0]
    adjustment = charge.kind in ADJUSTMENTS or (charge.corrects > 0 and not published)
    cells: dict[str, Cell] = {
        **platform_cells(context, month),
        "ChargeCategory": "Adjustment" if adjustment else "Usage",
        "ChargeClass": "Correction" if published else None,
        "HostProviderName": machine.host or context.provider,
        "RegionId": machine.region,
        "RegionName": machine.region,
        "AvailabilityZone": machine.zone,
        "ResourceId": charge.node_id,
        "ResourceName": charge.node_name,
        "ResourceType": machine.kind,
        **_account(charge),
        **_own(charge),
    }
    if context.promises and coverable(charge):
        cells["CommitmentProgramEligibilityDetails"] = _programs(charge, context)
    unit = _Unit.of(charge)
    price = None
    if not adjustment:
        price = unit.price if charge.price_id and charge.rate else None
        cells |= _pricing(charge, machine, unit, price)
    gpu_milli = charge.gpu_milli if charge.kind == "usage" else 0
    words = _WORDS[charge.kind].replace("{node}", _plain(charge.node_name))
    if charge.corrects:
        cells["x_Corrects"] = str(charge.corrects)
        why = _plain(charge.reason) or "told when its month was closed"
        words = f"{'late' if charge.told_late else 'correction'}, {words}: {why}"
    return Constant(
        cells, price, unit.milli if not adjustment else 0, gpu_milli, words, month[1], not adjustment
    )


def _programs(charge: ChargeRow, context: FocusContext) -> str | None:
    """Which kinds of commitments could cover it, covered or not."""
    provider = stable_id(charge.price_id).partition("/")[0]
    types = {
        _TYPES[spec.of_type] for _, _, spec, *_ in context.promises.values() if spec.provider == provider
    }
    programs = [{"ProgramType": name} for name in sorted(types)]
    return json.dumps({"CommitmentPrograms": programs}) if programs else None


def _plain(text: str) -> str:
    """In a text that is formatted later."""
    return text.replace("{", "{{").replace("}", "}}")


class _Unit(NamedTuple):
    """What is counted of a charge, how many thousandths of it are held, and what one costs."""

    name: str
    meter: str
    milli: int
    price: int

    @classmethod
    def of(cls, charge: ChargeRow) -> _Unit:
        """GPU-hours, else core-hours, of a share; node-hours of a node's own time."""
        rate = charge.rate * _PRICE_OF_NANO
        if charge.kind != "usage":
            return cls("Node-Hours", "Node Hours", 0, rate)
        if charge.gpu_milli:
            return cls("GPU-Hours", "GPU Hours", charge.gpu_milli, _per_unit(rate, charge.gpu_milli))
        if charge.cpu_milli:
            return cls("Core-Hours", "Core Hours", charge.cpu_milli, _per_unit(rate, charge.cpu_milli))
        return cls("Hours", "Share Hours", MILLI, rate)


def _per_unit(rate: int, milli: int) -> int:
    return (rate * MILLI * 2 + milli) // (2 * milli)


def _pricing(charge: ChargeRow, machine: _Machine, unit: _Unit, price: int | None) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        "ConsumedUnit": unit.name,
        "PricingUnit": unit.name,
        "PricingCategory": machine.category,
        "SkuId": f"{machine.sku}/{unit.meter.split()[0].lower()}",
        "SkuMeter": unit.meter,
    }
    if price is None:
        return cells | {"PricingCategory": "Other"}
    shape = "node" if charge.kind != "usage" else _shape(charge)
    which = blake2b(f"{price} {unit.name} {shape}".encode(), digest_size=5).hexdigest()
    return cells | {
        "SkuPriceId": f"{stable_id(charge.price_id)}|{machine.sku}|{shape}|{which}",
        "SkuPriceDetails": json.dumps(_details(charge, machine, unit), sort_keys=True),
        "ListUnitPrice": price,
        "ContractedUnitPrice": price,
        "PricingCurrencyListUnitPrice": price,
        "PricingCurrencyContractedUnitPrice": price,
    }


_VERSION = re.compile(r"@\d+\b")


def stable_id(price_id: str) -> str:
    """What a price id says is priced, without versions and dates: `costmodel/rack-a`, `aws/r/x/spot`."""
    book, _, key = price_id.partition("#")
    return "/".join(key.split("/")[:4]) if key else _VERSION.sub("", book)


def _shape(charge: ChargeRow) -> str:
    parts = [f"{charge.gpu_milli}m-gpu"] if charge.gpu_milli else []
    return "-".join([*parts, f"{charge.cpu_milli}m-cpu", f"{charge.memory_bytes}-bytes"])


def _details(charge: ChargeRow, machine: _Machine, unit: _Unit) -> dict[str, object]:
    """Of one unit, as the standard has it."""
    milli = unit.milli or MILLI
    details: dict[str, object] = {
        **machine.details,
        "CoreCount": _number(charge.cpu_milli, milli),
        "MemorySize": _number(charge.memory_bytes * MILLI // _GIB, milli),
    }
    if charge.gpu_milli:
        details["GpuCount"] = _number(charge.gpu_milli, milli)
    return details


def _number(value_milli: int, milli: int) -> int | float:
    """A whole number as such, as JSON has it."""
    return value_milli // milli if value_milli % milli == 0 else round(value_milli / milli, 6)


def _account(charge: ChargeRow) -> dict[str, Cell]:
    """The project as sub account, and everything known of the work as tags."""
    if charge.kind not in PAID:
        return {}
    tags: dict[str, object] = dict(json.loads(charge.labels))
    for key in ("project", "user", "experiment", "model", "model_version"):
        if value := getattr(charge, key):
            tags[f"bursar:{key}"] = value
    return {
        "SubAccountId": charge.project or None,
        "SubAccountName": charge.project or None,
        "SubAccountType": "Project" if charge.project else None,
        "Tags": json.dumps(tags, sort_keys=True, ensure_ascii=False) if tags else None,
    }


def _own(charge: ChargeRow) -> dict[str, Cell]:
    confidence = "measured" if charge.price_id else "unknown-price"
    if charge.reason:
        confidence = "corrected"
    elif charge.price_id and not charge.rate and charge.kind not in ADJUSTMENTS:
        confidence = "no-unit-price"
    return {
        "x_Experiment": charge.experiment or None,
        "x_Model": charge.model or None,
        "x_ModelVersion": charge.model_version or None,
        "x_Project": charge.project or None,
        "x_User": charge.user or None,
        "x_WasteCategory": _WASTE.get(charge.kind),
        "x_MeterConfidence": confidence,
        "x_PriceBookId": charge.price_id or None,
        "x_Simulated": "true" if charge.simulated else "false",
        "x_Gpus": charge.gpu_milli if charge.kind == "usage" and charge.gpu_milli else None,
    }
