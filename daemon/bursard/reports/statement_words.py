"""What the forms of a statement say alike: the words for its parts, its notes, and shares of its amounts."""

from __future__ import annotations

from collections.abc import Iterator

from bursar.clock import Instant, format_instant
from bursar.words import plural
from bursar_policies.attribution import COST_CENTER, TEAM
from bursard.reports.adjusted import Adjusted
from bursard.reports.attribution import Reattributed
from bursard.reports.cost import CostRow, ppm
from bursard.reports.files import decimal_text, hours
from bursard.reports.statement import Statement

OF_NODES = {
    "reserved": "held by no job while it was reserved for some, or for maintenance",
    "keep-alive": "rented machines while no job ran there",
    "down": "while the machine was down",
    "unknown": "while nobody knew what the machine did",
    "overhead": "rounding between shares and node cost",
    "variance": "at prices in force, less at the prices that jobs were placed at",
    "absorption": "cost of shares, less what they are to pay; below zero: jobs paid more",
    "refund": "what providers did not bill for machines that they took back",
}
"""What no job pays, in the words of every report."""
MEANINGS = {
    "usage": "what jobs pay for their shares",
    "startup": "jobs pay too: the boot of machines that were rented for them",
    "idle": "held by no job",
    **OF_NODES,
}
"""Charge kinds, by the one word for each that every report uses."""
SOMETIMES = ("startup", "reserved", "keep-alive", "refund")
"""Kinds that rented machines, or reserved ones, alone have: people are told of them where there are some."""
TOTALS = {
    "node cost": "the sum of the above",
    "by facts": "what nodes must have cost by their boots and prices alone",
    "difference": "of what the facts tell of: 0, or the books are wrong",
}


def of_kind(found: Statement, kind: str) -> CostRow:
    """What one kind of charges came to; an empty row where there were none."""
    return next((row for row in found.kinds.rows if row.keys == (kind,)), CostRow((kind,)))


def parts(found: Statement) -> Iterator[tuple[str, int, str]]:
    """What a node cost sums up from, and the control of it: a name, nanos, and what it means."""
    for kind, means in MEANINGS.items():
        nanos = of_kind(found, kind).nanos
        if kind not in SOMETIMES or nanos:
            yield "jobs" if kind == "usage" else kind, nanos, means
    sums = (found.node_nanos, found.facts_nanos, found.difference_nanos)
    for (name, means), nanos in zip(TOTALS.items(), sums, strict=True):
        yield name, nanos, means


def notes(found: Statement) -> Iterator[str]:
    """What the control does not tell of."""
    if found.project:
        return
    if found.left_out:
        many = f"{found.left_out} node{'s' * (found.left_out > 1)}"
        yield f"Of {many} the facts do not tell: no price at any time, or gone."
    if found.unpriced_us:
        yield f"{hours(found.unpriced_us)} node-hours at no known price are left out of the last two."


def unknown_note(found: Statement) -> str:
    """How much time has no known price; empty where all has."""
    unknown = found.kinds.total.unknown_us
    if not unknown:
        return ""
    what = f"{hours(unknown)} hours of shares and nodes have no known price"
    return f"{what}; what they cost is unknown, not 0, and in no sum above."


def changed(row: CostRow) -> int | None:
    """Against the period before, in millionths of it; None where that cost nothing."""
    return ppm(row.nanos - row.before, row.before)


def covered(row: CostRow) -> int | None:
    """The part of the time whose price is known, in millionths; None of no time."""
    return ppm(row.held_us - row.unknown_us, row.held_us)


def percent_text(millionths: int | None) -> str:
    """`12.3457%`, or `-` of nothing."""
    return "-" if millionths is None else f"{decimal_text(millionths, 4)}%"


def change_text(row: CostRow) -> str:
    """`+12.3457%`; `new` where nothing was before."""
    change = changed(row)
    if change is None:
        return "new" if row.nanos else "-"
    return f"{'+' if change > 0 else ''}{percent_text(change)}"


def status_lines(found: Statement) -> Iterator[str]:
    """May it change? And of which log it is."""
    closed = found.closed
    if closed is None:
        yield "provisional"
        return
    yield f"closed {format_instant(closed.closed_at)} by {closed.by}"
    yield f"Ledger hash {closed.hash or '(not signed yet)'} of event {closed.seq}."
    yield from (f"Closed in spite of: {one}." for one in closed.missing)


MOVED = "Moved to other teams and cost centres, of months that were published; in the sums of these above:"


def moved(one: Reattributed) -> tuple[str, str]:
    """Of which month, from whom to whom; and who said so, when and why."""
    told = [
        f"{what} {was or '(none)'} to {now or '(none)'}"
        for what, was, now in (
            (COST_CENTER, one.before.cost_center, one.after.cost_center),
            (TEAM, one.before.team, one.after.team),
        )
        if was != now
    ]
    why = f": {one.reason}" if one.reason else ""
    return f"{one.month}, {', '.join(told)}", f"{one.by}, {format_instant(Instant(one.at))}{why}"


def about(one: Adjusted) -> str:
    """Which job, and of which month."""
    return f"job {one.job_number} of {one.project or '(none)'}, {one.month}"


def why(one: Adjusted) -> str:
    """How many charges, and the reason of a correction."""
    many = plural(one.charges, "charge")
    return f"{many}: {one.reason}" if one.reason else many
