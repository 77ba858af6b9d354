"""What nodes cost and what was made of it: who held them, and what nobody did.

Why     an idle hour is money that nobody asked for: it is shown by machine and cause, beside what jobs held
        of the same machine, from the same charges that the statement adds up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bursar.resources import MILLI
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.store import ChargeFilter, ChargeSum, Dim, Unposted, Views

_IDLE_KINDS: Final = ("idle", "reserved", "keep-alive", "down", "unknown")
_BESIDE: Final = ("startup", "overhead", "refund")
"""Costs of a node that are of no hour in which it could be held."""
_IDLE_COLUMNS: Final = (
    Column("pool", wrap=True, drop=3), Column("node", wrap=True), Column("cause"), Column("time", "hours"),
    Column("cost", "money"), Column("share", "percent", drop=2), Column("at_no_known_price", "hours", drop=1),
)  # fmt: skip
_USED_COLUMNS: Final = (
    Column("pool", wrap=True, drop=4), Column("node", wrap=True), Column("gpu", "hours", drop=2),
    Column("cpu", "hours", drop=3), Column("cost", "money"), Column("held", "money", drop=7),
    Column("idle", "money"), Column("down", "money", drop=5), Column("unknown", "money", drop=6),
    Column("startup", "money", drop=8), Column("overhead", "money", drop=9),
    Column("refund", "money", drop=10), Column("utilization", "percent"),
)  # fmt: skip


def idle(views: Views, period: Period, currency: str, unposted: Unposted) -> Page:
    """Time and cost that no job held, by node and cause."""
    query = ChargeFilter(since=period.since, until=period.until, kinds=_IDLE_KINDS)
    sums = views.charge_sums([Dim.POOL, Dim.NODE, Dim.KIND], query, unposted)
    total = sum(part.nanos for part in sums)

    def row(names: tuple[Cell, ...], parts: Iterable[ChargeSum]) -> tuple[Cell, ...]:
        found = list(parts)
        nanos, unpriced = sum(one.nanos for one in found), sum(one.unpriced_us for one in found)
        held = sum(one.held_us for one in found)
        known = None if unpriced and not nanos else nanos
        return (*names, held, known, None if known is None else ppm(nanos, total), unpriced)

    return Page(
        kind="idle",
        period=period,
        currency=currency,
        columns=_IDLE_COLUMNS,
        rows=tuple(row(tuple(map(str, part.keys)), [part]) for part in sums),
        total=row(("total", "", ""), sums),
        notes=(
            "Time in which any part of a node was held by no job; its cost is that of the parts alone.",
            "What is idle for want of work, by a policy or in parts too small is not known.",
        ),
    )


def utilization(views: Views, period: Period, currency: str, unposted: Unposted) -> Page:
    """What part of what each node cost was held by jobs."""
    query = ChargeFilter(since=period.since, until=period.until)
    nodes: dict[tuple[str, str], list[ChargeSum]] = {}
    for part in views.charge_sums([Dim.POOL, Dim.NODE, Dim.KIND], query, unposted):
        nodes.setdefault((str(part.keys[0]), str(part.keys[1])), []).append(part)
    every = [part for parts in nodes.values() for part in parts]
    return Page(
        kind="utilization",
        period=period,
        currency=currency,
        columns=_USED_COLUMNS,
        rows=tuple(_used(*names, parts) for names, parts in nodes.items()),
        total=_used("total", "", every),
        notes=(
            "Utilization is what jobs held of what a node cost its site: GPUs, CPUs and memory weigh as they"
            " are priced. Held, idle, down, unknown, startup, overhead and refund add up to the cost.",
            "How busy the devices were meanwhile is not in the books: `bursar top` and `show` tell it.",
        ),
    )


def _used(pool: str, node: str, parts: Iterable[ChargeSum]) -> tuple[Cell, ...]:
    found = list(parts)
    nanos = dict.fromkeys((*_IDLE_KINDS, *_BESIDE), 0)
    for part in found:
        kind = str(part.keys[2])
        if kind in nanos:
            nanos[kind] += part.nanos
    cost = sum(part.nanos for part in found)
    held = cost - sum(nanos.values())
    gpu_us = sum(part.gpu_milli_us for part in found) // MILLI
    cpu_us = sum(part.cpu_milli_us for part in found) // MILLI
    idle_nanos = nanos["idle"] + nanos["reserved"] + nanos["keep-alive"]
    unowned = (idle_nanos, nanos["down"], nanos["unknown"], *(nanos[kind] for kind in _BESIDE))
    return (pool, node, gpu_us, cpu_us, cost, held, *unowned, ppm(held, cost))
