"""Every row follows from the log: an edit of any column of any table is found, and named."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from growth_bench import load

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.model import JobState
from bursard import doctor
from bursard.backup import accept_loss, inspect
from bursard.state import documents
from bursard.store import ScratchStore, SqliteStore, days
from bursard.store.home import DATABASE

growth = load()


def _live(store: SqliteStore) -> growth.Day:  # type: ignore[name-defined]
    """Four jobs that ended, two that run, an hour that is over."""
    day = growth.Day(store, 2)
    for _ in range(2):
        day.start_jobs(9 * HOUR_US)
        for _ in range(45):
            day.clock.advance(growth.MINUTE_US)
            day.meter()
        day.end_jobs()
    day.start_jobs(9 * HOUR_US)
    day.clock.advance(growth.MINUTE_US)
    day.meter()
    return day


async def _life(directory: Path) -> None:
    store = SqliteStore(directory)
    day = _live(store)
    await day.engine.save_snapshot()
    day.clock.advance(growth.MINUTE_US)
    day.meter()
    await day.engine.save_snapshot()
    day.clock.advance(growth.MINUTE_US)
    day.meter()
    await day.engine.durable()
    store.set_meta("clock", "1")
    await day.engine.writer.close()
    store.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("kept") / "state"
    asyncio.run(_life(directory))
    assert inspect(directory).problems == ()
    return (directory / DATABASE).read_bytes()


def changed(legs: bytes, position: int, account: str | int | None, more: int) -> bytes:
    """The lines of a posting with one of them changed."""
    flat = msgspec.msgpack.decode(legs)
    flat[2 * position] = flat[2 * position] if account is None else account
    flat[2 * position + 1] += more
    return msgspec.msgpack.encode(flat)


def edit(file: Path, *statements: str) -> None:
    """What somebody does who knows SQLite: guards away, the edit, guards back."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.create_function("changed", 4, changed)
    connection.execute("begin")
    guards = connection.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"drop trigger {name}")
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, statement
    for _, sql in guards:
        connection.execute(sql)
    connection.execute("commit")
    connection.close()


def after(kept: bytes, folder: Path, change: Callable[[Path], None]) -> tuple[str, ...]:
    """What an audit says of the books after a change."""
    folder.mkdir(exist_ok=True, mode=0o700)
    file = folder / DATABASE
    file.write_bytes(kept)
    change(file)
    return inspect(folder).problems


USAGE = "where rowid = (select id from charges where kind = 'usage' order by nanos desc limit 1)"
JOB = "where number = 2"
POSTED = "where rowid = (select max(rowid) from postings where kind = 'usage')"
"""Its lines: node, job, and of the budget held and settled."""

CHARGES = {
    "project": "'innocent'", "user": "'somebody'", "experiment": "'ex'", "model": "'mm'",
    "model_version": "'7'", "labels": "'{}'", "job_number": "9", "job_id": "'job_9'", "node_name": "'other'",
    "pool": "'aws'", "simulated": "1", "price_id": "'x'", "start_at": "start_at + 1",
    "span_us": "span_us - 1", "held_us": "held_us + 1", "nanos": "nanos + 1", "gpu": "gpu + 1",
    "cpu": "cpu + 1", "memory": "memory + 1", "rank": "1",
    "kind": "'idle'", "node_id": "'node_9'", "attempt_id": "'att_9'",
}  # fmt: skip
JOBS = {
    "number": "99", "parent_id": "'job_9'", "array_index": "3", "name": "'x'", "project": "'zzz'",
    "user": "'bob'", "experiment": "'x'", "model": "'x'", "model_version": "'x'", "labels": "'{}'",
    "state": "'FAILED'", "priority": "7", "submitted_at": "submitted_at + 1",
    "started_at": "started_at + 1", "finished_at": "finished_at + 1",
    "settled_nanos": "settled_nanos + 1000000", "currency": "'EUR'",
}  # fmt: skip
SHARED = {
    "attributions": ("project", "user", "experiment", "model", "model_version", "labels"),
    "sources": ("node_id", "node_name", "pool", "simulated", "price_id"),
    "attempts": ("attempt_id", "job_id"),
}


def charge(name: str) -> tuple[str, ...]:
    """What changes one column of the largest charge: of what rows share, with a set of its own."""
    for table, columns in SHARED.items():
        if name in columns:
            kept = f"(select {table[:-1]} from charge_rows {USAGE})"
            values = ", ".join(CHARGES[one] if one == name else f'"{one}"' for one in columns)
            return (
                f"insert into {table} select 999, {values} from {table} where id = {kept}",
                f"update charge_rows set {table[:-1]} = 999 {USAGE}",
            )
    return (f"update charge_rows set {name} = {CHARGES[name]} {USAGE}",)


PLANTED = {
    **{f"charges {name}": charge(name) for name in CHARGES},
    **{f"jobs {name}": (f"update jobs set {name} = {to} {JOB}",) for name, to in JOBS.items()},
    "charges seq": (f"update charge_rows set seq = seq + 1 {USAGE}",),
    "charges of nobody known": (f"update charge_rows set attribution = 998 {USAGE}",),
    "entries account of a job": (f"update postings set legs = changed(legs, 1, 'job/other', 0) {POSTED}",),
    "entries account of a budget": (
        "update postings set legs = changed(legs, 3, (select max(id) from accounts where name like"
        f" '%/available'), 0) {POSTED}",
    ),
    "entries name of an account": ("update accounts set name = name || 'x' where name like 'node/%'",),
    "entries a pair": (
        f"update postings set legs = changed(changed(legs, 1, null, 5), 0, null, -5) {POSTED}",
    ),
    "entries that cannot be read": (f"update postings set legs = x'c1' {POSTED}",),
    "entries ref": (
        "insert into attempts select 999, 'att_x', job_id from attempts where id ="
        f" (select attempt from postings {POSTED})",
        f"update postings set attempt = 999 {POSTED}",
    ),
    "entries ref beside an attempt": (f"update postings set ref = 'x' {POSTED}",),
    "entries job of a hold": (
        "insert into attempts select 999, attempt_id, 'job_9' from attempts where id ="
        " (select attempt from postings where kind = 'hold')",
        "update postings set attempt = 999 where rowid = (select rowid from postings where kind = 'hold')",
    ),
    "postings of no attempt": (
        "update postings set attempt = 999 where rowid ="
        " (select max(rowid) from postings where kind = 'idle')",
    ),
    "charge_rows of no attempt": (
        "update charge_rows set attempt = -1 where rowid ="
        " (select max(rowid) from charge_rows where kind = 'idle')",
    ),
    "head twice": ("insert into head select 2, seq, hash, charges, entries from head",),
    "head of another number": ("update head set id = 2",),
    "steps one gone": ("delete from _sqlite_migrations where name = '0001_initial'",),
    "steps of another name": ("update _sqlite_migrations set name = name || 'x'",),
    "steps that were never made": (
        "insert into _sqlite_migrations (id, migration_set, name, applied_at)"
        " values (99, 'other', '0001_theirs', '')",
    ),
    "steps fewer than the schema says": ("pragma user_version = 4",),
    "_sqlite_migrations applied_at": (
        "update _sqlite_migrations set applied_at = '2020-01-01' where name = '0003_compact_ledger'",
    ),
    "steps of another program": ("update _sqlite_migrations set migration_set = 'x'",),
    "entries tx_kind": (f"update postings set kind = 'roll' {POSTED}",),
    "entries seq": (f"update postings set seq = seq - 1 {POSTED}",),
    "jobs a row deleted": (f"delete from jobs {JOB}",),
    "jobs a row invented": (
        "insert into jobs select 'job_new', 77, parent_id, array_index, name, project, user, experiment,"
        " model, model_version, labels, state, priority, submitted_at, started_at, finished_at,"
        f" settled_nanos, currency, document, nanos_high from jobs {JOB}",
    ),
    "jobs document of another": (
        f"update jobs set document = (select document from jobs where number = 1) {JOB}",
    ),
    "jobs document damaged": (
        "update jobs set document ="
        f" cast(substr(document, 1, 40) || x'ff' || substr(document, 42) as blob) {JOB}",
    ),
    "keys job": ("update keys set job_id = 'job_9' where rowid = 1",),
    "keys digest": ("update keys set digest = zeroblob(32) where rowid = 1",),
    "meta epoch": ("update meta set value = '77' where key = 'epoch'",),
    "meta event_schema": ("update meta set value = '0' || value where key = 'event_schema'",),
    "meta clock": ("update meta set value = '2' where key = 'clock'",),
    "meta clock gone": ("delete from meta where key = 'clock'",),
    "meta new": ("insert into meta values ('new', '1')",),
    "meta seal": ("update meta set value = replace(value, 'clock', 'clack') where key = 'seal'",),
    "meta seal damaged": ("update meta set value = '{' where key = 'seal'",),
    "snapshots hash": ("update snapshots set hash = zeroblob(32)",),
    "snapshots data": ("update snapshots set data = x'00' where seq = (select max(seq) from snapshots)",),
    "snapshots seq": ("update snapshots set seq = seq - 1 where seq = (select min(seq) from snapshots)",),
    "snapshots invented": ("insert into snapshots select 1000000, hash, data from snapshots limit 1",),
    "keys deleted": ("delete from keys where rowid = 1",),
    "keys invented": ("insert into keys select user, 'new', job_id, digest from keys limit 1",),
}  # fmt: skip


def in_images(file: Path, old: bytes, new: bytes) -> None:
    """Change one value in the older image: a start takes images for the events before them."""
    connection = sqlite3.connect(file)
    seq, packed = connection.execute("select seq, data from snapshots order by seq").fetchone()
    data = zlib.decompress(packed)
    changed = data.replace(old, new, 1)
    assert changed != data, old
    connection.execute("update snapshots set data = ? where seq = ?", (zlib.compress(changed), seq))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (b'"currency":"USD"', b'"currency":"EUR"', "currency is 'EUR', the log says 'USD'"),
        (b'"cluster_id":"c1"', b'"cluster_id":"c2"', "cluster_id"),
        (b'"next_number":7', b'"next_number":8', "next_number is 8, the log says 7"),
        (b'"through":', b'"through":1', "nodes[0].through"),
        (b'"settled_nanos":', b'"settled_nanos":1', "jobs."),
        (b'"period_end":', b'"period_end":1', "budgets[0].period_end"),
        (b'"closed_nanos":', b'"closed_nanos":1', "ledger.closed_nanos"),
        (b'["budget/vision/', b'["budget/vsiion/', "ledger.balances"),
        (b'"version":1', b'"version":2', "version"),
        (b'"submitted_at":', b'"submitted_at":1', "submitted_at"),
    ],
)
def test_a_value_that_was_changed_in_an_image_is_named(
    kept: bytes, tmp_path: Path, old: bytes, new: bytes, path: str
) -> None:
    found = after(kept, tmp_path / "state", lambda file: in_images(file, old, new))
    assert any(line.startswith("snapshots: the image of event ") and path in line for line in found), found


def test_a_note_that_was_changed_stays_told_after_it_was_written_over(kept: bytes, tmp_path: Path) -> None:
    found = after(kept, tmp_path / "state", lambda file: edit(file, *PLANTED["meta epoch"]))
    again = inspect(tmp_path / "state").problems
    assert [line for line in found if line.startswith("meta: epoch is '78'")]
    assert [line for line in again if line.startswith("meta: epoch is '79'")]


SEAL_GONE = "meta: seal is gone, so nothing shows whether another note was changed"


def test_a_seal_that_was_removed_is_told_and_not_made_anew(
    kept: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    gone = "delete from meta where key = 'seal'"
    assert after(kept, state, lambda file: edit(file, gone, *PLANTED["meta clock"])) == (SEAL_GONE,)
    assert caplog.messages == [
        f"{SEAL_GONE}; `bursar audit accept-loss --state-dir DIR` takes the notes as they are"
    ]
    assert inspect(state).problems == (SEAL_GONE,)
    known, ends = accept_loss(state)
    assert known == ends
    assert inspect(state).problems == ()
    edit(state / DATABASE, "update meta set value = '3' where key = 'clock'")
    assert inspect(state).problems == ("meta: clock is '3', not what was written, or it was changed once",)
    with pytest.raises(InvalidRequest, match="nothing is missing"):
        accept_loss(state)


def test_a_new_database_has_its_seal_before_its_first_event(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "state").close()
    edit(tmp_path / "state" / DATABASE, "delete from meta where key = 'seal'")
    assert inspect(tmp_path / "state").findings[:1] == (SEAL_GONE,)


EXTRA = {
    "accounts": ("insert into accounts values (999, 'budget/x')", "no entry names row 999 (budget/x), so"),
    "attributions": (
        "insert into attributions select 999, 'x', user, experiment, model, model_version, labels"
        " from attributions limit 1",
        "no charge or entry names row 999, so",
    ),
    "sources": (
        "insert into sources select 999, node_id, node_name, 'x', simulated, price_id from sources limit 1",
        "no charge or entry names row 999, so",
    ),
    "attempts": ("insert into attempts values (999, 'a', 'j')", "no charge or entry names row 999, so"),
    "allocations": (
        "insert into allocations values (999, 1, 1, 1, 1, 1, 1, 1)",
        "no charge or entry names row 999, so",
    ),
    "corrections": (
        "insert into corrections values (999, 1, 1, 1, 'x')",
        "no charge or entry names row 999, so",
    ),
    "posted": ("insert into posted values (3, 1)", "there is a row of event 3, which was not archived, so"),
}


@pytest.mark.parametrize("table", EXTRA)
def test_a_row_that_nothing_refers_to_is_named_alone(kept: bytes, tmp_path: Path, table: str) -> None:
    statement, said = EXTRA[table]
    found = after(kept, tmp_path / "state", lambda file: edit(file, statement))
    assert found == (f"{table}: {said} nobody wrote it",)


def test_a_changed_record_of_a_step_is_named_alone(kept: bytes, tmp_path: Path) -> None:
    (found,) = after(
        kept, tmp_path / "state", lambda file: edit(file, *PLANTED["_sqlite_migrations applied_at"])
    )
    assert found.startswith("_sqlite_migrations: applied_at of 0003_compact_ledger is '2020-01-01', not '20")


def test_an_image_of_an_older_format_is_no_finding(kept: bytes, tmp_path: Path) -> None:
    assert after(kept, tmp_path / "s", lambda f: in_images(f, b'"format":2', b'"format":1')) == ()


@pytest.mark.parametrize("plant", PLANTED)
def test_an_edit_of_any_row_is_found_and_its_table_named(kept: bytes, tmp_path: Path, plant: str) -> None:
    found = after(kept, tmp_path / "state", lambda file: edit(file, *PLANTED[plant]))
    table, column = plant.split(" ")[:2]
    assert any(line.startswith(table) for line in found), found
    if plant == f"jobs {column}":
        assert any(f"{column} of job_" in line for line in found), found


@pytest.mark.parametrize(
    ("plant", "table"),
    [
        ("update day_sums set nanos_low = nanos_low + 1 where rowid = 2", "day_sums"),
        ("delete from day_batches", "day_sums"),
        ("update day_batches set upto = upto + 1", "day_batches"),
    ],
)
def test_sums_of_days_that_the_charges_do_not_bear_out_are_found(
    kept: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, table: str
) -> None:
    monkeypatch.setattr(days, "DAY_ROWS", 2)
    monkeypatch.setattr(days, "BATCH_ROWS", 3)
    assert after(kept, tmp_path / "state", lambda file: None) == ()
    store = SqliteStore(tmp_path / "state")
    assert store.sum_days()
    store.close()
    assert inspect(tmp_path / "state").problems == ()
    edit(tmp_path / "state" / DATABASE, plant)
    assert [line.split(":")[0] for line in inspect(tmp_path / "state").problems] == [table]


@pytest.mark.parametrize("name", ["project", "user", "labels", "pool", "simulated", "node_name"])
def test_a_column_of_a_charge_is_named_with_what_it_should_say(
    kept: bytes, tmp_path: Path, name: str
) -> None:
    (found,) = after(kept, tmp_path / "state", lambda file: edit(file, *charge(name)))
    assert f": {name} is {CHARGES[name].strip()}, not " in found


def test_a_document_that_was_rewritten_is_found(kept: bytes, tmp_path: Path) -> None:
    def rewrite(file: Path) -> None:
        connection = sqlite3.connect(file)
        ((job_id, document),) = connection.execute(f"select id, document from jobs {JOB}")
        record = documents.decode(document)
        changed = msgspec.structs.replace(record, state=JobState.FAILED, exit_code=1)
        connection.execute(
            "update jobs set document = ? where id = ?", (documents.encode(changed, None), job_id)
        )
        connection.commit()
        connection.close()

    (found,) = after(kept, tmp_path / "state", rewrite)
    assert found.startswith("jobs: the document of job_")
    assert "is not what event" in found


def _spaced(document: bytes) -> bytes:
    return msgspec.json.format(msgspec.json.encode(documents.decode(document)), indent=1)


def _twice(document: bytes) -> bytes:
    """The same field before, with another value, which no reader of it sees."""
    text = msgspec.json.encode(documents.decode(document))
    return b'{"id":"job_other",' + text[1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document + b"garbage", "7 bytes follow its end"),
        (lambda document: document + b"\0", "1 bytes follow its end"),
        (lambda document: document[:-1], "ends too early"),
        (_spaced, "not written as a document is"),
        (_twice, "not written as a document is"),
    ],
)
def test_bytes_of_a_document_that_nobody_reads_are_found(
    kept: bytes, tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    def rewrite(file: Path) -> None:
        connection = sqlite3.connect(file)
        ((job_id, document),) = connection.execute(f"select id, document from jobs {JOB}")
        connection.execute("update jobs set document = ? where id = ?", (change(document), job_id))
        connection.commit()
        connection.close()

    (found,) = after(kept, tmp_path / "state", rewrite)
    assert re.fullmatch(rf"jobs: the document of job_\S+ is damaged \(ValueError: .*{said}.*\)", found)


def test_a_document_of_the_first_schema_is_plain_text_and_whole(kept: bytes, tmp_path: Path) -> None:
    def rewrite(file: Path) -> None:
        connection = sqlite3.connect(file)
        ((job_id, document),) = connection.execute(f"select id, document from jobs {JOB}")
        plain = msgspec.json.encode(documents.decode(document))
        connection.execute("update jobs set document = ? where id = ?", (plain, job_id))
        connection.commit()
        connection.close()

    assert after(kept, tmp_path / "state", rewrite) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop trigger charge_rows_refuse_update", "the trigger charge_rows_refuse_update is gone"),
        ("drop trigger events_refuse_delete", "the trigger events_refuse_delete is gone"),
        ("drop index idx_charge_rows_job_number", "the index idx_charge_rows_job_number is gone"),
        (
            "create trigger t after insert on charge_rows begin delete from charge_rows where nanos = 1; end",
            "there is a trigger t of another program",
        ),
    ],
)
def test_a_guard_or_index_that_is_not_as_it_was_made_is_named(
    kept: bytes, tmp_path: Path, change: str, said: str
) -> None:
    def plant(file: Path) -> None:
        connection = sqlite3.connect(file)
        connection.execute(change)
        connection.close()

    assert after(kept, tmp_path / "state", plant) == (said,)


def test_a_guard_that_lets_changes_pass_is_named(kept: bytes, tmp_path: Path) -> None:
    def weaken(file: Path) -> None:
        connection = sqlite3.connect(file)
        connection.execute("drop trigger postings_refuse_delete")
        connection.execute(
            "create trigger postings_refuse_delete before delete on postings when 0 begin"
            " select raise(abort, 'no'); end"
        )
        connection.close()

    said = "the trigger postings_refuse_delete is not as this version makes it"
    assert after(kept, tmp_path / "state", weaken) == (said,)


@pytest.mark.parametrize("column", ["kind", "subject", "opening", "brief"])
def test_what_sqlite_reads_from_a_payload_cannot_be_written(kept: bytes, tmp_path: Path, column: str) -> None:
    file = tmp_path / DATABASE
    file.write_bytes(kept)
    connection = sqlite3.connect(file)
    connection.execute("drop trigger events_refuse_update")
    with pytest.raises(sqlite3.OperationalError, match="cannot UPDATE generated column"):
        connection.execute(f"update events set {column} = 'x' where seq = 3")
    connection.close()


def test_the_live_check_finds_what_the_check_of_a_copy_finds() -> None:
    async def play() -> None:
        store = ScratchStore()
        day = _live(store)
        await day.engine.durable()
        assert [one.message for one in doctor.check_store(store, True) if not one.ok] == []
        with store._reading() as connection:
            connection.create_function("changed", 4, changed)
            connection.execute("drop trigger charge_rows_refuse_update")
            sql = connection.execute(
                "select sql from sqlite_schema where name = 'postings_refuse_update'"
            ).fetchone()[0]
            connection.execute("drop trigger postings_refuse_update")
            for statement in PLANTED["entries account of a job"]:
                connection.execute(statement)
            connection.execute(sql)
        (broken,) = [one for one in doctor.check_store(store, True) if not one.ok]
        assert "charge_rows_refuse_update is gone" in broken.message
        assert "job/other" in broken.message
        await day.engine.writer.close()

    asyncio.run(play())
