"""What the books say of themselves, as the JSON of the public contract."""

from __future__ import annotations

from bursar.codec import view
from bursar.codec.amounts import exact
from bursar.v1 import money_pb2


def book_period(wire: money_pb2.BookPeriod) -> view.View:
    """A month of the books; of a closed one, what it was signed as."""
    cash = wire.currency or view.DEFAULT_CURRENCY
    return {
        "period": wire.period,
        "state": wire.state,
        "total": view.money(exact(wire, "total_nanos"), cash),
        "totals": {one.kind: view.money(exact(one, "nanos"), cash) for one in wire.totals},
        "charges": wire.charges,
        "since": view.instant(wire.since),
        "until": view.instant(wire.until),
        "closed_at": view.instant(wire.closed_at),
        "closed_by": wire.closed_by,
        "closed_by_event": wire.closed_by_event,
        "hash": wire.hash,
        "missing": list(wire.missing),
    }
