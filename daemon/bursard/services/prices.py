"""Prices and offers as messages: the price table and the cluster's own machines, filtered and ranked.

Why     runs in a thread, on a table that never changes once built, so that thousands of prices do not hold
        up the loop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import islice

from bursar.clock import Instant
from bursar.errors import InvalidRequest
from bursar.model import NodeFacts
from bursar.model.peaks import peak_pflop_day
from bursar.resources import parse_gpu_type, parse_size
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import FOREVER, Offer, PriceQuote, PriceTable

PRICES_MAX = 2_000
"""Of one answer; `limit` asks for fewer."""
SORTS = ("price", "gpu-price", "pflop-day")
GPUS_MAX = 16


def answer_prices(
    table: PriceTable, nodes: Sequence[NodeFacts], now: Instant, request: pb.PricesRequest
) -> pb.PricesResponse:
    """`prices ls`, `prices history` (`history`) or `offers` (`gpus`). Raises `InvalidRequest`."""
    if request.sort and request.sort not in SORTS:
        raise InvalidRequest(
            f"sort: {request.sort[:40]!r} is not known; use {', '.join(SORTS[:-1])} or {SORTS[-1]}"
        )
    if request.history:
        found = [*_owned_history(table, nodes), *_history(table, request)]
    elif request.gpus:
        found = _offers(table, nodes, now, request)
    else:
        found = [*_owned(table, nodes, now), *map(_price, _listed(table, now, request))]
    found = [price for price in found if _wanted(price, request)]
    if request.sort == "price":
        found.sort(key=lambda price: price.rate_nanos_per_hour)
    elif request.sort == "gpu-price":
        found.sort(key=lambda price: (not price.gpus, price.rate_per_gpu_nanos_per_hour))
    elif request.sort == "pflop-day":
        found.sort(key=lambda price: _by_work(price.gpu_type, price.gpus, price.rate_per_gpu_nanos_per_hour))
    return pb.PricesResponse(prices=found[: _most(request)])


def _most(request: pb.PricesRequest) -> int:
    return min(request.limit or PRICES_MAX, PRICES_MAX)


def _listed(table: PriceTable, now: Instant, request: pb.PricesRequest) -> Iterable[Offer]:
    """The offers that may be among the first of the answer, and no others: of tens of thousands, each costs
    to be put into words.
    """
    offers = table.prices(
        now,
        provider=request.provider,
        region=request.region,
        instance_type=request.instance_type,
        market=request.market,
    )
    if request.sort == "price":
        return nsmallest(_most(request), offers, key=lambda one: one.quote.rate_nanos_per_hour)
    if request.sort == "gpu-price":
        return nsmallest(_most(request), offers, key=_by_gpu)
    if request.sort == "pflop-day":
        return nsmallest(
            _most(request),
            offers,
            key=lambda one: _by_work(one.gpu_type, one.gpu_count, one.per_gpu_nanos_per_hour),
        )
    return islice(offers, _most(request))


def _by_gpu(offer: Offer) -> tuple[bool, int]:
    return not offer.gpu_count, offer.per_gpu_nanos_per_hour


def _by_work(gpu_type: str, gpus: int, nanos_per_gpu_hour: int) -> tuple[bool, int]:
    """At the peak of its GPUs; what has none, or of a kind whose peak nobody knows, comes last."""
    nanos = peak_pflop_day(gpu_type, nanos_per_gpu_hour) if gpus else None
    return nanos is None, nanos or 0


def _wanted(price: pb.Price, request: pb.PricesRequest) -> bool:
    wants = (request.provider, request.region, request.instance_type, request.market)
    has = (price.provider, price.region, price.instance_type, price.market)
    return all(not want or want == value for want, value in zip(wants, has, strict=True))


# ------------------------------------------------------------------ offers

_COUNT = re.compile(r"[1-9]\d?", re.ASCII)
_SPAN = re.compile(r"([1-9]\d?)(?:\s*(?:\.\.|-)\s*\d{0,2}|\+)", re.ASCII)
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*[KMGT]i?B", re.ASCII | re.IGNORECASE)


def read_gpus(text: str) -> tuple[tuple[str, ...], int, int]:
    """(types, count, memory of each in bytes) of `H100:8`, `8`, `A100|H100:80GB:4`."""
    types: tuple[str, ...] = ()
    count = memory = 0
    for part in (piece.strip() for piece in text.split(":")):
        if _COUNT.fullmatch(part) and not count and int(part) <= GPUS_MAX:
            count = int(part)
        elif _SIZE.fullmatch(part) and not memory:
            memory = parse_size(part)
        elif part and not types and not part[0].isdigit():
            types = tuple(parse_gpu_type(name.strip()) for name in part.split("|"))
        elif (span := _SPAN.fullmatch(part)) is not None:
            whole = text.replace(part, span[1])
            raise InvalidRequest(
                f"gpus: {text[:60]!r} is a range, and each size has a price of its own: ask for one, such as"
                f" {whole[:60]}"
            )
        else:
            raise InvalidRequest(
                f"gpus: {text[:60]!r} is not a type and a count of whole GPUs up to {GPUS_MAX},"
                " such as H100:8"
            )
    return types, count or 1, memory


def _offers(
    table: PriceTable, nodes: Sequence[NodeFacts], now: Instant, request: pb.PricesRequest
) -> list[pb.Price]:
    types, count, memory = read_gpus(request.gpus)
    offers = table.offers(now, gpu_types=types, gpu_count=count, gpu_memory_bytes=memory)
    own = [
        price
        for price in _owned(table, nodes, now)
        if price.gpus >= count and (not types or price.gpu_type in types) and price.gpu_memory_bytes >= memory
    ]
    return sorted([*own, *map(_price, offers)], key=_rank)


def _rank(price: pb.Price) -> tuple[int, int, str, str, str, str]:
    return (
        price.rate_nanos_per_hour,
        price.rate_per_gpu_nanos_per_hour,
        price.provider,
        price.region,
        price.instance_type,
        price.market,
    )


def _owned(table: PriceTable, nodes: Iterable[NodeFacts], now: Instant) -> list[pb.Price]:
    """One price per kind of node in each pool of one's own."""
    quotes = ((facts, table.lookup(facts, now)) for facts in _kinds(nodes))
    return [_price(_offer(facts, quote), pool=facts.pool) for facts, quote in quotes if quote is not None]


def _kinds(nodes: Iterable[NodeFacts]) -> list[NodeFacts]:
    """One node of each kind in each pool of one's own."""
    kinds: dict[tuple[str, str, int, int, int], NodeFacts] = {}
    for facts in nodes:
        if facts.provider != "onprem" or facts.instance_type:
            continue
        first = facts.devices[0] if facts.devices else None
        key = (
            facts.pool,
            first.type if first else "",
            len(facts.devices),
            facts.cpu_milli,
            facts.memory_bytes,
        )
        kinds.setdefault(key, facts)
    return [facts for _, facts in sorted(kinds.items())]


def _offer(facts: NodeFacts, quote: PriceQuote) -> Offer:
    first = facts.devices[0] if facts.devices else None
    return Offer(
        facts.provider,
        facts.region,
        facts.instance_type,
        facts.market,
        quote,
        facts.cpu_milli,
        facts.memory_bytes,
        first.type if first else "",
        len(facts.devices),
        first.memory_bytes if first else 0,
    )


def _owned_history(table: PriceTable, nodes: Iterable[NodeFacts]) -> list[pb.Price]:
    """Every price that each kind of node in a pool of one's own has had."""
    found = []
    for facts in _kinds(nodes):
        gpus = tuple(sorted(Counter(device.type for device in facts.devices).items()))
        for start, end, quote in table.pool_history(facts.pool, gpus, has_memory=facts.memory_bytes > 0):
            price = _price(_offer(facts, quote), pool=facts.pool)
            price.valid_from, price.valid_until = start, 0 if end == FOREVER else end
            found.append(price)
    return found


def _history(table: PriceTable, request: pb.PricesRequest) -> list[pb.Price]:
    found: list[pb.Price] = []
    for key in table.machines():
        wants = (request.provider, request.region, request.instance_type, request.market)
        if any(want and want != value for want, value in zip(wants, key, strict=True)):
            continue
        for start, end, quote in table.history(*key):
            price = _quote(quote, pb.Price())
            price.provider, price.region, price.instance_type, price.market = key
            price.valid_from, price.valid_until = start, 0 if end == FOREVER else end
            found.append(price)
        if len(found) >= PRICES_MAX:
            break
    return found


def _price(offer: Offer, pool: str = "") -> pb.Price:
    price = pb.Price(
        provider=offer.provider,
        region=offer.region,
        instance_type=offer.instance_type,
        market=offer.market,
        cpu_milli=offer.cpu_milli,
        memory_bytes=offer.memory_bytes,
        gpu_type=offer.gpu_type,
        gpus=offer.gpu_count,
        gpu_memory_bytes=offer.gpu_memory_bytes,
        rate_per_gpu_nanos_per_hour=offer.per_gpu_nanos_per_hour,
        pool=pool,
    )
    return _quote(offer.quote, price)


def _quote(quote: PriceQuote, price: pb.Price) -> pb.Price:
    price.rate_nanos_per_hour = quote.rate_nanos_per_hour
    price.currency, price.source, price.price_id = quote.currency, quote.source, quote.price_id
    price.valid_from = quote.valid_from
    price.valid_until = 0 if quote.valid_until == FOREVER else quote.valid_until
    return price
