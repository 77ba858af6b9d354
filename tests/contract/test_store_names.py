"""The files of open books, removed: nothing that was acknowledged is lost, the next start has all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bursard.events import JobHeld, encode
from bursard.store import Batch, CommitUnknown, EventRow, SqliteStore


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


def test_what_somebody_put_in_their_place_is_left_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s")
    append(store, 3)
    shutil.rmtree(tmp_path / "s")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "bursard.db").write_bytes(b"another")
    with pytest.raises(CommitUnknown, match="another file has been put in its place"):
        append(store)
    assert (tmp_path / "s" / "bursard.db").read_bytes() == b"another"
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
