"""May this identity do that to this project, or to this job? The one place that answers.

Owns    the actions, and which role has them (`RIGHTS`); `docs/security.md` shows the same table.
Why     every check in the services is a call of `authorize` or `allowed` here: a right has one definition,
        and a check that is taken out is seen by `tests/access/test_matrix.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from bursar.errors import Forbidden
from bursard.access.identity import Identity, Role, caller


class Action(StrEnum):
    """What can be done. The first group is about a project (or a job, which is of a project)."""

    SEE_JOBS = "see jobs"
    SEE_PRIVATE = "see the environment and the program of a job"
    READ_LOGS = "read logs"
    SEE_COST = "see costs"
    SEE_BOOKS = "see reports and what nobody used"
    CORRECT_BOOKS = "correct what jobs were charged"
    CLOSE_BOOKS = "close months of the books"
    FUND_BUDGETS = "give money to budgets"
    APPROVE_BUDGETS = "approve what budgets ask for"
    SUBMIT = "submit jobs"
    STEER_JOBS = "change jobs"
    EXTEND_JOBS = "raise, while it runs, the time limit"
    OUTRANK_PROJECT = "ask for a priority above that of submitters"
    OUTRANK_SITE = "ask for any priority"
    CHANGE_PROGRAM = "change what a service runs in its owner's name"
    ATTACH = "attach to jobs"
    SET_SECRETS = "keep secrets"
    GRANT = "grant the roles of a project"
    SEE_GRANTS = "see grants"

    SEE_SITE = "see nodes and prices"
    SEE_POLICIES = "see policies"
    APPLY_POLICIES = "change policies"
    STEER_NODES = "steer nodes"
    ISSUE_TOKENS = "issue node tokens"
    GRANT_SITE = "grant the roles of the site"
    VERIFY = "verify the whole log"
    CONNECT = "connect as an agent"


_A = Action
_READ = frozenset({_A.SEE_SITE, _A.SEE_JOBS, _A.SEE_COST, _A.SEE_POLICIES})
_SUBMIT = _READ | {_A.SUBMIT}
_PROJECT = _SUBMIT | {
    _A.SEE_PRIVATE, _A.READ_LOGS, _A.STEER_JOBS, _A.SEE_BOOKS, _A.SET_SECRETS, _A.GRANT, _A.SEE_GRANTS,
    _A.APPROVE_BUDGETS, _A.EXTEND_JOBS, _A.OUTRANK_PROJECT,
}  # fmt: skip
_OPERATE = (_PROJECT - {_A.GRANT}) | {
    _A.FUND_BUDGETS, _A.APPLY_POLICIES, _A.STEER_NODES, _A.VERIFY, _A.CHANGE_PROGRAM, _A.ATTACH,
    _A.OUTRANK_SITE,
}  # fmt: skip

RIGHTS: Final[Mapping[Role, frozenset[Action]]] = {
    Role.VIEWER: _READ,
    Role.FINANCE: _READ | {_A.SEE_BOOKS, _A.CORRECT_BOOKS, _A.CLOSE_BOOKS, _A.FUND_BUDGETS},
    Role.SUBMITTER: _SUBMIT,
    Role.PROJECT_ADMIN: _PROJECT,
    Role.OPERATOR: _OPERATE,
    Role.ADMIN: frozenset(Action) - {_A.CONNECT},
    Role.AUDITOR: _READ | {_A.SEE_BOOKS, _A.SEE_GRANTS, _A.VERIFY},
    Role.AGENT: frozenset({_A.CONNECT}),
}
"""What each role may do in the projects it is granted on, whoever owns the job."""

OWN: Final[Mapping[Role, frozenset[Action]]] = {
    Role.VIEWER: frozenset({_A.SEE_PRIVATE}),
    Role.SUBMITTER: frozenset({_A.SEE_PRIVATE, _A.READ_LOGS, _A.STEER_JOBS, _A.CHANGE_PROGRAM, _A.ATTACH}),
    Role.PROJECT_ADMIN: frozenset({_A.CHANGE_PROGRAM, _A.ATTACH}),
}
"""What a role may do beside that to jobs that the caller submitted."""

ANYWHERE: Final = frozenset({_A.SEE_SITE})
"""Actions that any grant gives, however small its project: who may submit must know the nodes and prices."""


def allowed(identity: Identity, action: Action, project: str = "", owner: str = "") -> bool:
    """May it? `project` is a path (empty: the site as a whole), `owner` the user whose job it is."""
    if action is Action.CONNECT and identity.local and identity.role is Role.ADMIN:
        return True  # `bursar up` starts agents as the daemon's own user
    own = owner == identity.name and identity.role is not Role.AGENT
    for grant in identity.held:
        if (grant.covers(project) or action in ANYWHERE) and (
            action in RIGHTS[grant.role] or (own and action in OWN.get(grant.role, ()))
        ):
            return True
    return False


def somewhere(identity: Identity, action: Action) -> bool:
    """Could it in any project, or to a job of its own? What the door asks before a request is read."""
    own = identity.name
    return any(allowed(identity, action, g.project, o) for g in identity.held for o in ("", own))


def projects(action: Action) -> tuple[str, ...]:
    """The subtrees in which the caller may do it to anybody's jobs; empty when that is the whole site.

    Raises `Forbidden` when there is none.
    """
    identity = caller()
    found = tuple(sorted({g.project for g in identity.held if action in RIGHTS[g.role]}))
    if not found:
        raise refusal(identity, action)
    return () if "" in found else found


def authorize(action: Action, project: str = "", owner: str = "", what: str = "") -> Identity:
    """The caller, when it may. Raises `Forbidden` with what is missing and who can help.

    `what` names the thing for people, such as `job 12`.
    """
    identity = caller()
    if not allowed(identity, action, project, owner):
        raise refusal(identity, action, project, what)
    return identity


def refusal(identity: Identity, action: Action, project: str = "", what: str = "") -> Forbidden:
    """The error of who may not: its facts are the caller's own, never the thing's."""
    of = f" of {what}" if what else f" in project {project}" if project else ""
    return Forbidden(
        f"{identity.name} ({identity.describe()}) may not {action.value}{of}; a role that may is"
        f" {', '.join(_holders(action))}: ask an administrator for `bursar grant`",
        {"user": identity.name, "role": identity.describe(), "action": action.name.lower().replace("_", "-")},
    )


def _holders(action: Action) -> Iterable[str]:
    return [role.value for role, actions in RIGHTS.items() if action in actions]
