"""What jobs would have paid in a period under other prices: the same usage, rated once more, not booked.

Why     usage and price are kept apart, so a month can be tried under next year's prices before anybody signs
        them. What the tried documents do not price stays as it was charged, and is counted, so that a table
        of one region does not look like a saving everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from bursar.clock import Instant
from bursar.errors import InvalidRequest
from bursar.model import NodeFacts, ShareRates
from bursar.model.allocation import Capacity, part_of
from bursar.resources import MILLI
from bursar_policies.compile import PriceTable
from bursard.ledger import PAID
from bursard.ledger.metering import held_nanos
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.store import ChargeFilter, ChargeRow, Dim, Unposted, Views

BY: Final = {name: name for name in ("project", "user", "experiment", "model", "pool")} | {
    "node": "node_name"
}
"""What rows are of, and the column of a charge that tells it."""
_TRIED: Final = (
    Column("charged", "money"), Column("what_if", "money"), Column("difference", "money"),
    Column("change", "percent", drop=1), Column("held", "hours", drop=3),
    Column("not_tried", "hours", drop=2),
)  # fmt: skip


class Trial(msgspec.Struct, frozen=True):
    """Prices to try. `nodes`: what each node is, by id: a node that has left is not tried."""

    prices: PriceTable
    nodes: Mapping[str, NodeFacts]
    by: str = "project"


class _Sum(msgspec.Struct):
    """One row in the making. not_tried_us: held by jobs, and at no price of the trial."""

    charged: int = 0
    what_if: int = 0
    held_us: int = 0
    not_tried_us: int = 0

    def add(self, row: ChargeRow, nanos: int | None) -> None:
        """One charge, and what it would have been; None: it was not tried."""
        self.charged += row.nanos
        self.what_if += row.nanos if nanos is None else nanos
        self.held_us += row.held_us
        self.not_tried_us += row.held_us if nanos is None else 0


def read_by(text: str) -> str:
    """What rows are of. Raises `InvalidRequest`."""
    if text and text not in BY:
        raise InvalidRequest(f"by: {text[:40]!r} is not what a what-if is grouped by; known: {', '.join(BY)}")
    return text or "project"


def whatif(
    views: Views, period: Period, currency: str, unposted: Unposted, project: str, trial: Trial
) -> Page:
    """What jobs paid in a period, beside what they would have paid."""
    column = BY[trial.by]
    query = ChargeFilter(since=period.since, until=period.until, project=project, kinds=PAID)
    found: dict[str, _Sum] = {}
    total = _Sum()
    corrected = _corrected(views, query, unposted)
    for row in views.charges(query, unposted):
        nanos = None if row.attempt_id in corrected else _tried(row, trial)
        for one in (found.setdefault(str(getattr(row, column)), _Sum()), total):
            one.add(row, nanos)
    return Page(
        kind="whatif",
        period=period,
        currency=currency,
        project=project,
        columns=(Column(trial.by, wrap=True), *_TRIED),
        rows=tuple(_row(name, one) for name, one in sorted(found.items())),
        total=_row("total", total),
        notes=(
            "Nothing was changed. What jobs held, at the given prices; what nodes cost is not tried.",
            "Not tried: time that the given documents do not price, attempts that were corrected, nodes that"
            " have left, and what was written before shares were kept; it stands as it was charged.",
        ),
    )


def _corrected(views: Views, query: ChargeFilter, unposted: Unposted) -> set[str]:
    """Attempts of which something was corrected in the same time. What was given back is an amount and no
    price: beside charges at other prices it would be too much, or too little.
    """
    sums = views.charge_sums([Dim.CLASS, Dim.ATTEMPT], query, unposted)
    return {str(part.keys[1]) for part in sums if part.keys[0] == "correction"}


def _tried(row: ChargeRow, trial: Trial) -> int | None:
    """What a charge would have been; None where that cannot be told."""
    facts = trial.nodes.get(row.node_id)
    share = Capacity(row.gpu_milli, row.cpu_milli, row.memory_bytes)
    if facts is None or row.corrects or row.reason or not any(share):
        return None
    quote = trial.prices.lookup(facts, Instant(row.start_at))
    if quote is None:
        return None
    whole = Capacity(MILLI * len(facts.devices), facts.cpu_milli, facts.memory_bytes)
    rates = part_of(quote.components, whole, share)
    if row.price_id and rates == ShareRates(row.gpu_rate, row.cpu_rate, row.memory_rate):
        return row.nanos  # to the nano: an hour of its own is rounded otherwise than one of many
    return held_nanos(rates, row.held_us)


def _row(name: str, one: _Sum) -> tuple[Cell, ...]:
    difference = one.what_if - one.charged
    change = ppm(difference, one.charged)
    return (name, one.charged, one.what_if, difference, change, one.held_us, one.not_tried_us)
