"""How closing a month changes the state: what is open of it is posted, and nothing enters it any more."""

from __future__ import annotations

from bursard.events import BillKept, PeriodClosed, PeriodSigned
from bursard.state.fold import books
from bursard.state.periods import ClosedPeriod
from bursard.state.tables import Applied, Tables


def bill_kept(state: Tables, event: BillKept, at: int, applied: Applied) -> None:
    """Nothing follows from what a provider says: reports read it from the log."""


def period_closed(state: Tables, event: PeriodClosed, at: int, applied: Applied) -> None:
    """Rows of hours that are still open are written now, in the month that they are of."""
    for _, node in sorted(state.nodes.items()):
        books.close_before(node, event.until, applied)
    for _, attempt in sorted(state.attempts.items()):
        for member in attempt.members:
            if member.open is not None and member.open.counts_from < event.until:
                books.close_member(state.nodes[member.alloc.node_id], member, applied)
    state.closed.add(
        ClosedPeriod(
            name=event.name,
            since=event.since,
            until=event.until,
            seq=state.version,
            closed_at=at,
            by=event.by,
            missing=event.missing,
        )
    )


def period_signed(state: Tables, event: PeriodSigned, at: int, applied: Applied) -> None:
    """What the month is, for whoever asks."""
    period = state.closed.named(event.name)
    if period is not None:
        period.hash, period.totals, period.charges = event.hash, event.totals, event.charges
