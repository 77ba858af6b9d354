"""What older schemas of the log meant, as steps from one to the next over plain documents.

Add     when the meaning of an event changes: bump `codec.SCHEMA`, and give the kind a step from the schema
        before. A step that has shipped is never edited. Kinds without a step are read as they are.
Why     types of the past are kept nowhere: a step turns a decoded document (dict) of schema n into one of
        schema n + 1, and only the last has a type. Rows of the current schema never come here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Step = Callable[[dict[str, Any]], dict[str, Any]]
History = Mapping[int, Mapping[str, Step]]
"""Steps by the schema they start from, then by the event's tag."""

FIRST = 1
"""The schema of the first release, whose events carry no number."""


def _read_policies(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 kept the text alone, and every reading of it was a parse by the parser of the day."""
    return {**document, "documents": [_read_policy(one) for one in document["documents"]]}


def _read_policy(record: dict[str, Any]) -> dict[str, Any]:
    # The parser is slow to import, and a log of today never comes here.
    from bursar_policies.document import parse_documents

    try:
        spec = parse_documents(record["text"], f"{record['kind']}/{record['name']}")[0].spec
    except Exception as error:
        # Whatever a parser of today says about a text of yesterday: the log opens without it.
        return {**record, "problem": str(error) or type(error).__name__}
    return {**record, "spec": msgspec.to_builtins(spec)}


def _compact_metering(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 wrote each charge whole, and each was a row of this very event."""
    counters = {(attempt_id, rank): held_us for attempt_id, rank, held_us in document["counters"]}
    through, charges = document["through"], document["charges"]
    ends: dict[tuple[str, int], int] = {}
    for charge in charges:
        if charge["kind"] == "usage":
            owner = (charge["attempt_id"], charge.get("rank", 0))
            ends[owner] = max(ends.get(owner, 0), charge["end"])
    used, rest = [], []
    for charge in charges:
        parts = [charge.get(name, 0) for name in ("gpu", "cpu", "memory")]
        if charge["kind"] == "usage":
            owner = (charge["attempt_id"], charge.get("rank", 0))
            used.append([*owner, counters[owner] - (ends[owner] - charge["end"]), *parts])
        else:
            rest.append([charge["kind"], through - charge["start"], through - charge["end"], *parts])
    prices = [charge["price_id"] for charge in charges if charge["kind"] != "usage"]
    return {
        "type": document["type"],
        "node_id": document["node_id"],
        "through": through,
        "price_id": prices[0] if prices else "",
        "used": used,
        "rest": rest,
        "posted": True,
    }


def _compact_end(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 wrote the last charges whole. The last of them ends where the report's counter does."""
    charges = document["charges"]
    end = max((charge["end"] for charge in charges), default=0)
    pieces = [
        [
            document["report"].get("held_us", 0) - (end - charge["end"]),
            *(charge.get(name, 0) for name in ("gpu", "cpu", "memory")),
        ]
        for charge in charges
    ]
    return {**{name: document[name] for name in ("type", "attempt_id", "rank", "report")}, "pieces": pieces}


def _name_fields(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 wrote the whole description with every change of it."""
    rest = {name: value for name, value in document.items() if name != "spec"}
    fields = dict(document["spec"])
    if "labels" in fields:
        fields["labels"] = dict(fields["labels"])
    return {**rest, "fields": fields, "whole": True}


STEPS: History = {
    1: {
        "policy-applied": _read_policies,
        "node-metered": _compact_metering,
        "member-ended": _compact_end,
    },
    2: {"job-updated": _name_fields},
}


def is_needed(kind: str, schema: int, to_schema: int, steps: History = STEPS) -> bool:
    """Does an event of this kind read differently since `schema`?"""
    return any(kind in steps.get(number, {}) for number in range(schema, to_schema))


def upgrade(document: dict[str, Any], schema: int, to_schema: int, steps: History = STEPS) -> dict[str, Any]:
    """The document of an event of `schema` as `to_schema` would have written it."""
    kind = document["type"]
    for number in range(schema, to_schema):
        step = steps.get(number, {}).get(kind)
        if step is not None:
            document = step(document)
    return document
