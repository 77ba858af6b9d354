"""Money on the wire: a field of 64 bits, and its exact amount beside it where that does not fit."""

from __future__ import annotations

from google.protobuf.message import Message


def exact(wire: Message, name: str) -> int:
    """Nanos of a field, of any size: of `<name>_wide` (`Amount`) where that is set."""
    if wire.HasField(f"{name}_wide"):
        return int(getattr(wire, f"{name}_wide").nanos)
    return int(getattr(wire, name))
