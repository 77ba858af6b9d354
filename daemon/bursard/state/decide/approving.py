"""Approvals: jobs of a budget whose threshold asks for one start again, because somebody says so. PURE.

Why     a threshold that stops everything is too much where a person may look and agree. What was agreed on is
        written down with who and why, is of this limit and this period alone, and ends by itself: with a
        time, or with an amount that no start may go beyond.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import format_instant
from bursar.errors import InvalidRequest, KeyConflict, WrongState
from bursar.money import AMOUNT_MAX, format_nanos
from bursard.events import ApprovalLapsed, BudgetApproved, Event
from bursard.state.budgets import APPROVAL, BudgetRecord, limit_of, settled_of
from bursard.state.core import State
from bursard.state.decide.giving import KEY_MAX, REASON_MAX, check_number, find
from bursard.state.decide.why import read_needed_reason

KEPT: Final = "it is kept with the budget"


def approve(
    state: State, name: str, by: str, reason: str, now: int, *, until: int = 0, nanos: int = 0, key: str = ""
) -> list[BudgetApproved]:
    """The event by which jobs of a budget may start again. None when the same was said with this key before.

    Args:
        until: it ends then; 0: with the period, or another limit. nanos: what may be spent and held beyond
            what is now; 0: as much as the limit has.

    Raises:
        NotFound, KeyConflict. InvalidRequest: a time that has passed, a wrong amount, or too many already.
        WrongState: nothing of it waits for an approval.
    """
    record = find(state, name)
    why = read_needed_reason(reason, REASON_MAX, KEPT)
    if not 0 <= nanos <= AMOUNT_MAX:
        raise InvalidRequest(
            f"amount: must be more than 0 and at most {format_nanos(AMOUNT_MAX, 0)}", {"field": "amount"}
        )
    if _said_before(state, name, by, key, until, why):
        return []
    if until and until <= now:
        raise InvalidRequest(f"until: {format_instant(until)} has passed; give a later time, or leave it out")
    limit = limit_of(record, state.ledger)
    waiting = tuple(
        (one.on, one.at_ppm)
        for one in record.spec.thresholds
        if APPROVAL in one.do and state.budgets.was_announced(record, one.on, one.at_ppm, limit)
    )
    if not waiting:
        raise WrongState(f"nothing of budget {name} waits for an approval: {_why_not(record)}")
    check_number(state, record)
    ceiling = _committed(state, record) + nanos if nanos else -1
    return [BudgetApproved(name, record.period_start, limit, waiting, by, why, until, ceiling, nanos, key)]


def _committed(state: State, record: BudgetRecord) -> int:
    return settled_of(record, state.ledger) + state.ledger.held(record.name, record.period_start)


def _why_not(record: BudgetRecord) -> str:
    asking = [one for one in record.spec.thresholds if APPROVAL in one.do]
    if not asking:
        return "its document asks for none (thresholds with do: [approval])"
    return f"it has not passed {asking[0].at_ppm / 10_000:g} % of its limit ({asking[0].on})"


def _said_before(state: State, name: str, by: str, key: str, until: int, why: str) -> bool:
    if len(key) > KEY_MAX:
        raise InvalidRequest(f"key: at most {KEY_MAX} characters", {"field": "key"})
    found = state.budgets.postings.keyed(by, key)
    if found is None:
        return False
    if (found.kind, found.budget, found.other_period, found.reason) != (APPROVAL, name, until, why):
        raise KeyConflict(
            f"key {key!r} was already used for another {found.kind}, of budget {found.budget}; use a new key"
            " for a new approval",
            {"budget": found.budget},
        )
    return True


def lapsed(state: State, now: int) -> list[Event]:
    """Approvals whose time has passed."""
    return [
        ApprovalLapsed(record.name, record.period_start)
        for record in state.budgets.records.values()
        if (one := state.budgets.approval(record, limit_of(record, state.ledger))) is not None
        and 0 < one.until <= now
    ]
