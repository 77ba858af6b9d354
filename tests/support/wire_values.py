"""Values that a stranger may send: each scalar of the wire at its bounds, and random messages of them.

Why     the walk over single fields and the fuzzer draw from one list, so a value that once did harm is
        tried everywhere from then on.
"""

from __future__ import annotations

from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INT32, INT64 = (0, -1, 1, 2**31 - 1, -(2**31)), (0, -1, 1, 2**31, 2**62, 2**63 - 1, -(2**63))
UINT32, UINT64 = (0, 1, 2**31, 2**32 - 1), (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_SINT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_SINT64: INT64,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: UINT64,
    FieldDescriptor.TYPE_DOUBLE: (0.0, -1.0, 1e308, float("nan"), float("inf"), float("-inf")),
    FieldDescriptor.TYPE_BOOL: (False, True),
}
TEXTS = (
    "", "x", "a" * 64, "a" * 300, "a" * 5_000, "a" * 200_000, "\x00", "a\x00b", "\x1b[2J", "\n", "ü" * 100,
    "💸", "../../etc/passwd", "job_", "1" * 400, "-1", "NaN", "1.9223372036854775808", "last[7]", "\u202e",
    "9223372036854775808.0", "last[99999999999]", "{", "%", "'; drop table jobs; --", "label:", "9999-12",
    "label:" + "k" * 300, "2026-13", "0000-01", "USD", "Europe/Nowhere",
)  # fmt: skip
NEVER = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")
"""Statuses that say that the daemon was at fault, or gave no answer."""


def values(field: FieldDescriptor) -> tuple[Any, ...]:
    """What one scalar field is tried with."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return (b"", b"\x00" * 100_000)
    return NUMBERS[field.type]


def scramble(message: Message, random: Random, known: dict[str, list[Any]], depth: int = 0) -> None:
    """Set some fields of a message at random. `known`: field name -> values that mean something."""
    for field in message.DESCRIPTOR.fields:
        # A message in which everything is wrong is refused at its first field; most are nearly right.
        if random.random() > (0.35 if depth else 0.6):
            continue
        many = random.choice((0, 1, 1, 2, 5)) if field.is_repeated else 1
        for _ in range(many):
            _put(message, field, random, known, depth)


def _put(
    message: Message, field: FieldDescriptor, random: Random, known: dict[str, list[Any]], depth: int
) -> None:
    held = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value_field = field.message_type.fields_by_name["value"]
        held[_pick(field.message_type.fields_by_name["key"], random, known)] = _pick(
            value_field, random, known
        )
    elif field.message_type is not None:
        if depth < 5:
            scramble(held.add() if field.is_repeated else held, random, known, depth + 1)
            if not field.is_repeated:
                held.SetInParent()
    elif field.is_repeated:
        held.append(_pick(field, random, known))
    else:
        setattr(message, field.name, _pick(field, random, known))


def _pick(field: FieldDescriptor, random: Random, known: dict[str, list[Any]]) -> Any:
    right = known.get(field.name)
    if right and random.random() < 0.8:
        return random.choice(right)
    return random.choice(values(field))
