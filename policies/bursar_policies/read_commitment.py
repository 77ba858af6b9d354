"""Reservations, savings plans and committed use from their YAML nodes.

Owns    the form of `kind: Commitment`.
Why     a promise to a provider is money that is spent whatever runs: an hour that it does not cover, a plan
        without rates or two currencies would make its report look right and be wrong, so each is a fault.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import DAY_US, HOUR_US, Instant, format_instant
from bursar.money import Money
from bursar.yamlfile import Faults, Fields, Node, read_items
from bursar_policies.specs import CommitmentSpec, PlanRate

KEYS: Final = (
    "provider", "type", "region", "family", "instance_type", "quantity", "hourly", "upfront", "start",
    "end", "rates",
)  # fmt: skip
SOLD: Final = {
    "aws": ("reservation", "savings-plan"),
    "azure": ("reservation", "savings-plan"),
    "gcp": ("committed-use",),
}
"""What each provider sells."""
TYPES: Final = ("reservation", "savings-plan", "committed-use")
RATES_MAX: Final = 1_000
QUANTITY_MAX: Final = 100_000
TERM_MAX_US: Final = 3653 * DAY_US
_TOKEN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_EXPECTED: Final = "a name of letters, digits, '.', '_' and '-'"
_OF_MACHINES: Final = ("region", "instance_type", "quantity")
_OF_MONEY: Final = ("hourly", "rates")


def read_commitment(node: Node, faults: Faults) -> CommitmentSpec | None:
    """The spec of a Commitment, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, KEYS)
    provider = fields.enum("provider", tuple(SOLD), required=True)
    of_type = fields.enum("type", TYPES, required=True)
    if provider and of_type and of_type not in SOLD[provider]:
        sold = " and ".join(SOLD[provider])
        faults.add(fields.get("type") or node, f"{provider} sells no {of_type}; it sells {sold}")
    machines = of_type == "reservation" or (of_type == "committed-use" and "rates" not in fields)
    if of_type:
        _form(fields, of_type, machines)
    hourly, upfront = fields.money_per("hourly", "h", positive=True), fields.money("upfront", positive=True)
    rates = _rates(fields)
    currency = _currency(fields, hourly, upfront)
    start, end = _term(fields)
    names = ("region", "family", "instance_type")
    found = {key: fields.string(key, pattern=_TOKEN, expected=_EXPECTED) or "" for key in names}
    spec = CommitmentSpec(
        provider=provider or "",
        of_type=of_type or "",
        currency=currency,
        start=start,
        end=end,
        hourly_nanos=hourly.nanos if hourly else 0,
        upfront_nanos=upfront.nanos if upfront else 0,
        region=found["region"],
        family=found["family"],
        instance_type=found["instance_type"],
        quantity=fields.integer("quantity", minimum=1, maximum=QUANTITY_MAX) or 0,
        rates=rates,
    )
    return spec if len(faults.found) == before else None


def _form(fields: Fields, of_type: str, machines: bool) -> None:
    """What a promise of machines must have, and one of money; and what it must not."""
    node, faults = fields.node, fields.faults
    wanted, foreign = (_OF_MACHINES, ("rates", "family")) if machines else (_OF_MONEY, _FOREIGN_TO_MONEY)
    kind = f"a {of_type} of {'machines' if machines else 'money'}"
    for key in wanted:
        fields.get(key, required=True)
    for key in foreign:
        if (given := fields.get(key)) is not None:
            faults.add(given, f"{key} is nothing that {kind} has; leave it out")
    if machines and "hourly" not in fields and "upfront" not in fields:
        faults.add(node, "costs nothing; give hourly, upfront or both")
    if not machines and ("family" in fields) != ("region" in fields):
        faults.add(node, "a plan of one family is of one region: give both family and region, or neither")


_FOREIGN_TO_MONEY: Final = ("instance_type", "quantity", "upfront")


def _rates(fields: Fields) -> tuple[PlanRate, ...]:
    node, faults = fields.get("rates"), fields.faults
    if node is None:
        return ()
    items = read_items(node, faults, items_max=RATES_MAX)
    if node.kind == "sequence" and not node.items:
        faults.add(node, "names no rate, so the plan would cover nothing")
    found: dict[str, PlanRate] = {}
    for item in items:
        each = Fields(item, faults, ("instance_type", "rate"))
        name = each.string("instance_type", required=True, pattern=_TOKEN, expected=_EXPECTED)
        rate = each.money_per("rate", "h", required=True, positive=True)
        if name in found:
            faults.add(item, f"the rate of {name} is given twice")
        if name and rate:
            found[name] = PlanRate(name, rate.nanos)
    return tuple(found.values())


def _currency(fields: Fields, *amounts: Money | None) -> str:
    """Of all amounts."""
    seen = [one.currency for one in amounts if one is not None]
    for item in (fields.get("rates") or fields.node).items if "rates" in fields else ():
        rate = Fields(item, Faults(""), ("instance_type", "rate")).money_per("rate", "h")
        seen += [rate.currency] if rate is not None else []
    if len(set(seen)) > 1:
        fields.faults.add(fields.node, f"is in {' and in '.join(sorted(set(seen)))}; use one currency")
    return seen[0] if seen else ""


def _term(fields: Fields) -> tuple[int, int]:
    start, end = fields.instant("start", required=True), fields.instant("end", required=True)
    for key, at in (("start", start), ("end", end)):
        if at is not None and at % HOUR_US:
            full = format_instant(Instant(at - at % HOUR_US))
            message = f"{key}: must be a full hour of UTC, as hours are what is sold"
            fields.faults.add(fields.get(key) or fields.node, message, nearest=full)
    if start is not None and end is not None:
        if end <= start:
            fields.faults.add(fields.get("end") or fields.node, "end is not after start")
        elif end - start > TERM_MAX_US:
            fields.faults.add(fields.get("end") or fields.node, "is more than 10 years after start")
    return start or 0, end or 0
