"""The bounds that everything of the wire has: a number is finite and fits a signed 64-bit integer, a text
is no longer than a path and one line, and of what is repeated there is only so much.

Why     the wire's unsigned integers reach 2^64 - 1, and what keeps them (a database column, a clock, an
        array) does not; its texts reach the size of a message, and end in answers, logs and terminals.
        Refused here once, no handler has to think of it; its own bounds are its own affair.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from bursar.errors import InvalidRequest
from bursar.model.check import LABELS_MAX, THROUGHPUTS_MAX, quote

INTEGER_MAX: Final = 2**63 - 1
TEXT_MAX: Final = 4096
"""Characters of one text, a path among them."""
_OWN_BOUNDS: Final = frozenset(
    (
        "bursar.v1.JobSpec",  # `bursar.model.check`
        "bursar.v1.UpdateRequest.comment",  # the same
        "bursar.v1.SubmitRequest.idempotency_key",  # opaque, at most 200 characters
        "bursar.v1.PolicySource.text",  # a document of many lines
    )
)
"""Messages and fields whose texts have a rule of their own."""
COUNTS: Final = {
    "bursar.v1.ApplyRequest.sources": 1_000,
    "bursar.v1.CancelRequest.jobs": 1_000,
    "bursar.v1.CostRequest.by": 16,
    "bursar.v1.GpuRequest.types": 16,
    "bursar.v1.JobsRequest.jobs": 1_000,
    "bursar.v1.KeepBillRequest.lines": 1_000,
    "bursar.v1.ListEventsRequest.kinds": 200,
    "bursar.v1.ListJobsRequest.labels": LABELS_MAX,
    "bursar.v1.ListJobsRequest.states": 64,
    "bursar.v1.ReportRequest.sources": 100,
    "bursar.v1.Retag.labels": LABELS_MAX,
    "bursar.v1.ServiceLoad.replicas": 1_000,
    "bursar.v1.ServiceMinute.uses": 1_000,
    "bursar.v1.SyncRequest.loads": 1_000,
    "bursar.v1.SyncRequest.minutes": 1_000,
    "bursar.v1.UpdateRequest.labels": LABELS_MAX,
    "bursar.v1.UpdateRequest.throughput": THROUGHPUTS_MAX,
    "bursar.v1.WatchJobsRequest.jobs": 1_000,
}
"""How many of each repeated field one request may hold. Without a line here none is taken."""
_CONTROL = re.compile("[\x00-\x1f\x7f]")
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


def check_counts(message: Message) -> None:
    """Raise `InvalidRequest` for the first field, at any depth, that holds more than it may: each of them may
    be a condition of a query, or an answer to be made.
    """
    for path, many, most in _counted(message):
        if many > most:
            raise InvalidRequest(f"{path}: {many} are given; at most {most}", {"field": path})


def _counted(message: Message, path: str = "") -> Iterator[tuple[str, int, int]]:
    for field, repeated in _count_plan(message.DESCRIPTOR):
        held = getattr(message, field.name)
        if repeated:
            yield path + field.name, len(held), COUNTS.get(field.full_name, 0)
        inner = field.message_type
        if inner is None or inner.GetOptions().map_entry or not (repeated or message.HasField(field.name)):
            continue
        for value in held if repeated else (held,):
            yield from _counted(value, f"{path}{field.name}.")


@cache
def _count_plan(descriptor: Descriptor) -> tuple[tuple[FieldDescriptor, bool], ...]:
    """(field, repeated) of those that are repeated, or have such fields and no rule of their own."""
    found: list[tuple[FieldDescriptor, bool]] = []
    for field in descriptor.fields:
        inner: Any = field.message_type
        if inner is not None and inner.full_name in _OWN_BOUNDS:
            continue
        if field.is_repeated or (inner is not None and _count_plan(inner)):
            found.append((field, field.is_repeated))
    return tuple(found)


def check_texts(message: Message) -> None:
    """Raise `InvalidRequest` for the first text, at any depth, that is too long or more than one line."""
    for path, text in _texts(message):
        if len(text) > TEXT_MAX:
            raise InvalidRequest(f"{path}: {len(text)} characters; at most {TEXT_MAX}", {"field": path})
        if _CONTROL.search(text):
            raise InvalidRequest(
                f"{path}: {quote(text)} holds a line break or control character", {"field": path}
            )


def _texts(message: Message, path: str = "") -> Iterator[tuple[str, str]]:
    for name, kind, many in _text_plan(message.DESCRIPTOR):
        held = getattr(message, name)
        if kind == "map":
            for key, value in held.items():
                yield path + name, key
                yield path + name, value
        elif kind == "message":
            if many or message.HasField(name):
                for value in held if many else (held,):
                    yield from _texts(value, f"{path}{name}.")
        else:
            for value in held if many else (held,):
                yield path + name, value


@cache
def _text_plan(descriptor: Descriptor) -> tuple[tuple[str, str, bool], ...]:
    """(field, "text", "map" or "message", repeated) of the fields that can hold text without a rule."""
    found: list[tuple[str, str, bool]] = []
    for field in descriptor.fields:
        inner: Any = field.message_type
        if field.full_name in _OWN_BOUNDS:
            continue
        if inner is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                found.append((field.name, "text", field.is_repeated))
        elif inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                found.append((field.name, "map", True))
        elif inner.full_name not in _OWN_BOUNDS and _text_plan(inner):
            found.append((field.name, "message", field.is_repeated))
    return tuple(found)
