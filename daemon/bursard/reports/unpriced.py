"""What the books say of time in which nobody knew what a node cost: it is no part of the control.

Why     a node costs then what its jobs paid, so the facts cannot tell it. Full hours of it are left out by
        their charges. Of an hour with a price for some time, what a job paid without one follows from what
        it pays by the hour and since when, not from the amount of its charge: so that one can still be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import chain, pairwise

from bursar.clock import HOUR_US
from bursar.money import charge
from bursard.reports.period import Period
from bursard.store import ChargeFilter, ChargeRow, Dim, Unposted, Views

Times = Sequence[tuple[int, int]]
"""Intervals `[since, until)` in order, none of which overlap."""


def unpriced_nanos(views: Views, period: Period, unposted: Unposted, times: Mapping[str, Times]) -> int:
    """What the books have of some times of nodes, by node; the times lie in the period."""
    full, parts = parted(times)
    nanos = 0
    for since, until, node_ids in stretches(full):
        query = ChargeFilter(since=max(since, period.since), until=min(until, period.until))
        for part in views.charge_sums([Dim.NODE_ID], query, unposted):
            if part.keys[0] in node_ids:
                nanos += part.gpu + part.cpu + part.memory
    starts: dict[tuple[str, int], int] = {}
    for hour, by_node in sorted(parts.items()):
        query = ChargeFilter(since=hour, until=hour + HOUR_US, kinds=("usage",))
        for row in list(views.charges(query, unposted)):
            held = [(max(a, row.start_at), min(b, row.end_at)) for a, b in by_node.get(row.node_id, ())]
            held = [(a, b) for a, b in held if a < b]
            if held and not row.corrects:
                began = _began(views, unposted, row, starts)
                rates = (row.gpu_rate, row.cpu_rate, row.memory_rate)
                nanos += sum(charge(rate, a - began, b - began) for rate in rates for a, b in held)
    return nanos


def _began(views: Views, unposted: Unposted, row: ChargeRow, starts: dict[tuple[str, int], int]) -> int:
    """Since when a member holds its share: where its first charge begins. `starts`: what was found before."""
    if row.start_at % HOUR_US:
        return row.start_at
    key = (row.attempt_id, row.rank)
    if key not in starts:
        query = ChargeFilter(attempt_id=row.attempt_id, kinds=("usage",), until=row.start_at + 1)
        rows = views.charges(query, unposted)
        starts[key] = min(one.start_at for one in rows if one.rank == row.rank and not one.corrects)
    return starts[key]


def parted(
    times: Mapping[str, Times],
) -> tuple[dict[str, list[tuple[int, int]]], dict[int, dict[str, list[tuple[int, int]]]]]:
    """Their full hours by node, and what is left of them by start of its hour and node."""
    full: dict[str, list[tuple[int, int]]] = {}
    parts: dict[int, dict[str, list[tuple[int, int]]]] = {}
    for node_id, ones in times.items():
        for start, end in ones:
            first, last = start + -start % HOUR_US, end - end % HOUR_US
            if first < last:
                full.setdefault(node_id, []).append((first, last))
            rest = ((start, min(first, end)), (max(last, first), end))
            for a, b in rest:
                if a < b:
                    parts.setdefault(a - a % HOUR_US, {}).setdefault(node_id, []).append((a, b))
    return full, parts


def stretches(times: Mapping[str, Times]) -> Iterator[tuple[int, int, Set[str]]]:
    """Times of several nodes cut where one of any begins or ends: `[since, until)`, and whose it is. No two
    overlap, so that no charge is read twice.
    """
    edges: dict[int, list[str]] = {}
    for node_id, ones in times.items():
        for edge in chain.from_iterable(ones):
            edges.setdefault(edge, []).append(node_id)
    within = set[str]()
    for since, until in pairwise(sorted(edges)):
        within.symmetric_difference_update(edges[since])
        if within:
            yield since, until, frozenset(within)
