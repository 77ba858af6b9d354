"""What a reason, a refusal, an event and every other sentence may say of what its reader may not see.

Owns    budgets and quotas above the reader's projects: they refuse a job, and are not told of; and the ids of
        jobs and attempts of others.
Why     a budget or a quota of a whole project says what other people have spent and hold. Who may submit
        below it learns that it has no room, and what was asked of it: not its name, and nobody else's
        figures. All that leaves is told through here (`reason_view`, `job_view`, `Sight`, the `Door`), so
        that a new sentence, fact or verb needs no thought of its own.
"""

from __future__ import annotations

import re
from typing import Final

from bursar.errors import BudgetExceeded, BursarError, QuotaExceeded
from bursar.model import ReasonCode
from bursar.v1 import types_pb2 as pb
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.scheduler.quota_reasons import named
from bursard.state import State

_BUDGETS: Final = ("budget", "also_short", "stage_budget")
"""Facts that name budgets, more than one with commas between."""
_SHOWN: Final = ("needed", "currency", "reason", "rate_nanos_per_hour")
"""What of the facts is about what was asked alone."""
_SHOWN_OF_QUOTA: Final = ("resource", "asked", "currency", "stopped", "for_job")
_REMEDY: Final = (
    "ask for less (a shorter time limit, fewer resources, budget.max_cost), or ask whoever keeps that budget"
)
_REMEDY_OF_QUOTA: Final = "ask for less, or ask whoever keeps that quota"

_NAME: Final = r"([A-Za-z0-9][\w./@-]*)"
_STOPS: Final = re.compile(rf"\bbudget {_NAME} stops what runs: .*", re.DOTALL)
_STAGE: Final = re.compile(rf"\bbudget {_NAME} ([^;]*?) since it passed [^;]*")
_BUDGET: Final = re.compile(rf"\bbudget {_NAME}[^;]*")
_QUOTA: Final = re.compile(rf"\bquota {_NAME}(?: \((?:project|user) [^)]*\))?")
_REF: Final = re.compile(r"(?:\bjob )?\b(?:job|att)_[0-9a-z]{10,}(?:\.\d+)?(?![\w.]*\w)")
_REFS: Final = re.compile(r"(?:job|att)_[\w.]+(?:,(?:job|att)_[\w.]+)*")


def may_see(state: State, budget: str, identity: Identity) -> bool:
    """May they know that there is such a budget, and what is spent of it?"""
    record = state.budgets.records.get(budget)
    return record is None or allowed(identity, Action.SEE_COST, record.spec.scope.project)


def may_see_quota(state: State, quota: str, identity: Identity) -> bool:
    """May they know that there is such a quota, and what is held of it? Of their own, everybody."""
    spec = state.quotas.specs.get(quota)
    if spec is None or (spec.user and spec.user == identity.name):
        return True
    return allowed(identity, Action.SEE_COST, spec.project)


def may_see_work(state: State, ref: str, identity: Identity) -> bool:
    """May they see this job, or the job of this attempt? Of one that is gone nobody can tell."""
    attempt = state.attempts.get(ref)
    job = state.job(attempt.job_id if attempt is not None else ref)
    return job is not None and allowed(identity, Action.SEE_JOBS, job.spec.project, job.user)


def words(text: str, state: State, seen_by: Identity) -> str:
    """A sentence without budgets and quotas that its reader may not see, nor what they have spent."""
    if ("budget " not in text and "quota " not in text) or allowed(seen_by, Action.SEE_COST):
        return text

    def known(name: str) -> bool:
        return name in state.budgets.records and may_see(state, name, seen_by)

    def unknown(name: str) -> bool:
        return may_see(state, name, seen_by)

    # The daemon's own sentences with figures: also of a budget that is gone.
    text = _STOPS.sub(
        lambda one: one[0] if known(one[1]) else "a budget above the project stops what runs", text
    )
    text = _STAGE.sub(lambda one: one[0] if known(one[1]) else f"a budget above the project {one[2]}", text)
    text = _BUDGET.sub(lambda one: one[0] if unknown(one[1]) else "a budget above the project", text)
    return _QUOTA.sub(lambda one: one[0] if may_see_quota(state, one[1], seen_by) else "a quota", text)


def told(error: BursarError, state: State, seen_by: Identity) -> BursarError:
    """A refusal, as whoever is refused may read it."""
    facts = error.facts
    if isinstance(error, BudgetExceeded) and not may_see(state, facts.get("budget", ""), seen_by):
        kept = {name: value for name, value in facts.items() if name in _SHOWN}
        much = f": it may cost up to {kept['needed']} {kept['currency']}" if "needed" in kept else ""
        return BudgetExceeded(f"a budget above the project has no room for this{much}; {_REMEDY}", kept)
    if isinstance(error, QuotaExceeded) and not may_see_quota(state, facts.get("quota", ""), seen_by):
        kept = {name: value for name, value in facts.items() if name in _SHOWN_OF_QUOTA}
        return QuotaExceeded(_never(kept.get("resource", "")) + f"; {_REMEDY_OF_QUOTA}", kept)
    message = words(error.message, state, seen_by)
    return error if message == error.message else type(error)(message, facts)


def unname(wire: pb.Reason, state: State, seen_by: Identity) -> None:
    """A reason, likewise, and without the work of others that it names."""
    _without_money(wire, state, seen_by)
    _without_quota(wire, state, seen_by)
    _without_work(wire, state, seen_by)


def _without_money(wire: pb.Reason, state: State, seen_by: Identity) -> None:
    facts = wire.facts
    for fact in ("budget", "also_short"):
        if not all(may_see(state, name, seen_by) for name in facts.get(fact, "").split(",")):
            for name in set(facts) - set(_SHOWN):
                del facts[name]
            wire.message = "a budget above the project has no room for this job now"
            wire.remedy = f"wait until money comes back; {_REMEDY}"
            return
    if not may_see(state, facts.get("stage_budget", ""), seen_by):
        del facts["stage_budget"]
    wire.message = words(wire.message, state, seen_by)
    wire.remedy = words(wire.remedy, state, seen_by)


def _without_quota(wire: pb.Reason, state: State, seen_by: Identity) -> None:
    facts = wire.facts
    if may_see_quota(state, facts.get("quota", ""), seen_by):
        return
    for name in set(facts) - set(_SHOWN_OF_QUOTA):
        del facts[name]
    resource = facts.get("resource", "")
    if wire.code == ReasonCode.EXCEEDS_MAX_QUOTA.value:
        wire.message, wire.remedy = _never(resource), _REMEDY_OF_QUOTA
    elif wire.code == ReasonCode.WAITING_FOR_QUOTA.value:
        ahead = ", and another job that waits for it comes first" if "for_job" in facts else ""
        wire.message = f"a quota above the project has no room for the {_what(resource)}{ahead}"
        wire.remedy = f"it starts when jobs of the quota have ended; or {_REMEDY_OF_QUOTA}"


def _never(resource: str) -> str:
    return f"a quota above the project never allows the {_what(resource)}"


def _what(resource: str) -> str:
    return f"{named(resource).removeprefix('of ')} that this asks for" if resource else "job"


def _without_work(wire: pb.Reason, state: State, seen_by: Identity) -> None:
    """Ids become numbers where their job may be seen, and "another job" where not; what is gone stays as it
    is for who sees all.
    """
    sees_all = allowed(seen_by, Action.SEE_JOBS)

    def called(found: re.Match[str]) -> str:
        ref = found[0].removeprefix("job ")
        if may_see_work(state, ref, seen_by):
            job = state.job(ref)
            return found[0].replace(ref, job.display) if job is not None else found[0]
        if sees_all:
            return found[0]
        return "another job" if found[0] != ref or ref.startswith("att_") else "another"

    wire.message = _REF.sub(called, wire.message)
    if sees_all:
        return
    for name, value in list(wire.facts.items()):
        if _REFS.fullmatch(value):
            wire.facts[name] = ",".join(one for one in value.split(",") if may_see_work(state, one, seen_by))
