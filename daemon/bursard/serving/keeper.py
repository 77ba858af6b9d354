"""Keeps services as they are to be: looks once a second, and whenever somebody waits for a first replica.

Owns    the only calls of `autoscale`, and what follows from it: places, replicas that go, replicas that never
        got ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from bursar.clock import SECOND_US
from bursar.errors import BursarError
from bursar.model import JobState, ServiceSpec
from bursar.model.service import NOWHERE, Way
from bursard.engine import Engine
from bursard.events import AttemptEnded, Event, JobSubmitted
from bursard.serving.autoscale import Memory, Scaled, Seen, Standing, scale
from bursard.serving.board import Board, Gateway, Load
from bursard.serving.canary import NONE, Answers
from bursard.state import AttemptRecord, JobRecord
from bursard.state.admission import cheapest_rate
from bursard.state.decide import services as decide

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
LAPSED_EVERY_US: Final = 10 * SECOND_US
NO_ROOM_US: Final = 10 * SECOND_US
"""A place that waits for so long, and for no machine that comes up, finds no room."""


class Keeper:
    """Looks after all services of one daemon."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.board = Board()
        self.services: dict[str, None] = {
            job.id: None for job in engine.state.jobs.values() if job.spec.service and not job.parent_id
        }
        """Jobs that are services, oldest first."""
        self._lapsed_at = 0
        self.on_gateways: Callable[[], None] = lambda: None
        """Called when other gateways than before may come to replicas."""
        self._certificates: tuple[str, ...] = ()
        engine.listeners.append(self.on_event)

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Learn of new services, and of replicas that are gone."""
        if isinstance(event, JobSubmitted) and event.spec.service is not None:
            self.services[event.job_id] = None
        elif isinstance(event, AttemptEnded):
            self.board.forget(event.attempt_id)

    async def run(self) -> None:
        """For ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def readied(self, attempt_id: str, ready: bool, message: str, way: Way = NOWHERE) -> None:
        """An agent says whether a replica is ready."""
        board, now = self.board, self.engine.now()
        attempt = self.engine.state.attempts.get(attempt_id)
        before = board.ready.get(attempt_id)  # one that is ready again did not start again
        first = before is None or not before.was_ready
        board.readied(attempt_id, ready, message, now, way)
        if ready and first and attempt is not None:
            parent_id = self.engine.state.jobs[attempt.job_id].parent_id
            board.pace(parent_id).cold_us = max(now - attempt.placed_at, 0)

    def heard(self, gateway: Gateway, loads: list[Load]) -> None:
        """A gateway asks: what it saw is believed until it asks again."""
        now, before = gateway.at, self.board.gateways.get(gateway.name)
        gateway.leaving = frozenset(self.board.draining)
        gateway.told = before.leaving if before is not None else frozenset()
        self.board.gateways[gateway.name] = gateway
        if (certificates := self.board.elsewhere("")) != self._certificates:
            self._certificates = certificates
            self.on_gateways()
        for load in loads:
            if load.job_id in self.services:
                self.board.load(load, gateway.name, now)
                self._answered(load)
                job = self.engine.state.jobs.get(load.job_id)
                if load.waiting and job is not None and job.array is not None and not job.array.max_parallel:
                    self.look_at(job)

    def _answered(self, load: Load) -> None:
        for attempt_id, answers in load.answers.items():
            attempt = self.engine.state.attempts.get(attempt_id)
            task = self.engine.state.jobs.get(attempt.job_id) if attempt is not None else None
            if task is not None and task.parent_id == load.job_id and task.spec.service is not None:
                self.board.answered(load.job_id, task.spec.service.revision, answers)

    # --- looking

    def look(self) -> None:
        """Bring every service to what it is to be."""
        state = self.engine.state
        self._drop_lapsed()
        for job_id in list(self.services):
            job = state.jobs.get(job_id)
            if job is None or job.state.terminal:
                del self.services[job_id]
                self.board.paces.pop(job_id, None)
            else:
                self.look_at(job)

    def _drop_lapsed(self) -> None:
        """Keys that are void by time leave."""
        now = self.engine.now()
        if now < self._lapsed_at:
            return
        self._lapsed_at = now + LAPSED_EVERY_US
        if events := decide.lapsed(self.engine.state, now):
            self._lapsed_at = now  # there may be more
            try:
                self.engine.commit(events, "bursard")
            except BursarError as error:  # the next look tries again
                log.warning("void keys could not be dropped", extra={"error": error.message})

    def look_at(self, job: JobRecord) -> None:
        """Bring one service to what it is to be."""
        try:
            self.engine.commit_each([lambda: self._events(job)], "bursard")
        except BursarError as error:  # the next look tries again
            log.warning("a service could not be scaled", extra={"job": job.display, "error": error.message})

    def live(self, job: JobRecord) -> list[tuple[JobRecord, AttemptRecord]]:
        """The live replicas of a service, with their places."""
        tasks = self.engine.state.tasks.get(job.id, {}).values()
        return [(task, task.attempt) for task in tasks if task.attempt is not None]

    def _events(self, job: JobRecord) -> list[Event]:
        service = job.spec.service
        assert service is not None
        assert job.array is not None
        now, pace = self.engine.now(), self.board.pace(job.id)
        if pace.memory is None and job.array.max_parallel:
            pace.asked_at = now  # a daemon that begins has heard nobody: what runs is not idle for that
        seen = self._seen(job, now)
        memory = pace.memory or Memory(target=min(job.array.max_parallel, service.replicas_max))
        scaled, pace.memory = scale(service, seen, memory)
        pace.why, pace.hidden, pace.percent = scaled.why, frozenset(scaled.hidden), scaled.percent
        if pace.memory.trial != memory.trial:
            pace.answers = {}
        if scaled.bad and (back := self._back(job, service, scaled.bad)):
            # A place that waits for the next of them is not wanted any more.
            return [*decide.scaled(job, pace.memory.target, scaled.bad), *back]
        events = self._gone(job, scaled, now) + self._too_late(job, now)
        if job.held:
            return events
        return [*decide.scaled(job, scaled.places, scaled.why), *events]

    def _back(self, job: JobRecord, service: ServiceSpec, bad: str) -> list[Event]:
        """A revision that is no good goes; where it cannot, it stays, and that is told."""
        why = f"revision {service.revision} was rolled back: {bad}"
        try:
            return decide.rolled_back(self.engine.state, job, why)
        except BursarError as error:
            facts = {"job": job.display, "error": error.message}
            log.warning("a revision cannot be rolled back", extra=facts)
            return []

    def _seen(self, job: JobRecord, now: int) -> Seen:
        board, pace, service = self.board, self.board.pace(job.id), job.spec.service
        assert service is not None
        replicas = tuple(
            Standing(
                attempt_id=attempt.id,
                ready=attempt.id in board.ready and board.ready[attempt.id].ready,
                old=task.spec.service is not None and not decide.is_current(job, task.spec.service.revision),
                leaving=attempt.stop_cause is not None or attempt.id in board.draining,
                outstanding=board.outstanding(attempt.id, now),
                rate=attempt.rate,
            )
            for task, attempt in self.live(job)
        )
        return Seen(
            now=now,
            replicas=replicas,
            samples=pace.samples,
            asked_at=pace.asked_at,
            waiting=board.waiting(job.id, now),
            cold_us=pace.cold_us,
            unplaced=self._unplaced(job, now),
            cap=self._cap(job),
            new=pace.answers.get(service.revision, NONE),
            old=self._old_answers(pace.answers, service.revision),
            ends=max((task.free_retries for task in self._places(job) if _is_of(task, service)), default=0),
            back=job.back is not None,
        )

    def _places(self, job: JobRecord) -> Iterable[JobRecord]:
        return self.engine.state.tasks.get(job.id, {}).values()

    def _old_answers(self, answers: Mapping[int, Answers], revision: int) -> Answers:
        found = NONE
        for one, told in answers.items():
            found = found.and_also(told) if one != revision else found
        return found

    def _unplaced(self, job: JobRecord, now: int) -> int:
        """Places that find no room, and have not for a while."""
        state, pace = self.engine.state, self.board.pace(job.id)
        coming = {machine.job_id for machine in state.machines.values() if machine.holding}
        waits = sum(
            task.state is JobState.PENDING
            and task.has_slot
            and task.retry_at <= now
            and task.id not in coming
            for task in state.tasks.get(job.id, {}).values()
        )
        if not waits:
            pace.waits_since = 0
        elif not pace.waits_since:
            pace.waits_since = now
        return waits if waits and now - pace.waits_since >= NO_ROOM_US else 0

    def _cap(self, job: JobRecord) -> int | None:
        """How many replicas its `max_price` pays for, at the dearest that runs or the cheapest there is."""
        if not job.spec.max_price_nanos_per_hour:
            return None
        state = self.engine.state
        rates = [attempt.rate for _, attempt in self.live(job)]
        rate = max(rates, default=0)
        if not rate:
            rate = cheapest_rate(state, state.class_of_spec(job.spec, (), state.time_limit_of(job.spec))) or 0
        return job.spec.max_price_nanos_per_hour // rate if rate else None

    def _gone(self, job: JobRecord, scaled: Scaled, now: int) -> list[Event]:
        """Replicas to let go: those with nothing in hand at once, others when they have answered."""
        service, board, events = job.spec.service, self.board, list[Event]()
        assert service is not None
        for attempt_id in scaled.drain:
            board.draining.setdefault(attempt_id, now)
        for task, attempt in self.live(job):
            if attempt.id in scaled.replace:
                revision = task.spec.service.revision if task.spec.service is not None else 0
                why = f"revision {service.revision} takes the place of {revision}"
                events += decide.replace(self.engine.state, attempt, why, True, service.drain_us)
            since = board.draining.get(attempt.id)
            if since is not None and (now - since >= service.drain_us or board.clear(attempt.id, now)):
                events += decide.replace(self.engine.state, attempt, scaled.why, True, service.drain_us)
        return events

    def _too_late(self, job: JobRecord, now: int) -> list[Event]:
        """Replicas that have not been ready for as long as a start may take: others take their places."""
        service, events = job.spec.service, list[Event]()
        assert service is not None
        for task, attempt in self.live(job):
            said = self.board.ready.get(attempt.id)
            if task.state is not JobState.RUNNING or (said is not None and said.ready):
                continue
            since = max(attempt.started_at, said.since if said is not None else 0)
            if attempt.started_at and now - since >= service.start_timeout_us:
                last = f": {said.message}" if said is not None and said.message else ""
                why = f"not ready for {service.start_timeout_us // SECOND_US} s{last}"
                events += decide.replace(self.engine.state, attempt, why, False, attempt.grace_us)
        return events


def _is_of(task: JobRecord, service: ServiceSpec) -> bool:
    """Is a place of the revision of now?"""
    return task.spec.service is not None and task.spec.service.revision == service.revision
