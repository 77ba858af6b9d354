"""Placement policies from their YAML nodes.

Owns    the form of `kind: PlacementPolicy` (contract section 6).
Why     an allocator or a scorer that nobody has, or a weight that it does not know, would leave jobs where
        nobody meant them: each is refused with its line.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.resources import MILLI
from bursar.yamlfile import Faults, Fields, Node, nearest, read_decimal, read_entries
from bursar_policies import allocators
from bursar_policies.scorers.strategy import WEIGHT_MAX, scorers_of
from bursar_policies.specs import STRATEGIES, AllocatorSpec, PlacementPolicySpec

ROUND_MIN_US: Final = 10 * SECOND_US
"""A job that is stopped more often than that gets nothing done."""
_KEYS: Final = ("name", "round", "restart")
_DEFAULTS: Final = AllocatorSpec("")


def read_placement(node: Node, faults: Faults) -> PlacementPolicySpec | None:
    """The spec of a PlacementPolicy, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, ("strategy", "weights", "allocator"))
    strategy = fields.enum("strategy", STRATEGIES, required=True)
    weights: list[tuple[str, Decimal]] = []
    known = scorers_of(strategy) if strategy is not None else ()
    for key, child in fields.entries("weights").items():
        weight = read_decimal(child, faults, minimum=Decimal(0), maximum=Decimal(WEIGHT_MAX))
        if strategy is not None and key not in known:
            message = f"{key[:60]!r} is not a scorer of {strategy}; known: {', '.join(known)}"
            faults.add_key(child, message, nearest=nearest(key, known))
        elif weight is not None and weight * MILLI != int(weight * MILLI):
            faults.add(child, "has more than three digits behind the point")
        elif weight is not None:
            weights.append((key, weight))
    given = fields.get("allocator")
    allocator = _allocator(given, faults) if given is not None else None
    if strategy is None or (given is not None and len(faults.found) > before):
        return None
    return PlacementPolicySpec(strategy, tuple(sorted(weights)), allocator)


def _allocator(node: Node, faults: Faults) -> AllocatorSpec | None:
    """Which one, how often it is asked, and what of its own weights is not as it comes."""
    if node.kind == "scalar":
        near = nearest(str(node.text), allocators.names())
        said = f"write {{name: {near}}}" if near else f"known: {', '.join(allocators.names())}"
        faults.add(node, f"expected a mapping with the name of one; {said}")
        return None
    entries = read_entries(node, faults)
    named = entries.get("name")
    name = str(named.text) if named is not None and named.kind == "scalar" else ""
    try:
        declared = dict(allocators.find(name).weights) if name else {}
    except InvalidRequest as error:
        if named is not None:
            faults.add(named, str(error), nearest=nearest(name, allocators.names()))
        return None
    fields = Fields(node, faults, (*_KEYS, *declared))
    if fields.string("name", required=True) is None:
        return None
    weights = []
    for key, child in entries.items():
        if key in declared and key not in _KEYS:
            least, most = (Decimal(str(bound)) for bound in declared[key][1:])
            weight = read_decimal(child, faults, minimum=least, maximum=most)
            if weight is not None:
                weights.append((key, weight))
    round_us = _duration(fields, "round", ROUND_MIN_US, _DEFAULTS.round_us)
    restart_us = _duration(fields, "restart", 0, _DEFAULTS.restart_us)
    return AllocatorSpec(name, round_us, restart_us, tuple(sorted(weights)))


def _duration(fields: Fields, key: str, least_us: int, default_us: int) -> int:
    node, found = fields.get(key), fields.duration(key)
    if node is None or found is None:
        return default_us
    if not least_us <= found <= DAY_US:
        fields.faults.add(node, f"must be from {least_us // SECOND_US}s to 1d")
    return found
