"""One row for an owner's hour: pieces are metered each minute, and posted once.

Owns    `HourCharge`: what one member, or one node's idle time, was charged in one hour so far, and the
        double entry of it.
Why     a charge a minute is thrice what the log already holds. Balances move with each piece, so that
        budgets are exact; what is written is one row and one transaction an hour, which sum to the same
        (ADR-0011). Nothing open is lost by a crash: it is part of the state, and the log makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model.allocation import FREE, ShareRates
from bursard.events import Charge
from bursard.ledger.entries import Entry, Transaction


class HourCharge(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Charges of one owner, in one hour of a node's axis, at one price. Grows until it is posted.

    Attributes:
        start, end: from the first piece to the last, in microseconds; they may leave gaps between them.
        held_us: the summed length of the pieces.
        gpu, cpu, memory: nanos by component; `nanos` is the amount.
        entries: nanos by account of all pieces; they sum to zero.
        rates: of a node's own time, what the node cost by the hour when it began.
        booked_at: of time in a month that was closed when it was told: the instant that it counts in; else 0.
    """

    kind: str
    node_id: str
    start: int
    end: int
    price_id: str
    attempt_id: str = ""
    job_id: str = ""
    rank: int = 0
    held_us: int = 0
    nanos: int = 0
    gpu: int = 0
    cpu: int = 0
    memory: int = 0
    entries: dict[str, int] = {}
    rates: ShareRates = FREE
    booked_at: int = 0

    @classmethod
    def of(cls, piece: Charge, rates: ShareRates = FREE, booked_at: int = 0) -> HourCharge:
        """The hour of a piece, with nothing in it yet."""
        return cls(
            kind=piece.kind,
            node_id=piece.node_id,
            start=piece.start,
            end=piece.start,
            price_id=piece.price_id,
            attempt_id=piece.attempt_id,
            job_id=piece.job_id,
            rank=piece.rank,
            entries={},
            rates=rates,
            booked_at=booked_at,
        )

    @property
    def hour(self) -> int:
        """Where its hour begins."""
        return self.start - self.start % HOUR_US

    @property
    def counts_from(self) -> int:
        """The instant by which it is of a period."""
        return self.booked_at or self.start

    def takes(self, piece: Charge) -> bool:
        """Is this piece of the same hour, at the same price?"""
        return piece.start - piece.start % HOUR_US == self.hour and piece.price_id == self.price_id

    def add(self, piece: Charge, booked: Iterable[Transaction]) -> None:
        """Take in a piece and the transactions that moved the balances for it."""
        if not self.takes(piece):
            raise InvariantViolation(f"a charge of {piece.start} does not belong to the hour {self.hour}")
        self.start, self.end = min(self.start, piece.start), max(self.end, piece.end)
        self.held_us += piece.end - piece.start
        self.nanos += piece.nanos
        self.gpu += piece.gpu
        self.cpu += piece.cpu
        self.memory += piece.memory
        for transaction in booked:
            for entry in transaction.entries:
                self.entries[entry.account] = self.entries.get(entry.account, 0) + entry.nanos

    def posting(self) -> Transaction | None:
        """All its pieces as one transaction; None when no money moved."""
        entries = tuple(Entry(account, nanos) for account, nanos in self.entries.items() if nanos)
        if not entries:
            return None
        return Transaction(self.kind, entries, self.attempt_id, self.job_id, self.node_id)
