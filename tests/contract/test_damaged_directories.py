"""Every file of the daemon's directory, damaged in every way: all is there, or the start says the way out."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import StoreUnavailable
from bursard.events import ClusterCreated, JobHeld, encode
from bursard.replay import restore
from bursard.state import Limits
from bursard.store import Batch, EventRow, SqliteStore

EVENTS = 6
FILES = ("bursard.db", "bursard.db-wal", "bursard.db-shm", "bursard.lock", "bursard.head")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def noise(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(max(path.stat().st_size, 64)))


def noisy_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = random.Random(path.name).randbytes(len(data[middle : middle + 64]))
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff" * 5000)


def removed(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere") / "at all")


def text(path: Path) -> None:
    path.write_text("not what you expect\n" * 20)


DAMAGE: tuple[Callable[[Path], None], ...] = (
    emptied, halved, shortened, noise, noisy_middle, zeroed, longer, removed, directory, dangling, text,
)  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a `kill -9` leaves: half of the log in the database, half in its write-ahead log."""
    folder = tmp_path_factory.mktemp("killed")
    store = SqliteStore(folder / "live")

    def append(payload: bytes) -> None:
        seq = store.last_seq + 1
        store.append(Batch(events=[EventRow(seq, seq, "ann", payload)]))

    append(encode(ClusterCreated("cluster_1", "USD")))
    for _ in range(EVENTS // 2 - 1):
        append(encode(ClusterCreated("cluster_1", "USD")))
    connection = sqlite3.connect(folder / "live" / "bursard.db")
    connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    connection.close()
    for _ in range(EVENTS // 2):
        append(encode(ClusterCreated("cluster_1", "USD")))
    shutil.copytree(folder / "live", folder / "left")
    store.close()
    return folder / "left"


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_it_starts_with_all_it_had_or_is_refused_with_what_mends_it(
    name: str, damage: Callable[[Path], None], killed: Path, tmp_path: Path
) -> None:
    home = tmp_path / "daemon"
    shutil.copytree(killed, home)
    damage(home / name)
    refusal = started(home)
    if refusal is None:
        assert started(home) is None  # and the next start is an ordinary one
        return
    assert str(home) in refusal
    assert any(way_out in refusal for way_out in WAYS_OUT), refusal


WAYS_OUT = ("bursar restore", "remove it", "give Bursar a state directory of its own")


def started(home: Path) -> str | None:
    """Why it does not start; None when it does, with all it had."""
    try:
        store = SqliteStore(home)
    except StoreUnavailable as refusal:
        return refusal.message
    try:
        state = restore(store, Limits())
        assert (store.last_seq, state.version) == (EVENTS, EVENTS)
        assert store.verify() == []
    except StoreUnavailable as refusal:
        return refusal.message
    finally:
        store.close()
    return None


def test_both_a_database_and_its_head_gone_do_not_quietly_begin_anew(killed: Path, tmp_path: Path) -> None:
    home = tmp_path / "daemon"
    shutil.copytree(killed, home)
    for name in ("bursard.db", "bursard.db-wal", "bursard.db-shm", "bursard.head"):
        (home / name).unlink()
    with pytest.raises(StoreUnavailable, match=r"missing or empty, but this directory held a cluster"):
        SqliteStore(home)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("name", ["bursard.db-journal", "bursard.db-shm"])
def test_what_is_no_file_where_sqlite_makes_one_is_set_aside(
    name: str, make: Callable[[Path], Any], killed: Path, tmp_path: Path
) -> None:
    home = tmp_path / "daemon"
    shutil.copytree(killed, home)
    (home / name).unlink(missing_ok=True)
    make(home / name)
    SqliteStore(home).close()
    assert len(list(home.glob(f"{name}.damaged-*"))) == 1


@pytest.mark.parametrize("value", ["", "noise", "-1", "9" * 40])
@pytest.mark.parametrize("key", ["epoch", "event_schema"])
def test_a_damaged_note_of_the_database_is_refused_with_what_mends_it(
    key: str, value: str, killed: Path, tmp_path: Path
) -> None:
    home = tmp_path / "daemon"
    shutil.copytree(killed, home)
    connection = sqlite3.connect(home / "bursard.db")
    connection.execute("update meta set value = ? where key = ?", (value, key))
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnavailable, match=r"bursar restore|run the version that wrote it"):
        SqliteStore(home)


def test_an_event_that_is_noise_is_named(killed: Path, tmp_path: Path) -> None:
    home = tmp_path / "daemon"
    shutil.copytree(killed, home)
    store = SqliteStore(home)
    store.append(Batch(events=[EventRow(EVENTS + 1, 1, "ann", encode(JobHeld("job_unknown")))]))
    with pytest.raises(StoreUnavailable, match=rf"event {EVENTS + 1} .*bursar restore"):
        restore(store, Limits())
    store.close()
