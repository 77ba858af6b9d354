"""Price books and cost models from their YAML nodes.

Owns    the form of `kind: PriceBook` and `kind: CostModel` (contract section 6).
Why     a price of 0, of the wrong unit or the wrong currency would make work look free, so each
        is a fault with its line. Beyond the contract's keys: `defaults` and `component_weights`
        in a price book (rows of one region need not repeat it) and `gpus` in a cost model
        (nodes of one pool may differ in devices).
"""

from __future__ import annotations

import re
from decimal import Decimal

from bursar.clock import format_instant
from bursar.errors import InvalidRequest
from bursar.model import MARKETS
from bursar.money import NANOS_MAX, Money, format_nanos
from bursar.resources import parse_gpu_type
from bursar.yamlfile import Faults, Fields, Node, read_int, read_text
from bursar_policies.compile import dearest_rate
from bursar_policies.read_tariff import read_hours
from bursar_policies.specs import (
    NAME,
    CostModelSpec,
    DeviceCost,
    Power,
    PriceBookSpec,
    PriceRow,
    Weights,
)
from bursar_policies.tariffs import mean_of_week

_BOOK_KEYS = ("source", "currency", "prices", "defaults", "component_weights")
_PLACE_KEYS = ("provider", "region", "market", "valid_from", "valid_until", "source")
_ROW_KEYS = (
    "provider", "region", "instance_type", "market", "price", "valid_from", "valid_until",
    "cpus", "memory", "gpus", "gpu_memory", "source",
)  # fmt: skip
_MODEL_KEYS = (
    "pool", "node_capex", "useful_life", "residual", "network", "power", "colo", "support",
    "staff", "practical_capacity", "component_weights", "gpus", "cost_of_capital", "annuity",
)  # fmt: skip
_TOKEN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_TOKEN_EXPECTED = "a name of letters, digits, '.', '_' and '-'"
_GPUS = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,39}):([1-9][0-9]{0,3})", re.ASCII)
_ZERO, _ONE, _HUNDRED = Decimal(0), Decimal(1), Decimal(100)
_CARBON = r"\d{1,4}(\.\d{1,3})? ?g/kWh"


# ------------------------------------------------------------------ price books


def read_price_book(node: Node, faults: Faults) -> PriceBookSpec | None:
    """The spec of a PriceBook, or None with its faults reported."""
    fields = Fields(node, faults, _BOOK_KEYS)
    source = fields.string("source", required=True, length_max=200)
    currency = fields.string(
        "currency", required=True, pattern="[A-Z]{3}", expected="a currency code such as USD"
    )
    defaults_node = fields.get("defaults")
    defaults = _Row(None, None, None, 0, 0, "")
    if defaults_node is not None:
        defaults = _place(Fields(defaults_node, faults, _PLACE_KEYS), defaults)
    weights = _weights(fields)
    items = fields.items("prices", required=True)
    listed = fields.get("prices")
    if listed is not None and listed.kind == "sequence" and not items:
        faults.add(listed, "names no price")
    rows: list[PriceRow] = []
    seen: dict[tuple[str, str, str, str, int], int] = {}
    for item in items:
        row = _price_row(item, faults, defaults, currency)
        if row is None:
            continue
        key = (row.provider, row.region, row.instance_type, row.market, row.valid_from)
        if key in seen:
            faults.add(item, f"the same price is given twice, first on line {seen[key]}")
        seen[key] = item.line
        rows.append(row)
    if source is None or currency is None:
        return None
    return PriceBookSpec(source, currency, tuple(rows), weights)


class _Row:
    """Where and when a price holds: a row's own words over the book's defaults."""

    __slots__ = ("market", "provider", "region", "source", "valid_from", "valid_until")

    def __init__(
        self,
        provider: str | None,
        region: str | None,
        market: str | None,
        valid_from: int,
        valid_until: int,
        source: str,
    ) -> None:
        self.provider = provider
        self.region = region
        self.market = market
        self.valid_from = valid_from
        self.valid_until = valid_until
        self.source = source


def _place(fields: Fields, defaults: _Row) -> _Row:
    def token(key: str, default: str | None) -> str | None:
        if key not in fields:
            return default
        return fields.string(key, pattern=_TOKEN, expected=_TOKEN_EXPECTED)

    return _Row(
        token("provider", defaults.provider),
        token("region", defaults.region),
        fields.enum("market", MARKETS) if "market" in fields else defaults.market,
        fields.instant("valid_from") or defaults.valid_from,
        fields.instant("valid_until") or defaults.valid_until,
        fields.string("source", length_max=200) or defaults.source,
    )


def _price_row(node: Node, faults: Faults, defaults: _Row, currency: str | None) -> PriceRow | None:
    fields = Fields(node, faults, _ROW_KEYS)
    if node.kind != "mapping":
        return None
    place = _place(fields, defaults)
    for key in ("provider", "region", "market"):
        if key not in fields and getattr(defaults, key) is None:
            fields.get(key, required=True)
    instance_type = fields.string("instance_type", required=True, pattern=_TOKEN, expected=_TOKEN_EXPECTED)
    price = fields.money_per("price", "h", required=True, positive=True)
    if price is not None and currency is not None and price.currency != currency:
        wrong = fields.get("price") or node
        faults.add(wrong, f"is in {price.currency}, but the price book is in {currency}")
    if place.valid_until and place.valid_until <= place.valid_from:
        until = format_instant(place.valid_until)
        faults.add(fields.get("valid_until") or node, f"{until} is not after valid_from")
    cpus = fields.decimal("cpus", minimum=_ZERO, maximum=Decimal(100_000))
    memory = fields.size("memory")
    gpu_type, gpu_count = _gpus(fields, faults)
    gpu_memory = fields.size("gpu_memory")
    if not (place.provider and place.region and place.market and instance_type and price):
        return None
    return PriceRow(
        place.provider,
        place.region,
        instance_type,
        place.market,
        price.nanos,
        place.valid_from,
        place.valid_until,
        int((cpus or 0) * 1000),
        memory or 0,
        gpu_type,
        gpu_count,
        gpu_memory or 0,
        place.source,
    )


def _gpus(fields: Fields, faults: Faults) -> tuple[str, int]:
    node = fields.get("gpus")
    text = None if node is None else read_text(node, faults)
    if node is None or text is None:
        return "", 0
    match = _GPUS.fullmatch(text)
    if match is None:
        faults.add(node, f"{text[:60]!r} is not GPUs; write type and count, such as H100:8")
        return "", 0
    return parse_gpu_type(match.group(1)), int(match.group(2))


def _weights(fields: Fields) -> Weights | None:
    inner = fields.fields("component_weights", ("gpu", "cpu", "memory"))
    if inner is None:
        return None
    gpu, cpu, memory = (
        inner.decimal(key, minimum=_ZERO, maximum=Decimal(1000)) or _ZERO for key in ("gpu", "cpu", "memory")
    )
    if inner.node.kind == "mapping" and gpu + cpu + memory == 0:
        inner.faults.add(inner.node, "give at least one weight above 0 for gpu, cpu or memory")
    return Weights(gpu, cpu, memory)


# ------------------------------------------------------------------ cost models


def read_cost_model(node: Node, faults: Faults) -> CostModelSpec | None:
    """The spec of a CostModel, or None with its faults reported."""
    fields = Fields(node, faults, _MODEL_KEYS)
    for key in ("cost_of_capital", "annuity"):
        planned = fields.get(key)
        if planned is not None:
            faults.not_built(planned, key, instead="leave it out (straight line)")
    pool = fields.string("pool", required=True, pattern=NAME, expected=_TOKEN_EXPECTED)
    capex = fields.money("node_capex", required=True, positive=True)
    life_us = _life(fields)
    ratios = {
        key: fields.percent(key, minimum=_ZERO, maximum=maximum)
        for key, maximum in (("residual", _HUNDRED), ("network", _HUNDRED * 10))
    }
    support = fields.percent("support", per="y", minimum=_ZERO, maximum=_HUNDRED)
    capacity = fields.percent("practical_capacity", minimum=_ONE, maximum=_HUNDRED)
    power = _power(fields)
    colo = fields.money_per("colo", "kW-month")
    if colo is not None and "power" not in fields:
        faults.add(fields.get("colo") or node, "rent goes by power; give power.max_watts too")
    nodes_per_fte, salary = _staff(fields)
    gpus = _device_costs(fields)
    weights = _weights(fields)
    if pool is None or capex is None or life_us is None:
        return None
    _same_currency(fields, capex, [power.tariff if power else None, colo, salary], gpus)
    spec = CostModelSpec(
        pool=pool,
        node_capex=capex,
        useful_life_us=life_us,
        residual=ratios["residual"] or _ZERO,
        network=ratios["network"] or _ZERO,
        power=power,
        colo=colo,
        support=support or _ZERO,
        nodes_per_fte=nodes_per_fte,
        salary=salary,
        practical_capacity=capacity or Decimal("0.8"),
        component_weights=weights,
        gpus=gpus,
    )
    if (rate := dearest_rate(spec)) > NANOS_MAX:
        most = format_nanos(NANOS_MAX, 2)
        faults.add(
            fields.get("node_capex") or node,
            f"makes an hour of a node cost up to {format_nanos(rate, 2)} {capex.currency}; a rate is at most"
            f" {most}",
        )
    return spec


def _life(fields: Fields) -> int | None:
    life_us = fields.duration("useful_life", required=True, years=True)
    node = fields.get("useful_life")
    if life_us is not None and node is not None and life_us < 24 * 3_600_000_000:
        fields.faults.add(node, "is shorter than a day; write it as 5y")
        return None
    return life_us


def _power(fields: Fields) -> Power | None:
    inner = fields.fields("power", ("max_watts", "load_factor", "pue", "tariff", "carbon", "timezone"))
    if inner is None:
        return None
    max_watts = inner.integer("max_watts", required=True, minimum=1, maximum=1_000_000)
    load = inner.decimal("load_factor", minimum=_ZERO, maximum=_ONE)
    pue = inner.decimal("pue", minimum=_ONE, maximum=Decimal(10))
    hours, timezone, tariff = _tariff(inner)
    given = inner.string("carbon", pattern=_CARBON, expected="grams of CO2e per kWh, such as 381 g/kWh")
    carbon = Decimal(given.partition("g")[0].strip()) if given else None
    if max_watts is None or tariff is None:
        return None
    return Power(max_watts, _ONE if load is None else load, pue or _ONE, tariff, carbon, hours, timezone)


def _tariff(fields: Fields) -> tuple[tuple[int, ...], str, Money | None]:
    """By hour of the week, in which zone, and the tariff or its mean. Prices of one currency."""
    node = fields.get("tariff", required=True)
    if node is not None and node.kind == "sequence":
        hours, timezone, some = read_hours(fields, node)
        return hours, timezone, None if some is None else Money(mean_of_week(hours), some.currency)
    if (zone := fields.get("timezone")) is not None:
        fields.faults.add(zone, "is of a tariff by the hour: a list of hours and days with prices")
    return (), "UTC", fields.money_per("tariff", "kWh")


def _staff(fields: Fields) -> tuple[int, Money | None]:
    inner = fields.fields("staff", ("nodes_per_fte", "salary"))
    if inner is None:
        return 0, None
    nodes = inner.integer("nodes_per_fte", required=True, minimum=1, maximum=1_000_000)
    return nodes or 0, inner.money_per("salary", "y", required=True)


def _device_costs(fields: Fields) -> tuple[DeviceCost, ...]:
    found: list[DeviceCost] = []
    for key, node in fields.entries("gpus").items():
        inner = Fields(node, fields.faults, ("capex", "max_watts"))
        capex = inner.money("capex", required=True)
        watts_node = inner.get("max_watts")
        watts = None
        if watts_node is not None:
            watts = read_int(watts_node, fields.faults, minimum=0, maximum=100_000)
        try:
            gpu_type = "other" if key == "other" else parse_gpu_type(key)
        except InvalidRequest as error:
            fields.faults.add_key(node, error.message[:200])
            continue
        if capex is not None:
            found.append(DeviceCost(gpu_type, capex, watts or 0))
    return tuple(sorted(found, key=lambda device: device.gpu_type))


def _same_currency(
    fields: Fields, capex: Money, others: list[Money | None], gpus: tuple[DeviceCost, ...]
) -> None:
    amounts = [*others, *(device.capex for device in gpus)]
    wrong = {m.currency for m in amounts if m is not None and m.currency != capex.currency}
    for currency in sorted(wrong):
        fields.faults.add(fields.node, f"mixes {currency} with {capex.currency}; use one currency in a model")
