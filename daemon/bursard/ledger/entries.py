"""Double entry: what one transaction is, and the only place where a balance changes.

Owns    `Entry`, `Transaction`, posting, and the flat rows the store persists.
Why     if every change of any balance is one side of a transaction that sums to zero (L1), a nano
        can be moved but never made or lost, and each balance is the sum of its rows (L3). Rows are
        only ever appended (L2); a correction is another transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bursar.errors import InvariantViolation


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One side of a transaction: `nanos` > 0 debits `account`, < 0 credits it."""

    account: str
    nanos: int


class Transaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """Entries that stand or fall together.

    Attributes:
        kind: hold | usage | idle | down | unknown | overhead | variance | absorption | release | roll |
            correction | opening | keys | grant | transfer | carry-over.
        attempt_id, job_id, node_id, budget: what it is about, empty where there is no single one.
    """

    kind: str
    entries: tuple[Entry, ...]
    attempt_id: str = ""
    job_id: str = ""
    node_id: str = ""
    budget: str = ""


class Row(NamedTuple):
    """One entry as the store writes it. A tuple, so that `executemany` takes it as is."""

    kind: str
    account: str
    nanos: int
    attempt_id: str
    job_id: str
    node_id: str


def post(balances: dict[str, int], transaction: Transaction) -> Transaction:
    """Add a transaction to the balances and return it.

    Raises `InvariantViolation`, before any balance changes, when it does not sum to zero.
    """
    total = 0
    for entry in transaction.entries:
        total += entry.nanos
    if total:
        raise InvariantViolation(
            f"L1: {transaction.kind} of {transaction.attempt_id or transaction.node_id} is off by"
            f" {total} nanos: {transaction.entries}"
        )
    for entry in transaction.entries:
        account = entry.account
        balances[account] = balances.get(account, 0) + entry.nanos
    return transaction


def rows(transactions: Iterable[Transaction]) -> list[Row]:
    """The rows of some transactions, in posting order."""
    return [
        Row(tx.kind, entry.account, entry.nanos, tx.attempt_id, tx.job_id, tx.node_id)
        for tx in transactions
        for entry in tx.entries
    ]
