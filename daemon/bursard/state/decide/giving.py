"""Money given to budgets beside their documents' limits: grants and transfers. PURE.

Why     a limit is a plan, and plans change within a period: what a budget gets more, or gives to another one,
        is written down with who and why, and stays with the period it was given in. Nothing that is settled
        changes, and no hard budget is left with less than it has settled and holds (B1).
"""

from __future__ import annotations

from typing import Final

from bursar.errors import BudgetExceeded, InvalidRequest, KeyConflict, NotFound
from bursar.money import AMOUNT_MAX, format_nanos
from bursard.events import BudgetGranted, BudgetTransferred
from bursard.scheduler.text import at_least, at_most, money
from bursard.state.budgets import BudgetRecord, limit_of, settled_of
from bursard.state.core import State
from bursard.state.decide.why import read_needed_reason
from bursard.state.given import Posting

REASON_MAX: Final = 400
KEY_MAX: Final = 200
GIVEN_MAX: Final = 1_000
"""Grants and transfers of one budget in one period: its list fits into one answer."""


def grant(state: State, name: str, nanos: int, by: str, reason: str, key: str = "") -> list[BudgetGranted]:
    """The event by which a budget has so much more in its period, or less of what it was granted.

    No event when the same was asked for with this key before.

    Raises:
        NotFound, KeyConflict. InvalidRequest: an amount of nothing, more than was granted taken back, or a
        budget that was given to too often. BudgetExceeded: what is taken back is settled or held.
    """
    record = find(state, name)
    why = _why(reason)
    _check_amount(abs(nanos))
    if _said_before(state, by, key, Posting("grant", name, 0, nanos, 0, by, why, key)):
        return []
    if nanos < 0:
        postings = state.budgets.postings.of(name, record.period_start)
        granted = sum(one.nanos for one in postings if one.kind == "grant")
        if -nanos > granted:
            raise InvalidRequest(
                f"budget {name} was granted {at_most(granted, state.currency)} in this period, so"
                f" {at_least(-nanos, state.currency)} cannot be taken back; change the limit of its document,"
                " or transfer it to another budget",
                {"budget": name, "granted": format_nanos(granted)},
            )
        _check_left(state, record, -nanos, "taken back")
    check_number(state, record)
    return [BudgetGranted(name, record.period_start, nanos, by, why, key)]


def transfer(
    state: State, name: str, to: str, nanos: int, by: str, reason: str, key: str = ""
) -> list[BudgetTransferred]:
    """The event by which one budget has less in its period, and another one as much more in its own.

    No event when the same was asked for with this key before.

    Raises:
        NotFound, KeyConflict. InvalidRequest: no amount, from a budget to itself, or one of them was given to
        too often. BudgetExceeded: what would go is settled or held.
    """
    source, target = find(state, name), find(state, to)
    why = _why(reason)
    _check_amount(nanos)
    if source is target:
        raise InvalidRequest(f"to: {name} is the budget that gives; name another one", {"field": "to"})
    if _said_before(state, by, key, Posting("transfer", name, 0, -nanos, 0, by, why, key, to)):
        return []
    _check_left(state, source, nanos, "transferred")
    for record in (source, target):
        check_number(state, record)
    return [BudgetTransferred(name, source.period_start, to, target.period_start, nanos, by, why, key)]


def find(state: State, name: str) -> BudgetRecord:
    """A budget in force. Raises `NotFound`."""
    record = state.budgets.records.get(name)
    if record is None:
        raise NotFound(f"there is no budget {name!r}; `bursar budget ls` lists them")
    return record


def _why(reason: str) -> str:
    return read_needed_reason(reason, REASON_MAX, "it is kept with the budget")


def _check_amount(nanos: int) -> None:
    if not 0 < nanos <= AMOUNT_MAX:
        raise InvalidRequest(
            f"amount: must be more than 0 and at most {format_nanos(AMOUNT_MAX, 0)}", {"field": "amount"}
        )


def _said_before(state: State, by: str, key: str, asked: Posting) -> bool:
    """Was just this asked for with this key? Raises `KeyConflict` when it was something else."""
    if len(key) > KEY_MAX:
        raise InvalidRequest(f"key: at most {KEY_MAX} characters", {"field": "key"})
    found = state.budgets.postings.keyed(by, key)
    if found is None:
        return False
    same = (found.kind, found.budget, found.nanos, found.other, found.reason)
    if same != (asked.kind, asked.budget, asked.nanos, asked.other, asked.reason):
        raise KeyConflict(
            f"key {key!r} was already used for another {found.kind}, of"
            f" {money(abs(found.nanos), state.currency)} for budget {found.budget}; use a new key for a new"
            f" {asked.kind}",
            {"budget": found.budget},
        )
    return True


def _check_left(state: State, record: BudgetRecord, nanos: int, what: str) -> None:
    """What goes is there, and of a hard budget neither settled nor held."""
    limit = limit_of(record, state.ledger)
    settled = settled_of(record, state.ledger)
    held = state.budgets.held(record, state.ledger)
    free = limit - settled - held if record.hard else limit
    if nanos <= free:
        return
    cash = state.currency
    committed = f", {money(settled, cash)} settled and {money(held, cash)} held" if record.hard else ""
    raise BudgetExceeded(
        f"budget {record.name}: {at_least(nanos, cash)} cannot be {what}, {at_most(max(free, 0), cash)} are"
        f" free: its limit is {money(limit, cash)}{committed}",
        {
            "budget": record.name,
            "needed": format_nanos(nanos),
            "room": format_nanos(free),
            "limit": format_nanos(limit),
            "settled": format_nanos(settled),
            "held": format_nanos(held),
            "currency": cash,
            "reason": "BudgetExhausted",
        },
    )


def check_number(state: State, record: BudgetRecord) -> None:
    """There is room for one more posting in its period. Raises `InvalidRequest`."""
    if len(state.budgets.postings.of(record.name, record.period_start)) >= GIVEN_MAX:
        raise InvalidRequest(
            f"budget {record.name} has {GIVEN_MAX} grants and transfers in this period, the most there may"
            " be; change the limit of its document"
        )
