"""Reading a SQLite store, from any thread, also while a daemon writes it.

Owns    read-only connections and every question of the `Store` protocol.
Why     readers never wait for the writer (WAL), and the writer must not wait for a report: long
        walks go in pages, since an open read keeps the log from being folded into the file.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bursar.errors import StoreUnavailable
from bursard.store import days, eventfile, ledger, queries, verify
from bursard.store.base import (
    ChargeFilter,
    ChargeRow,
    ChargeSum,
    EntryRow,
    EventFilter,
    EventRow,
    JobFilter,
    JobPage,
    JobRow,
    KeyRow,
    Offsets,
    Unposted,
)
from bursard.store.hours import OpenHours
from bursard.store.migrations import STEPS
from bursard.store.picture import Picture
from bursard.store.queries import Value, columns
from bursard.store.schema import FAULTS, RESTORE, connect, missing, unavailable, version_of

_CHUNK = 2000
"""Rows of a walk read at once: few round trips, and milliseconds of read lock."""

_KEYS_AT_ONCE = 500


class SqliteReader:
    """Questions to one database file. Open beside a running daemon, it sees what is committed."""

    def __init__(self, path: Path) -> None:
        """`path`: the database file, which must exist. Nothing is opened yet."""
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self._closed = False

    # -------------------------------------------------------------- connections

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own for a moment; errors become `StoreUnavailable`."""
        if self._closed:
            raise StoreUnavailable(f"{self._path} is closed; bursard is stopping")
        with self._idle_lock:
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = connect(self._path, read_only=True)
                if not version_of(connection, self._path):
                    raise StoreUnavailable(f"{self._path} is empty; start bursard on it first")
            yield connection
        except FAULTS as error:
            raise unavailable(error, self._path) from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._idle_lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _rows(self, sql: str, values: Sequence[Value] = ()) -> list[Any]:
        with self._reading() as connection:
            return connection.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        with self._idle_lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # -------------------------------------------------------------- jobs

    def find_job(self, ref: str) -> JobRow | None:
        """By id, number, `last`, `JOB[7]`, or name (the newest)."""
        base, bracket, rest = ref.partition("[")
        if bracket:
            return self._find_task(base, rest)
        if ref == "last":
            return self._job("array_index < 0 order by number desc limit 1")
        found = self._job("id = ?", ref)
        if found is None and ref.isascii() and ref.isdigit() and len(ref) < 19:
            found = self._job("number = ? and array_index < 0", int(ref))
        return found or next(iter(self.jobs_named(ref, 1)), None)

    def _find_task(self, base: str, rest: str) -> JobRow | None:
        index = rest.removesuffix("]")
        if not (rest.endswith("]") and index.isascii() and index.isdigit() and len(index) < 19):
            return None
        task = self._job("id = ?", f"{base}.{index}")
        if task is not None:
            return task
        # The array itself may still be alive, and then only its ended tasks are here.
        if base.isascii() and base.isdigit() and len(base) < 19:
            task = self._job("number = ? and array_index = ? and array_index >= 0", int(base), int(index))
            if task is not None:
                return task
        parent = self.find_job(base)
        if parent is None:
            return None
        return self._job("id = ?", f"{parent.id}.{int(index)}")

    def _job(self, condition: str, *values: Value) -> JobRow | None:
        rows = self._rows(f"select {columns('jobs')} from jobs where {condition}", values)
        return queries.job_of(rows[0]) if rows else None

    def jobs_named(self, name: str, limit: int = 2) -> list[JobRow]:
        """Newest first."""
        sql = f"select {columns('jobs')} from jobs where name = ? and array_index < 0"
        rows = self._rows(sql + " order by number desc limit ?", (name, limit))
        return [queries.job_of(row) for row in rows]

    def jobs(self, query: JobFilter) -> JobPage:
        """One page, newest number first; tasks of an array by index."""
        where = queries.where_jobs(query)
        order = "order by number desc, array_index"
        # Sort row ids and then fetch one page: documents are too large to be sorted along.
        rows = self._rows(
            f"select {columns('jobs')} from jobs where rowid in "
            f"(select rowid from jobs{where} {order} limit ?) {order}",
            [*where.values, query.limit],
        )
        page = [queries.job_of(row) for row in rows]
        full = len(page) == query.limit and bool(page)
        return JobPage(page, (page[-1].number, page[-1].array_index) if full else None)

    def keys(self, user: str, keys: Sequence[str]) -> dict[str, KeyRow]:
        """Idempotency keys that are known."""
        found: dict[str, KeyRow] = {}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            asked = keys[start : start + _KEYS_AT_ONCE]
            sql = f'select {columns("keys")} from keys where "user" = ? and "key" in '
            sql += "(" + ", ".join("?" * len(asked)) + ")"
            found |= {row[1]: KeyRow._make(row) for row in self._rows(sql, (user, *asked))}
        return found

    def keys_after(self, last: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        """One page of a walk along the primary key."""
        sql = 'select "user", "key" from keys where ("user", "key") > (?, ?) order by "user", "key" limit ?'
        return self._rows(sql, (*last, limit))

    # -------------------------------------------------------------- log

    def events(
        self,
        after_seq: int = 0,
        limit: int = 1000,
        query: EventFilter | None = None,
    ) -> list[EventRow]:
        """Oldest first, each walk along its index."""
        found = self._walked(queries.event_walks(after_seq, query or EventFilter()), "seq", limit)
        found.sort()
        return found[:limit]

    def events_before(self, before_seq: int, limit: int, query: EventFilter | None = None) -> list[EventRow]:
        """Newest first, each walk along its index."""
        walks = queries.event_walks(0, query or EventFilter(), before_seq)
        found = self._walked(walks, "seq desc", limit)
        found.sort(reverse=True)
        return found[:limit]

    def _walked(self, walks: Iterable[queries.Where], order: str, limit: int) -> list[EventRow]:
        found: list[EventRow] = []
        for where in walks:
            sql = f"select {queries.EVENT_COLUMNS} from events{where} order by {order} limit ?"
            found += (EventRow._make(row) for row in self._rows(sql, [*where.values, limit]))
        return found

    def meta(self, key: str) -> str | None:
        """A note."""
        rows = self._rows("select value from meta where key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def event_hash(self, seq: int) -> str:
        """By its number."""
        rows = self._rows("select hash from events where seq = ?", (seq,))
        return bytes(rows[0][0]).hex() if rows else ""

    def last_seq_before(self, at: int) -> int:
        """By halves: events are recorded in the order of time, and no index holds it."""
        with self._reading() as connection:
            first, last = connection.execute("select min(seq), max(seq) from events").fetchone()
            recorded = "select at from events where seq = ?"
            if first is None or connection.execute(recorded, (first,)).fetchone()[0] >= at:
                kept = connection.execute("select max(seq) from posted where at < ?", (at,)).fetchone()[0]
                return int(kept or 0)
            while first < last:
                middle = (first + last + 1) // 2
                if connection.execute(recorded, (middle,)).fetchone()[0] < at:
                    first = middle
                else:
                    last = middle - 1
        return int(first)

    # -------------------------------------------------------------- money

    def charges(
        self, query: ChargeFilter | None = None, unposted: Unposted | None = None
    ) -> Iterator[ChargeRow]:
        """By start, as of the first row asked for."""
        posted = self._posted(query or ChargeFilter(), unposted)
        if unposted is None:
            return posted
        sql, values = queries.unposted(query or ChargeFilter(), unposted)
        found = [ChargeRow._make(row) for row in self._rows(sql, values)]
        return heapq.merge(posted, found, key=lambda charge: charge.start_at)

    def _posted(self, query: ChargeFilter, unposted: Unposted | None) -> Iterator[ChargeRow]:
        where = queries.where_charges(query)
        newest = self._rows("select coalesce(max(rowid), 0) from charge_rows")[0][0]
        if unposted is not None:
            where.add("seq <= ?", unposted.seq)
        where.add("id <= ? and start_at >= ? and (start_at > ? or id > ?)")
        sql = f"select id, {columns('charges')} from charges{where} order by start_at, id limit {_CHUNK}"
        start, rowid = -(2**62), 0
        while True:
            rows = self._rows(sql, [*where.values, newest, start, start, rowid])
            for row in rows:
                yield ChargeRow._make(row[1:])
            if len(rows) < _CHUNK:
                return
            rowid, start = rows[-1][0], rows[-1][1 + ChargeRow._fields.index("start_at")]

    def charge_sums(
        self,
        by: Sequence[str],
        query: ChargeFilter | None = None,
        unposted: Unposted | None = None,
        offsets: Offsets = (),
        count_jobs: bool = False,
    ) -> list[ChargeSum]:
        """Folded by SQLite: of whole days what they were summed to before, of the others every row."""
        asked = query or ChargeFilter()
        summed = None
        if queries.goes_by_days(by, asked, offsets):
            summed = self._summed(unposted)
        sql, values = queries.sums(by, asked, unposted, offsets, summed, count_jobs)
        width = len(by)
        last = width + 2 * queries.WIDE_SUMS
        return [
            ChargeSum(
                row[:width], *map(queries.wide, row[width:last:2], row[width + 1 : last : 2]), *row[last:]
            )
            for row in self._rows(sql, values)
        ]

    def _summed(self, unposted: Unposted | None) -> queries.Summed | None:
        """The newest batch of days that holds nothing of after the moment that is asked for."""
        upto = unposted.seq if unposted is not None else 2**62
        rows = self._rows(f"{days.NEWEST} where seq <= ? order by id desc limit 1", (upto,))
        return queries.Summed(rows[0][0], rows[0][1]) if rows else None

    def entries(self, prefix: str = "") -> Iterator[EntryRow]:
        """In log order, as of the first one asked for."""
        newest = self._rows("select coalesce(max(rowid), 0) from postings")[0][0]
        sql = f"{ledger.SELECT} where p.rowid > ? and p.rowid <= ? order by p.rowid limit {_CHUNK}"
        last = 0
        while last < newest:
            with self._reading() as connection:
                names = ledger.names_of(connection)
                rows = connection.execute(sql, (last, newest)).fetchall()
            for row in rows:
                posting = ledger.read(row, names)
                if isinstance(posting, ledger.Damaged):
                    problem = f"entries of event {posting.seq}: {posting.problem}"
                    raise StoreUnavailable(
                        f"{self._path} is damaged: {problem}; {RESTORE}", {"path": str(self._path)}
                    )
                yield from (line for line in posting.lines() if line.account.startswith(prefix))
            if not rows:
                return
            last = rows[-1][0]

    def balances(self, prefix: str = "") -> dict[str, int]:
        """Sum per account."""
        return ledger.balances(self.entries(prefix), lambda _: True)

    # -------------------------------------------------------------- soundness

    def verify(self, full: bool = True) -> list[str]:
        """Every problem found; one consistent view, also beside a running daemon."""
        with self._reading() as connection:
            connection.execute("begin")
            try:
                return list(verify.limited(_problems(connection, full)))
            except FAULTS as error:
                return [str(unavailable(error, self._path))]
            finally:
                connection.execute("rollback")

    @contextlib.contextmanager
    def picture(self) -> Iterator[Picture]:
        """Everything as of one commit, to be walked whole; meanwhile the log is not folded into the file."""
        with self._reading() as connection:
            connection.execute("begin")
            try:
                yield Picture(connection)
            finally:
                connection.execute("rollback")


def _problems(connection: sqlite3.Connection, full: bool) -> Iterator[str]:
    if full:
        for (line,) in connection.execute("pragma integrity_check"):
            if line != "ok":
                yield f"the file is damaged: {line}"
    yield from missing(connection)
    head = verify.Head(*connection.execute("select seq, hash, charges, entries from head").fetchone())
    kept = connection.execute("select value from meta where key = ?", (eventfile.META,)).fetchone()
    base = eventfile.base_of(kept[0] if kept is not None else None)
    after = base.seq if full else max(base.seq, head.seq - verify.QUICK_EVENTS)
    chained = connection.execute(
        f"select {queries.CHAINED_COLUMNS} from events where seq > ? order by seq", (after,)
    )
    start = verify.Start(base.seq, bytes.fromhex(base.hash)) if after == base.seq else None
    charges = connection.execute(
        f"select {columns('charges')} from charges where seq > ? order by id", (base.seq,)
    )
    postings = ledger.postings(connection)
    hours = OpenHours(base.open)
    yield from verify.check(
        head, chained, charges if full else None, postings if full else None, start, hours
    )
    if full and base.rows is not None:
        yield from eventfile.check_rows(connection, base.rows)
    yield from _counts(connection, head, base.seq)
    yield from _beside(connection)
    yield from days.problems(connection, newest_alone=not full)
    if full:
        yield from _dangling(connection)


def _beside(connection: sqlite3.Connection) -> Iterator[str]:
    """What no row follows from, but the next commit or the next version goes by."""
    if (heads := connection.execute("select id from head").fetchall()) != [(1,)]:
        yield f"head: there are {len(heads)} records of the last commit, or it has another number"
    made = connection.execute("select migration_set, name from _sqlite_migrations")
    if sorted(made) != sorted(("bursard", name) for name, _ in STEPS):
        yield "steps: what made this database is recorded otherwise; the next version would make it anew"
    version = int(connection.execute("pragma user_version").fetchone()[0])
    if version != len(STEPS):
        yield f"steps: the database says that it has schema {version}, and {len(STEPS)} steps made it"


def _dangling(connection: sqlite3.Connection) -> Iterator[str]:
    """Numbers of attempts that are none: such a row reads as nobody's."""
    for table in ("charge_rows", "postings"):
        sql = f"select seq from {table} where attempt <> 0 and attempt not in (select id from attempts)"
        for (seq,) in connection.execute(sql):
            yield f"{table}: a row of event {seq} is of an attempt that is not there"


def _counts(connection: sqlite3.Connection, head: verify.Head, archived: int) -> Iterator[str]:
    """The head says how many rows there were, so lost rows show even at the tail."""
    for table, expected in (
        ("events", head.seq - archived),
        ("charge_rows", head.charges),
        ("postings", head.postings),
    ):
        found = connection.execute(f"select count(*) from {table}").fetchone()[0]
        if found != expected:
            yield f"{table}: {found} rows where {expected} were written"
