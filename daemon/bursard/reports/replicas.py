"""What the replicas of a service could have had in hand, minute by minute.

Why     a gateway knows the replicas of its own machine: of several before one replica each counts it, and of
        a replica that no gateway was asked for none tells. What was charged says how many there were, and the
        log how much one of them took then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from bursar.clock import HOUR_US
from bursar.model import ServiceSpec
from bursard.events import JobSubmitted, JobUpdated, decode
from bursard.ledger import PAID
from bursard.store import ChargeFilter, ChargeRow, EventFilter, Unposted, Views

MINUTE_US: Final = 60_000_000
_PAGE: Final = 1_000
Amounts = tuple[int, ...]


def split(start: int, end: int, amounts: Amounts) -> Iterator[tuple[int, Amounts]]:
    """Amounts of a time by the minutes of it, in equal parts a microsecond; together exactly they."""
    length = end - start
    if length <= 0:
        yield start - start % MINUTE_US, amounts
        return
    done = (0,) * len(amounts)
    at = start - start % MINUTE_US
    while at < end:
        passed = min(at + MINUTE_US, end) - start
        # Towards zero: a sum and the same below zero have the same parts.
        now = tuple(one * passed // length if one > 0 else -(-one * passed // length) for one in amounts)
        yield at, tuple(after - before for after, before in zip(now, done, strict=True))
        done, at = now, at + MINUTE_US


def held_in(rows: Iterable[ChargeRow], job_id: str, minutes: Container[int]) -> Counter[int]:
    """For how long all replicas of a service together were charged in each of some minutes. A correction
    changes what that costs, and not that they were there.
    """
    held: Counter[int] = Counter()
    for row in rows:
        if row.job_id.partition(".")[0] != job_id or row.reason:
            continue
        for at, (held_us,) in split(row.used_from, row.used_until, (row.held_us,)):
            if at in minutes:
                held[at] += held_us
    return held


class Room:
    """Of one service. target: requests that one replica takes now, which counts where the log says no other;
    0: not known.
    """

    def __init__(self, views: Views, job_id: str, target: int, unposted: Unposted) -> None:
        self._views, self._job_id, self._unposted = views, job_id, unposted
        self._changes = list(_changes(views, job_id)) or [(0, target)]
        self._from = [at for at, _ in self._changes]

    def of(self, minutes: Container[int], number: int, since: int) -> dict[int, int]:
        """By minute, requests in hand over the time. None of a minute of which no target is known.

        Args:
            minutes: those that are asked for, all of them after `since`. number: of the job.
        """
        query = ChargeFilter(since=since - since % HOUR_US, kinds=PAID, job_number=number)
        held = held_in(self._views.charges(query, self._unposted), self._job_id, minutes)
        return {at: held_us * target for at, held_us in held.items() if (target := self._target(at))}

    def _target(self, at: int) -> int:
        place = bisect_right(self._from, at)
        return self._changes[place - 1][1] if place else 0


def _changes(views: Views, job_id: str) -> Iterator[tuple[int, int]]:
    """From when on one replica took how many requests, as far as the log is not archived."""
    after, asked = 0, EventFilter(kinds=("job-submitted", "job-updated"), about=job_id)
    while rows := views.events(after, _PAGE, asked):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, JobSubmitted) and event.job_id == job_id and event.spec.service is not None:
                yield 0, event.spec.service.target
            elif isinstance(event, JobUpdated) and event.job_id == job_id and event.fields.get("service"):
                yield row.at, msgspec.convert(event.fields["service"], ServiceSpec).target
        after = rows[-1].seq
        if len(rows) < _PAGE:
            return
