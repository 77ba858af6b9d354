"""What nodes must have cost, from the facts alone: since when each is there, and which price held when.

Why     a sum of postings compared with itself can never fail. This one is made of boots and prices of the
        log and of nothing that the books wrote: a lost, doubled or edited charge leaves a difference.
Limits  time of a node in which its price was unknown is left out, and counted (`unpriced`). A node is left
        out whole where it has no other, or where the events that tell were archived. What
        started and was told late may shift some nanos over the edge of a period, or of time left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from bursar.clock import HOUR_US
from bursar.model import ShareRates
from bursar.money import charge
from bursard.events import (
    MachineGone,
    MachineIntended,
    NodeBooted,
    NodeMetered,
    NodePriced,
    NodeRedated,
    NodeRemoved,
    decode,
)
from bursard.reports.unpriced import Times
from bursard.store import EventFilter, EventRow, Views

_FACTS = EventFilter(
    kinds=(
        *("machine-gone", "machine-intended", "node-booted", "node-priced", "node-redated"),
        "node-removed",
    )
)
_AT_ONCE = 1_000
_GONE_MAX = 5_000
"""Of so many nodes that are gone the end is looked for: two seconds."""


class Owed(msgspec.Struct, frozen=True):
    """What the nodes of a period must have cost.

    Attributes:
        nanos: by node, of the time in which its price was known. unpriced: its other time.
        left_out: nodes of which nothing can be told. unpriced_us: all time at no known price, theirs too.
    """

    nanos: Mapping[str, int]
    left_out: frozenset[str]
    unpriced: Mapping[str, Times]
    unpriced_us: int


class _Stretch(NamedTuple):
    """A part of a node's time, and its cost rates by the instant from which they hold."""

    start: int
    end: int
    prices: list[tuple[int, ShareRates | None]]


class _Facts(msgspec.Struct):
    """One node's: since when it is there, and its cost rates by the instant from which they hold.

    `billed_until`: of a machine that is gone, by its provider; 0 of others. `refunded`: for nothing at all.
    `before`: its time up to where a step of the clock had its axis go on elsewhere.
    """

    begins: int = 0
    billed_until: int = 0
    refunded: bool = False
    prices: list[tuple[int, ShareRates | None]] = []
    before: list[_Stretch] = []

    def redated(self, event: NodeRedated) -> None:
        """Where time has passed meanwhile, somebody owns it, and nothing is cut."""
        if event.charges:
            return
        by_us = event.to_at - event.from_at
        if self.begins:
            self.before = [*self.before, _Stretch(self.begins, event.from_at, self.prices)]
            self.begins = event.to_at
        self.prices = [(since + by_us, rates) for since, rates in self.prices]

    def held(self, since: int, until: int, told: int) -> Iterator[tuple[int, int, ShareRates | None]]:
        """Which cost rates held from when to when, in a period; None: nobody knows.

        `told`: up to which instant of its axis its time is in the books.
        """
        for start, end, prices in (*self.before, _Stretch(self.begins, told, self.prices)):
            if max(start, since) < min(end, until):
                yield from _held(prices, max(start, since), min(end, until))

    def priced(self, since: int, rates: ShareRates | None) -> None:
        self.prices = [*(one for one in self.prices if one[0] < since), (since, rates)]


def facts_of(views: Views, upto: int) -> Iterator[EventRow]:
    """The events up to one that tell, oldest first."""
    after = 0
    while rows := views.events(after, _AT_ONCE, _FACTS):
        yield from (row for row in rows if row.seq <= upto)
        after = rows[-1].seq


def gone_at(views: Views, node_ids: Iterable[str], upto: int) -> dict[str, int]:
    """Up to which instant the time of removed nodes was told; those of which nobody tells are left out.

    Each is looked for by itself, so of very many the others are.
    """
    found: dict[str, int] = {}
    for node_id in itertools.islice(node_ids, _GONE_MAX):
        asked = EventFilter(about=node_id, kinds=("node-metered", "node-removed"))
        events = [decode(row.payload) for row in views.events_before(upto + 1, 2, asked)]
        if events and isinstance(events[0], NodeRemoved):
            found[node_id] = next((one.through for one in events if isinstance(one, NodeMetered)), 0)
    return found


def owed(rows: Iterable[EventRow], ends: Mapping[str, int], since: int, until: int) -> Owed:
    """What each node must have cost in `[since, until)`.

    Args:
        rows: events, oldest first. ends: by node, up to which instant of its axis its time is in the books.
    """
    nodes = _by_node(rows)
    found: dict[str, int] = {}
    left_out = set[str]()
    unpriced: dict[str, list[tuple[int, int]]] = {}
    unpriced_us = 0
    for node_id, told in ends.items():
        facts = nodes.get(node_id, _Facts())
        end = max(told, facts.billed_until)
        if since < min(until, end) and not facts.begins:
            left_out.add(node_id)
            continue
        held = list(facts.held(since, until, end))
        lacking = [(begins, ends) for begins, ends, rates in held if rates is None]
        lacking_us = sum(ends - begins for begins, ends in lacking)
        unpriced_us += lacking_us
        if lacking and len(lacking) == len(held):
            left_out.add(node_id)
            continue
        found[node_id] = sum(_cost(rates, begins, ends) for begins, ends, rates in held)
        if facts.refunded and since < end <= until:  # in the last hour of its time, all that it ever cost
            whole = facts.held(0, end, end)
            found[node_id] -= sum(_cost(rates, begins, ends) for begins, ends, rates in whole)
        if lacking:
            unpriced[node_id] = lacking
    return Owed(found, frozenset(left_out), unpriced, unpriced_us)


def _by_node(rows: Iterable[EventRow]) -> dict[str, _Facts]:
    nodes: dict[str, _Facts] = {}
    names: dict[str, str] = {}
    gone: dict[str, MachineGone] = {}
    for row in rows:
        event = decode(row.payload)
        if isinstance(event, MachineIntended):
            names[event.machine_id] = event.name
        elif isinstance(event, MachineGone):
            gone[names.pop(event.machine_id, "")] = event
        elif isinstance(event, NodeRemoved) and (end := gone.pop(event.name, None)) is not None:
            facts = nodes.setdefault(event.node_id, _Facts())
            facts.billed_until, facts.refunded = end.billed_until, bool(end.refund)
        elif isinstance(event, NodePriced):
            rates = (event.cost or event.rates) if event.price_id else None
            nodes.setdefault(event.node_id, _Facts()).priced(event.since or row.at, rates)
        elif isinstance(event, NodeRedated):
            nodes.setdefault(event.node_id, _Facts()).redated(event)
        elif isinstance(event, NodeBooted):
            facts = nodes.setdefault(event.node_id, _Facts())
            facts.begins = facts.begins or event.anchor_at
    return nodes


def _held(
    prices: list[tuple[int, ShareRates | None]], start: int, until: int
) -> Iterator[tuple[int, int, ShareRates | None]]:
    for position, (held_from, rates) in enumerate(prices or [(0, None)]):
        # The first price holds from the node's first moment on.
        begins = max(start, held_from) if position else start
        last = position + 1 >= len(prices)
        ends = until if last else min(until, prices[position + 1][0])
        if begins < ends:
            yield begins, ends, rates


def _cost(rates: ShareRates | None, start: int, end: int) -> int:
    parts = (rates.gpu, rates.cpu, rates.memory) if rates is not None else ()
    return sum(_of_rate(rate, start, end) for rate in parts)


def _of_rate(rate: int, start: int, end: int) -> int:
    """Every full hour costs the rate; a part of one counts from where its hour begins."""
    first, last = start - start % HOUR_US, end - end % HOUR_US
    if first == last:
        return charge(rate, start - first, end - first)
    whole = (last - first) // HOUR_US - 1
    return charge(rate, start - first, HOUR_US) + whole * rate + charge(rate, 0, end - last)
