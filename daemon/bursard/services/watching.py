"""Who is waiting to hear of a job: watches wake after the commit, never before."""

from __future__ import annotations

import asyncio

from bursard.engine import Engine
from bursard.events import (
    AttemptEnded,
    AttemptPlaced,
    Event,
    MemberStarted,
    StopRequested,
    TasksEnded,
)

_BY_ATTEMPT = (AttemptEnded, MemberStarted, StopRequested)


class Watcher:
    """One watch: the ids that changed since it last looked, never more than it asked for."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.ready = asyncio.Event()


class WatchHub:
    """Routes durable events to watches by job id."""

    def __init__(self, engine: Engine) -> None:
        self._watchers: dict[str, set[Watcher]] = {}
        self._job_of = {attempt.id: attempt.job_id for attempt in engine.state.live_attempts()}
        engine.listeners.append(self._on_event)

    def _on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        if isinstance(event, AttemptPlaced):
            self._job_of[event.attempt_id] = event.job_id
            job_id = event.job_id
        elif isinstance(event, AttemptEnded):
            job_id = self._job_of.pop(event.attempt_id, "")
        elif isinstance(event, _BY_ATTEMPT):
            job_id = self._job_of.get(event.attempt_id, "")
        else:
            job_id = getattr(event, "job_id", "")
        if not job_id or not self._watchers:
            return
        if isinstance(event, TasksEnded):
            for watched in [one for one in self._watchers if one.startswith(f"{job_id}.")]:
                for watcher in self._watchers[watched]:
                    watcher.changed.add(watched)
                    watcher.ready.set()
        # An array changes whenever one of its tasks does.
        for watched in (job_id, job_id.partition(".")[0]):
            for watcher in self._watchers.get(watched, ()):
                watcher.changed.add(watched)
                watcher.ready.set()

    def add(self, job_ids: list[str]) -> Watcher:
        """Watch some jobs."""
        watcher = Watcher()
        for job_id in job_ids:
            self._watchers.setdefault(job_id, set()).add(watcher)
        return watcher

    def remove(self, watcher: Watcher, job_ids: list[str]) -> None:
        """Stop watching."""
        for job_id in job_ids:
            watchers = self._watchers.get(job_id)
            if watchers is not None:
                watchers.discard(watcher)
                if not watchers:
                    del self._watchers[job_id]
