"""Keeping bills of providers: each part once, and nothing that could not be of such a bill.

Why     a bill is named by a digest that its sender made: what is kept under a name is of one bill and, until
        it is whole, of one keeper. Whoever keeps an older bill again takes back what was put in its place.
"""

from __future__ import annotations

import asyncio
import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from bursar.clock import HOUR_US
from bursar.codec import amounts
from bursar.errors import InvalidRequest, WrongState
from bursar.v1 import money_pb2 as pb
from bursar.v1 import types_pb2
from bursard.access.authorize import Action, authorize
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.events import BillKept, BillLine, decode
from bursard.reports.kept import Kept, Whole, differs, may_meet, overlap
from bursard.reports.period import Period, find_period, read_period
from bursard.store import Views

PARTS_MAX: Final = 1_000
NO_RESOURCE: Final = "(no resource)"
"""What a line of a bill is of that names none, such as a credit or a tax, and does not say whose it is."""
_OF_NONE: Final = "(no resource"
"""As it begins where it does: `(no resource: Credit, AWS, 123456)`."""
AMOUNT_MAX: Final = 1 << 62
"""Nanos of a machine in an hour, to either side."""
COSTS: Final = ("EffectiveCost", "BilledCost")
_NAME: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TEXT_MAX: Final = 200
RESOURCE_MAX: Final = 1_024
"""Characters of a machine's name: those of Azure have more than 250."""
_INDEXED: Final = 4
"""Bills whose hours are remembered while another one is kept, part by part."""

Ranges = dict[str, list[list[int]]]
"""By resource, from when to when a provider says something of it: ascending, none meets another."""
Sums = frozenset[tuple[str, int, int, int]]
"""Of no machine, but named by whose they are: which, from when on, for how many hours, nanos."""


class _Said(NamedTuple):
    """What a bill says that another one is not to say too."""

    machines: Ranges
    sums: Sums


class Bills:
    """The bills that were kept, and keeping another one: one call after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept = Kept()
        self._turn = asyncio.Lock()
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._reads = threading.Lock()
        """A call that was cancelled leaves its thread behind, which reads on."""

    async def keep(self, request: pb.KeepBillRequest) -> pb.KeepBillResponse:
        """Keep a part of a bill, unless it was kept before and its bill counts.

        Raises `Forbidden`, `InvalidRequest`, and `WrongState` for a part that is not of the bill that was
        kept under its name, and for one whose hours another bill has that counts.
        """
        authorize(Action.CLOSE_BOOKS)
        engine = self._engine
        period = read_period(find_period(request.period, engine.now()).text)
        event = _read(engine, request, period)
        async with self._turn:
            # A call before this one may have ended between its commit and the disk that is read here.
            await engine.durable()
            if not await engine.read(lambda views: self._is_new(views, event)):
                return pb.KeepBillResponse(kept=False)
            await engine.durable(engine.commit([event], caller().name))
        return pb.KeepBillResponse(kept=True)

    def _is_new(self, views: Views, event: BillKept) -> bool:
        with self._reads:
            self._kept.read(views)
        kept = self._kept
        first, begun = kept.first(event.name), kept.begun(event.name)
        if first is None:
            self._refuse_double(views, event)
            return True
        different = differs(first, event)
        if begun is not None and begun.by != event.by:
            different.append(f"by: {begun.by!r}, who has not kept all of it yet, {event.by!r} now")
        before = None if different else kept.seq_of(event.name, event.part)
        if before is not None and _lines(views, before) != event.lines:
            different.append(f"lines: are not those that were kept as part {event.part}")
        if different:
            raise WrongState(
                f"name: a bill was kept under {event.name[:12]} that differs ({'; '.join(different)});"
                " keep this one under a name, and so a file's name, of its own"
            )
        is_new = not (kept.is_begun(event.name, event.part) if begun is not None else kept.counts(first))
        if is_new:
            self._refuse_double(views, event)
        return is_new

    def _refuse_double(self, views: Views, event: BillKept) -> None:
        """What another bill says that counts is not to count twice."""
        replaced = not event.replaces
        for (source, period), whole in sorted(self._kept.counting.items()):
            if (source, period) == (event.source, event.period) or not may_meet(period, event.period):
                continue
            same = overlap(period, event.period)
            if same and source == event.replaces:
                replaced = True
                continue
            common = _in_common(event.lines, self._said_by(views, whole))
            if common:
                more = f" and {len(common) - 1} more" if len(common) > 1 else ""
                remedy = f"keep it under that file's name, or in its place by --replace {source}"
                if not same:
                    remedy = f"a row goes on over the end of {min(period, event.period)}: leave it out of one"
                raise WrongState(
                    f"lines: hours of {common[0][:120]}{more} are in {source} of {period} too, which"
                    f" {whole.head.by} kept, and would count twice; {remedy}"
                )
        if not replaced:
            raise InvalidRequest(f"replaces: no bill {event.replaces[:60]!r} counts in {event.period}")

    def _said_by(self, views: Views, whole: Whole) -> _Said:
        name = f"{whole.head.name}/{whole.seqs[0]}"
        if name not in self._said:
            self._said[name] = _said(line for seq in whole.seqs for line in _lines(views, seq))
            if len(self._said) > _INDEXED:
                self._said.popitem(last=False)
        return self._said[name]


def _said(lines: Iterable[BillLine]) -> _Said:
    """Of a bill of a million lines those of machines are not kept beside what is made of them."""
    others: list[BillLine] = []

    def machines() -> Iterator[BillLine]:
        for line in lines:
            if line.resource.startswith(_OF_NONE):
                others.append(line)
            else:
                yield line

    return _Said(_ranges(machines()), _sums(others))


def _ranges(lines: Iterable[BillLine]) -> Ranges:
    """What a provider says something of. Credits and the like are of no machine (`_sums`).

    Of a row of several hours, older versions kept the first alone: in that hour another bill meets it, until
    its own file is kept again.
    """
    found: Ranges = {}
    for line in lines:
        if line.final is not None and not line.resource.startswith(_OF_NONE):
            found.setdefault(line.resource, []).append([line.hour, line.hour + line.hours * HOUR_US])
    for resource, each in found.items():
        merged: list[list[int]] = []
        for since, until in sorted(each):
            if merged and since <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], until)
            else:
                merged.append([since, until])
        found[resource] = merged
    return found


def _sums(lines: Iterable[BillLine]) -> Sums:
    """Credits, taxes and the like by whose they are. Several bills may have some of one hour: of the same
    account, hours and amount they are the same. What does not say whose it is (`NO_RESOURCE`) is of no two.
    """
    return frozenset(
        (line.resource, line.hour, line.hours, line.final)
        for line in lines
        if line.final and line.resource.startswith(_OF_NONE) and line.resource != NO_RESOURCE
    )


def _in_common(lines: Sequence[BillLine], known: _Said) -> list[str]:
    """Machines of which both say something of one hour; and what both say of no machine."""
    found = sorted({resource for resource, *_ in _sums(lines) & known.sums})
    for resource, each in _ranges(lines).items():
        theirs = known.machines.get(resource, [])
        for since, until in each:
            at = bisect_left(theirs, since, key=lambda one: one[1] - 1)
            if at < len(theirs) and theirs[at][0] < until:
                found.append(resource)
                break
    return found


def _lines(views: Views, seq: int) -> tuple[BillLine, ...]:
    (row,) = views.events(seq - 1, 1)
    event = decode(row.payload)
    return event.lines if isinstance(event, BillKept) else ()


def _read(engine: Engine, request: pb.KeepBillRequest, period: Period) -> BillKept:
    if not _NAME.fullmatch(request.name):
        raise InvalidRequest("name: is no SHA-256 in hexadecimal")
    _text("source", request.source)
    if request.replaces:
        _text("replaces", request.replaces)
    if request.currency != engine.state.currency:
        raise InvalidRequest(
            f"currency: {request.currency[:10]!r}; the books are in {engine.state.currency}; convert it first"
        )
    if request.cost not in COSTS:
        raise InvalidRequest(f"cost: {request.cost[:40]!r}; known: {', '.join(COSTS)}")
    if not 0 <= request.part < request.parts <= PARTS_MAX:
        raise InvalidRequest(f"part: {request.part} of {request.parts}; from 0 on, of at most {PARTS_MAX}")
    return BillKept(
        name=request.name,
        source=request.source,
        period=period.text,
        currency=request.currency,
        cost=request.cost,
        by=caller().name,
        part=request.part,
        parts=request.parts,
        replaces=request.replaces,
        lines=tuple(_line(f"lines[{at}]", line, period) for at, line in enumerate(request.lines)),
    )


def _line(where: str, line: pb.BillLine, period: Period) -> BillLine:
    _text(f"{where}.resource", line.resource, RESOURCE_MAX)
    if not period.since <= line.hour < period.until:
        raise InvalidRequest(f"{where}.hour: is not in {period.text}")
    if not 1 <= line.hours <= (period.until - period.since) // HOUR_US + 1:
        raise InvalidRequest(f"{where}.hours: {line.hours} are not in {period.text}")
    estimate = _amount(f"{where}.estimate", line.estimate) if line.HasField("estimate") else None
    final = _amount(f"{where}.final", line.final) if line.HasField("final") else None
    if estimate is None and final is None:
        raise InvalidRequest(f"{where}: says no amount, neither of the books nor of the provider")
    return BillLine(line.resource, line.hour, line.hours, estimate, final)


def _amount(where: str, wire: types_pb2.Amount) -> int:
    nanos = amounts.whole(wire.nanos, where)
    if abs(nanos) >= AMOUNT_MAX:
        raise InvalidRequest(f"{where}: is too large for a machine")
    return nanos


def _text(name: str, value: str, most: int = _TEXT_MAX) -> None:
    if not value or len(value) > most or not value.isprintable():
        raise InvalidRequest(f"{name}: has 1 to {most} characters that can be printed")
