"""What rows share is written once: numbers of accounts, of whom charges are for and of what they are of.

Owns    the numbers of a writing store: looked up in its tables, added where they are new, remembered while
        they are few. Those of a transaction that was rolled back are forgotten with it. Attempts, of which
        each is new, have no index to look them up by: one that goes on after a restart is written once more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from bursard.store import legs
from bursard.store.base import ChargeRow, PostingRow

_REMEMBERED = 20_000
"""Sets of each kind in memory; labels can make as many as there are jobs."""

SOURCE = ("node_id", "node_name", "pool", "simulated", "price_id")
ALLOCATION = ("gpu_milli", "devices", "cpu_milli", "memory_bytes", "gpu_rate", "cpu_rate", "memory_rate")
CORRECTION = ("corrects", "for_start", "for_end", "reason")
ATTRIBUTION = ("project", "user", "experiment", "model", "model_version", "labels")

_Values = tuple[str | int, ...]


class Numbers:
    """Of one table."""

    def __init__(self, table: str, columns: Sequence[str], kept: bool = True) -> None:
        """`kept`: the table has each set once. Otherwise what is not remembered is written again."""
        names = ", ".join(columns)
        same = " and ".join(f"{name} = ?" for name in columns)
        self._find = f"select id from {table} where {same}"
        self._add = f"insert into {table} ({names}) values ({', '.join('?' * len(columns))})"
        self._kept = kept
        self._known: dict[_Values, int] = {}

    def of(self, writer: sqlite3.Connection, values: _Values) -> int:
        """The number of a set of values, within the transaction that is open."""
        number = self._known.get(values)
        if number is None:
            row = writer.execute(self._find, values).fetchone() if self._kept else None
            number = row[0] if row is not None else writer.execute(self._add, values).lastrowid
            assert number is not None
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[values] = number
        return number

    def forget(self) -> None:
        """What was remembered may not be in the tables."""
        self._known.clear()


class Shared:
    """Of all of them, and rows in the form that they are written in."""

    def __init__(self) -> None:
        self._accounts = Numbers("accounts", ("name",))
        self._sources = Numbers("sources", SOURCE)
        self._attributions = Numbers("attributions", ATTRIBUTION)
        self._allocations = Numbers("allocations", ALLOCATION)
        self._attempts = Numbers("attempts", ("attempt_id", "job_id"), kept=False)
        self._corrections = Numbers("corrections", CORRECTION, kept=False)

    def forget(self) -> None:
        """After a rollback."""
        for numbers in (
            self._accounts,
            self._sources,
            self._attributions,
            self._allocations,
            self._attempts,
            self._corrections,
        ):
            numbers.forget()

    def _allocation(self, writer: sqlite3.Connection, row: ChargeRow) -> int:
        """0 of what is not known, as in all that was written before there was one."""
        share = (
            *(row.gpu_milli, row.devices, row.cpu_milli, row.memory_bytes),
            *(row.gpu_rate, row.cpu_rate, row.memory_rate),
        )
        return self._allocations.of(writer, share) if any(share) else 0

    def _correction(self, writer: sqlite3.Connection, row: ChargeRow) -> int:
        return self._corrections.of(writer, (row.corrects, row.for_start, row.for_end, row.reason))

    def postings(
        self, writer: sqlite3.Connection, rows: Sequence[PostingRow]
    ) -> list[tuple[str | int | bytes, ...]]:
        """As rows of the table `postings`."""
        packed: list[tuple[str | int | bytes, ...]] = []
        for seq, kind, ref, lines, job_id in rows:
            numbers = {
                account: self._accounts.of(writer, (account,))
                for account, _ in lines
                if legs.is_numbered(account)
            }
            attempt = self._attempts.of(writer, (ref, job_id)) if job_id else 0
            packed.append((seq, kind, attempt, "" if attempt else ref, legs.pack(lines, numbers, job_id)))
        return packed

    def charges(self, writer: sqlite3.Connection, rows: Sequence[ChargeRow]) -> list[_Values]:
        """As rows of the table `charge_rows`."""
        return [
            (
                row.seq,
                row.kind,
                self._sources.of(writer, (row.node_id, row.node_name, row.pool, row.simulated, row.price_id)),
                self._attributions.of(
                    writer,
                    (row.project, row.user, row.experiment, row.model, row.model_version, row.labels),
                ),
                self._attempts.of(writer, (row.attempt_id, row.job_id)) if row.attempt_id else 0,
                row.job_number,
                row.rank,
                row.start_at,
                row.end_at - row.start_at,
                row.held_us,
                row.nanos,
                row.gpu,
                row.cpu,
                row.memory,
                self._allocation(writer, row),
                row.energy_millijoules,
                self._correction(writer, row) if row.corrects else 0,
            )
            for row in rows
        ]
