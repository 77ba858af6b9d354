"""The files of open books, removed: nothing that was acknowledged is lost, the next start has all of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.errors import StoreUnavailable
from bursard.events import JobHeld, encode
from bursard.store import Batch, CommitUnknown, EventRow, SqliteStore, headfile, names
from bursard.store.home import Home


def append(store: SqliteStore, count: int = 1) -> None:
    for _ in range(count):
        seq = store.last_seq + 1
        store.append(Batch(events=[EventRow(seq, seq, "ann", encode(JobHeld(f"job_{seq}")))]))


def again(directory: Path, died: SqliteStore) -> SqliteStore:
    """The next daemon, once the one before is gone with all that it had open."""
    for fd in (died._home._lock,):
        os.close(fd)
    died._home._lock = -1
    return SqliteStore(directory)


REMOVALS: dict[str, Callable[[Path], object]] = {
    "the folder": shutil.rmtree,
    "the database": lambda folder: (folder / "bursard.db").unlink(),
    "the log": lambda folder: (folder / "bursard.db-wal").unlink(),
    "the index": lambda folder: (folder / "bursard.db-shm").unlink(),
    "the database and its log": lambda folder: [path.unlink() for path in folder.glob("bursard.db*")],
}


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "at work"])
def test_whatever_is_removed_of_open_books_is_there_again_for_the_next_start(
    tmp_path: Path, remove: Callable[[Path], object], idle: bool
) -> None:
    """1. It is noticed with the next commit, or when it is looked for. 2. Nobody is told yes any more. 3. The
    next start has all events, the one in doubt too, and no rest of the copying.
    """
    store = SqliteStore(tmp_path / "s")
    append(store, 3)
    remove(tmp_path / "s")
    for _ in range(2):
        with pytest.raises(CommitUnknown, match="removed while it was in use; all that is known was written"):
            store.keep_names() if idle else append(store)
    following = again(tmp_path / "s", store)
    assert following.last_seq == (3 if idle else 4)
    append(following)
    following.close()
    assert not list((tmp_path / "s").glob("*.rescued*"))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "s" / "bursard.db").stat().st_mode & 0o777 == 0o600


def test_what_somebody_put_in_their_place_is_left_alone_and_the_books_lie_beside_it(tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost: the next start finds another history and says where it is."""
    store, database = SqliteStore(tmp_path / "s"), tmp_path / "s" / "bursard.db"
    append(store, 3)
    other = SqliteStore(tmp_path / "o")
    other.close()
    os.replace(tmp_path / "o" / "bursard.db", database)
    with pytest.raises(CommitUnknown, match=r"put in its place.*`mv \S+bursard.db.saved \S+bursard.db`"):
        append(store)
    with pytest.raises(StoreUnavailable, match=r"saved them as \S+bursard\.db\.saved"):
        again(tmp_path / "s", store)
    database.unlink()
    (tmp_path / "s" / "bursard.db.saved").rename(database)
    following = SqliteStore(tmp_path / "s")
    assert following.last_seq == 4
    following.close()


def test_a_database_that_was_moved_out_of_its_folder_is_there_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    append(store, 3)
    (tmp_path / "s" / "bursard.db").rename(tmp_path / "elsewhere")
    with pytest.raises(CommitUnknown, match="written there again"):
        store.keep_names()
    following = again(tmp_path / "s", store)
    assert following.last_seq == 3
    following.close()


def test_a_log_that_was_removed_while_somebody_reads_is_not_given_up(tmp_path: Path) -> None:
    """A reader keeps commits from being folded into the file: then all of it is written anew."""
    store = SqliteStore(tmp_path / "s")
    append(store, 3)
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "bursard.db")) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from events").fetchone()
        append(store, 3)
        (tmp_path / "s" / "bursard.db-wal").unlink()
        with pytest.raises(CommitUnknown, match="written there again"):
            store.keep_names()
    following = again(tmp_path / "s", store)
    assert following.last_seq == 6
    following.close()


def test_where_the_disk_is_full_nothing_is_acknowledged_until_the_books_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "s")
    append(store, 3)
    (tmp_path / "s" / "bursard.db").unlink()
    whole, told = names.write_again, list[str]()

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    def pause(_: float) -> None:
        told.append(store.trouble)
        if len(told) == 3:
            monkeypatch.setattr(names, "write_again", whole)

    monkeypatch.setattr(names, "write_again", full)
    store.pause = pause
    with pytest.raises(CommitUnknown, match="written there again"):
        append(store)
    assert len(told) == 3
    assert "nothing is accepted until it is" in told[0]
    following = again(tmp_path / "s", store)
    assert following.last_seq == 4
    following.close()


@pytest.mark.parametrize("name", ["bursard.lock", "bursard.head"])
@pytest.mark.parametrize("instead", ["nothing", "a file", "a folder"])
def test_lock_and_head_are_made_anew(tmp_path: Path, name: str, instead: str) -> None:
    store, path = SqliteStore(tmp_path / "s"), tmp_path / "s" / name
    append(store, 3)
    path.unlink()
    if instead == "a file":
        path.write_text("noise")
    elif instead == "a folder":
        path.mkdir()
    store.keep_names()
    append(store)
    with pytest.raises(StoreUnavailable, match="in use by another bursard"):
        SqliteStore(tmp_path / "s")
    (tmp_path / "s" / "bursard.db-wal").rename(tmp_path / "wal")
    kept = headfile.parse((tmp_path / "s" / "bursard.head").read_bytes())
    assert kept == store.head, "a shorter log would be noticed"
    (tmp_path / "wal").rename(tmp_path / "s" / "bursard.db-wal")
    store.close()
    following = SqliteStore(tmp_path / "s")
    assert following.last_seq == 4
    following.close()


def test_who_took_the_directory_meanwhile_keeps_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    (tmp_path / "s" / "bursard.lock").unlink()
    other = Home(tmp_path / "s")
    with pytest.raises(StoreUnavailable, match="in use by another bursard"):
        store.keep_names()
    other.close()
    store.close()


def test_where_they_cannot_be_written_again_that_is_said(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "above" / "s")
    append(store)
    shutil.rmtree(tmp_path / "above")
    with pytest.raises(CommitUnknown, match=r"s/bursard\.db was removed .* again: .*No such"):
        store.keep_names()
    store.close()
    assert not (tmp_path / "above").exists()


def test_books_that_were_moved_go_on_where_they_are(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    append(store)
    (tmp_path / "s").rename(tmp_path / "t")
    append(store)
    store.keep_names()
    store.close()
    following = SqliteStore(tmp_path / "t")
    assert following.last_seq == 2
    following.close()
    assert not (tmp_path / "s").exists()
