"""Backups: taken beside a writer, tried, put back; and what a log says that goes on from an earlier point."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import tarfile
from pathlib import Path

import pytest

from bursar.clock import Instant, VirtualClock
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable, WrongState
from bursar.ids import SequentialIds
from bursar.model import JobState
from bursar_agent.statedir import LogEnd, StateDir
from bursar_policies.document import parse_documents
from bursard import backup, replay, startup
from bursard.backup import places
from bursard.backup.inspect import _ends as twice
from bursard.engine import Engine
from bursard.events import SCHEMA, JobEnded, LogResumed, decode, encode
from bursard.state import Limits, State
from bursard.state import image as state_image
from bursard.store import Batch, EventRow, LogHead, PostingRow, SqliteStore
from bursard.store.headfile import NAME as HEAD
from bursard.writer import Writer

NOW = Instant(1_795_000_000_000_000)
FIXTURES = Path(__file__).parents[1] / "fixtures/schema-1"
BUDGET = "kind: Budget\nname: vision\nspec: {scope: {project: vision}, limit: 5 USD, period: month}\n"


def start(directory: Path, keep: bool = False) -> tuple[State, SqliteStore]:
    """A start as the daemon's, up to its first events; closed unless `keep`."""

    async def run() -> tuple[State, SqliteStore]:
        store = SqliteStore(directory)
        state = replay.restore(store, Limits())
        writer = Writer(store)
        engine = Engine(state, store, writer, VirtualClock(NOW), SequentialIds())
        startup.first_events(engine, "USD", parse_documents(BUDGET, "shipped"))
        await writer.close()
        if not keep:
            store.close()
        return state, store

    return asyncio.run(run())


def take(directory: Path, out: Path) -> backup.Manifest:
    return backup.take(directory, out, VirtualClock(NOW), "0.1.0")[0]


def note(store: SqliteStore, seq: int = 0) -> None:
    """One more event; what it says does not matter here."""
    at = store.last_seq + 1
    payload = encode(LogResumed("accepted", 7, 9, 1, 5, "ann"))
    store.append(Batch(events=[EventRow(at, NOW, "ann", payload)]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "site" / "books"
    start(directory)
    return directory


@pytest.fixture
def schema_1(tmp_path: Path) -> Path:
    """The directory of a `bursar up` of the first release, killed."""
    folder = tmp_path / "old"
    with tarfile.open(FIXTURES / "killed.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_backup_taken_beside_a_writer_says_what_it_holds(tmp_path: Path) -> None:
    directory = tmp_path / "books"
    _, store = start(directory, keep=True)
    out = tmp_path / "b.tar"
    manifest = take(directory, out)
    head = store.head
    note(store)  # the writer was not disturbed
    store.close()
    assert (manifest.seq, manifest.hash) == (head.seq, head.hash.hex())
    assert (manifest.cluster_id, manifest.epoch, manifest.event_schema) == ("cluster_0000000001", 1, SCHEMA)
    assert manifest.layout == "plain"
    assert backup.read_manifest(out) == manifest
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()].count("b.tar") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"books", "b.tar"}


def test_a_backup_holds_the_database_alone(home: Path, tmp_path: Path) -> None:
    (home / "secrets.key").write_bytes(b"the key")
    take(home, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as archive:
        assert archive.getnames() == ["manifest.json", "bursard.db"]
    assert b"the key" not in (tmp_path / "b.tar").read_bytes()


def test_a_backup_of_a_killed_daemon_has_what_its_write_ahead_log_holds(
    schema_1: Path, tmp_path: Path
) -> None:
    manifest = take(schema_1, tmp_path / "b.tar")
    assert (manifest.seq, manifest.layout) == (107, "up")
    assert manifest.event_schema == 1


def test_a_damaged_database_makes_no_backup_and_leaves_the_old_one(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tar"
    take(home, out)
    before = out.read_bytes()
    connection = sqlite3.connect(home / "bursard.db")
    connection.execute("drop trigger events_refuse_update")
    connection.execute("update events set at = at + 1 where seq = 1")
    connection.commit()
    connection.close()
    with pytest.raises(BursarError, match=r"damaged, so no backup was made: .*event 1.*bursar restore FILE"):
        take(home, out)
    assert out.read_bytes() == before


def test_a_directory_without_books_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"holds no bursard\.db.*--state-dir"):
        take(tmp_path, tmp_path / "b.tar")


@pytest.mark.parametrize("out", ["", "nowhere/b.tar"])
def test_an_impossible_file_is_refused_before_anything_is_copied(
    out: str, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="--out: "):
        take(home, tmp_path / out)


# --- trying one


def test_a_drill_finds_nothing_wrong_with_a_good_backup(home: Path, tmp_path: Path) -> None:
    manifest = take(home, tmp_path / "b.tar")
    said, report = backup.drill(tmp_path / "b.tar")
    assert said == manifest
    assert report.problems == ()
    assert (report.seq, report.hash, report.budgets) == (manifest.seq, manifest.hash, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"site", "b.tar"}


def test_a_drill_of_the_first_release_adds_up(schema_1: Path, tmp_path: Path) -> None:
    take(schema_1, tmp_path / "b.tar")
    _, report = backup.drill(tmp_path / "b.tar")
    assert report.problems == ()
    assert (report.jobs_live, report.attempts_live) == (3, 1)


def repacked(source: Path, target: Path, **changes: object) -> Path:
    """The same backup with another manifest."""
    with tarfile.open(source) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        archive.extract("bursard.db", target.parent / "x", filter="data")
    database = target.parent / "x" / "bursard.db"
    note_file = target.parent / "x" / "manifest.json"
    note_file.write_text(json.dumps({**manifest, **changes}))
    with tarfile.open(target, "w") as archive:
        archive.add(note_file, "manifest.json")
        archive.add(database, "bursard.db")
    return target


def test_a_manifest_that_tells_another_story_is_a_finding(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    changed = repacked(tmp_path / "b.tar", tmp_path / "c.tar", seq=99)
    _, report = backup.drill(changed)
    assert report.damage == ("the manifest says seq 99, the database has 3",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq", 99), ("seq", 2**70), ("seq", -1), ("hash", "00" * 32), ("tables_schema", 1),
        ("event_schema", 2), ("epoch", 7), ("epoch", -1), ("cluster_id", "cluster_other"),
        ("created_at", "\x1b[2J"), ("version", "1\n2"), ("hash", "0" * 200),
    ],
)  # fmt: skip
def test_nothing_is_restored_of_a_manifest_that_its_database_does_not_bear_out(
    home: Path, tmp_path: Path, name: str, value: object
) -> None:
    take(home, tmp_path / "b.tar")
    changed = repacked(tmp_path / "b.tar", tmp_path / "c.tar", **{name: value})
    with pytest.raises(BursarError, match=rf"c\.tar is (damaged and was not restored|no backup).*{name}"):
        backup.restore(changed, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_changed_byte_of_the_database_is_found(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    data = bytearray((tmp_path / "b.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(BursarError, match="its database is not the one that was backed up"):
        backup.drill(tmp_path / "b.tar")


@pytest.mark.parametrize(
    "data", [b"", b"\7" * 4096, b"SQLite format 3\0" + bytes(4000), None], ids=["empty", "noise", "db", "cut"]
)
def test_what_is_no_backup_is_said_to_be_none(data: bytes | None, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tar"
    take(home, out)
    out.write_bytes(out.read_bytes()[:5000] if data is None else data)
    for call in (lambda: backup.drill(out), lambda: backup.restore(out, tmp_path / "new")):
        with pytest.raises(BursarError, match=r"b\.tar"):
            call()
    assert not (tmp_path / "new").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"site", "b.tar"}


def test_a_backup_of_a_later_form_names_the_version_to_use(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    later = repacked(tmp_path / "b.tar", tmp_path / "c.tar", format=2, version="9.9")
    with pytest.raises(InvalidRequest, match=r"format 2; this version reads up to 1: .*version 9\.9"):
        backup.drill(later)


def test_a_missing_file_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        backup.drill(tmp_path / "none.tar")


# --- putting it back


def test_a_restored_log_says_so_with_its_next_start(home: Path, tmp_path: Path) -> None:
    manifest = take(home, tmp_path / "b.tar")
    found, directory, report = backup.restore(tmp_path / "b.tar", tmp_path / "new")
    assert (found, directory, report.problems) == (manifest, tmp_path / "new", ())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    state, store = start(directory, keep=True)
    (resumed,) = [decode(row.payload) for row in store.events(manifest.seq)]
    assert isinstance(resumed, LogResumed)
    assert (resumed.cause, resumed.through, resumed.known_seq) == ("restored", manifest.seq, 0)
    assert resumed.epoch == store.epoch == manifest.epoch + 1_000_001
    assert resumed.next_number == 11_001
    assert state.next_number == 11_001
    assert (state.resumed_through, state.resumed_epoch) == (manifest.seq, store.epoch)
    store.close()
    again, store = start(directory, keep=True)
    assert store.events(manifest.seq + 1) == []  # once
    assert again.next_number == 11_001
    store.close()


def test_numbers_of_a_large_site_jump_by_half_of_all_there_were(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    _, directory, _ = backup.restore(tmp_path / "b.tar", tmp_path / "new")

    async def run() -> int:
        store = SqliteStore(directory)
        state = replay.restore(store, Limits())
        state.next_number = 100_001
        writer = Writer(store)
        engine = Engine(state, store, writer, VirtualClock(NOW), SequentialIds())
        startup.first_events(engine, "USD", ())
        await writer.close()
        store.close()
        return state.next_number

    assert asyncio.run(run()) == 151_001


def test_an_image_keeps_where_a_log_went_on(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    _, directory, _ = backup.restore(tmp_path / "b.tar", tmp_path / "new")
    state, _ = start(directory)
    again = state_image.decode(state_image.encode(state, NOW))
    assert (again.resumed_through, again.resumed_epoch) == (state.resumed_through, state.resumed_epoch)


def test_a_backup_of_a_restored_log_can_be_restored(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    _, directory, _ = backup.restore(tmp_path / "b.tar", tmp_path / "new")
    first, _ = start(directory)
    take(directory, tmp_path / "c.tar")
    _, directory, _ = backup.restore(tmp_path / "c.tar", tmp_path / "newer")
    state, _ = start(directory)
    assert state.resumed_through == first.version
    assert state.resumed_epoch > first.resumed_epoch
    assert state.next_number > first.next_number


@pytest.mark.parametrize("held", ["bursard.db", "notes.txt"])
def test_a_directory_that_is_not_empty_is_never_written_to(held: str, home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / held).write_text("mine")
    with pytest.raises(WrongState, match=rf"is not empty \(it holds {held}\): move it away first.*mv "):
        backup.restore(tmp_path / "b.tar", tmp_path / "new")
    assert (tmp_path / "new" / held).read_text() == "mine"


def test_a_directory_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    directory = tmp_path / "books"
    _, store = start(directory, keep=True)
    take(directory, tmp_path / "b.tar")
    with pytest.raises(WrongState, match=rf"in use by another bursard \(pid {os.getpid()}\)"):
        backup.restore(tmp_path / "b.tar", directory)
    store.close()


def test_an_empty_directory_is_taken(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "b.tar")
    (tmp_path / "new").mkdir()
    assert backup.restore(tmp_path / "b.tar", tmp_path / "new")[1] == tmp_path / "new"


def test_books_of_bursar_up_go_back_to_where_bursar_up_looks(schema_1: Path, tmp_path: Path) -> None:
    take(schema_1, tmp_path / "b.tar")
    assert backup.restore(tmp_path / "b.tar", tmp_path / "new")[1] == tmp_path / "new" / "daemon"
    shutil.rmtree(schema_1 / "daemon")  # the agents' directories stay
    assert backup.restore(tmp_path / "b.tar", schema_1)[1] == schema_1 / "daemon"
    (schema_1 / "daemon").rename(tmp_path / "away")
    assert backup.restore(tmp_path / "b.tar", schema_1 / "daemon")[1] == schema_1 / "daemon"
    state, _ = start(schema_1 / "daemon")
    assert state.cluster_id == "cluster_42j2gpz26nqkdc25"


def test_books_of_a_service_go_where_they_are_told(home: Path, tmp_path: Path) -> None:
    assert places.target(tmp_path / "x", places.PLAIN) == tmp_path / "x"
    (tmp_path / "up" / "agents").mkdir(parents=True)
    assert places.target(tmp_path / "up", places.PLAIN) == tmp_path / "up" / "daemon"


# --- giving events up


def shortened(tmp_path: Path) -> Path:
    """A killed daemon's directory without its write-ahead log."""
    live = tmp_path / "live"
    _, store = start(live, keep=True)
    connection = sqlite3.connect(live / "bursard.db")
    connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    connection.close()
    for _ in range(3):
        note(store)
    left = tmp_path / "left"
    shutil.copytree(live, left)
    store.close()
    (left / "bursard.db-wal").unlink()
    (left / "bursard.db-shm").unlink(missing_ok=True)
    return left


def test_a_shorter_log_is_a_finding_of_the_audit(tmp_path: Path) -> None:
    left = shortened(tmp_path)
    report = backup.audit(left)
    (problem,) = report.problems
    assert "ends at event 3, but event 6 was acknowledged" in problem


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_audit_says_when_it_could_not_see_a_shorter_log(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "books"
    start(directory)
    (directory / HEAD).unlink()
    if how == "damaged":
        (directory / HEAD).write_bytes(b"9 ff 00\n")
    report = backup.audit(directory)
    (problem,) = report.findings
    assert problem.startswith(f"{directory / HEAD} is {how}: were events cut off the end of the log")
    assert f"event {report.seq}" in problem
    start(directory)
    assert backup.audit(directory).problems == ()


def test_books_that_were_just_put_back_need_no_head(tmp_path: Path) -> None:
    start(tmp_path / "books")
    take(tmp_path / "books", tmp_path / "b.tar")
    _, directory, _ = backup.restore(tmp_path / "b.tar", tmp_path / "again")
    assert not (directory / HEAD).exists()
    assert backup.audit(directory).problems == ()


def test_damage_is_told_of_the_books_and_not_of_the_copy_that_was_read(tmp_path: Path) -> None:
    directory = tmp_path / "books"
    start(directory)
    data = bytearray((directory / "bursard.db").read_bytes())
    data[:16] = b"SQLite format 9\0"
    (directory / "bursard.db").write_bytes(data)
    (problem,) = backup.audit(directory).damage
    assert str(directory / "bursard.db") in problem
    assert ".bursar-copy-" not in problem


def test_a_loss_that_was_accepted_is_an_event_and_the_daemon_starts(tmp_path: Path) -> None:
    left = shortened(tmp_path)
    known, ends = backup.accept_loss(left)
    assert (known.seq, ends.seq) == (6, 3)
    state, store = start(left, keep=True)
    event = decode(store.events(3)[0].payload)
    assert isinstance(event, LogResumed)
    assert (event.cause, event.through, event.known_seq) == ("accepted", 3, 6)
    assert store.epoch == state.resumed_epoch == 1_000_002
    store.close()
    assert backup.audit(left).problems == ()


def test_nothing_is_given_up_when_nothing_is_missing(home: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing is missing: the log ends at event 3"):
        backup.accept_loss(home)
    (home / HEAD).unlink()
    with pytest.raises(InvalidRequest, match="nothing is missing"):
        backup.accept_loss(home)


@pytest.mark.parametrize("where", ["daemon/bursard.db", "daemon/new.tar", "new.tar", "agents/new.tar"])
def test_a_backup_is_not_written_into_a_state_directory(tmp_path: Path, where: str) -> None:
    up = served(tmp_path)
    before = {path: path.read_bytes() for path in sorted((up / "daemon").iterdir())}
    link = tmp_path / "link"
    link.symlink_to(up)
    for out in (up / where, link / where):
        with pytest.raises(InvalidRequest, match="a state directory of a bursard; name a file outside"):
            take(up, out)
    assert {path: path.read_bytes() for path in sorted((up / "daemon").iterdir())} == before


def test_a_pipe_is_no_backup_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match=r"pipe is no backup of Bursar: it is no plain file$"):
        backup.restore(tmp_path / "pipe", tmp_path / "s")


def test_a_backup_takes_the_place_of_an_older_one_alone(tmp_path: Path) -> None:
    up, out, other = served(tmp_path), tmp_path / "b.tar", tmp_path / "thesis.txt"
    take(up, out)
    take(up, out)
    other.write_text("years of work")
    with pytest.raises(InvalidRequest, match=r"thesis\.txt is there and is no backup"):
        take(up, other)
    assert other.read_text() == "years of work"
    start(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="a state directory of a bursard"):
        take(up, tmp_path / "elsewhere" / "b.tar")


def served(tmp_path: Path) -> Path:
    """The directory of a `bursar up` that has served: its daemon's books, an agent that was told of them."""
    start(tmp_path / "up" / "daemon")
    agent = tmp_path / "up" / "agents" / "local-1"
    agent.mkdir(parents=True)
    (agent / "log-end.json").write_text('{"cluster_id": "cluster_1", "seq": 812, "digest": "AAAA"}')
    (agent / "agent.json").write_text('{"epoch": 4, "spend_lease_us": 0}')
    return tmp_path / "up"


@pytest.mark.parametrize("how", ["removed", "emptied", "its database removed", "its files emptied"])
def test_books_that_are_gone_are_begun_anew_only_when_somebody_says_so_and_it_is_recorded(
    tmp_path: Path, how: str
) -> None:
    up = served(tmp_path)
    daemon = up / "daemon"
    if how == "its files emptied":
        for path in daemon.iterdir():
            os.truncate(path, 0)
    elif how == "its database removed":
        for path in daemon.glob("bursard.db*"):
            path.unlink()
        with pytest.raises(BursarError, match=f"bursar audit accept-loss --state-dir {daemon}"):
            start(daemon)
    else:
        shutil.rmtree(daemon)
        if how == "emptied":
            daemon.mkdir()
    known, ends = backup.accept_loss(up)
    assert (known.seq, ends.seq) == (812, 0)
    state, store = start(daemon, keep=True)
    told = [event for row in store.events(0) if isinstance(event := decode(row.payload), LogResumed)]
    assert [(each.cause, each.through, each.known_seq) for each in told] == [("accepted", 0, 812)]
    assert store.epoch == state.resumed_epoch == 1_000_005, "above what the agent obeyed"
    assert state.next_number == 11_001
    assert state.cluster_id == backup.goes_on_as(up) == "cluster_1", "its agents obey their own cluster alone"
    store.close()
    assert backup.audit(daemon).problems == ()
    start(daemon)  # and again: it is said once
    with pytest.raises(InvalidRequest, match="nothing is missing"):
        backup.accept_loss(tmp_path / "elsewhere")


def test_an_empty_log_goes_on_as_the_cluster_that_is_known_or_named_and_else_as_a_new_one(
    tmp_path: Path,
) -> None:
    known = tmp_path / "known" / "agents" / "local-1"
    known.mkdir(parents=True)
    (known / "agent.json").write_text('{"epoch": 7, "spend_lease_us": 0, "cluster_id": "cluster_7"}')
    (known / "log-end.json").write_text("damaged")
    named = tmp_path / "named" / "agents" / "local-1"
    named.mkdir(parents=True)
    (named / "agent.json").write_text('{"epoch": 7, "spend_lease_us": 0, "cluster_id": "\\u001b[0m"}')
    for place, asked, expected in (("known", "", "cluster_7"), ("named", "cluster_8", "cluster_8")):
        up = tmp_path / place
        with pytest.raises(InvalidRequest, match=r"--cluster-id: .* is no id"):
            backup.accept_loss(up, "a b")
        backup.accept_loss(up, asked)
        assert backup.goes_on_as(up) == expected, "before its first start"
        state, store = start(up / "daemon", keep=True)
        assert (state.cluster_id, state.resumed_epoch) == (expected, 1_000_008)
        store.close()
        with pytest.raises(InvalidRequest, match="--cluster-id is for an empty log"):
            backup.accept_loss(up, "cluster_9")
    other = tmp_path / "other" / "agents" / "local-1"
    other.mkdir(parents=True)
    (other / "agent.json").write_text('{"epoch": 7, "spend_lease_us": 0}')
    backup.accept_loss(tmp_path / "other")
    assert backup.goes_on_as(tmp_path / "other") == ""
    state, store = start(tmp_path / "other" / "daemon", keep=True)
    assert state.cluster_id == OURS
    store.close()


def test_more_events_that_are_gone_than_numbers_leave_room_for_each(tmp_path: Path) -> None:
    up = served(tmp_path)
    shutil.rmtree(up / "daemon")
    (up / "agents" / "local-1" / "log-end.json").write_text(
        '{"cluster_id": "cluster_1", "seq": 812000, "digest": "AAAA"}'
    )
    backup.accept_loss(up)
    state, store = start(up / "daemon", keep=True)
    assert state.next_number == 813_001, "each job that was lost took an event"
    store.close()


OURS = "cluster_0000000001"


def test_a_log_that_an_agent_knows_more_of_can_be_accepted(tmp_path: Path) -> None:
    up = served(tmp_path)
    known, ends = backup.accept_loss(up)
    assert (known.seq, ends.seq) == (812, 3)
    tell(up, "local-1", OURS, ends)
    with pytest.raises(InvalidRequest, match="nothing is missing: the log ends at event 3"):
        backup.accept_loss(up)


def tell(up: Path, agent: str, cluster_id: str, end: LogHead, epoch: int = 4) -> None:
    """What an agent of `up` remembers."""
    folder = StateDir(up / "agents" / agent)
    folder.persist(epoch, 0)
    folder.remember_log_end(LogEnd(cluster_id, end.seq, end.hash))
    folder.close()


@pytest.mark.parametrize("theirs", ["of another cluster", "newer", "of another history"])
def test_books_that_the_agents_beside_them_do_not_know_are_begun_with_only_when_somebody_says_so(
    tmp_path: Path, theirs: str
) -> None:
    up, daemon = tmp_path / "up", tmp_path / "up" / "daemon"
    _, store = start(daemon, keep=True)
    ours = store.head
    store.close()
    told = ours if theirs == "of another cluster" else LogHead(3 if "history" in theirs else 4, b"\x01" * 32)
    tell(up, "local-1", OURS, ours)
    tell(up, "local-2", "cluster_9" if theirs == "of another cluster" else OURS, told)
    lacks = {
        "of another cluster": "holds the books of cluster_0000000001, but agent local-2 beside it was told of"
        " event 3 of cluster_9: it belongs to another cluster",
        "newer": "ends at event 3, but agent local-2 beside it was told of event 4, which it lacks",
        "of another history": "ends at event 3, but agent local-2 beside it was told of event 3, which it",
    }[theirs]
    with pytest.raises(StoreUnavailable, match=lacks) as refusal:
        agreed(daemon)
    assert f"`bursar audit accept-loss --state-dir {up}`" in refusal.value.message
    assert f"`bursar restore FILE --state-dir {up}`" in refusal.value.message
    if theirs == "of another cluster":
        tell(up, "local-2", "cluster_9", LogHead(4, b"\x02" * 32))
    known, ends = backup.accept_loss(up)
    assert (known.seq, ends.seq) == (3 if "history" in theirs else 4, 3)
    agreed(daemon)  # it was said, and is yet to be told
    start(daemon)
    agreed(daemon)  # it is in the log: what was obeyed before it no longer accuses
    tell(up, "local-2", "cluster_9", told, epoch=2_000_000)
    with pytest.raises(StoreUnavailable, match="of cluster_9"):
        agreed(daemon)


def test_a_restored_backup_is_begun_with_though_the_agents_know_more(tmp_path: Path) -> None:
    up, out = served(tmp_path), tmp_path / "b.tar"
    take(up, out)
    shutil.rmtree(up / "daemon")
    backup.restore(out, up)
    agreed(up / "daemon")
    start(up / "daemon")
    agreed(up / "daemon")


def test_books_elsewhere_than_beside_agents_are_begun_with(tmp_path: Path) -> None:
    start(tmp_path / "up" / "books")
    tell(tmp_path / "up", "local-1", "cluster_9", LogHead(2, b"\x01" * 32))
    agreed(tmp_path / "up" / "books")


def agreed(daemon: Path) -> None:
    """The look of a start at the agents beside it."""
    store = SqliteStore(daemon)
    try:
        startup.refuse_other_books(replay.restore(store, Limits()), store, daemon)
    finally:
        store.close()


# --- the audit


def test_an_audit_reads_a_directory_in_use_and_a_backup(tmp_path: Path) -> None:
    directory = tmp_path / "books"
    _, store = start(directory, keep=True)
    report = backup.audit(directory)
    assert (report.problems, report.seq, report.epoch) == ((), 3, 1)
    store.close()
    take(directory, tmp_path / "b.tar")
    assert backup.audit(tmp_path / "b.tar").problems == ()
    kept = {"bursard.db", "bursard.db-wal", "bursard.db-shm", "bursard.lock", HEAD}
    assert {path.name for path in directory.iterdir()} <= kept


def test_an_end_that_was_written_twice_is_found(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "books")
    ended = encode(JobEnded("job_1", JobState.CANCELLED))
    other = encode(JobEnded("job_2", JobState.CANCELLED))
    rows = [EventRow(seq, NOW, "ann", one) for seq, one in enumerate([ended, other, ended], start=1)]
    store.append(Batch(events=rows))
    assert list(twice(store)) == ["ends (J5): J5: job_1 ends once more with event 3"]
    store.close()


@pytest.mark.parametrize("part", ["settled", "held"])
def test_entries_that_say_another_sum_than_the_log_are_a_finding(home: Path, part: str) -> None:
    store = SqliteStore(home)
    period = replay.restore(store, Limits()).budgets.records["vision"].period_start
    seq = store.last_seq + 1
    legs = ((f"budget/vision/{period}/{part}", 5), (f"budget/vision/{period}/available", -5))
    postings = [PostingRow(seq, "settle", "x", legs)]
    payload = encode(LogResumed("accepted", 1, 2, 1, 1, "ann"))
    store.append(Batch(events=[EventRow(seq, NOW, "ann", payload)], postings=postings))
    store.close()
    assert backup.audit(home).problems == (
        f"entries of event {seq}: budget/vision/{period}/{part} (settle, x) has 5 nanos, the log says 0",
        f"entries of event {seq}: budget/vision/{period}/available (settle, x) has -5 nanos, the log says 0",
        f"L3: budget/vision/{period}/available is -5 nanos by its entries, 0 by the log",
        f"L3: budget/vision/{period}/{part} is 5 nanos by its entries, 0 by the log",
    )
