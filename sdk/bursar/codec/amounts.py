"""Money on the wire: a field of 64 bits, and its exact amount beside it where that does not fit.

Why     each term has its bound, a sum of them has none; an answer that says "at least so much" serves its
        reader, and one that fails takes the whole list with it. Money is also said exactly (`Amount`).
"""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.message import Message

from bursar.errors import InvalidRequest
from bursar.v1 import types_pb2

MOST: Final = 2**63 - 1
"""What a field of the wire holds, of money as of counters."""
RUNS: Final = ("STARTING", "RUNNING", "STOPPING")
"""States of what holds a machine, which has a price."""
_DIGITS: Final = re.compile(r"-?[0-9]{1,60}", re.ASCII)


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
        else:
            wire.ClearField(f"{name}_wide")


def amount(wire: Message, name: str) -> int:
    """Nanos of a field that is an `Amount`; 0 where it is not set. Raises `InvalidRequest` as `exact`."""
    return whole(getattr(wire, name).nanos, name) if wire.HasField(name) else 0


def exact(wire: Message, name: str) -> int:
    """Nanos of a field, of any size: of `<name>_wide` (`Amount`) where that is set.

    Raises `InvalidRequest` when that is no whole number: anybody may send one.
    """
    if not wire.HasField(f"{name}_wide"):
        return int(getattr(wire, name))
    return whole(getattr(wire, f"{name}_wide").nanos, f"{name}_wide")


def rate_now(wire: types_pb2.Job) -> int:
    """Nanos per hour of what runs of a job; -1: nothing does, or its price is not known.

    Older servers say 0 for both, and so does every amount that is not set: only of what runs, at a price
    that is known, is 0 a price.
    """
    nanos = exact(wire, "rate_nanos_per_hour")
    runs = wire.state in RUNS or (wire.HasField("array") and any(wire.array.counts.get(one) for one in RUNS))
    return nanos if nanos or (runs and not wire.cost_unknown) else -1


def whole(digits: str, name: str) -> int:
    """Nanos of an `Amount`'s text. Raises `InvalidRequest` with the field's name where that is no number."""
    if _DIGITS.fullmatch(digits) is None:
        raise InvalidRequest(f"{name}: is not a whole number of nanos", {"field": name})
    return int(digits)
