"""What schema 5 wrote opens, keeps the digests of its notes, and is sound by every check of now (P1).

The books are those of database-4, brought to schema 5: `killed` with a write-ahead log, `stopped` without.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from released import ended_jobs, unpacked

from bursard.backup import inspect
from bursard.store import SqliteStore

ENDED = {1: ("one", "SUCCEEDED", 4_169_595_938), 2: ("arr", "SUCCEEDED", 88_451_040)}


def notes_of(directory: Path) -> dict[str, str]:
    connection = sqlite3.connect(directory / "bursard.db")
    try:
        return dict(connection.execute("select key, value from meta"))
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_it_opens_with_all_it_had_and_keeps_its_seal(name: str, tmp_path: Path) -> None:
    directory = unpacked("database-5", name, tmp_path)
    before = notes_of(directory)
    assert "seal" in before
    store = SqliteStore(directory)
    assert ended_jobs(store) == ENDED
    store.close()
    assert notes_of(directory).keys() == before.keys() | {"steps"}
    assert inspect(directory).problems == ()


def test_a_note_that_was_changed_before_the_step_is_told_after_it(tmp_path: Path) -> None:
    directory = unpacked("database-5", "stopped", tmp_path)
    connection = sqlite3.connect(directory / "bursard.db", isolation_level=None)
    connection.execute("update meta set value = '77' where key = 'epoch'")
    connection.close()
    assert inspect(directory).problems == (
        "meta: epoch is '78', not what was written, or it was changed once",
    )


@pytest.mark.parametrize("kept", ["schema-1", "schema-2", "database-3", "database-4"])
@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_older_books_get_their_digests_with_the_step_and_are_sound(
    kept: str, name: str, tmp_path: Path
) -> None:
    directory = unpacked(kept, name, tmp_path)
    assert inspect(directory).problems == ()
    assert "seal" in notes_of(directory)
