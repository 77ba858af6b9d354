"""Charges as FOCUS rows: one per (attempt, node, hour), and the idle, down and rounding rows beside them.

Owns    what each FOCUS column says of a charge. `focus_columns` has the columns, `files` the formats.
Why     finance tools read this without knowing Bursar, so a row must be right by the standard's rules:
        costs are the ledger's nanos, and each unit price times its quantity is its cost, exactly.

How exactly: the quantity is hours to 12 places, the unit price currency per hour to 9 places (nanos per
hour, the ledger's own unit of rates), and the list cost their product, unrounded, in 21 places. A row is
at most one hour, so the list cost is never a nano away from the billed cost. The price is the row's own
average: of a full hour it is the rate itself.

Who sells: the cluster is its own provider (an internal price list, chargeback), so all costs are its to
bill. Rows are not splits of another provider's charges, hence no `Allocated*` columns are set; what no
job holds is a row of its own, without a sub account. Rounding is an adjustment, which has no quantity.
An unknown price is not 0: such a row has costs 0, as it must, but no unit price, and says so in
`x_MeterConfidence`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Context, Decimal

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import NodeFacts
from bursard.reports.period import month_of
from bursard.store import ChargeRow

Cell = str | Decimal | int | None
"""Instants are ints (microseconds, whole seconds); None is null."""
Row = dict[str, Cell]

_GIB = 1 << 30
# Of the products: 38 digits are what a decimal column of Parquet holds.
_EXACT = Context(prec=60)
_NANO = Decimal(1).scaleb(-9)
_PICO = Decimal(1).scaleb(-12)
_WASTE = {
    "idle": "unallocated",
    "down": "node-down",
    "overhead": "rounding",
    "variance": "price-variance",
    "absorption": "absorption",
}
_WORDS = {
    "usage": "share of node {node} held by job {job}",
    "idle": "part of node {node} that no job held",
    "down": "node {node} while it was down",
    "overhead": "rounding between the cost of node {node} and its shares",
    "variance": "what jobs on node {node} are to pay beyond the prices that they were placed at",
    "absorption": "cost of the shares of node {node} beyond what jobs are to pay for them",
}
_ADJUSTMENTS = ("overhead", "variance", "absorption")
"""Money without time of its own: the time is that of the shares."""


class FocusContext(msgspec.Struct, frozen=True):
    """What charges do not carry themselves.

    Attributes:
        cluster_id: the billing account. provider: its display name; issuer and service provider.
        nodes: facts by node id.
    """

    cluster_id: str
    provider: str
    currency: str
    nodes: Mapping[str, NodeFacts]


class Coverage(msgspec.Struct):
    """How much of what was exported has a known price."""

    rows: int = 0
    nanos: int = 0
    held_us: int = 0
    unknown_us: int = 0


class _Group(msgspec.Struct):
    """The charges of one row. All of them agree in all but time and amount."""

    first: ChargeRow
    start: int
    end: int
    held_us: int = 0
    nanos: int = 0

    def add(self, charge: ChargeRow) -> None:
        self.start = min(self.start, charge.start_at)
        self.end = max(self.end, charge.end_at)
        self.held_us += charge.held_us
        self.nanos += charge.nanos


def focus_rows(
    charges: Iterable[ChargeRow], context: FocusContext, coverage: Coverage | None = None
) -> Iterator[Row]:
    """Rows with every column of every version; a file takes the ones of its version.

    Args:
        charges: in order of `start_at`, as the store gives them; only one hour is kept in memory.
        coverage: filled while rows are taken.
    """
    counted = coverage if coverage is not None else Coverage()
    groups: dict[tuple[str, ...], _Group] = {}
    hour = -1
    machines: dict[str, _Machine] = {}
    for charge in charges:
        if charge.start_at - charge.start_at % HOUR_US != hour:
            yield from _flush(groups, context, machines, counted)
            hour = charge.start_at - charge.start_at % HOUR_US
        key = (charge.kind, charge.attempt_id, charge.node_id, charge.price_id)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(charge, charge.start_at, charge.end_at)
        group.add(charge)
    yield from _flush(groups, context, machines, counted)


def _flush(
    groups: dict[tuple[str, ...], _Group],
    context: FocusContext,
    machines: dict[str, _Machine],
    counted: Coverage,
) -> Iterator[Row]:
    for _, group in sorted(groups.items(), key=lambda item: (item[1].start, item[0])):
        charge = group.first
        machine = machines.get(charge.node_id)
        if machine is None:
            machine = machines[charge.node_id] = _machine(context.nodes.get(charge.node_id), charge)
        counted.rows += 1
        counted.nanos += group.nanos
        if charge.kind not in _ADJUSTMENTS:
            counted.held_us += group.held_us
            counted.unknown_us += 0 if charge.price_id else group.held_us
        yield _row(group, machine, context)
    groups.clear()


class _Machine(msgspec.Struct, frozen=True):
    """What the columns say of a node."""

    sku: str
    details: str
    kind: str
    host: str
    region: str | None
    zone: str | None
    category: str


def _machine(facts: NodeFacts | None, charge: ChargeRow) -> _Machine:
    if facts is None:  # forgotten since; the charge still names it
        return _Machine(f"machine/{charge.pool}", "{}", "Node", "", None, None, "Standard")
    gpus = f"{facts.devices[0].type}x{len(facts.devices)}" if facts.devices else "cpu"
    shape = facts.instance_type or f"{facts.pool}/{gpus}/{facts.cpu_milli // 1000}c"
    details: dict[str, object] = {
        "CoreCount": facts.cpu_milli // 1000,
        "MemorySize": facts.memory_bytes // _GIB,
        "x_Pool": facts.pool,
    }
    if facts.devices:
        details["GpuCount"] = len(facts.devices)
        details["x_GpuType"] = facts.devices[0].type
    if facts.instance_type:
        details["InstanceType"] = facts.instance_type
    return _Machine(
        sku=f"{facts.provider}/{shape}",
        details=json.dumps(details, sort_keys=True),
        kind="GPU Node" if facts.devices else "CPU Node",
        host="" if facts.provider == "onprem" else facts.provider,
        region=facts.region or None,
        zone=facts.zone or None,
        category="Dynamic" if facts.market == "spot" else "Standard",
    )


def price_and_quantity(nanos: int, held_us: int) -> tuple[Decimal, Decimal, Decimal]:
    """(unit price per hour, hours, their exact product), for an amount >= 0 of some held time.

    The product is within half a nano of the amount while the time is at most an hour.
    """
    hours = (Decimal(held_us) / HOUR_US).quantize(_PICO, context=_EXACT)
    if not hours:
        return Decimal(0), hours, Decimal(0)
    price = _EXACT.divide(Decimal(nanos).scaleb(-9), hours).quantize(_NANO, context=_EXACT)
    return price, hours, _EXACT.multiply(price, hours)


def _row(group: _Group, machine: _Machine, context: FocusContext) -> Row:
    charge = group.first
    cost = Decimal(group.nanos).scaleb(-9).quantize(_NANO, context=_EXACT)
    month_start, month_end = month_of(charge.start_at)
    adjustment = charge.kind in _ADJUSTMENTS
    row: Row = {
        "BilledCost": cost,
        "BillingAccountId": context.cluster_id,
        "BillingAccountName": context.provider,
        "BillingAccountType": "Cluster",
        "BillingCurrency": context.currency,
        "BillingPeriodStart": month_start,
        "BillingPeriodEnd": month_end,
        "ChargeCategory": "Adjustment" if adjustment else "Usage",
        "ChargeDescription": _WORDS[charge.kind].format(node=charge.node_name, job=charge.job_number),
        "ChargeFrequency": "Usage-Based",
        # Whole seconds, as the format asks; they stay inside the hour.
        "ChargePeriodStart": group.start - group.start % SECOND_US,
        "ChargePeriodEnd": group.end + -group.end % SECOND_US,
        "EffectiveCost": cost,
        "HostProviderName": machine.host or context.provider,
        "InvoiceIssuerName": context.provider,
        "ListCost": cost,
        "ContractedCost": cost,
        "PricingCurrency": context.currency,
        "PricingCurrencyEffectiveCost": cost,
        "ProviderName": context.provider,
        "PublisherName": context.provider,
        "RegionId": machine.region,
        "RegionName": machine.region,
        "AvailabilityZone": machine.zone,
        "ResourceId": charge.node_id,
        "ResourceName": charge.node_name,
        "ResourceType": machine.kind,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "AI Compute",
        "ServiceProviderName": context.provider,
        "ServiceSubcategory": "AI Platforms",
        **_account(charge),
        **_own(charge),
    }
    if not adjustment:
        row |= _pricing(group, machine)
    return row


def _pricing(group: _Group, machine: _Machine) -> Row:
    charge = group.first
    price, hours, product = price_and_quantity(group.nanos, group.held_us)
    row: Row = {
        "ConsumedQuantity": hours,
        "ConsumedUnit": "Hours",
        "PricingQuantity": hours,
        "PricingUnit": "Hours",
        "PricingCategory": machine.category,
        "SkuId": machine.sku,
        "SkuMeter": "Node Share Hours",
    }
    if not charge.price_id:
        return row | {"PricingCategory": "Other"}
    priced: Row = {
        # One price document may price several machines, and a price has one SKU.
        "SkuPriceId": f"{charge.price_id}|{machine.sku}",
        "SkuPriceDetails": machine.details,
        "ListUnitPrice": price,
        "ContractedUnitPrice": price,
        "PricingCurrencyListUnitPrice": price,
        "PricingCurrencyContractedUnitPrice": price,
        "ListCost": product,
        "ContractedCost": product,
    }
    return row | priced


def _account(charge: ChargeRow) -> Row:
    """The project as sub account, and everything known of the work as tags."""
    if charge.kind != "usage":
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


def _own(charge: ChargeRow) -> Row:
    return {
        "x_JobId": charge.job_id or None,
        "x_AttemptId": charge.attempt_id or None,
        "x_Experiment": charge.experiment or None,
        "x_Model": charge.model or None,
        "x_ModelVersion": charge.model_version or None,
        "x_Project": charge.project or None,
        "x_User": charge.user or None,
        "x_WasteCategory": _WASTE.get(charge.kind),
        "x_MeterConfidence": "measured" if charge.price_id else "unknown-price",
        "x_PriceBookId": charge.price_id or None,
        "x_Simulated": "true" if charge.simulated else "false",
    }
