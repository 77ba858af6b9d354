"""Which action each method of the wire is, and who checks it.

Why     a method without a row here is refused to everybody, and `tests/access/test_matrix.py` fails for
        it: nothing is served by oversight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from bursard.access.authorize import Action


class Rule(NamedTuple):
    """One method.

    Attributes:
        action: what it does.
        site: True: the door alone decides, about the site as a whole. False: it is about projects or jobs;
            the door lets in who may do it in any project, and the handler decides about each one
            (`authorize`), or leaves out what the caller may not see (`allowed`).
    """

    action: Action
    site: bool = False


_JOBS: Final = {
    "Submit": Rule(Action.SUBMIT),
    "SubmitMany": Rule(Action.SUBMIT),
    "SubmitBatches": Rule(Action.SUBMIT),
    "Plan": Rule(Action.SUBMIT),
    "Get": Rule(Action.SEE_JOBS),
    "List": Rule(Action.SEE_JOBS),
    "Watch": Rule(Action.SEE_JOBS),
    "Explain": Rule(Action.SEE_JOBS),
    "Logs": Rule(Action.READ_LOGS),
    "Cancel": Rule(Action.STEER_JOBS),
    "Hold": Rule(Action.STEER_JOBS),
    "Release": Rule(Action.STEER_JOBS),
    "Requeue": Rule(Action.STEER_JOBS),
    "Update": Rule(Action.STEER_JOBS),
}
_NODES: Final = {
    "List": Rule(Action.SEE_SITE, site=True),
    "Get": Rule(Action.SEE_SITE, site=True),
    "Top": Rule(Action.SEE_SITE, site=True),
    "SlurmNames": Rule(Action.SEE_SITE, site=True),
    "Machines": Rule(Action.SEE_SITE, site=True),
    "CheckClouds": Rule(Action.STEER_NODES, site=True),
    "EndMachine": Rule(Action.STEER_NODES, site=True),
    "Drain": Rule(Action.STEER_NODES, site=True),
    "Cordon": Rule(Action.STEER_NODES, site=True),
    "Resume": Rule(Action.STEER_NODES, site=True),
    "Remove": Rule(Action.STEER_NODES, site=True),
    "Token": Rule(Action.ISSUE_TOKENS, site=True),
    "Tokens": Rule(Action.ISSUE_TOKENS, site=True),
    "RevokeTokens": Rule(Action.ISSUE_TOKENS, site=True),
}
_MONEY: Final = {
    "Cost": Rule(Action.SEE_COST),
    "Budgets": Rule(Action.SEE_COST),
    "Prices": Rule(Action.SEE_SITE, site=True),
    "ExplainPrice": Rule(Action.SEE_BOOKS, site=True),
    "Report": Rule(Action.SEE_BOOKS),
    "Correct": Rule(Action.CORRECT_BOOKS),
    "ClosePeriod": Rule(Action.CLOSE_BOOKS, site=True),
    "Periods": Rule(Action.SEE_BOOKS, site=True),
    "GrantBudget": Rule(Action.FUND_BUDGETS),
    "ApproveBudget": Rule(Action.APPROVE_BUDGETS),
    "TransferBudget": Rule(Action.FUND_BUDGETS),
}
_POLICIES: Final = {
    "Apply": Rule(Action.APPLY_POLICIES, site=True),
    "Check": Rule(Action.SEE_POLICIES, site=True),
    "List": Rule(Action.SEE_POLICIES, site=True),
    "Get": Rule(Action.SEE_POLICIES, site=True),
    "Delete": Rule(Action.APPLY_POLICIES, site=True),
}
_EVENTS: Final = {
    "List": Rule(Action.SEE_JOBS),
    "Server": Rule(Action.SEE_SITE, site=True),
    "Doctor": Rule(Action.SEE_SITE, site=True),
    "SaveSnapshot": Rule(Action.STEER_NODES, site=True),
}

_ACCESS: Final = {
    "Grant": Rule(Action.GRANT),
    "Revoke": Rule(Action.GRANT),
    "Grants": Rule(Action.SEE_GRANTS),
    "SetSecret": Rule(Action.SET_SECRETS),
    "RemoveSecret": Rule(Action.SET_SECRETS),
    "Secrets": Rule(Action.SUBMIT),
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
        "Agents": {"Connect": Rule(Action.CONNECT, site=True)},
    }.items()
    for method, rule in rules.items()
}
"""By the name gRPC calls it."""
