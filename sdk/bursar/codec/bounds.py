"""The one bound that every number of the wire has: it is finite, and fits a signed 64-bit integer.

Why     the wire's unsigned integers reach 2^64 - 1, and what keeps them (a database column, a clock, an
        array) does not. Refused here once, no handler has to think of it; its own bounds are its own affair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from bursar.errors import InvalidRequest

INTEGER_MAX: Final = 2**63 - 1
_UNSIGNED = frozenset((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64))
_REAL = frozenset((FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT))


def check_numbers(message: Message) -> None:
    """Raise `InvalidRequest` for the first number, at any depth, that nothing behind the wire can hold."""
    for path, value in _beyond(message):
        if isinstance(value, float):
            raise InvalidRequest(f"{path}: is {value}; a finite number is needed", {"field": path})
        raise InvalidRequest(f"{path}: is {value}; at most {INTEGER_MAX}", {"field": path})


def _beyond(message: Message, path: str = "") -> Iterator[tuple[str, int | float]]:
    for name, kind, many in _plan(message.DESCRIPTOR):
        if kind is None and not many and not message.HasField(name):
            continue
        held = getattr(message, name)
        for value in held if many else (held,):
            if kind is None:
                yield from _beyond(value, f"{path}{name}.")
            elif value > INTEGER_MAX if kind in _UNSIGNED else not math.isfinite(value):
                yield path + name, value


@cache
def _plan(descriptor: Descriptor) -> tuple[tuple[str, int | None, bool], ...]:
    """(field, type or None for a message, repeated) of the fields that can hold such a number."""
    found: list[tuple[str, int | None, bool]] = []
    for field in descriptor.fields:
        inner: Any = field.message_type
        if inner is not None:
            # Maps of this wire go from text to text or to small counts.
            if not inner.GetOptions().map_entry and _plan(inner):
                found.append((field.name, None, field.is_repeated))
        elif field.type in _UNSIGNED | _REAL:
            found.append((field.name, field.type, field.is_repeated))
    return tuple(found)
