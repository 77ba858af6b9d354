"""A log that lacks what was acknowledged is refused with what to do, whatever was done to the files."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from bursar.errors import StoreUnavailable
from bursard.events import JobHeld, encode
from bursard.store import Batch, EventRow, LogHead, SqliteStore
from bursard.store.headfile import NAME, HeadFile, parse, render


def append(store: SqliteStore, count: int) -> None:
    for _ in range(count):
        seq = store.last_seq + 1
        store.append(Batch(events=[EventRow(seq, seq, "ann", encode(JobHeld(f"job_{seq}")))]))


def killed(tmp_path: Path, folded: int, more: int) -> Path:
    """The files a `kill -9` leaves: `folded` events in the database, `more` in its write-ahead log alone."""
    live = tmp_path / "live"
    store = SqliteStore(live)
    append(store, folded)
    connection = sqlite3.connect(live / "bursard.db")
    connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    connection.close()
    append(store, more)
    left = tmp_path / "left"
    shutil.copytree(live, left)
    store.close()
    return left


def said(directory: Path) -> LogHead:
    found = parse((directory / NAME).read_bytes())
    assert found is not None
    return found


def test_the_head_file_follows_every_commit_and_survives_the_end(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    assert said(tmp_path / "s") == LogHead(0, bytes(32))
    append(store, 2)
    assert said(tmp_path / "s") == store.head
    assert store.head.seq == 2
    append(store, 1)
    head = store.head
    store.close()
    assert said(tmp_path / "s") == head
    assert (tmp_path / "s" / NAME).stat().st_mode & 0o777 == 0o600


def test_what_a_kill_leaves_opens(tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    store = SqliteStore(left)
    assert store.last_seq == 8
    store.close()


def test_without_its_write_ahead_log_a_database_is_refused_by_name_and_number(tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    (left / "bursard.db-wal").unlink()
    (left / "bursard.db-shm").unlink(missing_ok=True)
    with pytest.raises(StoreUnavailable) as caught:
        SqliteStore(left)
    message = caught.value.message
    assert "ends at event 3, but event 8 was acknowledged" in message
    assert ": 5 events missing. " in message
    for way_out in ("bursard.db-wal", "bursar restore FILE", "bursar audit accept-loss --state-dir"):
        assert way_out in message
    assert caught.value.facts == {"path": str(left / "bursard.db"), "known_seq": "8", "last_seq": "3"}
    with pytest.raises(StoreUnavailable):  # and it stays refused
        SqliteStore(left)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_cut_write_ahead_log_is_refused_or_whole(cut: int, tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    wal = left / "bursard.db-wal"
    os.truncate(wal, wal.stat().st_size - cut)
    with pytest.raises(StoreUnavailable, match="but event 8 was acknowledged"):
        SqliteStore(left)


def test_a_head_file_older_than_the_log_is_fine(tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    older = SqliteStore(tmp_path / "other")
    older.close()
    (left / NAME).write_bytes(render(LogHead(0, bytes(32))))
    store = SqliteStore(left)
    assert store.last_seq == 8
    assert said(left) == store.head
    store.close()


def test_a_log_of_another_history_is_refused(tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    (left / NAME).write_bytes(render(LogHead(4, b"\1" * 32)))
    with pytest.raises(StoreUnavailable, match=r"another history: event 4 .*audit accept-loss"):
        SqliteStore(left)


@pytest.mark.parametrize("data", [b"\7" * 90, b"8 00 00\n", b"9" * 5000, b"x y z", b"8 aa"])
def test_a_damaged_head_file_is_made_anew_and_said_to_be(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = killed(tmp_path, 3, 5)
    (left / NAME).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        store = SqliteStore(left)
    assert [record.getMessage() for record in caplog.records] == ["the head file is damaged; it is made anew"]
    assert said(left) == store.head
    store.close()


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_missing_head_file_is_made_anew(how: str, tmp_path: Path) -> None:
    left = killed(tmp_path, 3, 5)
    (left / NAME).unlink() if how == "removed" else (left / NAME).write_bytes(b"")
    store = SqliteStore(left)
    assert said(left) == store.head == LogHead(8, store.head.hash)
    store.close()


def test_a_head_file_that_cannot_be_written_is_told_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = HeadFile(tmp_path)
    file.close()
    reader = os.open(tmp_path / NAME, os.O_RDONLY)
    file._handle = reader
    with caplog.at_level(logging.WARNING):
        file.write(LogHead(1, bytes(32)))
        file.write(LogHead(2, bytes(32)))
    assert [record.getMessage() for record in caplog.records] == ["the head file cannot be written"]
    file.close()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    file = HeadFile(tmp_path)
    file.write(LogHead(10**12, b"\2" * 32))
    file.write(LogHead(7, b"\3" * 32))
    assert file.read() == LogHead(7, b"\3" * 32)
    file.close()


def test_a_log_knows_which_events_are_its_own(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    append(store, 1)
    first = store.head
    append(store, 1)
    assert store.holds(0, b"")
    assert store.holds(1, first.hash)
    assert store.holds(2, store.head.hash)
    assert not store.holds(1, store.head.hash)
    assert not store.holds(3, store.head.hash)
    assert not store.holds(-1, first.hash)
    store.close()


def test_a_raised_epoch_is_durable_and_never_falls(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    assert store.epoch == 1
    store.raise_epoch(41)
    store.raise_epoch(7)
    assert store.epoch == 41
    append(store, 1)  # its own raise does not fence it
    store.close()
    again = SqliteStore(tmp_path / "s")
    assert again.epoch == 42
    again.close()
