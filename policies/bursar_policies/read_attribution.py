"""Teams and cost centres from their YAML nodes: who owns which costs, and who bears what is nobody's own.

Owns    the form of `kind: Attribution`.
Why     a line that can never count, or shares that are not the whole, would make a bill look right and be
        wrong: each is a fault with its line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from bursar.model.check import quote
from bursar.projects import is_within
from bursar.yamlfile import Faults, Fields, Node, read_entries, read_enum, read_items, read_percent
from bursar_policies.read_budget import read_scope
from bursar_policies.specs import (
    PPM,
    SHARED_BY,
    SHARED_KINDS,
    AttributionSpec,
    OwnerRule,
    Scope,
    SharedRule,
)

OWNERS_MAX: Final = 500
SHARED_MAX: Final = 20
SHARES_MAX: Final = 200
REASON_MAX: Final = 500
_KEYS: Final = ("owners", "shared", "reason")
_NAMES: Final = ("team", "cost_center")
_NAME: Final = r"[^\s\x00-\x1f][^\x00-\x1f]{0,127}"
_EXPECTED: Final = "a name of at most 128 characters"


def read_attribution(node: Node, faults: Faults) -> AttributionSpec | None:
    """The spec of an Attribution, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, _KEYS)
    owners = _owners(fields)
    shared = _shared(fields)
    reason = fields.string("reason", length_max=REASON_MAX) or ""
    if len(faults.found) > before:
        return None
    if not owners and not shared:
        faults.add(node, "says nothing; give `owners`, `shared` or both")
        return None
    return AttributionSpec(owners, shared, reason)


def _items(fields: Fields, key: str, items_max: int) -> Sequence[Node]:
    node = fields.get(key)
    return () if node is None else read_items(node, fields.faults, items_max=items_max)


def _owners(fields: Fields) -> tuple[OwnerRule, ...]:
    found: list[tuple[OwnerRule, Node]] = []
    for item in _items(fields, "owners", OWNERS_MAX):
        before = len(fields.faults.found)
        each = Fields(item, fields.faults, ("scope", *_NAMES))
        given = each.get("scope")
        scope = Scope() if given is None else read_scope(given, fields.faults)
        team, cost_center = (each.string(key, pattern=_NAME, expected=_EXPECTED) or "" for key in _NAMES)
        if scope is None or len(fields.faults.found) > before:
            continue
        if not team and not cost_center:
            fields.faults.add(item, "names nobody; give `team`, `cost_center` or both")
            continue
        rule = OwnerRule(scope, team, cost_center)
        if all(_said_before(rule, name, found) for name in _NAMES if getattr(rule, name)):
            line = next(one.line for rule_, one in found if _covers(rule_.scope, scope))
            fields.faults.add(
                item, f"never counts: line {line} covers all of it, and the first counts; put this one before"
            )
        found.append((rule, item))
    return tuple(rule for rule, _ in found)


def _said_before(rule: OwnerRule, name: str, before: Sequence[tuple[OwnerRule, Node]]) -> bool:
    return any(getattr(one, name) and _covers(one.scope, rule.scope) for one, _ in before)


def _covers(wide: Scope, narrow: Scope) -> bool:
    """Is every job of the one scope in the other?"""
    return (
        is_within(narrow.project, wide.project)
        and wide.user in ("", narrow.user)
        and wide.experiment in ("", narrow.experiment)
        and wide.model in ("", narrow.model)
        and set(wide.labels) <= set(narrow.labels)
    )


def _shared(fields: Fields) -> tuple[SharedRule, ...]:
    found: list[tuple[SharedRule, Node]] = []
    said = set[str]()
    for item in _items(fields, "shared", SHARED_MAX):
        rule = _rule(item, fields.faults)
        if rule is None:
            continue
        for one in (*rule.kinds, *((f"cost centre {rule.cost_center}",) if rule.cost_center else ())):
            if one in said:
                fields.faults.add(item, f"{one} is divided twice")
            said.add(one)
        found.append((rule, item))
    divided = {rule.cost_center for rule, _ in found if rule.cost_center}
    for rule, item in found:
        for name in sorted(divided & dict(rule.shares).keys()):
            fields.faults.add(item, f"{name} is divided itself, so it cannot bear a part")
    return tuple(rule for rule, _ in found)


def _rule(item: Node, faults: Faults) -> SharedRule | None:
    before = len(faults.found)
    each = Fields(item, faults, ("kinds", "cost_center", "by", "shares"))
    kinds = _kinds(each)
    cost_center = each.string("cost_center", pattern=_NAME, expected=_EXPECTED) or ""
    by = each.enum("by", SHARED_BY) or "cost"
    shares = _shares(each, by)
    if len(faults.found) == before and bool(kinds) == bool(cost_center):
        faults.add(item, "give what is divided: `kinds`, or `cost_center`, one of them")
    return SharedRule(kinds, cost_center, by, shares) if len(faults.found) == before else None


def _kinds(fields: Fields) -> tuple[str, ...]:
    node = fields.get("kinds")
    if node is None:
        return ()
    items = read_items(node, fields.faults, items_max=2 * len(SHARED_KINDS))
    if node.kind == "sequence" and not node.items:
        fields.faults.add(node, f"names no kind; known: {', '.join(SHARED_KINDS)}")
    found = [one for item in items if (one := read_enum(item, fields.faults, SHARED_KINDS))]
    if len(set(found)) != len(found):
        fields.faults.add(node, "names a kind twice")
    return tuple(found)


def _shares(fields: Fields, by: str) -> tuple[tuple[str, int], ...]:
    node, faults = fields.get("shares"), fields.faults
    if (node is not None) != (by == "shares"):
        faults.add(node or fields.node, "`shares` and `by: shares` belong together; give both or neither")
    if node is None:
        return ()
    entries = read_entries(node, faults)
    if len(entries) > SHARES_MAX:
        faults.add(node, f"names {len(entries)} cost centres; at most {SHARES_MAX}")
        return ()
    found: dict[str, int] = {}
    before = len(faults.found)
    for name, child in entries.items():
        if re.fullmatch(_NAME, name) is None:
            faults.add_key(child, f"{quote(name)} is not {_EXPECTED}")
        share = read_percent(child, faults, minimum=Decimal(0), maximum=Decimal(100))
        if share is not None and share * PPM % 1:
            faults.add(child, "has more than four places; write 33.3333%")
        elif share is not None:
            found[name] = int(share * PPM)
    if len(faults.found) == before and sum(found.values()) != PPM:
        whole = Decimal(sum(found.values())) / 10_000
        faults.add(node, f"is {whole:f}% together, and must be 100%: all of it is somebody's")
    return tuple(sorted(found.items()))
