"""Values that a stranger may send: each scalar of the wire at its bounds, and random messages of them.

`filled` gives what nobody would send: a message in which every field is set, to a value of its own.

Why     the walk over single fields and the fuzzer draw from one list, so a value that once did harm is
        tried everywhere from then on.
"""

from __future__ import annotations

import zlib
from random import Random
from typing import Any, TypeVar

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
    FieldDescriptor.TYPE_FLOAT: (0.0, -1.0, 3e38, float("nan"), float("inf"), float("-inf")),
    FieldDescriptor.TYPE_BOOL: (False, True),
}
TEXTS = (
    "", "x", "a" * 64, "a" * 300, "a" * 5_000, "a" * 200_000, "\x00", "a\x00b", "\x1b[2J", "\n", "ü" * 100,
    "💸", "../../etc/passwd", "job_", "1" * 400, "-1", "NaN", "1.9223372036854775808", "last[7]", "\u202e",
    "9223372036854775808.0", "last[99999999999]", "{", "%", "'; drop table jobs; --", "label:", "9999-12",
    "label:" + "k" * 300, "漢" * 3_000, "2026-13", "0000-01", "USD", "Europe/Nowhere",
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


M = TypeVar("M", bound=Message)
WORDS = {"currency": "EUR", "payload": '{"a": [1, null]}', "facts_json": "{}"}


def filled(message: M, path: str) -> M:
    """Set every field by its own path: numbers differ, texts name their field, the first lists have two."""
    for field in message.DESCRIPTOR.fields:
        held, here = getattr(message, field.name), f"{path}.{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            if value.message_type is None:
                for key in ("b", "a"):
                    held[key] = _own_value(value, f"{here}.{key}")
        elif field.message_type is not None and field.message_type.name == "Amount":
            continue  # said only where the field beside it cannot hold it
        elif field.message_type is not None:
            depth = path.count(".")
            if depth < 5 and field.is_repeated:
                for number in range(2 if depth < 2 else 1):
                    filled(held.add(), f"{here}{number}")
            elif depth < 5:
                filled(held, here)
        elif field.is_repeated:
            held.extend([_own_value(field, here + "1"), _own_value(field, here + "2")])
        elif field.containing_oneof is None or field == field.containing_oneof.fields[0]:
            setattr(message, field.name, _own_value(field, here))
    return message


def _own_value(field: FieldDescriptor, path: str) -> Any:
    """By the path alone, so that a new field changes no other."""
    number = 1 + zlib.crc32(path.encode()) % 10_000
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return WORDS.get(field.name, f"{field.name}-{number}")
        case FieldDescriptor.TYPE_BYTES:
            return f"{field.name}{number}".encode()
        case FieldDescriptor.TYPE_BOOL:
            return number % 3 > 0
        case FieldDescriptor.TYPE_DOUBLE:
            return number + 0.25
        case FieldDescriptor.TYPE_INT64 | FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_SINT64:
            return number * 1_000_003 if number % 2 else number * 1_000_000
        case _:
            return number
