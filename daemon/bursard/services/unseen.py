"""Budgets that cover a job and that its owner may not see: they refuse it, and are not told of.

Why     a budget of a whole project says what other people have spent. Who may submit below it learns that a
        budget has no room, and what was asked of it: not its name, and nobody else's money.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bursar.errors import BudgetExceeded
from bursar.v1 import types_pb2 as pb
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity, caller
from bursard.state import State

_SHOWN = ("needed", "currency", "reason", "rate_nanos_per_hour")
"""What of the facts is about what was asked alone."""
_REMEDY = (
    "ask for less (a shorter time limit, fewer resources, budget.max_cost), or ask whoever keeps that budget"
)


def may_see(state: State, budget: str, identity: Identity) -> bool:
    """May they know that there is such a budget, and what is spent of it?"""
    record = state.budgets.records.get(budget)
    return record is None or allowed(identity, Action.SEE_COST, record.spec.scope.project)


@contextmanager
def unnamed_refusals(state: State) -> Iterator[None]:
    """Where a budget refuses that the caller may not see, without that budget's name and sums."""
    try:
        yield
    except BudgetExceeded as error:
        if may_see(state, error.facts.get("budget", ""), caller()):
            raise
        facts = {name: value for name, value in error.facts.items() if name in _SHOWN}
        raise BudgetExceeded(
            "a budget above the project has no room for this: it may cost up to"
            f" {facts['needed']} {facts['currency']}; {_REMEDY}",
            facts,
        ) from None


def unname(wire: pb.Reason, state: State, seen_by: Identity) -> None:
    """A reason, likewise."""
    named = [wire.facts.get("budget", ""), *wire.facts.get("also_short", "").split(",")]
    if all(may_see(state, name, seen_by) for name in named):
        return
    for name in set(wire.facts) - set(_SHOWN):
        del wire.facts[name]
    wire.message = "a budget above the project has no room for this job now"
    wire.remedy = f"wait until money comes back; {_REMEDY}"
