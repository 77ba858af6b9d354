"""One consistent view of everything that is stored, to be read from end to end while others write.

Why     an audit compares tables with each other, so all of them must be of one commit; and what it reads is
        larger than memory, so each is walked once, in the order in which it was written.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator

from bursard.ledger import PAID
from bursard.store import eventfile, extras, ledger, queries, verify
from bursard.store.base import ChargeRow, EntryRow, EventRow, JobRow, KeyRow, PostingRow


class Picture:
    """What one read transaction sees."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.head = verify.Head(
            *connection.execute("select seq, hash, charges, entries from head").fetchone()
        )
        self.notes: dict[str, str] = dict(connection.execute("select key, value from meta"))
        self.base = eventfile.base_of(self.notes.get(eventfile.META))

    def extras(self) -> Iterator[str]:
        """Rows that nobody wrote and no number follows from, as sentences."""
        return extras.problems(self._connection)

    def images(self) -> Iterator[tuple[int, bytes]]:
        """Images of the state that can be unpacked, oldest first."""
        sql = "select seq, data from snapshots where seq >= ? order by seq"
        for seq, packed in self._connection.execute(sql, (self.base.seq,)):
            try:
                yield seq, zlib.decompress(packed)
            except zlib.error:
                continue

    def image_hashes(self) -> dict[int, bytes]:
        """Every image that is kept, readable or not: by its event, the hash that it says this has."""
        return dict(self._connection.execute("select seq, hash from snapshots order by seq"))

    def image(self, seq: int) -> bytes:
        """One of them. Raises `zlib.error` when it is damaged."""
        (packed,) = self._connection.execute("select data from snapshots where seq = ?", (seq,)).fetchone()
        return zlib.decompress(packed)

    def hash_of(self, seq: int) -> bytes | None:
        """Of an event that is there."""
        row = self._connection.execute("select hash from events where seq = ?", (seq,)).fetchone()
        return bytes(row[0]) if row is not None else None

    def events(self, after: int) -> Iterator[EventRow]:
        """In log order."""
        sql = f"select {queries.EVENT_COLUMNS} from events where seq > ? order by seq"
        return map(EventRow._make, self._connection.execute(sql, (after,)))

    def charges(self, after: int, upto: int = 2**62) -> Iterator[ChargeRow]:
        """Of the events `(after, upto]`, in the order of writing."""
        sql = f"select {queries.columns('charges')} from charges where seq > ? and seq <= ? order by id"
        return map(ChargeRow._make, self._connection.execute(sql, (after, upto)))

    def kinds_of(self, since: int, until: int) -> tuple[dict[str, int], int]:
        """Nanos by kind of the charges in `[since, until)`, and how many rows these are."""
        sql = (
            f"select kind, {queries.wide_sum('nanos')}, count(*) from charge_rows"
            " where start_at >= ? and start_at < ? group by kind order by kind"
        )
        found = self._connection.execute(sql, (since, until)).fetchall()
        return {kind: queries.wide(high, low) for kind, high, low, _ in found}, sum(row[3] for row in found)

    def usage_of(self, job_number: int) -> Iterator[ChargeRow]:
        """What a job was charged, tasks of an array included, corrections too; in the order of writing."""
        sql = (
            f"select {queries.columns('charges')} from charges"
            f" where job_number = ? and job_number > 0 and kind in {PAID} order by id"
        )
        return map(ChargeRow._make, self._connection.execute(sql, (job_number,)))

    def postings(self, after: int, upto: int = 2**62) -> Iterator[PostingRow]:
        """Of the events `(after, upto]`, in the order of writing, without those that are damaged."""
        for posting in ledger.postings(self._connection, after, upto):
            if isinstance(posting, PostingRow):
                yield posting

    def entries(self, after: int, upto: int = 2**62) -> Iterator[EntryRow]:
        """The lines of these, one by one."""
        for posting in self.postings(after, upto):
            yield from posting.lines()

    def jobs(self) -> Iterator[JobRow]:
        """By id."""
        sql = f"select {queries.columns('jobs')} from jobs order by id"
        return map(queries.job_of, self._connection.execute(sql))

    def key(self, user: str, key: str) -> KeyRow | None:
        """What an idempotency key made."""
        sql = f'select {queries.columns("keys")} from keys where "user" = ? and "key" = ?'
        row = self._connection.execute(sql, (user, key)).fetchone()
        return KeyRow._make(row) if row is not None else None

    def key_count(self) -> int:
        """How many idempotency keys there are."""
        return int(self._connection.execute("select count(*) from keys").fetchone()[0])

    def balances_but(self, prefix: str) -> dict[str, int]:
        """Nanos per account, those left out that begin with `prefix`."""
        return ledger.balances(self.entries(0), lambda account: not account.startswith(prefix))
