"""Notes beside the log (`meta`): the epoch, the schema of the events, the clock, the base of an archive.

Owns    writing a note, and the seal: a digest of each note that the one who writes it keeps beside them.
Why     no event tells of a note, so an audit cannot make it anew; the seal is what it compares with. A note
        that was changed by anybody else keeps its old digest, also when it is written over later: what was
        wrong once is not made right by the next start. Every database has one from schema 6 on: one that has
        none is told of, and gets a new one by an operator's word alone (`bursar audit accept-loss`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from hashlib import blake2b

import msgspec

SEAL = "seal"
SEALED_FROM = 6
"""The schema from which on every database has it."""


def write(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Keep a note and its digest, in the caller's transaction or in one of their own."""
    if connection.in_transaction:
        _write(connection, key, value)
        return
    connection.execute("begin immediate")
    try:
        _write(connection, key, value)
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _write(connection: sqlite3.Connection, key: str, value: str) -> None:
    notes = dict(connection.execute("select key, value from meta"))
    connection.execute("insert or replace into meta values (?, ?)", (key, value))
    seal = _read(notes.get(SEAL))
    before = _digest(key, notes[key]) if key in notes else None
    # Digests that are gone are not made anew here: who removed them would have every note taken as it is.
    if seal is not None and seal.get(key) == before:
        _keep(connection, {**seal, key: _digest(key, value)})


def seal_all(connection: sqlite3.Connection) -> None:
    """Take all notes as they are for written, in the transaction that the caller holds."""
    notes = dict(connection.execute("select key, value from meta"))
    _keep(connection, {key: _digest(key, value) for key, value in notes.items() if key != SEAL})


def _keep(connection: sqlite3.Connection, seal: Mapping[str, str]) -> None:
    text = msgspec.json.encode(dict(sorted(seal.items()))).decode()
    connection.execute("insert or replace into meta values (?, ?)", (SEAL, text))


def unsealed(connection: sqlite3.Connection) -> str:
    """What is wrong with the note `seal` itself, as a sentence; "" when it can be read."""
    row = connection.execute("select value from meta where key = ?", (SEAL,)).fetchone()
    return _unsealed(None if row is None else row[0])


def _unsealed(text: str | None) -> str:
    if text is None:
        return "meta: seal is gone, so nothing shows whether another note was changed"
    return "meta: seal cannot be read: it was changed" if _read(text) is None else ""


def problems(notes: Mapping[str, str]) -> Iterator[str]:
    """Notes that are not as they were written, as sentences that name them."""
    if problem := _unsealed(notes.get(SEAL)):
        yield problem
    seal = _read(notes.get(SEAL))
    if seal is None:
        return
    for key in sorted((notes.keys() | seal.keys()) - {SEAL}):
        if key not in notes:
            yield f"meta: {key} is gone"
        elif key not in seal:
            yield f"meta: {key} is kept, and nobody wrote it"
        elif seal[key] != _digest(key, notes[key]):
            yield f"meta: {key} is {notes[key][:80]!r}, not what was written, or it was changed once"


def _read(text: str | None) -> dict[str, str] | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        return None


def _digest(key: str, value: str) -> str:
    return blake2b(f"{key}\0{value}".encode(), digest_size=8).hexdigest()
