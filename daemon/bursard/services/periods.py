"""Months of the books: which are open, closing one, and what a closed one was signed as.

Why     a month is closed first and read then. Nothing enters it any more, so what is read is what it is,
        however long reading takes and whatever the daemon does meanwhile; then that is signed. A daemon that
        died between the two has a closed month without a signature, and closing it again signs it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from bursar.clock import HOUR_US
from bursar.codec.amounts import put_amounts
from bursar.errors import InvalidRequest, NotFound
from bursar.v1 import money_pb2 as pb
from bursard.access.authorize import Action, authorize
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.reports.period import Period, find_period, month_of
from bursard.state.decide import periods as decide
from bursard.state.decide import policies
from bursard.state.periods import ClosedPeriod
from bursard.store import ChargeFilter, ChargeSum, Dim, Unposted, Views

Settled = Callable[[bool], Awaitable[Unposted]]


class _Month(NamedTuple):
    """What a month has cost so far, by kind."""

    totals: dict[str, int]
    charges: int
    unpriced_us: int


async def close_period(engine: Engine, settled: Settled, request: pb.ClosePeriodRequest) -> pb.BookPeriod:
    """Close a month and sign it; one that is closed already is answered as it was signed.

    Raises `Forbidden`, `InvalidRequest`, `WrongState`.
    """
    authorize(Action.CLOSE_BOOKS)
    month, now = _month(request.period, engine.now()), engine.now()
    books = await settled(True)
    since = engine.state.closed.until
    found = await engine.read(lambda views: _months(views, books, since, month.until))
    this = found.get(month.text, _Month({}, 0, 0))
    lacking = []
    if this.unpriced_us:
        lacking.append(f"{this.unpriced_us / HOUR_US:.3f} hours of shares and nodes have no known price")
    if engine.state.due(engine.now()):  # else what is told of the month yet is spent in it, and counts later
        engine.commit(policies.roll_periods(engine.state, engine.now()), "bursard")
    events = decide.close(
        engine.state,
        month.text,
        month.since,
        month.until,
        by=caller().name,
        now=now,
        earlier=sorted(name for name in found if name < month.text),
        lacking=lacking,
        force=request.force,
    )
    if request.dry_run:
        missing = events[0].missing if events else ()
        return _wire(month, engine.state.closed.named(month.text), this, engine.state.currency, missing)
    await engine.durable(engine.commit(events, caller().name))
    await sign(engine, month)
    await engine.durable()
    return _wire(month, engine.state.closed.named(month.text), this, engine.state.currency)


async def sign(engine: Engine, month: Period) -> None:
    """Read what a closed month is and say it, unless that was done."""
    closed = engine.state.closed.named(month.text)
    if closed is None or closed.hash:
        return
    seq = closed.seq

    def read(views: Views) -> tuple[_Month, str]:
        sums = views.charge_sums([Dim.KIND], ChargeFilter(since=month.since, until=month.until))
        return _sum(sums, 0), views.event_hash(seq)

    found, hashed = await engine.read(read)
    totals = sorted(found.totals.items())
    events = decide.sign(engine.state, month.text, hash=hashed, totals=totals, charges=found.charges)
    engine.commit(events, caller().name)


async def book_periods(engine: Engine, settled: Settled, name: str) -> list[pb.BookPeriod]:
    """Every month that has charges or is closed, oldest first; or one. Raises `NotFound`."""
    authorize(Action.SEE_BOOKS)
    state = engine.state
    month = _month(name, engine.now()) if name else None
    books = await settled(True)
    since, until = (month.since, month.until) if month is not None else (0, 0)
    found = await engine.read(lambda views: _months(views, books, since, until))
    names = sorted({*found, *(one.name for one in state.closed.all)} if month is None else {month.text})
    if month is not None and month.text not in found and state.closed.named(month.text) is None:
        raise NotFound(f"the books have nothing of {month.text}; `bursar period ls` lists what they have")
    return [
        _wire(
            find_period(one, engine.now()),
            state.closed.named(one),
            found.get(one, _Month({}, 0, 0)),
            state.currency,
        )
        for one in names
    ]


def _month(name: str, now: int) -> Period:
    found = find_period(name, now)
    if (found.since, found.until) != month_of(found.since):
        raise InvalidRequest(f"period: {name[:40]!r} is no month; the books are closed by months of UTC")
    return found


def _months(views: Views, books: Unposted, since: int, until: int) -> dict[str, _Month]:
    query = ChargeFilter(since=since, until=until)
    by_month: dict[str, list[ChargeSum]] = {}
    for part in views.charge_sums([Dim.MONTH, Dim.KIND], query, books):
        by_month.setdefault(str(part.keys[0]), []).append(part)
    return {name: _sum(parts, 1) for name, parts in by_month.items()}


def _sum(parts: Iterable[ChargeSum], kind_at: int) -> _Month:
    found = list(parts)
    return _Month(
        {str(part.keys[kind_at]): part.nanos for part in found},
        sum(part.charges for part in found),
        sum(part.unpriced_us for part in found),
    )


def _wire(
    month: Period, closed: ClosedPeriod | None, now: _Month, currency: str, missing: Sequence[str] = ()
) -> pb.BookPeriod:
    wire = pb.BookPeriod(period=month.text, since=month.since, until=month.until, state="open")
    wire.currency, totals, charges = currency, now.totals, now.charges
    wire.missing.extend(missing)
    if closed is not None:
        wire.state = "closed" if closed.hash else "closing"
        wire.closed_at, wire.closed_by, wire.closed_by_event = closed.closed_at, closed.by, closed.seq
        wire.hash = closed.hash
        wire.missing.extend(closed.missing)
        if closed.hash:
            totals, charges = dict(closed.totals), closed.charges
    wire.charges = charges
    for kind, nanos in sorted(totals.items()):
        put_amounts(wire.totals.add(kind=kind), nanos=nanos)
    put_amounts(wire, total_nanos=sum(totals.values()))
    return wire
