"""Who owns a node's time, valued by the prices that were in force in it.

Owns    the cut of an interval where the node's price changed, and what lies between cost and pay.
Why     a price holds from an instant on: what was before it is never valued anew (L11). A node has a cost
        rate (what its site spends) and a charge rate (what jobs are to pay). A job pays the charge rate that
        it was placed at for as long as it runs. So a share has three values: what is paid, what is to be paid
        at the price in force, and what it costs. The first step is `variance`, the second `absorption`;
        neither is idle or rounding, and idle is valued at cost: nobody spent more on it.

Everything is a difference of one cumulative function for each price, counted from fixed points (a full hour
for the node, the member's start for its share), and cut at fixed instants: so however an interval is split,
it costs the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from bursar.clock import HOUR_US
from bursar.model import ShareRates
from bursar.money import charge
from bursard.events import Charge
from bursard.ledger.allocation import Parts, charge_of, node_charges
from bursard.ledger.metering import hour_segments

_NOTHING: Parts = (0, 0, 0)
NEVER = 2**63 - 1


class PriceInForce(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node's price from an instant of its axis on: nanos per hour; no `price_id`: unknown.

    `rates`: what jobs pay. `cost`: what the node costs; None: the same.
    """

    since: int
    price_id: str
    rates: ShareRates
    cost: ShareRates | None = None


class Span(msgspec.Struct, frozen=True):
    """A part `[start, end)` of a node's time in which one price was in force; see `PriceInForce`."""

    start: int
    end: int
    price_id: str
    rates: ShareRates
    cost: ShareRates | None = None

    @property
    def cost_rates(self) -> ShareRates:
        """What the node costs."""
        return self.rates if self.cost is None else self.cost


class Share(msgspec.Struct, frozen=True):
    """How much of a node: (held, whole) by component; whole is 0 where the node has none of it."""

    gpu: tuple[int, int]
    cpu: tuple[int, int]
    memory: tuple[int, int]

    def of(self, whole: ShareRates) -> ShareRates:
        """What it costs of the node's own price, rounded down by component as when it is placed."""
        return ShareRates(
            _part(whole.gpu, *self.gpu), _part(whole.cpu, *self.cpu), _part(whole.memory, *self.memory)
        )


class Held(msgspec.Struct, frozen=True):
    """A share of a node over `[start, end)` of its axis.

    Attributes:
        started_at: where its held time was 0. rates: what it was placed at, frozen.
        share: None of one of before this was kept: then it costs what it pays.
    """

    start: int
    end: int
    started_at: int
    rates: ShareRates
    share: Share | None = None

    def part_of(self, whole: ShareRates) -> ShareRates:
        """What it is of a rate of the node in force."""
        return self.share.of(whole) if self.share is not None else self.rates


class OwnedSpan(msgspec.Struct, frozen=True):
    """A span and the charges that, with the shares held in it, sum to what it cost."""

    span: Span
    charges: tuple[Charge, ...]


def _part(rate: int, held: int, whole: int) -> int:
    return rate * held // whole if whole else 0


def spans(prices: Sequence[PriceInForce], from_at: int, to_at: int) -> list[Span]:
    """Cut `[from_at, to_at)` where prices change. `prices`: by `since`; the first holds before it too."""
    found: list[Span] = []
    for position, price in enumerate(prices):
        start = max(from_at, price.since) if position else from_at
        end = min(to_at, prices[position + 1].since) if position + 1 < len(prices) else to_at
        if start < end:
            found.append(Span(start, end, price.price_id, price.rates, price.cost))
    return found


def owned(
    node_id: str,
    axis_start: int,
    cut: Sequence[Span],
    shares: Sequence[Held],
    kind: str,
    turns: Sequence[tuple[int, str]] = (),
) -> Iterator[OwnedSpan]:
    """What completes each span: `kind`, and another from each of some instants on (`turns`, by instant);
    rounding, variance and absorption.

    A share that begins before the first span (a start that was told late) counts in its first hour; one that
    goes on behind the last waits for the next interval.

    Raises:
        InvariantViolation: as `node_charges`.
    """
    coming = deque(turns)
    for position, span in enumerate(cut_at(cut, [at for at, _ in turns])):
        while coming and coming[0][0] <= span.start:
            kind = coming.popleft()[1]
        values = _Values({}, {}, {})
        for share in shares:
            start = max(share.start, span.start) if position else share.start
            _add(values, share, span, start, min(share.end, span.end))
        rest = node_charges(
            node_id=node_id,
            price_id=span.price_id,
            rates=span.cost_rates,
            axis_start=axis_start,
            from_at=span.start,
            to_at=span.end,
            used=values.cost,
            kind=kind,
        )
        between = (
            ("variance", values.paid, values.to_pay),
            ("absorption", values.to_pay, values.cost),
        )
        steps = (_step(what, node_id, span, paid, worth) for what, paid, worth in between)
        yield OwnedSpan(span, rest + tuple(one for step in steps for one in step))


def cut_at(cut: Iterable[Span], instants: Sequence[int]) -> Iterator[Span]:
    """The same spans, cut at these instants too, which ascend."""
    for span in cut:
        for at in instants:
            if span.start < at < span.end:
                yield msgspec.structs.replace(span, end=at)
                span = msgspec.structs.replace(span, start=at)
        yield span


class _Values(NamedTuple):
    """Shares of one span by hour: what is paid for them, is to be paid, and what they cost."""

    paid: dict[int, Parts]
    to_pay: dict[int, Parts]
    cost: dict[int, Parts]


def _add(values: _Values, share: Held, span: Span, start: int, end: int) -> None:
    """One share in one span."""
    to_pay = share.part_of(span.rates)
    cost = to_pay if span.cost is None else share.part_of(span.cost)
    first = span.start - span.start % HOUR_US
    for piece_start, piece_end in hour_segments(start, end):
        hour = max(first, piece_start - piece_start % HOUR_US)
        a, b = piece_start - share.started_at, piece_end - share.started_at
        for found, rates in zip(values, (share.rates, to_pay, cost), strict=True):
            gpu, cpu, memory = found.get(hour, _NOTHING)
            found[hour] = (
                gpu + charge(rates.gpu, a, b),
                cpu + charge(rates.cpu, a, b),
                memory + charge(rates.memory, a, b),
            )


def _step(
    kind: str, node_id: str, span: Span, paid: dict[int, Parts], worth: dict[int, Parts]
) -> Iterator[Charge]:
    """From one value to the next, by hour. Of a price that is unknown nobody can tell what a share is worth:
    the node cost what was paid.
    """
    for hour in sorted(worth) if span.price_id else ():
        parts = (
            worth[hour][0] - paid[hour][0],
            worth[hour][1] - paid[hour][1],
            worth[hour][2] - paid[hour][2],
        )
        if any(parts):
            start, end = max(span.start, hour), min(span.end, hour + HOUR_US)
            yield charge_of(kind, node_id, start, end, span.price_id, parts)
