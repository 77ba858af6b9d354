"""Notes beside the log (`meta`): the epoch, the schema of the events, the clock, the base of an archive.

Owns    writing a note, and the seal: a digest of each note that the one who writes it keeps beside them.
Why     no event tells of a note, so an audit cannot make it anew; the seal is what it compares with. A note
        that was changed by anybody else keeps its old digest, also when it is written over later: what was
        wrong once is not made right by the next start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from hashlib import blake2b

import msgspec

SEAL = "seal"


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
    # The notes of a database that never had a seal are taken as they are.
    seal = (
        _read(notes[SEAL]) if SEAL in notes else {name: _digest(name, text) for name, text in notes.items()}
    )
    connection.execute("insert or replace into meta values (?, ?)", (key, value))
    before = _digest(key, notes[key]) if key in notes else None
    if seal is not None and seal.get(key) == before:
        seal[key] = _digest(key, value)
        text = msgspec.json.encode(dict(sorted(seal.items()))).decode()
        connection.execute("insert or replace into meta values (?, ?)", (SEAL, text))


def _first_seal(notes: Mapping[str, str]) -> dict[str, str]:
    """Of a database that never had one: its notes are taken as they are."""
    return {key: _digest(key, value) for key, value in notes.items()}


def problems(notes: Mapping[str, str]) -> Iterator[str]:
    """Notes that are not as they were written, as sentences that name them."""
    if SEAL not in notes:
        return
    seal = _read(notes[SEAL])
    if seal is None:
        yield "meta: seal cannot be read: it was changed"
        return
    for key in sorted((notes.keys() | seal.keys()) - {SEAL}):
        if key not in notes:
            yield f"meta: {key} is gone"
        elif key not in seal:
            yield f"meta: {key} is kept, and nobody wrote it"
        elif seal[key] != _digest(key, notes[key]):
            yield f"meta: {key} is {notes[key][:80]!r}, not what was written, or it was changed once"


def _read(text: str) -> dict[str, str] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        return None


def _digest(key: str, value: str) -> str:
    return blake2b(f"{key}\0{value}".encode(), digest_size=8).hexdigest()
