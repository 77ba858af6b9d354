"""Sums and products as a field of 64 bits can hold them, and beside it where it cannot.

Why     each term has its bound, a sum of them has none; an answer that says "at least so much" serves its
        reader, and one that fails takes the whole list with it. Money is also said exactly (`Amount`).
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message

MOST: Final = 2**63 - 1
"""What a field of the wire holds, of money as of counters."""


def saturated(value: int) -> int:
    """The value, or the nearest that a signed field of 64 bits holds."""
    return min(max(value, -MOST - 1), MOST)


def put_amounts(wire: Message, **amounts: int) -> None:
    """Set fields of money; one that passes 64 bits is said in `<field>_wide` too."""
    for name, nanos in amounts.items():
        held = saturated(nanos)
        setattr(wire, name, held)
        if held != nanos:
            getattr(wire, f"{name}_wide").nanos = str(nanos)
