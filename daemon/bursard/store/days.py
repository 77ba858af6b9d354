"""What charges of a day sum to: made of rows that never change, compared with them, and thrown away at will.

Owns    the tables `day_batches` and `day_sums`: when a batch is due, its rows, and whether they are what the
        charges say.
Why     a report of a month adds up what each owner was charged in each hour. Of one attempt, or of one
        node's own time, that is 24 rows a day that differ in their amounts alone; one row says as much.
Limits  nothing follows from these rows: who doubts them throws them away, and they are made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from bursar.clock import DAY_US, SECOND_US, Instant, format_instant
from bursard.store.base import LATE_AFTER_US

BATCH_ROWS = 50_000
"""So many rows of charges are summed at once: a quarter of a second, and what a report reads one by one."""
DAY_ROWS = 1_000
"""With fewer rows than this even the end of a day is nothing to sum for."""

SUMMED_FROM = 7
"""The first schema version with these tables."""

NEWEST = "select id, upto, seq from day_batches"

_KEYS = ("day", "kind", "source", "attribution", "attempt", "job_number", "allocation", "correction")
_SUMS = ("nanos", "gpu", "cpu", "memory")
_COLUMNS = (
    *("batch", *_KEYS, "posted_at", "count", "held_us"),
    *(f"{name}_{part}" for name in _SUMS for part in ("high", "low")),
)
_LATE = (
    f"posted >= strftime('%s', c.start_at / {SECOND_US}, 'unixepoch', 'start of month', '+1 month')"
    f" * {SECOND_US} + {LATE_AFTER_US}"
)
_MADE = (
    "select c.start_at - c.start_at % {day} as day, c.kind, c.source, c.attribution, c.attempt, c.job_number,"
    " c.allocation, c.correction, max(posted), count(*), sum(c.held_us), {sums} from"
    " (select r.*, coalesce(e.at, p.at, 0) as posted from charge_rows r left join events e on e.seq = r.seq"
    " left join posted p on p.seq = r.seq where r.rowid > ? and r.rowid <= ?) c"
    " group by 1, 2, 3, 4, 5, 6, 7, 8, {late} order by 1, 2, 3, 4, 5, 6, 7, 8, 9"
).format(
    day=DAY_US,
    sums=", ".join(f"sum(c.{name} >> 32), sum(c.{name} & 4294967295)" for name in _SUMS),
    late=_LATE,
)
"""A batch as its rows of charges say. What was posted late is summed by itself."""

_INSERT = f"insert into day_sums ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))})"


def due(connection: sqlite3.Connection) -> tuple[int, int, int, int] | None:
    """The next batch: its number, after which row, up to which, and up to which event; None: not yet.

    A batch ends with all rows of an event, so that as of any event whole batches are in it or out of it.
    """
    number, after, _ = connection.execute(f"{NEWEST} order by id desc limit 1").fetchone() or (0, 0, 0)
    (newest,) = connection.execute("select coalesce(max(rowid), 0) from charge_rows").fetchone()
    if newest - after < DAY_ROWS:
        return None
    last = min(newest, after + BATCH_ROWS)
    ends = "select start_at from charge_rows where rowid = ?"
    (first_at,), (last_at,) = (connection.execute(ends, (row,)).fetchone() for row in (after + 1, last))
    if last_at // DAY_US > first_at // DAY_US:
        # Where a day has begun, those before it are summed whole: it comes with the next batch.
        before = "select max(rowid) from charge_rows where rowid > ? and rowid <= ? and start_at < ?"
        (last,) = connection.execute(before, (after, last, last_at - last_at % DAY_US)).fetchone()
    elif last == newest:
        return None
    (seq,) = connection.execute("select seq from charge_rows where rowid = ?", (last,)).fetchone()
    same = "select 1 from charge_rows where rowid = ? and seq = ?"
    while connection.execute(same, (last + 1, seq)).fetchone():
        last += 1
    return number + 1, after, last, seq


def made(connection: sqlite3.Connection, after: int, upto: int) -> list[tuple[Any, ...]]:
    """What the rows `(after, upto]` of charges sum to, by day and owner."""
    return connection.execute(_MADE, (after, upto)).fetchall()


def keep(writer: sqlite3.Connection, number: int, upto: int, seq: int, rows: list[tuple[Any, ...]]) -> None:
    """Write a batch; the caller holds the transaction."""
    writer.execute("insert into day_batches (id, seq, upto) values (?, ?, ?)", (number, seq, upto))
    writer.executemany(_INSERT, ((number, *row) for row in rows))


def forget(writer: sqlite3.Connection) -> None:
    """Throw all of them away; the caller holds the transaction. They are made anew as rows come."""
    writer.execute("delete from day_sums")
    writer.execute("delete from day_batches")


def problems(connection: sqlite3.Connection, newest_alone: bool = False) -> Iterator[str]:
    """What is kept and does not follow from the charges, as sentences."""
    (rows,) = connection.execute("select coalesce(max(rowid), 0) from charge_rows").fetchone()
    batches = connection.execute(f"{NEWEST} order by id").fetchall()
    after, whole = 0, set[int]()
    for at, (number, upto, seq) in enumerate(batches, 1):
        ends = connection.execute("select seq from charge_rows where rowid = ?", (upto,)).fetchone()
        if number != at or not after < upto <= rows or ends != (seq,):
            yield f"day_batches: batch {number} does not end with row {upto} of event {seq}; {_REMEDY}"
            return
        if not newest_alone or at == len(batches):
            yield from _compared(connection, number, after, upto)
        after = upto
        whole.add(number)
    for (number,) in connection.execute("select distinct batch from day_sums order by 1"):
        if number not in whole:
            yield f"day_sums: there are rows of batch {number}, which is not there; {_REMEDY}"


def _compared(connection: sqlite3.Connection, number: int, after: int, upto: int) -> Iterator[str]:
    names = ", ".join(_COLUMNS[1:])
    kept = connection.execute(
        f"select {names} from day_sums where batch = ? order by 1, 2, 3, 4, 5, 6, 7, 8, 9", (number,)
    ).fetchall()
    if kept != (true := made(connection, after, upto)):
        at = next(
            (row for one, row in zip(kept, true, strict=False) if one != row), (true[len(kept) :] or kept)[-1]
        )
        day, kind = format_instant(Instant(at[0]))[:10], at[1]
        yield (f"day_sums: batch {number} is not what its charges sum to, from {kind} of {day} on; {_REMEDY}")


_REMEDY = "`bursar audit accept-loss --state-dir DIR` throws the sums away, and they are made anew"
