"""What keys use of services, minute by minute. PURE.

Why     money is divided by these numbers, and none is made by them: they must be exact about who had what in
        hand, and while. Integers alone; an instant is told, and never read.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final

import msgspec

MINUTE_US: Final = 60_000_000
GAP_MAX_US: Final = 3_600_000_000
"""A clock that jumped further has shown no time that anything took."""
PENDING_MAX: Final = 20_000
"""Minutes that wait for the daemon: two weeks of one service."""
COUNT_MAX: Final = 2**53
"""Of any number: the daemon takes no more, and a replica that says anything must not stop all others."""
USES_MAX: Final = 1_000
"""Keys of one message."""


Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
"""As it is read from disk: more of it no daemon takes."""


class Use(msgspec.Struct):
    """One key, one service, one minute."""

    requests: Count = 0
    failed: Count = 0
    tokens_in: Count = 0
    tokens_out: Count = 0
    tokens_cached: Count = 0
    busy_us: Count = 0
    counted: Count = 0
    estimated: Count = 0


class Minute(msgspec.Struct):
    """One service in one minute, or a part of it. `seq` 0: it goes on."""

    job_id: str
    minute: Count
    busy_us: Count = 0
    capacity_us: Count = 0
    uses: dict[str, Use] = {}
    seq: Count = 0


class Kept(msgspec.Struct):
    """What outlives the process: the number given last, what waits, what goes on."""

    seq: Count = 0
    pending: list[Minute] = []
    open: list[Minute] = []
    lost: Count = 0


class _Gauge:
    """One service: what is in hand, by key, and what there is room for."""

    def __init__(self) -> None:
        self.hands: dict[str, int] = {}
        self.capacity = 0
        self.busy_us = 0
        """Since the last look."""


class Meter:
    """All services of one gateway. `now`: microseconds of wall time."""

    def __init__(self, kept: Kept, now: int) -> None:
        self.seq, self.lost = kept.seq, kept.lost
        self.pending: deque[Minute] = deque(kept.pending)
        self._gauges: dict[str, _Gauge] = {}
        self._open: dict[str, Minute] = {}
        self._at = now
        self._untold: dict[tuple[str, int], dict[str, int]] = {}
        """By job and minute, by key: time in hand that the daemon has not heard of, where there was room."""
        self.untold: dict[str, dict[str, int]] = {}
        """The same by key, by job."""
        for one in (*kept.pending, *kept.open):
            for key_id, use in one.uses.items():
                self._hold(one.job_id, one.minute, key_id, use.busy_us)
        # What went on when the process before ended is over.
        for one in sorted(kept.open, key=lambda each: each.job_id):
            self._close(one)

    def kept(self) -> Kept:
        """What must not be lost, as of the last `roll`."""
        return Kept(self.seq, list(self.pending), list(self._open.values()), self.lost)

    def begin(self, job_id: str, key_id: str, now: int) -> None:
        """A request came."""
        self.roll(now)
        hands = self._gauge(job_id).hands
        hands[key_id] = hands.get(key_id, 0) + 1

    def end(self, job_id: str, key_id: str, used: Use, now: int) -> None:
        """It is over: answered, or not."""
        self.roll(now)
        hands = self._gauge(job_id).hands
        hands[key_id] -= 1
        if not hands[key_id]:
            del hands[key_id]
        row = self._use(job_id, key_id)
        for name in Use.__struct_fields__:
            setattr(row, name, min(getattr(row, name) + getattr(used, name), COUNT_MAX))

    def room(self, job_id: str, capacity: int, now: int) -> None:
        """So many requests its ready replicas may have in hand from now on."""
        self.roll(now)
        self._gauge(job_id).capacity = capacity

    def busy(self, job_id: str) -> int:
        """Requests in hand over the time since this was asked last, in microseconds."""
        gauge = self._gauge(job_id)
        found, gauge.busy_us = gauge.busy_us, 0
        return found

    def roll(self, now: int) -> None:
        """Time passes: what is in hand is counted, and minutes that are over get their numbers."""
        if now < self._at or now - self._at > GAP_MAX_US:
            self._at = now
        while self._at < now:
            minute = self._at - self._at % MINUTE_US
            until = min(minute + MINUTE_US, now)
            self._pass(minute, until - self._at)
            self._at = until
            if until == minute + MINUTE_US:
                self._close_all()

    def acknowledged(self, seq: int) -> None:
        """The daemon has what came up to this number."""
        while self.pending and self.pending[0].seq <= seq:
            self._told(self.pending.popleft())

    def _gauge(self, job_id: str) -> _Gauge:
        found = self._gauges.get(job_id)
        if found is None:
            found = self._gauges[job_id] = _Gauge()
        return found

    def _minute(self, job_id: str) -> Minute:
        found = self._open.get(job_id)
        if found is None:
            found = self._open[job_id] = Minute(job_id, self._at - self._at % MINUTE_US, uses={})
        return found

    def _use(self, job_id: str, key_id: str) -> Use:
        return self._minute(job_id).uses.setdefault(key_id, Use())

    def _pass(self, minute: int, span_us: int) -> None:
        for job_id, gauge in self._gauges.items():
            many = sum(gauge.hands.values())
            if not many and not gauge.capacity:
                continue
            row = self._minute(job_id)
            row.busy_us += many * span_us
            row.capacity_us += gauge.capacity * span_us
            gauge.busy_us += many * span_us
            for key_id, hands in gauge.hands.items():
                self._use(job_id, key_id).busy_us += hands * span_us
                self._hold(job_id, minute, key_id, hands * span_us * min(many, gauge.capacity) // many)

    def _hold(self, job_id: str, minute: int, key_id: str, held_us: int) -> None:
        if not held_us:
            return
        part = self._untold.setdefault((job_id, minute), {})
        part[key_id] = part.get(key_id, 0) + held_us
        jobs = self.untold.setdefault(key_id, {})
        jobs[job_id] = jobs.get(job_id, 0) + held_us

    def _told(self, minute: Minute) -> None:
        """The daemon knows of it. What a process before counted of the same minute goes with it."""
        for key_id, held_us in self._untold.pop((minute.job_id, minute.minute), {}).items():
            jobs = self.untold[key_id]
            jobs[minute.job_id] -= held_us
            if not jobs[minute.job_id]:
                del jobs[minute.job_id]
            if not jobs:
                del self.untold[key_id]

    def _close_all(self) -> None:
        for job_id in sorted(self._open):
            self._close(self._open[job_id])
        self._open = {}

    def _close(self, minute: Minute) -> None:
        """It gets its numbers. One in which nobody asked says nothing: all of it is idle."""
        rows = list(minute.uses.items())
        for at in range(0, len(rows), USES_MAX):
            self.seq += 1
            part = dict(rows[at : at + USES_MAX])
            whole = at == 0
            told = Minute(
                minute.job_id,
                minute.minute,
                minute.busy_us * whole,
                minute.capacity_us * whole,
                part,
                self.seq,
            )
            self.pending.append(told)
        while len(self.pending) > PENDING_MAX:
            self._told(self.pending.popleft())
            self.lost += 1
