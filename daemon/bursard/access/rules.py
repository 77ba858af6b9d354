"""Which action each method of the wire is, and who checks it.

Why     a method without a row here is refused to everybody, and `tests/access/test_matrix.py` fails for
        it: nothing is served by oversight.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from bursard.access.authorize import Action


class Writes(StrEnum):
    """What a call puts into the log, and so what bounds how often it may be called (`access/allowances`)."""

    NOTHING = "nothing"
    JOBS = "jobs"
    CHANGES = "changes"
    ENDS = "ends"
    MEASURES = "measures"


class Rule(NamedTuple):
    """One method.

    Attributes:
        action: what it does.
        site: True: the door alone decides, about the site as a whole. False: it is about projects or jobs;
            the door lets in who may do it in any project, and the handler decides about each one
            (`authorize`), or leaves out what the caller may not see (`allowed`).
        writes: jobs: bounded by bytes; changes: by number too; ends: what it ends bounds it, and it works
            when nothing else does; measures: what nodes say, by real time.
    """

    action: Action
    site: bool = False
    writes: Writes = Writes.NOTHING


_JOBS: Final = {
    "Submit": Rule(Action.SUBMIT, writes=Writes.JOBS),
    "SubmitMany": Rule(Action.SUBMIT, writes=Writes.JOBS),
    "SubmitBatches": Rule(Action.SUBMIT, writes=Writes.JOBS),
    "Plan": Rule(Action.SUBMIT),
    "Get": Rule(Action.SEE_JOBS),
    "List": Rule(Action.SEE_JOBS),
    "Watch": Rule(Action.SEE_JOBS),
    "Explain": Rule(Action.SEE_JOBS),
    "Profile": Rule(Action.SEE_JOBS),
    "Logs": Rule(Action.READ_LOGS),
    "Attach": Rule(Action.ATTACH, writes=Writes.CHANGES),
    "Cancel": Rule(Action.STEER_JOBS, writes=Writes.ENDS),
    "Hold": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
    "Release": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
    "Requeue": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
    "Update": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
}
_NODES: Final = {
    "List": Rule(Action.SEE_SITE, site=True),
    "Get": Rule(Action.SEE_SITE, site=True),
    "Top": Rule(Action.SEE_SITE, site=True),
    "SlurmNames": Rule(Action.SEE_SITE, site=True),
    "Reservations": Rule(Action.SEE_SITE, site=True),
    "Machines": Rule(Action.SEE_SITE, site=True),
    "GetMachine": Rule(Action.SEE_SITE, site=True),
    "CheckClouds": Rule(Action.STEER_NODES, site=True),
    "EndMachine": Rule(Action.STEER_NODES, site=True, writes=Writes.ENDS),
    "ReleaseMachine": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Drain": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Cordon": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Resume": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Calibrate": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Remove": Rule(Action.STEER_NODES, site=True, writes=Writes.CHANGES),
    "Token": Rule(Action.ISSUE_TOKENS, site=True, writes=Writes.CHANGES),
    "Tokens": Rule(Action.ISSUE_TOKENS, site=True),
    "RevokeTokens": Rule(Action.ISSUE_TOKENS, site=True, writes=Writes.CHANGES),
}
_MONEY: Final = {
    "Cost": Rule(Action.SEE_COST),
    "Budgets": Rule(Action.SEE_COST),
    "Prices": Rule(Action.SEE_SITE, site=True),
    "ExplainPrice": Rule(Action.SEE_BOOKS, site=True),
    "Report": Rule(Action.SEE_BOOKS),
    "Correct": Rule(Action.CORRECT_BOOKS, writes=Writes.CHANGES),
    "ClosePeriod": Rule(Action.CLOSE_BOOKS, site=True, writes=Writes.CHANGES),
    "KeepBill": Rule(Action.CLOSE_BOOKS, site=True, writes=Writes.CHANGES),
    "Periods": Rule(Action.SEE_BOOKS, site=True),
    "GrantBudget": Rule(Action.FUND_BUDGETS, writes=Writes.CHANGES),
    "ApproveBudget": Rule(Action.APPROVE_BUDGETS, writes=Writes.CHANGES),
    "TransferBudget": Rule(Action.FUND_BUDGETS, writes=Writes.CHANGES),
}
_POLICIES: Final = {
    "Apply": Rule(Action.APPLY_POLICIES, site=True, writes=Writes.CHANGES),
    "Check": Rule(Action.SEE_POLICIES, site=True),
    "List": Rule(Action.SEE_POLICIES, site=True),
    "Get": Rule(Action.SEE_POLICIES, site=True),
    "Delete": Rule(Action.APPLY_POLICIES, site=True, writes=Writes.CHANGES),
}
_EVENTS: Final = {
    "List": Rule(Action.SEE_JOBS),
    "Server": Rule(Action.SEE_SITE, site=True),
    "Doctor": Rule(Action.SEE_SITE, site=True),
    "SaveSnapshot": Rule(Action.STEER_NODES, site=True),
}

_ACCESS: Final = {
    "Grant": Rule(Action.GRANT, writes=Writes.CHANGES),
    "Revoke": Rule(Action.GRANT, writes=Writes.CHANGES),
    "Grants": Rule(Action.SEE_GRANTS),
    "SetSecret": Rule(Action.SET_SECRETS, writes=Writes.CHANGES),
    "RemoveSecret": Rule(Action.SET_SECRETS, writes=Writes.CHANGES),
    "Secrets": Rule(Action.SUBMIT),
}

_SERVICES: Final = {
    "List": Rule(Action.SEE_JOBS),
    "Scale": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
    "Update": Rule(Action.CHANGE_PROGRAM, writes=Writes.CHANGES),
    "Rollback": Rule(Action.STEER_JOBS, writes=Writes.CHANGES),
    "Sync": Rule(Action.STEER_NODES, site=True, writes=Writes.MEASURES),
    "NewKey": Rule(Action.SET_SECRETS, writes=Writes.CHANGES),
    "Keys": Rule(Action.SET_SECRETS),
    "RevokeKey": Rule(Action.SET_SECRETS, writes=Writes.CHANGES),
}

METHODS: Final[Mapping[str, Rule]] = {
    f"/bursar.v1.{service}/{method}": rule
    for service, rules in {
        "Jobs": _JOBS,
        "Nodes": _NODES,
        "Money": _MONEY,
        "Policies": _POLICIES,
        "Events": _EVENTS,
        "Access": _ACCESS,
        "Services": _SERVICES,
        "Agents": {"Connect": Rule(Action.CONNECT, site=True, writes=Writes.MEASURES)},
    }.items()
    for method, rule in rules.items()
}
"""By the name gRPC calls it."""
