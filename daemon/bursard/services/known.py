"""Names that something is known of: projects and users, for whoever types one.

Why     a slip of the finger would move charges to a project that nobody looks at, or give an empty report
        that looks as if nothing had been spent. So a name is one that somebody has used, or one that is
        refused with the nearest of those that the caller may see.
"""

from __future__ import annotations

from collections.abc import Iterable

from bursar.errors import InvalidRequest
from bursar.projects import is_within
from bursar.yamlfile import nearest
from bursar_policies.specs import BudgetSpec, QuotaSpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.state import State
from bursard.store import ChargeFilter, JobFilter, Views


async def refuse_unknown_project(engine: Engine, project: str, action: Action) -> None:
    """Raise `InvalidRequest` for a project of no job, charge, budget, quota or grant, and with none below it.

    `action`: the nearest name is one in which the caller may do this.
    """
    if not project:
        return
    known = _projects(engine.state)
    if any(is_within(one, project) for one in known):
        return

    def used(views: Views) -> bool:
        if views.jobs(JobFilter(project=project, limit=1)).rows:
            return True
        return next(iter(views.charges(ChargeFilter(project=project))), None) is not None

    await engine.durable()
    if not await engine.read(used):
        shown = (one for one in known if allowed(caller(), action, one))
        raise _unknown("project", project, shown, "job, charge, budget, quota or grant")


async def refuse_unknown_user(engine: Engine, user: str) -> None:
    """Raise `InvalidRequest` for a user without a job, a charge or a grant."""
    state = engine.state
    known = {job.user for job in state.jobs.values()} | {name for name, _ in state.grants}
    if user in known:
        return

    def used(views: Views) -> bool:
        if views.jobs(JobFilter(user=user, limit=1)).rows:
            return True
        return next(iter(views.charges(ChargeFilter(user=user))), None) is not None

    await engine.durable()
    if not await engine.read(used):
        raise _unknown("user", user, known, "job, charge or grant")


def _projects(state: State) -> set[str]:
    """Of what lives, of what was charged in the last year, and of documents and grants; a project is known by
    what is below it, too.
    """
    specs = [one.spec for one in state.policies.values()]
    scopes = (one.project for one in specs if isinstance(one, QuotaSpec))
    covered = (one.scope.project for one in specs if isinstance(one, BudgetSpec))
    granted = (grant.project for _, grant in state.grants)
    live = {job.spec.project for job in state.jobs.values()}
    found = {one.lower() for one in (*scopes, *covered, *granted, *live, *state.costs.names()) if one}
    parts = (one.split("/") for one in found)
    return found | {"/".join(part[: at + 1]) for part in parts for at in range(len(part))}


def _unknown(what: str, name: str, known: Iterable[str], of: str) -> InvalidRequest:
    near = nearest(name[:100], sorted(known))
    hint = f"did you mean {near!r}?" if near else f"one is known from its first {of} on"
    return InvalidRequest(
        f"{what}: there is no {of} of {what} {name[:60]!r}; {hint}", {"nearest": near} if near else {}
    )
