"""Which events a caller may see: those of its projects' jobs; with a role over the site, all.

Why     an event names a job or an attempt, rights are of projects; one place finds one from the other.
"""

from __future__ import annotations

from msgspec.structs import replace

from bursar.model import JobSpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.events import (
    AnomalyFound,
    AttemptPlaced,
    Event,
    KeyIssued,
    KeysCharged,
    RoleGranted,
    RoleRevoked,
    SecretRemoved,
    SecretSet,
    StopRequested,
)
from bursard.events.deadlines import DeadlineBroken
from bursard.events.public import unnamed
from bursard.services.unseen import may_see, words
from bursard.state import State
from bursard.store import Views

REMEMBERED_MAX = 10_000
"""Attempts whose job one stream remembers, newest last."""

_OF_BUDGETS = ("holds", "budgets")
"""Fields whose parts name the budgets that pay, of events that others than the whole site's people see."""
_SENTENCES = ("message", "why", "reason", "problem")

_OF_RIGHTS = RoleGranted | RoleRevoked | SecretSet | SecretRemoved


class Sight:
    """One stream's view. Asks the store, so it belongs in a reader's thread."""

    def __init__(self, identity: Identity, state: State) -> None:
        self._identity = identity
        self._state = state
        self._sees_site = allowed(identity, Action.SEE_JOBS)
        self._job_of: dict[str, str] = {}
        self._project_of: dict[str, str | None] = {}

    def shows(self, event: Event, views: Views) -> bool:
        """May the caller see it? An attempt of which neither state nor stream knows the job stays unseen."""
        if isinstance(event, _OF_RIGHTS):
            return allowed(self._identity, Action.SEE_GRANTS, event.project)
        if isinstance(event, AnomalyFound):
            return allowed(self._identity, Action.SEE_COST, event.name)
        if isinstance(event, KeysCharged) and not may_see(self._state, event.budget, self._identity):
            return False
        if self._sees_site:
            return True
        return self._sees(self._project(event, views))

    def told(self, event: Event, views: Views) -> Event:
        """One that is shown, without the other job, the budgets and the quotas that it names where the caller
        may not see those.
        """
        return self._without_money(self._without_work(event, views))

    def _without_money(self, event: Event) -> Event:
        """Of the budgets that pay, those that may be seen; the same sum is held in each."""
        if allowed(self._identity, Action.SEE_COST):
            return event
        changed: dict[str, object] = {}
        if isinstance(event, KeyIssued) and not may_see(self._state, event.budget, self._identity):
            changed["budget"] = ""
        for name in _OF_BUDGETS:
            parts = getattr(event, name, ())
            seen = tuple(one for one in parts if may_see(self._state, one.budget, self._identity))
            if len(seen) < len(parts):
                changed[name] = seen
        for name in _SENTENCES:
            text = getattr(event, name, "")
            if (shown := words(text, self._state, self._identity)) != text:
                changed[name] = shown
        return replace(event, **changed) if changed else event

    def _without_work(self, event: Event, views: Views) -> Event:
        if isinstance(event, AttemptPlaced) and event.after and not self._sees_work(event.after, views):
            return replace(event, after="", why=unnamed(event.why))
        if isinstance(event, StopRequested) and event.for_job and not self._sees_work(event.for_job, views):
            return replace(event, for_job="", message=unnamed(event.message))
        if isinstance(event, DeadlineBroken) and not self._sees_site:
            return replace(event, message=unnamed(event.message))
        return event

    def _sees_work(self, ref: str, views: Views) -> bool:
        """May it see this job, or the job of this attempt?"""
        return self._sees_site or self._sees(self._project_of_job(self._job(ref) or ref, views))

    def _sees(self, project: str | None) -> bool:
        return project is not None and allowed(self._identity, Action.SEE_JOBS, project)

    def _project(self, event: Event, views: Views) -> str | None:
        spec = getattr(event, "spec", None)
        if isinstance(spec, JobSpec):
            return spec.project
        if isinstance(event, AttemptPlaced):
            self._remember(event.attempt_id, event.job_id)
        job_id = getattr(event, "job_id", "") or self._job(getattr(event, "attempt_id", ""))
        return self._project_of_job(job_id, views) if job_id else None

    def _project_of_job(self, job_id: str, views: Views) -> str | None:
        job_id = job_id.partition(".")[0]  # a task is of its array's project
        job = self._state.jobs.get(job_id)
        if job is not None:
            return job.spec.project
        if job_id not in self._project_of:
            row = views.find_job(job_id)
            if len(self._project_of) >= REMEMBERED_MAX:
                self._project_of.clear()
            self._project_of[job_id] = row.project if row is not None else None
        return self._project_of[job_id]

    def _job(self, attempt_id: str) -> str:
        attempt = self._state.attempts.get(attempt_id)
        return attempt.job_id if attempt is not None else self._job_of.get(attempt_id, "")

    def _remember(self, attempt_id: str, job_id: str) -> None:
        self._job_of[attempt_id] = job_id
        if len(self._job_of) > REMEMBERED_MAX:
            del self._job_of[next(iter(self._job_of))]
