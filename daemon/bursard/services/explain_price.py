"""Why a machine costs what it costs: each part of its price, and what hours really sold would have to cost.

Why     a rate that nobody can take apart is not believed. The full-absorption rate stands beside the others,
        so that a rack which sells less than its cost model hopes is seen in its price and not only in its
        idle time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import msgspec

from bursar.clock import Instant
from bursar.codec.amounts import saturated
from bursar.errors import NotFound
from bursar.model import NodeFacts
from bursar.money import NANOS_MAX
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import FOREVER, PriceQuote, PriceTable
from bursar_policies.specs import CostModelSpec
from bursard.reports.cost import CostTable

PPM = 1_000_000
MACHINES_MAX = 200
"""Of one answer: a machine type has a price in each region and market."""
_SHARES = ("usage", "startup", "variance", "absorption")
"""What shares of nodes cost: what their jobs paid, brought to the cost rate."""


class Subject(msgspec.Struct, frozen=True):
    """One kind of machine that is asked about, with its price.

    Attributes:
        pool: whose books say how much of it was sold; empty for a machine that is not here.
        nodes: how many of this kind there are.
    """

    name: str
    quote: PriceQuote
    pool: str = ""
    nodes: int = 0
    gpus: int = 0
    gpu_type: str = ""


def subjects(
    table: PriceTable, nodes: Sequence[NodeFacts], now: Instant, models: Iterable[CostModelSpec], name: str
) -> list[Subject]:
    """What a name means: a node, a pool, a cost model, or a machine type. Raises `NotFound`."""
    one = [facts for facts in nodes if facts.name == name]
    pools = {name, *(spec.pool for spec in models)}
    found = _kinds(table, one or [facts for facts in nodes if facts.pool in pools], now)
    if not found:
        bare = ((pool, table.lookup_pool(pool, now)) for pool in sorted(pools))
        found = [
            Subject(f"pool {pool}, no nodes yet", quote, pool) for pool, quote in bare if quote is not None
        ]
    if not found:
        found = [
            Subject(
                f"{offer.provider} {offer.region} {offer.instance_type} {offer.market}",
                offer.quote, gpus=offer.gpu_count, gpu_type=offer.gpu_type,
            )
            for offer in table.prices(now, instance_type=name)
        ]  # fmt: skip
    if not found:
        raise NotFound(
            f"there is no price of {name[:60]!r}: it is no node, pool, cost model or machine type with a"
            " price; `bursar nodes`, `bursar policy ls` and `bursar prices ls` list them"
        )
    return found[:MACHINES_MAX]


def _kinds(table: PriceTable, nodes: Iterable[NodeFacts], now: Instant) -> list[Subject]:
    """Nodes of the same make are one subject."""
    kinds: dict[tuple[str, str, str, str, int], list[NodeFacts]] = {}
    for facts in nodes:
        first = facts.devices[0].type if facts.devices else ""
        key = (facts.pool, facts.instance_type, facts.market, first, len(facts.devices))
        kinds.setdefault(key, []).append(facts)
    found = []
    for (pool, instance_type, _, gpu_type, gpus), members in sorted(kinds.items()):
        quote = table.lookup(members[0], now)
        if quote is not None:
            make = " ".join(filter(None, (instance_type, f"{gpus}x {gpu_type}" if gpus else "no GPUs")))
            who = members[0].name if len(members) == 1 else f"{len(members)} nodes"
            found.append(Subject(f"{who} of {pool}, {make}", quote, pool, len(members), gpus, gpu_type))
    return found


def sold(table: CostTable) -> Fraction | None:
    """The part of the cost of some nodes that jobs held; None where nothing is known. `table`: by kind."""
    if table.total.nanos <= 0:
        return None
    shares = sum(row.nanos for row in table.rows if row.keys[0] in _SHARES)
    return max(Fraction(0), min(Fraction(shares, table.total.nanos), Fraction(1)))


def _parts(quote: PriceQuote) -> Iterator[tuple[str, int]]:
    """What a cost is made of now; of a tariff by the hour also the cost in the mean of a week."""
    yield from ((one.name, one.nanos_per_hour) for one in quote.parts)
    if quote.mean_nanos_per_hour:
        yield "mean_cost", quote.mean_nanos_per_hour


def explanation(subject: Subject, sold_part: Fraction | None) -> pb.PriceExplanation:
    """All that is known of one price, as a message."""
    quote = subject.quote
    cost = quote.cost.total
    wire = pb.PriceExplanation(
        name=subject.name,
        pool=subject.pool,
        nodes=subject.nodes,
        gpus=subject.gpus,
        gpu_type=subject.gpu_type,
        currency=quote.currency,
        price_id=quote.price_id,
        stable_id=quote.stable_id,
        source=quote.source,
        valid_from=quote.valid_from,
        valid_until=0 if quote.valid_until == FOREVER else quote.valid_until,
        parts=[pb.PricePart(name=name, rate_nanos_per_hour=nanos) for name, nanos in _parts(quote)],
        cost_nanos_per_hour=cost,
        charge_nanos_per_hour=quote.rate_nanos_per_hour,
        list_nanos_per_hour=quote.list_nanos_per_hour or -1,
        effective_nanos_per_hour=quote.effective_nanos_per_hour,
        marginal_nanos_per_hour=quote.marginal_nanos_per_hour,
        gpu_nanos_per_hour=quote.components.gpu,
        cpu_nanos_per_hour=quote.components.cpu,
        memory_nanos_per_hour=quote.components.memory,
        sold_ppm=-1,
        full_absorption_nanos_per_hour=-1,
    )
    if sold_part is not None:
        wire.sold_ppm = round(sold_part * PPM)
        if sold_part:
            wire.full_absorption_nanos_per_hour = saturated(min(round(cost / sold_part), NANOS_MAX))
    return wire
