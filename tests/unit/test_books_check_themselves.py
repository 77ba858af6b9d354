"""What the books find wrong with themselves: each finding once, for its own fault, and none when sound."""

from __future__ import annotations

from typing import Any

import pytest

from bursard.ledger import Ledger, budget_accounts
from bursard.ledger.holds import AttemptMoney, HeldMoney
from bursard.store import verify
from bursard.store.base import PostingRow
from bursard.store.ledger import Damaged

ACCOUNTS = budget_accounts("b", 7)


def book(
    available: int = -30, held: int = 10, settled: int = 20, hold: int = 10, live: bool = True
) -> Ledger:
    """One budget with one hold; nothing else but where the other side of what was settled went."""
    made = Ledger()
    made.balances = {ACCOUNTS.available: available, ACCOUNTS.held: held, ACCOUNTS.settled: settled}
    made._attempts["att_1"] = AttemptMoney("att_1", "job_1", [HeldMoney("b", 7, hold)], live=live)
    return made


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"hold": 0, "held": 0, "available": -20, "live": False}, []),
        ({"live": False}, ["B3: att_1 is released but holds b"]),
        (
            {"available": -29},
            [
                "L1: all balances sum to 1, not 0",
                "L1: b in 7: available + held + settled is not what was given",
            ],
        ),
        ({"held": 11, "available": -31}, ["B3: b in 7: held 11, its holds 10"]),
        ({"held": -1, "available": -19, "hold": -1}, ["B3: b in 7: held -1 is negative"]),
    ],
)
def test_each_fault_of_a_ledger_is_found_in_words(changes: dict[str, Any], found: list[str]) -> None:
    assert book(**changes).violations() == found


def test_what_was_closed_counts_with_the_balances() -> None:
    made = book(available=-29)
    made.closed_nanos = -1
    assert made.violations() == ["L1: b in 7: available + held + settled is not what was given"]


def posting(seq: int, *nanos: int) -> PostingRow:
    return PostingRow(seq, "usage", "att_1", tuple((f"a{at}", each) for at, each in enumerate(nanos)))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([posting(1, 5, -5), posting(1, 0), posting(3, 1, 1, -2)], []),
        ([posting(2, 5, -4)], ["entries of event 2 (usage) sum to 1 nanos, not 0"]),
        ([posting(2), posting(1)], ["entries of event 1 stand after those of event 2"]),
        ([posting(3), posting(4), posting(4)], ["entries of event 4, which is not there"]),
        ([posting(0), posting(0)], ["entries of event 0, which is not there"]),
        ([Damaged(2, "usage", "cut short")], ["entries of event 2 (usage): cut short"]),
    ],
)
def test_each_fault_of_the_entries_is_found_once(rows: list[Any], found: list[str]) -> None:
    assert list(verify._check_postings(rows, 3)) == found
