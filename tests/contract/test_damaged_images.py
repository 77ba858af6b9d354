"""Images of the state only save time: a damaged one is told as what it is, and thrown away by a start."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursard import doctor
from bursard.backup import accept_loss
from bursard.events import ClusterCreated, Event, NodeTokenIssued, encode
from bursard.replay import restore
from bursard.state import Applied, Limits, State
from bursard.state import image as state_image
from bursard.store import Batch, EventRow, SqliteStore
from bursard.store.home import DATABASE

EVENTS: list[Event] = [
    ClusterCreated("c1", "USD"),
    *(NodeTokenIssued(f"n{i}", f"{i:064x}", 0) for i in range(5)),
]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Six events, and images of the state after the third and the fifth."""
    store, state = SqliteStore(tmp_path / "s"), State(Limits())
    for seq, event in enumerate(EVENTS, 1):
        store.append(Batch(events=[EventRow(seq, seq, "ann", encode(event))]))
        state.apply(event, seq, Applied())
        if seq in (3, 5):
            store.save_snapshot(seq, state_image.encode(state, seq))
    store.close()
    return tmp_path / "s"


def edit(books: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(books / DATABASE)) as connection:
        assert connection.execute(statement, values).rowcount
        connection.commit()


def images(books: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(books / DATABASE)) as connection:
        return [seq for (seq,) in connection.execute("select seq from snapshots order by seq")]


@contextlib.contextmanager
def started(books: Path) -> Iterator[tuple[SqliteStore, State]]:
    """What a start does with images."""
    store = SqliteStore(books)
    try:
        state = restore(store, Limits())
        store.drop_damaged_images()
        yield store, state
    finally:
        store.close()


def noise(books: Path, seq: int) -> None:
    edit(books, "update snapshots set data = x'00' where seq = ?", seq)


def no_image(books: Path, seq: int) -> None:
    edit(books, "update snapshots set data = ? where seq = ?", zlib.compress(b"[]"), seq)


def another_history(books: Path, seq: int) -> None:
    edit(books, "update snapshots set hash = zeroblob(32) where seq = ?", seq)


DAMAGES = {one.__name__: one for one in (noise, no_image, another_history)}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_doctor_speaks_of_the_image_and_a_start_throws_it_away(
    books: Path, damage: Callable[[Path, int], None]
) -> None:
    damage(books, 5)
    store = SqliteStore(books)
    found = {one.check: one for one in doctor.check_store(store, True)}
    store.close()
    assert found["log"].ok, "the log is whole"
    assert not found["images"].ok
    assert "the image of event 5" in found["images"].message
    assert "nothing is lost" in found["images"].remedy
    assert "restore" not in found["images"].remedy
    with started(books) as (store, state):
        assert state.version == len(EVENTS)
        assert len(state.node_tokens) == 5
        assert [one.check for one in doctor.check_store(store, True) if not one.ok] == []
    assert images(books) == [3]


@pytest.mark.parametrize("damage", [noise, another_history])
def test_an_older_image_that_nobody_had_to_read_goes_too(
    books: Path, damage: Callable[[Path, int], None]
) -> None:
    damage(books, 3)
    with started(books) as (_, state):
        assert state.version == len(EVENTS)
    assert images(books) == [5]


def test_images_that_are_whole_stay_and_so_does_one_of_another_version(books: Path) -> None:
    with started(books):
        pass
    assert images(books) == [3, 5]
    of_another = zlib.compress(b'{"format":1}')
    edit(books, "update snapshots set data = ? where seq = 5", of_another)
    with started(books) as (_, state):
        assert state.version == len(EVENTS)
    assert images(books) == [3, 5]


def test_an_image_that_says_something_else_is_thrown_away_by_accept_loss(books: Path) -> None:
    with contextlib.closing(sqlite3.connect(books / DATABASE)) as connection:
        (packed,) = connection.execute("select data from snapshots where seq = 5").fetchone()
    changed = zlib.decompress(packed).replace(b'"c1"', b'"c2"')
    edit(books, "update snapshots set data = ? where seq = 5", zlib.compress(changed))
    with started(books) as (store, state):
        assert state.cluster_id == "c2", "a start cannot know"
        (found,) = [one for one in doctor.check_store(store, True) if not one.ok]
    assert found.check == "images"
    assert "`bursar audit accept-loss --state-dir DIR`" in found.remedy
    known, ends = accept_loss(books)
    assert known == ends
    assert images(books) == [3]
    with started(books) as (store, state):
        assert state.cluster_id == "c1"
    with pytest.raises(InvalidRequest, match="nothing is missing"):
        accept_loss(books)


def test_accept_loss_takes_the_directory_of_up_and_the_books_inside_it(books: Path, tmp_path: Path) -> None:
    """A backup of `bursar up` that was restored lies in `R/daemon`, alone: both `R` and that are meant."""
    (tmp_path / "r").mkdir()
    books.rename(tmp_path / "r" / "daemon")
    for place in (tmp_path / "r", tmp_path / "r" / "daemon"):
        with pytest.raises(InvalidRequest, match="nothing is missing: the log ends at event 6"):
            accept_loss(place)
    (tmp_path / "r" / "daemon" / DATABASE).unlink()
    known, ends = accept_loss(tmp_path / "r")
    assert (known.seq, ends.seq) == (6, 0)
    assert (tmp_path / "r" / "daemon" / DATABASE).exists()
