"""What nodes must have cost, from the facts alone: since when each is there, and which price held when.

Why     a sum of postings compared with itself can never fail. This one is made of boots and prices of the
        log and of nothing that the books wrote: a lost, doubled or edited charge leaves a difference.
Limits  a node is left out, and counted, where its price was unknown for some of the time (then it cost what
        its jobs paid), where it is gone, or where the events that tell were archived. A start that was told
        late may shift some nanos from one period into the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from bursar.clock import HOUR_US
from bursar.model import ShareRates
from bursar.money import charge
from bursard.events import NodeBooted, NodePriced, decode
from bursard.store import EventFilter, EventRow, Views

_FACTS = EventFilter(kinds=("node-booted", "node-priced"))
_AT_ONCE = 1_000


class Owed(msgspec.Struct, frozen=True):
    """What the nodes of a period must have cost.

    Attributes:
        nanos: by node. left_out: nodes of which it cannot be told.
    """

    nanos: Mapping[str, int]
    left_out: frozenset[str]


class _Facts(msgspec.Struct):
    """One node's: since when it is there, and its cost rates by the instant from which they hold."""

    begins: int = 0
    prices: list[tuple[int, ShareRates | None]] = []

    def priced(self, since: int, rates: ShareRates | None) -> None:
        self.prices = [*(one for one in self.prices if one[0] < since), (since, rates)]


def facts_of(views: Views, upto: int) -> Iterator[EventRow]:
    """The events up to one that tell, oldest first."""
    after = 0
    while rows := views.events(after, _AT_ONCE, _FACTS):
        yield from (row for row in rows if row.seq <= upto)
        after = rows[-1].seq


def owed(rows: Iterable[EventRow], ends: Mapping[str, int], since: int, until: int) -> Owed:
    """What each node must have cost in `[since, until)`.

    Args:
        rows: events, oldest first. ends: by node, up to which instant of its axis its time is in the books.
    """
    nodes: dict[str, _Facts] = {}
    for row in rows:
        event = decode(row.payload)
        if isinstance(event, NodePriced):
            rates = (event.cost or event.rates) if event.price_id else None
            nodes.setdefault(event.node_id, _Facts()).priced(event.since or row.at, rates)
        elif isinstance(event, NodeBooted):
            facts = nodes.setdefault(event.node_id, _Facts())
            facts.begins = facts.begins or event.anchor_at
    found: dict[str, int] = {}
    left_out = set[str]()
    for node_id, end in ends.items():
        nanos = _cost(nodes.get(node_id, _Facts()), since, min(until, end))
        if nanos is None:
            left_out.add(node_id)
        else:
            found[node_id] = nanos
    return Owed(found, frozenset(left_out))


def _cost(facts: _Facts, since: int, until: int) -> int | None:
    start = max(facts.begins, since)
    if start >= until:
        return 0
    if not facts.begins or not facts.prices:
        return None
    nanos = 0
    for position, (held_from, rates) in enumerate(facts.prices):
        # The first price holds from the node's first moment on.
        begins = max(start, held_from) if position else start
        last = position + 1 == len(facts.prices)
        ends = until if last else min(until, facts.prices[position + 1][0])
        if begins < ends:
            if rates is None:
                return None
            nanos += sum(_of_rate(rate, begins, ends) for rate in (rates.gpu, rates.cpu, rates.memory))
    return nanos


def _of_rate(rate: int, start: int, end: int) -> int:
    """Every full hour costs the rate; a part of one counts from where its hour begins."""
    first, last = start - start % HOUR_US, end - end % HOUR_US
    if first == last:
        return charge(rate, start - first, end - first)
    whole = (last - first) // HOUR_US - 1
    return charge(rate, start - first, HOUR_US) + whole * rate + charge(rate, 0, end - last)
