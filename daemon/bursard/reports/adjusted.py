"""What a period's bill has in it of other times: corrections booked in it, and usage posted when it was over.

Why     a sum that differs from the one that was published, or from what the hours of the period cost, is
        asked about. The statement answers before: which job, which month, how much, and why.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bursard.ledger import PAID
from bursard.reports.period import Period, month_of, month_text
from bursard.store import LATE_AFTER_US, ChargeFilter, Dim, Unposted, Views

CORRECTION, LATE = "correction", "late"


class Adjusted(msgspec.Struct, frozen=True):
    """Charges of one job that are of another time than the others of the bill.

    Attributes:
        kind: `correction`, or `late`. month: that the charges are of, `2026-10`.
        nanos: what they made the bill larger by. charges: how many were corrected, or late.
        reason: of a correction.
    """

    kind: str
    project: str
    job_number: int
    month: str
    nanos: int
    charges: int
    reason: str = ""


def adjusted(views: Views, period: Period, unposted: Unposted, project: str) -> tuple[Adjusted, ...]:
    """Of a period: corrections in order of their booking, then what was late by project and job."""
    return (
        *_corrections(views, period, unposted, project),
        *_late(views, period, unposted, project),
    )


def published_at(period: Period) -> int:
    """When the month of a period counts as published."""
    return month_of(period.since)[1] + LATE_AFTER_US


def _corrections(views: Views, period: Period, unposted: Unposted, project: str) -> Iterator[Adjusted]:
    query = ChargeFilter(
        since=period.since, until=period.until, project=project, kinds=PAID, corrections=True
    )
    sums: dict[tuple[str, int, str, str], list[int]] = {}
    for row in views.charges(query, unposted):
        key = (row.project, row.job_number, month_text(row.for_start), row.reason)
        found = sums.setdefault(key, [0, 0, 0])
        found[0] += row.nanos
        found[1] += row.held_us < 0
        found[2] += row.held_us >= 0
    for (of, number, month, reason), (nanos, taken, posted) in sums.items():
        # Without a reason it is no correction: its month was closed when it was told. Of what was moved to
        # somebody else one side was taken back, and the other was posted.
        charges = max(taken, posted)
        yield Adjusted(CORRECTION if reason else LATE, of, number, month, nanos, charges, reason)


def _late(views: Views, period: Period, unposted: Unposted, project: str) -> Iterator[Adjusted]:
    after = views.last_seq_before(published_at(period))
    if after >= unposted.seq:
        return
    query = ChargeFilter(since=period.since, until=period.until, project=project, kinds=PAID, after_seq=after)
    for part in views.charge_sums([Dim.PROJECT, Dim.JOB_NUMBER], query, unposted._replace(rows=())):
        of, number = part.keys
        yield Adjusted(LATE, str(of), int(number), month_text(period.since), part.nanos, part.charges)
