"""Held time becomes charges: the share of one member, exactly.

Owns    the cut of time into UTC hours and the price of a member's held time.
Input   counters of boot time that only grow, as the agent reports them; rates frozen at placement.
Why     a report may be lost, doubled or late. Because a charge is a difference of two values of one
        cumulative function counted from the member's start, only the largest counter decides the
        bill (L5), however many reports led there. Every charge lies inside one hour, so that an
        hour can be summed by itself.
"""

from __future__ import annotations

from collections.abc import Collection

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import ShareRates
from bursar.money import charge, cumulative
from bursard.events import Charge

_FREE = ShareRates()


SPAN_US_MAX = 100 * 366 * 24 * HOUR_US
"""No interval is longer: a clock or a counter is wrong then, and the books must not be filled by it."""


def hour_segments(start: int, end: int, cuts: Collection[int] = ()) -> list[tuple[int, int]]:
    """Cut `[start, end)` at the full UTC hours inside it, and at `cuts`. Empty when `end` <= `start`.

    Raises:
        InvariantViolation: the interval is longer than a century.
    """
    if end - start > SPAN_US_MAX:
        raise InvariantViolation(f"{start}..{end} is longer than anything lasts; a clock or counter is wrong")
    segments = []
    while start < end:
        cut = min(end, start - start % HOUR_US + HOUR_US)
        if cuts:
            cut = min([cut, *(one for one in cuts if start < one)])
        segments.append((start, cut))
        start = cut
    return segments


def held_nanos(rates: ShareRates, held_us: int) -> int:
    """What a member has cost once it was held for `held_us`: the sum of all its charges.

    So a hold of this much for the longest it may live is never overrun by it.
    """
    return cumulative(rates.gpu, held_us) + cumulative(rates.cpu, held_us) + cumulative(rates.memory, held_us)


def member_charges(
    *,
    attempt_id: str,
    job_id: str,
    rank: int,
    node_id: str,
    price_id: str,
    rates: ShareRates,
    started_at: int,
    from_us: int,
    to_us: int,
    cuts: Collection[int] = (),
) -> tuple[Charge, ...]:
    """The usage charges of one member for its held time `[from_us, to_us)`, one per UTC hour.

    Pass as `from_us` the largest counter already charged: a repeated or stale `to_us` then charges
    nothing. Without a `price_id` the price is unknown: the time is charged, the amount is 0.

    Args:
        started_at: the instant on the node's axis at which held time was 0.
        from_us, to_us: held time, boot-time microseconds since then.
        cuts: instants at which a charge ends too: where a budget's period or the node's price changes.
    """
    if not price_id:
        rates = _FREE
    charges = []
    for start, end in hour_segments(started_at + from_us, started_at + to_us, cuts):
        a, b = start - started_at, end - started_at
        gpu = charge(rates.gpu, a, b)
        cpu = charge(rates.cpu, a, b)
        memory = charge(rates.memory, a, b)
        charges.append(
            Charge(
                kind="usage",
                node_id=node_id,
                start=start,
                end=end,
                nanos=gpu + cpu + memory,
                price_id=price_id,
                attempt_id=attempt_id,
                job_id=job_id,
                rank=rank,
                gpu=gpu,
                cpu=cpu,
                memory=memory,
            )
        )
    return tuple(charges)
