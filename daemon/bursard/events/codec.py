"""Events as bytes. Each says by its last member which schema wrote it, so that any one can be read alone.

Why     the number stands in the payload, not beside it: the hash chain covers it, and a copy of an event
        (archive, backup, export) needs nothing else to be understood.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bursard.events.union import Event
from bursard.events.upgrade import FIRST, is_needed, upgrade

SCHEMA = 3
"""Version of the union that `encode` writes."""

_MARK = b',"v":%d}' % SCHEMA
_OTHER_MARK = re.compile(rb',"v":([0-9]{1,9})\}\Z')
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class _Kind(msgspec.Struct):
    type: str


_KIND = msgspec.json.Decoder(_Kind)


class NewerSchema(msgspec.ValidationError):
    """An event of a schema that this version does not know: only a later version can read the log."""


def encode(event: Event) -> bytes:
    """One event as canonical JSON bytes (field order is declaration order): what the hash chain covers."""
    return _ENCODER.encode(event)[:-1] + _MARK


def decode(payload: bytes) -> Event:
    """The inverse of `encode`, of every schema so far.

    Raises:
        NewerSchema: written by a later version.
        msgspec.ValidationError: a payload that is no event.
    """
    if payload.endswith(_MARK):
        return _DECODER.decode(payload)
    schema = schema_of(payload)
    if schema > SCHEMA:
        raise NewerSchema(f"an event of schema {schema}; this version reads up to {SCHEMA}")
    kind = _KIND.decode(payload).type
    if not is_needed(kind, schema, SCHEMA):
        return _DECODER.decode(payload)
    document: dict[str, Any] = msgspec.json.decode(payload)
    event: Event = msgspec.convert(upgrade(document, schema, SCHEMA), Event)
    return event


def schema_of(payload: bytes) -> int:
    """The schema that wrote this event."""
    found = _OTHER_MARK.search(payload, len(payload) - 20 if len(payload) > 20 else 0)
    return int(found.group(1)) if found else FIRST
