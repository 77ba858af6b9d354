"""The ledger: what things cost, who owes it, and what is promised. Pure: no I/O, no clock.

`metering` and `allocation` turn time into charges (used where events are decided); `Ledger` folds
holds and charges into balances (used where events are applied); `rows` is what the store keeps.
"""

from bursard.ledger.accounts import (
    OWNERLESS,
    PAID,
    BudgetAccounts,
    book_of,
    budget_accounts,
    budget_of,
    job_account,
    node_account,
    ownerless_account,
)
from bursard.ledger.allocation import Parts, add_used, charge_of, node_charges
from bursard.ledger.correction import amended
from bursard.ledger.entries import Entry, Row, Transaction, post, rows
from bursard.ledger.holds import AttemptMoney, HeldMoney, Ledger, LedgerImage
from bursard.ledger.hours import HourCharge
from bursard.ledger.metering import held_nanos, hour_segments, member_charges
from bursard.ledger.ownership import NEVER, Held, OwnedSpan, PriceInForce, Share, Span, cut_at, owned, spans

__all__ = [
    "NEVER",
    "OWNERLESS",
    "PAID",
    "AttemptMoney",
    "BudgetAccounts",
    "Entry",
    "Held",
    "HeldMoney",
    "HourCharge",
    "Ledger",
    "LedgerImage",
    "OwnedSpan",
    "Parts",
    "PriceInForce",
    "Row",
    "Share",
    "Span",
    "Transaction",
    "add_used",
    "amended",
    "book_of",
    "budget_accounts",
    "budget_of",
    "charge_of",
    "cut_at",
    "held_nanos",
    "hour_segments",
    "job_account",
    "member_charges",
    "node_account",
    "node_charges",
    "owned",
    "ownerless_account",
    "post",
    "rows",
    "spans",
]
