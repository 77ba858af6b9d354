"""Quotas from their YAML nodes.

Owns    the form of `kind: Quota` (contract section 6).
Why     a quota that counts nothing, or guarantees more than it ever allows, is refused with its line.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from bursar.errors import InvalidRequest
from bursar.money import format_nanos
from bursar.resources import MILLI, format_size, parse_gpu_type
from bursar.yamlfile import Faults, Fields, Node, read_decimal, read_entries, read_project
from bursar_policies.specs import EACH, GPUS, RESOURCES, SPEND_RATE, Amounts, QuotaSpec

GPUS_MAX: Final = 1_000_000
CPUS_MAX: Final = 10_000_000
TYPES_MAX: Final = 64
_WORD = r"[^\s\x00-\x1f/=][^\x00-\x1f]{0,127}"


def read_quota(node: Node, faults: Faults) -> QuotaSpec | None:
    """The spec of a Quota, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, ("scope", "guaranteed", "max"))
    project, user = _scope(fields)
    currencies: list[str] = []
    guaranteed = tuple(one for one in _amounts(fields, "guaranteed", currencies) if one[1])
    most = _amounts(fields, "max", currencies)
    if len(faults.found) > before:
        return None
    if not guaranteed and not most:
        faults.add(node, "bounds nothing; give `guaranteed` above 0, `max`, or both")
        return None
    if len(set(currencies)) > 1:
        faults.add(node, f"has spend rates in {' and '.join(sorted(set(currencies)))}; use one currency")
        return None
    if user == EACH and guaranteed and (given := fields.get("guaranteed")) is not None:
        faults.add(given, "nothing can be guaranteed to each user; name one user, or a project")
        return None
    ceilings = dict(most)
    of_types = sum(amount for resource, amount in guaranteed if resource.startswith(f"{GPUS}/"))
    for resource, amount in (*guaranteed, *(((GPUS, of_types),) if of_types else ())):
        # A type that is not named in `max` is bounded by all GPUs there.
        ceiling = ceilings.get(resource, ceilings.get(resource.partition("/")[0]))
        if ceiling is not None and amount > ceiling and (given := fields.get("max")) is not None:
            shown = f"{written(resource, amount)} guaranteed, at most {written(resource, ceiling)}"
            faults.add(given, f"is below what is guaranteed: {resource.replace('/', ' ')}: {shown}")
            return None
    currency = currencies[0] if currencies else ""
    return QuotaSpec(project, user, guaranteed, most, currency)


def written(resource: str, amount: int, currency: str = "") -> str:
    """An amount as people write it: `16`, `512GB`, `40 USD/h`."""
    if resource == "memory":
        return format_size(amount)
    if resource == SPEND_RATE:
        money = format_nanos(amount)
        return f"{money.rstrip('0').rstrip('.')} {currency}/h".replace(" /h", "/h")
    return f"{Decimal(amount) / MILLI:f}".rstrip("0").rstrip(".") if amount % MILLI else str(amount // MILLI)


def as_fact(resource: str, amount: int) -> str:
    """The number alone: CPUs and GPUs as counts, money an hour as a decimal, memory as bytes."""
    if resource == SPEND_RATE:
        return format_nanos(amount)
    return str(amount) if resource == "memory" else written(resource, amount)


def _scope(fields: Fields) -> tuple[str, str]:
    inner = fields.fields("scope", ("project", "user"), required=True)
    if inner is None:
        return "", ""
    given = inner.get("project")
    project = read_project(given, fields.faults) if given is not None else None
    user = inner.string("user", pattern=_WORD, expected="a user's name") if "user" in inner else None
    if given is not None and "user" in inner:
        fields.faults.add(inner.node, "names a project and a user; a quota is of one of them")
    elif given is None and "user" not in inner and inner.node.kind == "mapping":
        fields.faults.add(inner.node, "names nobody; give `project` or `user`")
    return (project or "").lower(), user or ""


def _amounts(fields: Fields, key: str, currencies: list[str]) -> Amounts:
    inner = fields.fields(key, RESOURCES)
    if inner is None:
        return ()
    found: dict[str, int] = {}
    if (cpus := inner.get("cpus")) is not None:
        _put(found, "cpus", _milli(cpus, fields.faults, CPUS_MAX))
    _put(found, "memory", inner.size("memory"))
    if (gpus := inner.get("gpus")) is not None:
        _gpus(gpus, fields.faults, found)
    rate = inner.money_per("spend_rate", "h")
    if rate is not None:
        found[SPEND_RATE] = rate.nanos
        currencies.append(rate.currency)
    return tuple(sorted(found.items()))


def _put(found: dict[str, int], resource: str, amount: int | None) -> None:
    if amount is not None:
        found[resource] = amount


def _gpus(node: Node, faults: Faults, found: dict[str, int]) -> None:
    """A number of any type, or a number of each."""
    if node.kind != "mapping":
        _put(found, GPUS, _milli(node, faults, GPUS_MAX))
        return
    entries = read_entries(node, faults)
    if not entries or len(entries) > TYPES_MAX:
        faults.add(node, f"names {len(entries)} types of GPUs; from 1 to {TYPES_MAX}")
        return
    for key, child in entries.items():
        try:
            name = parse_gpu_type(key)
        except InvalidRequest as problem:
            faults.add_key(child, problem.message)
            continue
        if f"{GPUS}/{name}" in found:
            faults.add_key(child, f"the type {name} is given twice: capitals make no difference")
            continue
        _put(found, f"{GPUS}/{name}", _milli(child, faults, GPUS_MAX))


def _milli(node: Node, faults: Faults, most: int) -> int | None:
    value = read_decimal(node, faults, minimum=Decimal(0), maximum=Decimal(most))
    if value is None:
        return None
    if value * MILLI != int(value * MILLI):
        faults.add(node, "has more than three digits behind the point")
        return None
    return int(value * MILLI)
