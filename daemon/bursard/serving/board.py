"""What is known of services beyond the log: which replicas are ready, what gateways see, who is to go.

Owns    readings of a moment. Nothing of it is kept: agents and gateways say it again.
Why     an event for each request, or each look at a replica, would be more log than all else together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model.service import NOWHERE, Way
from bursard.serving.autoscale import Memory, Sample
from bursard.serving.canary import NONE, Answers

GONE_US: Final = 15 * SECOND_US
"""A gateway that did not ask for so long is none."""
SAMPLES_MAX: Final = 8_192
"""Of one service: an hour of looks each second, and some more gateways."""
GATEWAYS_MAX: Final = 64


class Ready(msgspec.Struct):
    """What a replica's agent said of it last."""

    ready: bool
    message: str
    since: int
    was_ready: bool = False
    way: Way = NOWHERE


class Gateway(msgspec.Struct):
    """One gateway as it asked last.

    Attributes:
        outstanding: requests in hand by attempt. waiting: by job.
        certificate: with which it reaches replicas on other machines; empty: it does not.
        told: replicas that the last answer but one left out: what is in hand of these only shrinks.
    """

    name: str
    boot_id: str
    url: str
    at: int
    outstanding: dict[str, int] = {}
    waiting: dict[str, int] = {}
    leaving: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()
    certificate: str = ""


class Pace(msgspec.Struct):
    """How one service does, as gateways told last. `answers`: by revision, in the step of a canary."""

    samples: deque[Sample]
    asked: deque[tuple[int, int, int]]
    asked_at: int = 0
    p50_us: int = 0
    p95_us: int = 0
    cold_us: int = 0
    waits_since: int = 0
    hidden: frozenset[str] = frozenset()
    percent: int = 0
    answers: dict[int, Answers] = {}
    memory: Memory | None = None
    why: str = ""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway says of one service: as in `ServiceLoad` of the wire."""

    job_id: str
    elapsed_us: int
    busy_us: int
    waiting: int
    asked: int
    p50_us: int
    p95_us: int
    outstanding: Mapping[str, int]
    answers: Mapping[str, Answers] = {}


class Board:
    """Readings of all services. Belongs to the event loop."""

    def __init__(self) -> None:
        self.ready: dict[str, Ready] = {}
        """By attempt."""
        self.draining: dict[str, int] = {}
        """By attempt, since when it gets no more requests."""
        self.paces: dict[str, Pace] = {}
        """By job."""
        self.gateways: dict[str, Gateway] = {}

    def pace(self, job_id: str) -> Pace:
        """Of a service, empty at first."""
        found = self.paces.get(job_id)
        if found is None:
            found = self.paces[job_id] = Pace(deque(maxlen=SAMPLES_MAX), deque(maxlen=SAMPLES_MAX))
        return found

    def cold_us(self, job_id: str) -> int:
        """How long the last cold start of a service took; 0: not known."""
        pace = self.paces.get(job_id)
        return pace.cold_us if pace is not None else 0

    def readied(self, attempt_id: str, ready: bool, message: str, now: int, way: Way = NOWHERE) -> None:
        """An agent says whether a replica is ready."""
        before = self.ready.get(attempt_id)
        since = before.since if before is not None and before.ready == ready else now
        was_ready = ready or (before is not None and before.was_ready)
        self.ready[attempt_id] = Ready(ready, message, since, was_ready, way)

    def load(self, one: Load, gateway: str, now: int) -> None:
        """A gateway says how a service does."""
        pace = self.pace(one.job_id)
        pace.samples.append(Sample(now, one.elapsed_us, one.busy_us, gateway))
        pace.asked.append((now, one.elapsed_us, one.asked))
        if one.asked or one.waiting or one.busy_us:
            pace.asked_at = now
        if one.p95_us:
            pace.p50_us, pace.p95_us = one.p50_us, one.p95_us
        while pace.samples and pace.samples[0].at < now - HOUR_US:
            pace.samples.popleft()
        while pace.asked and pace.asked[0][0] < now - 60 * SECOND_US:
            pace.asked.popleft()

    def answered(self, job_id: str, revision: int, answers: Answers) -> None:
        """A gateway says what a replica of a revision answered."""
        known = self.pace(job_id).answers
        known[revision] = known.get(revision, NONE).and_also(answers)

    def elsewhere(self, boot_id: str) -> tuple[str, ...]:
        """Certificates of the gateways on other machines than this one."""
        known = self.gateways.values()
        return tuple(sorted({one.certificate for one in known if one.boot_id != boot_id} - {""}))

    def live_gateways(self, now: int) -> Iterator[Gateway]:
        """Those that ask."""
        return (one for one in self.gateways.values() if now - one.at < GONE_US)

    def outstanding(self, attempt_id: str, now: int) -> int:
        """Requests that a replica has in hand, at all gateways."""
        return sum(one.outstanding.get(attempt_id, 0) for one in self.live_gateways(now))

    def waiting(self, job_id: str, now: int) -> int:
        """Requests that wait for a replica, at all gateways."""
        return sum(one.waiting.get(job_id, 0) for one in self.live_gateways(now))

    def clear(self, attempt_id: str, now: int) -> bool:
        """Has it nothing in hand, and will it get nothing more?"""
        return all(
            attempt_id in one.told and not one.outstanding.get(attempt_id, 0)
            for one in self.live_gateways(now)
        )

    def forget(self, attempt_id: str) -> None:
        """A replica is gone."""
        self.ready.pop(attempt_id, None)
        self.draining.pop(attempt_id, None)
