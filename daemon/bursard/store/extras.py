"""Rows that nothing refers to, and the record of the schema's steps: what no number follows from.

Owns    finding rows of the shared tables that no charge and no entry names, times of posting of events that
        were not archived, and steps that are not as they were recorded (the note `steps`).
Why     no sum shows such a row and no event tells of it, so it lies there until something meets it. It makes
        nothing wrong, so it keeps nobody from a backup or an archive; but nobody of ours wrote it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from bursard.events import AttemptPlaced, decode
from bursard.store import eventfile, legs, notes
from bursard.store.migrations import STEPS
from bursard.store.migrations.m0004_usage import RATED_AFTER
from bursard.store.shared import ALLOCATION

NOTE = "steps"
"""The note that says how each step of the schema was recorded."""

_NAMED_BY = {
    "sources": ("source", ("charge_rows",)),
    "attributions": ("attribution", ("charge_rows",)),
    "attempts": ("attempt", ("charge_rows", "postings")),
    "allocations": ("allocation", ("charge_rows",)),
    "corrections": ("correction", ("charge_rows",)),
}
"""Which column of which tables names a row of each. 0 names none."""


def claim_steps(connection: sqlite3.Connection) -> None:
    """Write down how the steps were recorded that no note tells of yet."""
    kept = _noted(_note(connection, NOTE))
    if kept is None:
        return
    ours = {name for name, _ in STEPS}
    new = {name: row for name, row in _recorded(connection).items() if name in ours and name not in kept}
    if new:
        notes.write(connection, NOTE, msgspec.json.encode({**kept, **new}).decode())


def problems(connection: sqlite3.Connection) -> Iterator[str]:
    """All of them, as sentences that name the table and the row."""
    yield from _unnamed(connection)
    yield from _accounts(connection)
    yield from _posted(connection)
    yield from _steps(connection)


def _unnamed(connection: sqlite3.Connection) -> Iterator[str]:
    for table, (column, by) in _NAMED_BY.items():
        named = " union ".join(f"select {column} from {one} where {column} > 0" for one in by)
        rows = connection.execute(f"select id from {table} where id not in ({named}) order by id").fetchall()
        found = [number for (number,) in rows]
        if table == "allocations" and found:
            found = _never_placed(connection, found)
        yield from (f"{table}: no charge or entry names row {number}, so nobody wrote it" for number in found)


def _never_placed(connection: sqlite3.Connection, numbers: list[int]) -> list[int]:
    """Migration 0004 wrote the share of every member that had been placed, charged or not."""
    rated_after, base = _note(connection, RATED_AFTER) or "", _base(connection)
    if not rated_after.isdecimal():
        return numbers
    if base.seq:
        return []
    placed: set[tuple[int, ...]] = set()
    sql = "select payload from events where kind = 'attempt-placed' and seq <= ?"
    for (payload,) in connection.execute(sql, (int(rated_after),)):
        try:
            event = decode(payload)
        except msgspec.MsgspecError:  # told among the events
            continue
        for one in event.members if isinstance(event, AttemptPlaced) else ():
            milli, rates = sum(device.milli for device in one.devices), one.rates
            share = (milli, len(one.devices), one.cpu_milli, one.memory_bytes)
            placed.add((*share, rates.gpu, rates.cpu, rates.memory))
    sql = f"select {', '.join(ALLOCATION)} from allocations where id = ?"
    return [one for one in numbers if tuple(connection.execute(sql, (one,)).fetchone()) not in placed]


def _accounts(connection: sqlite3.Connection) -> Iterator[str]:
    named: set[int] = set()
    for (value,) in connection.execute("select legs from postings"):
        named |= legs.numbers_in(value)
    for number, name in connection.execute("select id, name from accounts order by id"):
        if number not in named:
            yield f"accounts: no entry names row {number} ({name[:80]}), so nobody wrote it"


def _posted(connection: sqlite3.Connection) -> Iterator[str]:
    base = _base(connection).seq
    sql = (
        "select seq from posted where seq > ? or seq not in"
        " (select seq from charge_rows union select seq from postings) order by seq"
    )
    for (seq,) in connection.execute(sql, (base,)):
        why = "was not archived" if seq > base else "made no charge and no entry"
        yield f"posted: there is a row of event {seq}, which {why}, so nobody wrote it"


def _steps(connection: sqlite3.Connection) -> Iterator[str]:
    """A step that is gone or of another name is told where the record is checked."""
    found = _recorded(connection)
    for name, kept in (_noted(_note(connection, NOTE)) or {}).items():
        for column, value in kept.items():
            now = found.get(name, kept).get(column)
            if now != value:
                yield f"_sqlite_migrations: {column} of {name} is {now!r}, not {value!r}"


def _recorded(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """Each step of ours by its name, with every column that the library keeps of it."""
    cursor = connection.execute("select * from _sqlite_migrations where migration_set = 'bursard'")
    columns = [one[0] for one in cursor.description]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor]
    return {row["name"]: row for row in rows}


def _noted(text: str | None) -> dict[str, dict[str, Any]] | None:
    """None: the note cannot be read, which the digests of the notes tell."""
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, dict[str, Any]])
    except msgspec.MsgspecError:
        return None


def _note(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("select value from meta where key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _base(connection: sqlite3.Connection) -> eventfile.Base:
    return eventfile.base_of(_note(connection, eventfile.META))
