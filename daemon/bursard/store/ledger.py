"""Reading ledger transactions: their lines with the names of accounts, and sums of them.

Why     no question of every day needs the balance of an account from disk (the state has all of them in
        memory), so there is no index of accounts: whoever checks them walks the transactions.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bursard.store import legs
from bursard.store.base import EntryRow, PostingRow

SELECT = (
    "select p.rowid, p.seq, p.kind, coalesce(t.attempt_id, '') || p.ref,"
    " coalesce(t.job_id, ''), p.legs from postings p left join attempts t on t.id = p.attempt"
)
"""Transactions with what they are about: an attempt, or what `ref` names; one of the two is empty."""


class Damaged(NamedTuple):
    """A transaction whose lines cannot be read, and why."""

    seq: int
    kind: str
    problem: str


def names_of(connection: sqlite3.Connection) -> dict[int, str]:
    """Accounts by number."""
    return dict(connection.execute("select id, name from accounts"))


def postings(
    connection: sqlite3.Connection, after: int = 0, upto: int = 2**62
) -> Iterator[PostingRow | Damaged]:
    """Of the events `(after, upto]`, in the order of writing."""
    names = names_of(connection)
    for row in connection.execute(f"{SELECT} where p.seq > ? and p.seq <= ? order by p.rowid", (after, upto)):
        yield read(row, names)


def read(row: tuple[int, int, str, str, str, bytes], names: dict[int, str]) -> PostingRow | Damaged:
    """One row of `SELECT`."""
    _, seq, kind, ref, job_id, value = row
    try:
        return PostingRow(seq, kind, ref, legs.unpack(value, names, job_id), job_id)
    except ValueError as error:
        return Damaged(seq, kind, str(error))


def balances(lines: Iterable[EntryRow], wanted: Callable[[str], bool]) -> dict[str, int]:
    """Nanos per account, by name."""
    found = Counter[str]()
    for line in lines:
        if wanted(line.account):
            found[line.account] += line.nanos
    return dict(sorted(found.items()))
