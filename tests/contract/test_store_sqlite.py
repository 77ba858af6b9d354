"""What only a store on disk can break: files, locks, damage, and the settings that make it durable."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlite_utils import Database

from bursar.errors import InvariantViolation, StoreUnavailable
from bursar.model import EndCause, JobState
from bursard.events import (
    Charge,
    ClusterCreated,
    Event,
    JobEnded,
    JobHeld,
    NodeBooted,
    NodeTokenIssued,
    PolicyRemoved,
    RoleGranted,
    SecretSet,
    StopRequested,
    encode,
)
from bursard.events.subject import head_of
from bursard.store import (
    Batch,
    EventFilter,
    EventRow,
    JobFilter,
    KeyRow,
    PostingRow,
    SqliteReader,
    SqliteStore,
    queries,
)
from bursard.store.migrations import STEPS, m0001_initial
from bursard.store.schema import VERSION, connect, migrate


def event(seq: int) -> EventRow:
    return EventRow(seq, seq, "ann", encode(JobHeld(job_id=f"job_{seq}")))


def posting(seq: int) -> PostingRow:
    return PostingRow(seq, "hold", "x", (("a", 5), ("b", -5)))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A closed store of four events with entries."""
    store = SqliteStore(tmp_path / "state")
    for seq in range(1, 5):
        store.append(Batch(events=[event(seq)], postings=[posting(seq)]))
    store.save_snapshot(1, b"one")
    store.save_snapshot(3, b"three")
    store.close()
    return tmp_path / "state"


@pytest.fixture
def raw(home: Path) -> Iterator[sqlite3.Connection]:
    """Somebody with the file in hand and no respect for triggers."""
    connection = sqlite3.connect(home / "bursard.db", isolation_level=None)
    names = connection.execute("select name from sqlite_schema where type = 'trigger'").fetchall()
    assert len(names) == 20
    for (name,) in names:
        connection.execute(f"drop trigger {name}")
    yield connection
    connection.close()


def reopened(home: Path) -> list[str]:
    """What verification says, or the refusal to open at all."""
    try:
        store = SqliteStore(home)
    except StoreUnavailable as error:
        return [error.message]
    try:
        return store.verify()
    finally:
        store.close()


class TestDurability:
    def test_every_connection_is_full_synchronous_in_wal_mode(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path / "state")
        with store._reading() as reading:
            for connection in (store._connection, reading):
                assert connection.execute("pragma synchronous").fetchone() == (2,)
                assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
                assert connection.execute("pragma foreign_keys").fetchone() == (1,)
                assert connection.execute("pragma busy_timeout").fetchone() == (10_000,)
            # No file is made for a commit; but a report may need more than memory.
            assert store._connection.execute("pragma temp_store").fetchone() == (2,)
            assert reading.execute("pragma temp_store").fetchone() == (0,)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reading.execute("delete from keys")
        store.close()

    @pytest.mark.parametrize("table", ["events", "charge_rows", "postings"])
    def test_money_rows_refuse_update_and_delete(self, home: Path, table: str) -> None:
        connection = connect(home / "bursard.db")
        if table == "charge_rows":
            columns = connection.execute("pragma table_info(charge_rows)").fetchall()
            values = [1 if kind == "INTEGER" else "x" for _, _, kind, *_ in columns]
            marks = ", ".join("?" * len(values))
            connection.execute(f"insert into charge_rows values ({marks})", values)
        for sql in (f"update {table} set seq = seq + 9", f"delete from {table}"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(sql)
        connection.close()

    def test_a_value_of_the_wrong_type_is_refused_and_the_store_goes_on(self, home: Path) -> None:
        store = SqliteStore(home)
        for wrong in (b"k", ["k"]):
            with pytest.raises(InvariantViolation, match="nothing was written"):
                store.append(
                    Batch(events=[event(5)], keys=[KeyRow("ann", wrong, "job_1", b"")])  # type: ignore[arg-type]
                )
        store.append(Batch(events=[event(5)]))
        assert store.verify() == []
        store.close()

    def test_each_start_has_a_higher_epoch(self, home: Path) -> None:
        seen = []
        for _ in range(3):
            store = SqliteStore(home)
            seen.append(store.epoch)
            store.close()
        assert seen == [2, 3, 4]

    def test_reads_go_on_in_other_threads_while_one_writes(self, home: Path) -> None:
        store = SqliteStore(home)
        faults: list[BaseException] = []

        def read() -> None:
            try:
                last = 0
                while last < 104:
                    last = len(store.events())
                    assert sum(store.balances().values()) == 0
            except BaseException as error:
                faults.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for seq in range(5, 105):
            store.append(Batch(events=[event(seq)], postings=[posting(seq)]))
        for reader in readers:
            reader.join(30)
        assert faults == []
        store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            store.events()


class TestDamage:
    @pytest.mark.parametrize("column", ["at", "actor", "payload", "hash"])
    @pytest.mark.parametrize("seq", [1, 2, 4])
    def test_a_changed_event_is_found(
        self, home: Path, raw: sqlite3.Connection, column: str, seq: int
    ) -> None:
        value = raw.execute(f"select {column} from events where seq = ?", (seq,)).fetchone()[0]
        if isinstance(value, bytes):
            value = bytes([value[0], value[1] ^ 1]) + value[2:]
        else:
            value = value + 1 if isinstance(value, int) else value + "x"
        raw.execute(f"update events set {column} = ? where seq = ?", (value, seq))
        assert any(f"event {seq} " in line or "last event" in line for line in reopened(home))

    def test_any_flipped_byte_of_the_log_is_found(self, home: Path) -> None:
        """Every byte of one event, without SQLite's help: the reader verifies the chain alone."""
        source = (home / "bursard.db").read_bytes()
        payload = event(2).payload
        assert source.count(payload) == 1
        at = source.index(payload)
        for offset in range(len(payload)):
            damaged = bytearray(source)
            damaged[at + offset] ^= 0x20
            (home / "bursard.db").write_bytes(damaged)
            reader = SqliteReader(home / "bursard.db")
            assert any("event 2 does not match" in line for line in reader.verify()), offset
            reader.close()

    @pytest.mark.parametrize("seq", [1, 2, 4])
    def test_a_deleted_event_is_found(self, home: Path, raw: sqlite3.Connection, seq: int) -> None:
        raw.execute("delete from events where seq = ?", (seq,))
        assert reopened(home) != []

    @pytest.mark.parametrize("table", ["accounts", "attempts", "attributions", "sources"])
    def test_what_money_rows_share_refuses_update_and_delete(self, home: Path, table: str) -> None:
        connection = connect(home / "bursard.db")
        columns = connection.execute(f"pragma table_info({table})").fetchall()
        values = [7 if kind == "INTEGER" else "x" for _, _, kind, *_ in columns]
        connection.execute(f"insert into {table} values ({', '.join('?' * len(values))})", values)
        for sql in (f"update {table} set id = id + 9", f"delete from {table}"):
            with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
                connection.execute(sql)
        connection.close()

    @pytest.mark.parametrize("rows", ["rowid = 1", "rowid in (2, 3)", "rowid = 4"])
    def test_deleted_entries_are_found_wherever_they_stood(
        self, home: Path, raw: sqlite3.Connection, rows: str
    ) -> None:
        raw.execute(f"delete from postings where {rows}")
        assert any("postings: " in line for line in reopened(home))

    def test_an_edited_entry_is_found(self, home: Path, raw: sqlite3.Connection) -> None:
        (number,) = raw.execute("select id from accounts where name = 'a'").fetchone()
        legs = msgspec.msgpack.encode([number, 6, number, -5])
        raw.execute("update postings set legs = ? where rowid = 2", (legs,))
        problems = [line for line in reopened(home) if not line.startswith("the trigger ")]
        assert problems == ["entries of event 2 (hold) sum to 1 nanos, not 0"]

    @pytest.mark.parametrize(
        ("legs", "said"),
        [
            (
                b"\xc1",
                "MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)",
            ),
            (msgspec.msgpack.encode([1, 5, 2]), "an account without its amount"),
            (msgspec.msgpack.encode([1, "b"]), "an account without its amount"),
            (
                msgspec.msgpack.encode([77, 5, 1, -5]),
                "there is no account of number 77",
            ),
            (msgspec.msgpack.encode([0, 5, 1, -5]), "there is no account of number 0"),
        ],
    )
    def test_lines_that_cannot_be_read_are_named_with_their_event(
        self, home: Path, raw: sqlite3.Connection, legs: bytes, said: str
    ) -> None:
        raw.execute("update postings set legs = ? where rowid = 2", (legs,))
        problems = [line for line in reopened(home) if not line.startswith("the trigger ")]
        assert problems == [f"entries of event 2 (hold): the lines are damaged: {said}"]
        store = SqliteStore(home)
        with pytest.raises(StoreUnavailable, match="is damaged: entries of event 2: the lines are damaged"):
            store.balances()
        store.close()

    @pytest.mark.parametrize("most", [2**63 - 1, 2**63, 10**21, 10**30])
    def test_an_amount_past_64_bits_is_kept_to_the_nano(self, home: Path, most: int) -> None:
        store = SqliteStore(home)
        store.append(
            Batch(events=[event(5)], postings=[PostingRow(5, "hold", "x", (("c", most), ("a", -most)))])
        )
        assert store.balances() == {"a": 20 - most, "b": -20, "c": most}
        assert store.verify() == []
        store.close()

    def test_a_charge_from_nowhere_is_found(self, home: Path, raw: sqlite3.Connection) -> None:
        columns = raw.execute("pragma table_info(charge_rows)").fetchall()
        values = [9 if kind == "INTEGER" else "x" for _, _, kind, *_ in columns]
        raw.execute(f"insert into charge_rows values ({', '.join('?' * len(values))})", values)
        problems = reopened(home)
        assert "charges of event 9, which is not there" in problems
        assert "charge_rows: 1 rows where 0 were written" in problems

    def test_replay_stops_at_the_event_that_was_changed(self, home: Path, raw: sqlite3.Connection) -> None:
        store = SqliteStore(home)
        raw.execute("delete from snapshots")
        raw.execute("update events set payload = x'7b7d' where seq = 2")
        with pytest.raises(StoreUnavailable, match="event 2 does not match"):
            list(store.load().events(0))
        store.close()

    def test_a_damaged_snapshot_only_costs_time(self, home: Path, raw: sqlite3.Connection) -> None:
        raw.execute("update snapshots set data = x'00' where seq = 3")
        store = SqliteStore(home)
        assert list(store.load().images) == [(1, b"one")]
        raw.execute("update snapshots set hash = zeroblob(32) where seq = 1")
        loaded = store.load()
        assert list(loaded.images) == []
        assert len(list(loaded.events(0))) == 4
        store.close()

    @pytest.mark.parametrize("content", [b"not a database at all" * 300, b"\0" * 8192])
    def test_a_file_that_is_no_database_is_refused_with_place_and_remedy(
        self, home: Path, content: bytes
    ) -> None:
        (home / "bursard.db").write_bytes(content)
        with pytest.raises(StoreUnavailable, match=r"bursard\.db .*damaged.*backup"):
            SqliteStore(home)
        assert (home / "bursard.db").read_bytes() == content

    def test_a_scrambled_middle_is_refused_or_found(self, home: Path) -> None:
        source = bytearray((home / "bursard.db").read_bytes())
        source[4096:] = os.urandom(len(source) - 4096)
        (home / "bursard.db").write_bytes(source)
        (problem, *_) = reopened(home)
        assert "damaged" in problem

    @pytest.mark.parametrize("lost", ["emptied", "removed"])
    def test_a_lost_database_does_not_quietly_begin_anew(self, home: Path, lost: str) -> None:
        if lost == "emptied":
            (home / "bursard.db").write_bytes(b"")
        else:
            (home / "bursard.db").unlink()
        with pytest.raises(
            StoreUnavailable, match=r"missing or empty.*bursar restore.*bursar audit accept-loss"
        ):
            SqliteStore(home)
        (home / "bursard.lock").unlink()
        with pytest.raises(StoreUnavailable, match="ends at event 0, but event 4 was acknowledged"):
            SqliteStore(home)
        (home / "bursard.head").unlink()
        SqliteStore(home).close()


class TestOpening:
    @pytest.mark.parametrize("name", ["bursard.lock", "bursard.db", "bursard.head"])
    def test_books_on_a_disk_that_is_read_only_are_left_as_they_are_and_it_is_said(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "home"
        SqliteStore(home).close()
        before = {path.name: path.read_bytes() for path in home.iterdir()}
        opened = os.open

        def refuses(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if Path(path).name == name and flags & (os.O_RDWR | os.O_WRONLY):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return opened(path, flags, *more, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuses)
            with pytest.raises(
                StoreUnavailable, match=rf"{name}: Read-only file system; its disk is .*mount it writable"
            ) as told:
                SqliteStore(home)
        assert "accept-loss" not in told.value.message
        assert {path.name: path.read_bytes() for path in home.iterdir()} == before
        SqliteStore(home).close()  # and its lock was let go of

    @pytest.mark.parametrize("link", ["a link", "a hard link"])
    def test_nothing_is_written_through_a_link_onto_the_books(self, tmp_path: Path, link: str) -> None:
        store = SqliteStore(tmp_path / "s")
        store.append(Batch(events=[event(1)]))
        store.close()
        database = tmp_path / "s" / "bursard.db"
        for name in ("bursard.head", "bursard.lock"):
            path = tmp_path / "s" / name
            path.unlink()
            path.symlink_to(database) if link == "a link" else path.hardlink_to(database)
        before = database.read_bytes()
        with pytest.raises(StoreUnavailable, match=r"bursard\.lock leads to another file.*remove it"):
            SqliteStore(tmp_path / "s")
        assert database.read_bytes() == before
        (tmp_path / "s" / "bursard.lock").unlink()
        again = SqliteStore(tmp_path / "s")
        assert (again.last_seq, again.verify(True)) == (1, [])
        again.close()
        assert (tmp_path / "s" / "bursard.head").stat().st_nlink == 1
        assert not (tmp_path / "s" / "bursard.head").is_symlink()

    def test_the_directory_and_files_are_for_one_user(self, tmp_path: Path) -> None:
        directory = tmp_path / "a" / "state"
        store = SqliteStore(directory)
        store.append(Batch(events=[event(1)]))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == dict.fromkeys(modes, 0o600)
        assert {"bursard.db", "bursard.db-wal", "bursard.lock"} <= set(modes)
        store.close()

    def test_an_empty_directory_is_closed_to_others(self, tmp_path: Path) -> None:
        directory = tmp_path / "state"
        directory.mkdir()
        directory.chmod(0o755)
        SqliteStore(directory).close()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_a_directory_others_write_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        directory = tmp_path / "shared"
        directory.mkdir()
        (directory / "theirs").touch()
        directory.chmod(0o777)
        with pytest.raises(StoreUnavailable, match="mode 0777"):
            SqliteStore(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o777

    def test_a_second_store_names_the_process_that_holds_the_first(self, home: Path) -> None:
        first = SqliteStore(home)
        with pytest.raises(StoreUnavailable, match=f"in use by another bursard .pid {os.getpid()}"):
            SqliteStore(home)
        first.append(Batch(events=[event(5)]))
        first.close()
        SqliteStore(home).close()

    def test_a_database_newer_than_the_code_is_refused_untouched(self, home: Path) -> None:
        connection = connect(home / "bursard.db")
        connection.execute(f"pragma user_version = {VERSION + 1}")
        connection.close()
        before = (home / "bursard.db").read_bytes()
        with pytest.raises(StoreUnavailable, match=f"schema {VERSION + 1}, newer"):
            SqliteStore(home)
        assert (home / "bursard.db").read_bytes() == before

    def test_a_database_of_another_program_is_refused(self, tmp_path: Path) -> None:
        directory = tmp_path / "state"
        directory.mkdir(mode=0o700)
        other = sqlite3.connect(directory / "bursard.db")
        other.execute("create table theirs (x)")
        other.close()
        with pytest.raises(StoreUnavailable, match="another program"):
            SqliteStore(directory)

    def test_steps_are_recorded_and_applied_once(self, home: Path) -> None:
        migrate(home / "bursard.db")
        connection = connect(home / "bursard.db")
        names = connection.execute("select name from _sqlite_migrations").fetchall()
        assert names == [(name,) for name, _ in STEPS]
        assert connection.execute("pragma user_version").fetchone() == (VERSION,)
        connection.close()
        assert reopened(home) == []

    def test_a_first_start_that_died_half_way_is_taken_up_again(self, tmp_path: Path) -> None:
        directory = tmp_path / "state"
        directory.mkdir(mode=0o700)
        database = sqlite3.connect(directory / "bursard.db")
        database.execute(
            "create table _sqlite_migrations (id integer primary key, migration_set text, name text, "
            "applied_at text)"
        )
        database.close()
        assert reopened(directory) == []

    def test_a_file_in_place_of_the_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("x")
        with pytest.raises(StoreUnavailable, match="not a directory"):
            SqliteStore(tmp_path / "state")
        with pytest.raises(StoreUnavailable, match="state directory"):
            SqliteStore(tmp_path / "state" / "below")

    def test_a_reader_beside_the_daemon_sees_what_is_committed(self, home: Path) -> None:
        store = SqliteStore(home)
        reader = SqliteReader(home / "bursard.db")
        store.append(Batch(events=[event(5)], postings=[posting(5)]))
        assert reader.events()[-1] == event(5)
        assert reader.verify() == []
        reader.close()
        store.close()

    def test_a_restored_copy_opens(self, home: Path, tmp_path: Path) -> None:
        shutil.copytree(home, tmp_path / "copy")
        assert reopened(tmp_path / "copy") == []


class TestPlans:
    """Questions about the log walk an index, so that they take as long as their answer."""

    @pytest.mark.parametrize(
        ("asked", "index"),
        [
            (EventFilter(kinds=("job-held",)), "idx_events_kind (kind=? AND rowid>?)"),
            (EventFilter(kinds=("job-held", "job-ended")), "idx_events_kind (kind=? AND rowid>?)"),
            (EventFilter(kinds=("member-ended",)), "INTEGER PRIMARY KEY (rowid>?)"),
            (EventFilter(about="node_1"), "idx_events_brief (brief=? AND rowid>?)"),
            (EventFilter(about="job_1", or_about=("att_1",)), "idx_events_brief (brief=? AND rowid>?)"),
            (EventFilter(about="job_1", kinds=("job-held",)), "idx_events_brief (brief=? AND rowid>?)"),
            (EventFilter(placed_on="node_1"), "idx_events_kind (kind=? AND rowid>?)"),
            (EventFilter(), "INTEGER PRIMARY KEY (rowid>?)"),
        ],
    )
    def test_events_are_found_by_an_index_in_log_order(
        self, home: Path, asked: EventFilter, index: str
    ) -> None:
        connection = connect(home / "bursard.db", read_only=True)
        for order, before in (("seq", 0), ("seq desc", 9)):
            plans = []
            for where in queries.event_walks(2, asked, before):
                # As the reader asks it: SQLite takes other ways for a limit that it knows.
                sql = f"explain query plan select seq from events{where} order by {order} limit ?"
                plans.append([row[3] for row in connection.execute(sql, [*where.values, 10])])
            ranges = [plan for plan in plans if "INTEGER PRIMARY KEY (rowid=?)" in plan[0]]
            assert len(ranges) == bool(asked.about)
            expected = index.replace("rowid>?", "rowid>? AND rowid<?") if before else index
            for plan in plans:
                assert not [line for line in plan if "TEMP B-TREE" in line]
                if plan in ranges:
                    assert any("idx_events_brief (brief>? AND brief<?)" in line for line in plan)
                else:
                    assert expected in plan[0]
        connection.close()

    @pytest.mark.parametrize(
        ("asked", "index"),
        [
            (JobFilter(), "idx_jobs_number"),
            (JobFilter(cursor=(7, -1)), "idx_jobs_number (number<?)"),
            (JobFilter(name="n"), "idx_jobs_name_number (name=?)"),
            (JobFilter(user="ann"), "idx_jobs_user_number (user=?)"),
            (JobFilter(experiment="e"), "idx_jobs_experiment_number (experiment=?)"),
            (JobFilter(model="m"), "idx_jobs_model_number (model=?)"),
            (JobFilter(parent_id="job_1"), "idx_jobs_number_array_index (number=? AND array_index>?)"),
            (
                JobFilter(parent_id="job_1", cursor=(1, 7)),
                "idx_jobs_number_array_index (number=? AND array_index>?)",
            ),
        ],
    )
    def test_jobs_are_found_by_an_index_in_their_order(
        self, home: Path, asked: JobFilter, index: str
    ) -> None:
        connection = connect(home / "bursard.db", read_only=True)
        where = queries.where_jobs(asked)
        sql = f"explain query plan select rowid from jobs{where} order by number desc, array_index limit 10"
        plan = [row[3] for row in connection.execute(sql, [*where.values])]
        connection.close()
        assert [line for line in plan if line.endswith(index)] == plan[:1]
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan

    def test_the_newest_jobs_of_a_project_tree_are_found_in_the_index_alone(self, home: Path) -> None:
        connection = connect(home / "bursard.db", read_only=True)
        where = queries.where_jobs(JobFilter(project="nlp"))
        sql = f"explain query plan select rowid from jobs{where} order by number desc, array_index limit 10"
        plan = [row[3] for row in connection.execute(sql, [*where.values])]
        connection.close()
        index = "SEARCH jobs USING COVERING INDEX idx_jobs_project_number_array_index"
        assert f"{index} (project=?)" in plan
        assert f"{index} (project>? AND project<?)" in plan

    def test_the_oldest_number_of_a_time_is_read_from_the_index_on_the_time(self, home: Path) -> None:
        connection = connect(home / "bursard.db", read_only=True)
        where = queries.where_jobs(JobFilter(ended_since=5))
        sql = f"explain query plan select rowid from jobs{where} order by number desc, array_index limit 10"
        plan = [row[3] for row in connection.execute(sql, [*where.values])]
        connection.close()
        index = "idx_jobs_finished_at_number_array_index (finished_at>?)"
        assert f"SEARCH jobs USING COVERING INDEX {index}" in plan

    def test_sqlite_reads_kind_and_subject_as_the_daemon_does(self, home: Path) -> None:
        piece = Charge(
            kind="down",
            node_id="node_2",
            start=0,
            end=1,
            nanos=0,
            price_id="",
            attempt_id="att_9",
            job_id="job_9",
        )
        texts = ['"name":"x"', '\\"job_id":"job_8"', "[{", "\u2028 ü"]
        events: list[Event] = [
            ClusterCreated("c1", "USD"),
            NodeBooted("node_1", "b", 1, 1, (piece,)),
            NodeTokenIssued("n ü", "00", 1),
            PolicyRemoved("Budget", "vision"),
            RoleGranted("ann", "viewer", ""),
            *(JobEnded("job_1.7", JobState.FAILED, text) for text in texts),
            *(StopRequested("att_1", EndCause.CANCELLED, 0, text, "job_2") for text in texts),
            *(SecretSet(text.replace('"', ""), "TOKEN", text) for text in texts[:2]),
        ]
        payloads = [*map(encode, events), *_payloads_of_schema_1()]
        store = SqliteStore(home)
        first = store.last_seq + 1
        store.append(Batch(events=[EventRow(first + n, 1, "ann", one) for n, one in enumerate(payloads)]))
        store.close()
        raw = sqlite3.connect(home / "bursard.db")
        found = raw.execute(
            "select kind, subject from events where seq >= ? order by seq", (first,)
        ).fetchall()
        raw.close()
        assert found == [head_of(payload) for payload in payloads]

    @pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff\x00", b'{"type":"', b'{"type":7}'])
    def test_bytes_that_are_no_event_are_kept_as_any_other(self, home: Path, payload: bytes) -> None:
        store = SqliteStore(home)
        store.append(Batch(events=[EventRow(5, 1, "ann", payload)]))
        assert store.events(after_seq=4)[0].payload == payload
        store.close()

    def test_old_events_get_kind_and_subject_and_keep_their_hashes(self, home: Path) -> None:
        raw = sqlite3.connect(home / "bursard.db", isolation_level=None)
        rows = raw.execute("select kind, subject from events order by seq").fetchall()
        assert rows == [("job-held", f"job_{seq}") for seq in range(1, 5)]
        before = raw.execute("select hash from events order by seq").fetchall()
        _back_to_schema_1(raw)
        raw.close()
        assert reopened(home) == []
        raw = sqlite3.connect(home / "bursard.db", isolation_level=None)
        assert raw.execute("select kind, subject from events order by seq").fetchall() == rows
        assert raw.execute("select hash from events order by seq").fetchall() == before
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute("update events set actor = 'x'")
        assert raw.execute("select seq, kind, ref from postings order by rowid").fetchall() == [
            (seq, "hold", "x") for seq in range(1, 5)
        ]
        raw.close()
        store = SqliteStore(home)
        assert store.balances() == {"a": 20, "b": -20}
        assert [line.nanos for line in store.entries()] == [5, -5] * 4
        store.close()


JOBS_OF_SCHEMA_1 = [columns for table, columns in m0001_initial._INDEXES if table == "jobs"]


def _payloads_of_schema_1() -> list[bytes]:
    """All that a daemon of the first release wrote."""
    folder = Path(__file__).parents[1] / "fixtures" / "schema-1"
    with tarfile.open(folder / "stopped.tar.gz") as archive, tempfile.TemporaryDirectory() as made:
        archive.extractall(made, filter="data")
        raw = sqlite3.connect(Path(made) / "daemon" / "bursard.db")
        found = [bytes(payload) for (payload,) in raw.execute("select payload from events order by seq")]
        raw.close()
    assert len(found) == 119
    return found


def _back_to_schema_2(raw: sqlite3.Connection) -> None:
    """What steps 7 to 3 did, undone: of a database that has no charges."""
    for view in ("charge_days", "charges"):
        raw.execute(f"drop view {view}")
    raw.execute("alter table jobs drop column nanos_high")
    tables = ("accounts", "attempts", "attributions", "sources", "postings", "charge_rows")
    for table in (*tables, "allocations", "posted", "corrections", "day_sums", "day_batches"):
        raw.execute(f"drop table {table}")
    raw.execute("drop index idx_events_brief")
    raw.execute("alter table events drop column brief")
    db = Database(raw)
    for table in ("charges", "entries"):
        columns = m0001_initial._TABLES[table]
        db.table(table).create(columns, not_null=set(columns), strict=True)
    db.table("charges").add_column("held_us", int, not_null_default=0)
    for table, keys in m0001_initial._INDEXES:
        if table in ("charges", "entries"):
            db.table(table).create_index(list(keys))
    for table in ("charges", "entries"):
        for verb in ("update", "delete"):
            raw.execute(f"create trigger {table}_refuse_{verb} before {verb} on {table} begin select 1; end")
    for seq in range(1, 5):
        raw.execute("insert into entries values (?, 'hold', 'a', 5, 'x')", (seq,))
        raw.execute("insert into entries values (?, 'hold', 'b', -5, 'x')", (seq,))
    raw.execute("update head set entries = 8")


def _back_to_schema_1(raw: sqlite3.Connection) -> None:
    """What steps 3 and 2 did, undone."""
    _back_to_schema_2(raw)
    for (name,) in raw.execute(
        "select name from sqlite_schema where type = 'index' and sql is not null and name like 'idx_%'"
        " and tbl_name in ('events', 'jobs')"
    ).fetchall():
        raw.execute(f"drop index {name}")
    for column in ("subject", "kind", "opening"):
        raw.execute(f"alter table events drop column {column}")
    for columns in JOBS_OF_SCHEMA_1:
        raw.execute(f"create index idx_jobs_{'_'.join(columns)} on jobs ({', '.join(columns)})")
    raw.execute("alter table charges drop column held_us")
    raw.execute("delete from _sqlite_migrations where name <> '0001_initial'")
    raw.execute("pragma user_version = 1")
