"""Rows of FOCUS for what a table of teams and cost centres moved of published months.

Why     a row that was exported is never another one: less of one owner and as much more of another are two of
        their own, in the month in which the table was applied, of the month that they are about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bursard.reports.attribution import Reattributed
from bursard.reports.focus import (
    COST_OF_ONE_NANO,
    Cell,
    Constant,
    FocusContext,
    Line,
    owner_cells,
    platform_cells,
)
from bursard.reports.period import find_period, month_of


def moved_lines(moves: Iterable[Reattributed], context: FocusContext) -> Iterator[Line]:
    """Two of each, which sum to 0."""
    for move in moves:
        yield from _of_move(move, context)


def _of_move(move: Reattributed, context: FocusContext) -> Iterator[Line]:
    """Less of one owner and as much more of another, of a month that was published before."""
    month = month_of(move.booked_at)
    moved = find_period(move.month, move.booked_at)
    for owner, sign in ((move.before, -1), (move.after, 1)):
        cells: dict[str, Cell] = {
            **platform_cells(context, month),
            "ChargeCategory": "Adjustment",
            "ChargeClass": "Correction",
            "HostProviderName": context.provider,
            "x_MeterConfidence": "corrected",
            "x_Simulated": "false",
            **owner_cells(owner),
        }
        words = f"reattributed: {move.reason or 'its table was changed'}"
        constant = Constant(cells, None, 0, 0, words, month[1], False)
        nanos = sign * move.nanos
        product = nanos * COST_OF_ONE_NANO
        about = (None, None, None, None)
        yield Line(constant, nanos, moved.since, moved.until, None, product, words, "", "", *about, False)
