"""Closed months leave the log for a file that proves itself; what they cost stays."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
from growth_bench import load

from bursar.clock import DAY_US, VirtualClock
from bursar.errors import BursarError, InvalidRequest, InvariantViolation, StoreUnavailable
from bursard.backup import archive_months, audit, inspect
from bursard.events import LogResumed, encode
from bursard.replay import restore
from bursard.state import Limits
from bursard.state import image as state_image
from bursard.store import Batch, ChargeFilter, ChargeSum, EventRow, SqliteStore, Unposted, eventfile

growth: ModuleType = load()
DECEMBER = growth.START + 40 * DAY_US
CLOCK = VirtualClock(DECEMBER)


async def _life(directory: Path) -> None:
    """Some of November and some of December, jobs running over the month's end."""
    store = SqliteStore(directory)
    day = growth.Day(store, 2)
    day.start_jobs(60 * DAY_US)
    for minutes in [1] * 70 + [30 * 24 * 60] + [1] * 70:
        day.clock.advance(minutes * growth.MINUTE_US)
        day.meter()
    await day.engine.durable()
    await day.engine.writer.close()
    store.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept") / "state"
    asyncio.run(_life(directory))
    return directory


@pytest.fixture
def home(kept: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    for file in kept.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def costs(directory: Path) -> tuple[list[ChargeSum], Unposted, int, list[int]]:
    from bursard.engine import unposted

    store = SqliteStore(directory)
    try:
        state = restore(store, Limits())
        now = unposted(state)
        posted = [row.posted_at for row in store.charges()]
        assert min(posted) > 0, "when a row was posted is known without its event"
        return store.charge_sums(["month", "kind", "job"], ChargeFilter(), now), now, store.last_seq, posted
    finally:
        store.close()


def test_costs_and_state_are_as_before_and_both_parts_prove_themselves(home: Path, tmp_path: Path) -> None:
    before = costs(home)
    out = tmp_path / "to-november.archive"
    moved = archive_months(home, "2026-12", out, CLOCK)
    assert (moved.before.seq, moved.before.hash) == (0, bytes(32).hex())
    assert 70 < moved.last_seq < before[2]
    assert costs(home) == before
    assert inspect(home).problems == ()
    assert audit(out).problems == ()
    assert audit(home).problems == ()
    store = SqliteStore(home)
    assert [row.seq for row in store.events(limit=1)] == [moved.last_seq + 1]
    assert store.check_archive(out) == []
    assert store.verify(full=False) == []
    store.close()


def test_a_log_that_goes_on_can_be_archived_again_from_where_it_ends(home: Path, tmp_path: Path) -> None:
    first = archive_months(home, "2026-12", tmp_path / "one", CLOCK)
    before = costs(home)
    with pytest.raises(InvalidRequest, match="holds no event"):
        archive_months(home, "2026-12", tmp_path / "two", CLOCK)
    second = archive_months(home, "2027-01", tmp_path / "two", VirtualClock(DECEMBER + 60 * DAY_US))
    assert (second.before.seq, second.before.hash, second.before.file) == (
        first.last_seq, first.last_hash, "one",
    )  # fmt: skip
    assert costs(home) == before
    assert inspect(home).problems == audit(tmp_path / "two").problems == ()
    store = SqliteStore(home)
    assert store.events() == []
    assert store.check_archive(tmp_path / "one") == store.check_archive(tmp_path / "two") == []
    store.close()


def test_a_month_that_is_not_over_stays(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="2027-01 has not begun"):
        archive_months(home, "2027-01", tmp_path / "x", CLOCK)
    assert not (tmp_path / "x").exists()


def test_killed_after_the_file_and_before_the_removal_a_second_run_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = costs(home)
    out = tmp_path / "archive"

    def killed(self: SqliteStore, base: eventfile.Base) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "drop_archived", killed)
        with pytest.raises(KeyboardInterrupt):
            archive_months(home, "2026-12", out, CLOCK)
    assert inspect(home).problems == ()
    assert costs(home) == before
    written = out.read_bytes()
    archive_months(home, "2026-12", out, CLOCK)
    assert out.read_bytes() == written
    assert costs(home) == before
    assert audit(home).problems == audit(out).problems == ()


def test_a_removal_that_dies_in_its_transaction_removed_nothing(home: Path, tmp_path: Path) -> None:
    store = SqliteStore(home)
    last_seq = store.last_before(growth.START + 30 * DAY_US)
    contents = store.archive_to(tmp_path / "a", last_seq, "c1")
    base = contents.base("a")
    wrong = eventfile.Base(seq=base.seq, hash="00" * 32, file="a", open=base.open)
    with pytest.raises(InvariantViolation, match="not that of the log"):
        store.drop_archived(wrong)
    assert store.base.seq == 0
    assert store.verify() == []
    store.close()


def test_a_time_of_posting_that_somebody_planted_is_told_and_written_over(home: Path, tmp_path: Path) -> None:
    before = costs(home)
    database = sqlite3.connect(home / "bursard.db", isolation_level=None)
    (seq,) = database.execute("select min(seq) from charge_rows").fetchone()
    database.execute("insert into posted values (?, 1), (1, 1)", (seq,))
    first, second = (
        f"posted: there is a row of event {one}, which was not archived, so nobody wrote it"
        for one in (1, seq)
    )
    assert inspect(home).problems == (first, second)
    archive_months(home, "2026-12", tmp_path / "one", CLOCK)
    assert costs(home) == before
    told = "posted: there is a row of event 1, which made no charge and no entry, so nobody wrote it"
    assert inspect(home).problems == (told,)
    assert audit(tmp_path / "one").problems == ()
    database.close()


def test_another_file_in_the_place_is_never_overwritten(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.write_text("a letter")
    with pytest.raises(InvalidRequest, match="no archive"):
        archive_months(home, "2026-12", out, CLOCK)
    assert out.read_text() == "a letter"
    assert inspect(home).problems == ()


@pytest.mark.parametrize(
    "damage",
    [
        "update events set payload = zeroblob(9) where seq = 5",
        "update events set actor = 'eve' where seq = 3",
        "delete from events where seq = 7",
        "delete from events where seq = (select max(seq) from events)",
        "delete from contents",
    ],
)
def test_a_changed_archive_is_found_and_keeps_the_events_where_they_are(
    damage: str, home: Path, tmp_path: Path
) -> None:
    store = SqliteStore(home)
    out = tmp_path / "archive"
    last_seq = store.last_before(growth.START + 30 * DAY_US)
    store.archive_to(out, last_seq, restore(store, Limits()).cluster_id)
    store.close()
    connection = sqlite3.connect(out, isolation_level=None)
    connection.execute(damage)
    connection.close()
    assert audit(out).problems
    with pytest.raises(BursarError):
        archive_months(home, "2026-12", out, CLOCK)
    assert inspect(home).problems == ()
    assert SqliteStore(home).base.seq == 0


def test_a_charge_of_an_archived_month_that_was_changed_is_found_with_its_archive(
    home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "archive"
    archive_months(home, "2026-12", out, CLOCK)
    connection = sqlite3.connect(home / "bursard.db", isolation_level=None)
    connection.execute("drop trigger charge_rows_refuse_update")
    connection.execute("update charge_rows set nanos = nanos + 1, gpu = gpu + 1 where rowid = 1")
    connection.close()
    store = SqliteStore(home)
    assert [problem for problem in store.check_archive(out) if problem.startswith("charges of event")]
    store.close()


ARCHIVED = {
    "charges": "update attributions set project = 'innocent' where id ="
    " (select attribution from charge_rows where rowid = 1)",
    "amounts": "update charge_rows set nanos = nanos + 1, gpu = gpu + 1 where rowid = 1",
    "swapped": "update charge_rows set nanos = nanos - nanos % 2 + 1 - nanos % 2 where rowid < 3",
    "entries": "update accounts set name = 'job/other' where id = 2",
    "the last": "update charge_rows set rank = 9 where rowid = (select max(rowid) from charge_rows)",
}


@pytest.mark.parametrize("plant", ARCHIVED)
def test_an_edit_of_rows_whose_events_were_archived_is_found_without_the_archive(
    plant: str, home: Path, tmp_path: Path
) -> None:
    archive_months(home, "2026-12", tmp_path / "archive", CLOCK)
    connection = sqlite3.connect(home / "bursard.db", isolation_level=None)
    guards = connection.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"drop trigger {name}")
    assert connection.execute(ARCHIVED[plant]).rowcount
    for _, sql in guards:
        connection.execute(sql)
    connection.close()
    assert any("were archived are not as they were" in line for line in inspect(home).problems)


def test_the_image_of_the_archive_outlives_later_ones(home: Path, tmp_path: Path) -> None:
    archive_months(home, "2026-12", tmp_path / "archive", CLOCK)
    store = SqliteStore(home)
    assert store.base.rows is not None
    assert store.base.rows.upto == store.last_seq
    first = store.last_seq
    state = restore(store, Limits())
    for _ in range(3):
        seq = store.last_seq + 1
        payload = encode(LogResumed("accepted", 7, 9, 1, 5, "ann"))
        store.append(Batch(events=[EventRow(seq, DECEMBER, "ann", payload)]))
        store.save_snapshot(seq, state_image.encode(state, CLOCK.now()))
    with store.picture() as picture:
        assert [seq for seq, _ in picture.images()] == [first, first + 2, first + 3]
    store.close()


def test_without_any_image_the_start_is_refused_with_the_name_of_the_archive(
    home: Path, tmp_path: Path
) -> None:
    archive_months(home, "2026-12", tmp_path / "november", CLOCK)
    connection = sqlite3.connect(home / "bursard.db", isolation_level=None)
    connection.execute("update snapshots set data = zeroblob(10)")
    connection.close()
    store = SqliteStore(home)
    with pytest.raises(StoreUnavailable, match="archived to november"):
        restore(store, Limits())
    store.close()


def test_what_an_agent_remembers_of_archived_events_is_not_held_against_the_log(
    home: Path, tmp_path: Path
) -> None:
    moved = archive_months(home, "2026-12", tmp_path / "a", CLOCK)
    store = SqliteStore(home)
    assert store.holds(3, b"any")
    assert store.holds(moved.last_seq, bytes.fromhex(moved.last_hash))
    assert not store.holds(moved.last_seq, bytes(32))
    assert not store.holds(store.last_seq + 1, bytes(32))
    store.close()
