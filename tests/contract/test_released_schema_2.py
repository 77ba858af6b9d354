"""What schema 2 wrote opens, and says the same: with images of format 2 and migration 0002 (P1).

`killed`: a daemon, its keeper and its agents after `kill -9`, with a gang that ran; a write-ahead log and no
image. `stopped`: the same site, started again and stopped in order, with an image at the end of the log.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from pathlib import Path

import msgspec
import pytest
from released import ended_jobs, live_jobs, start_and_stop, unpacked, without_images

from bursard.audit import problems_of
from bursard.engine import spec_bytes
from bursard.events import JobSubmitted, decode, encode
from bursard.events.codec import schema_of
from bursard.replay import restore
from bursard.state import Limits, State, image
from bursard.store import ChargeRow, JobRow, SqliteStore, eventfile

ENDED = {
    1: ("ok", "SUCCEEDED", 106),
    2: ("gpu", "SUCCEEDED", 143012),
    3: ("bad", "FAILED", 187),
    4: ("gang", "SUCCEEDED", 22416),
    5: ("arr", "SUCCEEDED", 873),
    6: ("pre", "SUCCEEDED", 392),
    7: ("aft", "SUCCEEDED", 10),
    11: ("canc", "CANCELLED", 0),
}
"""By number: what had ended when the daemon was killed, with its cost in nanos."""

ENDED_LATER = {8: ("big", "CANCELLED", 26977570), 12: ("dep", "CANCELLED", 0)}
WAITING = {9: ("toobig", "PENDING", True), 10: ("arrpend", "PENDING", False)}
"""By number: name, state, held."""

PERIOD = (1793487600000000, 1796079600000000)
"""November 2026 in Berlin."""


@pytest.fixture(params=["image", "replay"])
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    directory = unpacked(2, "stopped", tmp_path)
    if request.param == "replay":
        without_images(directory)
    return directory


def check_common(state: State) -> None:
    assert (state.cluster_id, state.currency, state.next_number) == ("cluster_8qnzpkdva04y3av6", "USD", 13)
    assert sorted((kind, name, one.version) for (kind, name), one in state.policies.items()) == [
        ("Budget", "vision", 1),
        ("CostModel", "onprem-local", 1),
        ("CostModel", "rack-a", 2),
        ("PlacementPolicy", "default", 1),
    ]
    record = state.budgets.records["vision"]
    assert (record.spec.limit.nanos, record.hard) == (50_000_000_000, True)
    assert (record.period_start, record.period_end) == PERIOD
    assert list(state.secrets) == [("research/vision", "TOKEN")]
    assert [(user, grant.role.value, grant.project) for user, grant in state.grants] == [
        ("alice", "submitter", "research")
    ]
    array = next(job for job in state.jobs.values() if job.number == 10)
    assert array.array is not None
    assert array.array.counts == {"PENDING": 19, "CANCELLED": 1}
    assert (array.array.unopened, array.array.queued) == (((6, 20, 1),), 5)
    assert state.ledger.violations() == []


def check_books(store: SqliteStore, settled: int) -> None:
    assert store.verify() == []
    with store.picture() as picture:
        assert problems_of(picture) == []
    budget = f"budget/vision/{PERIOD[0]}/settled"
    assert store.balances(budget) == {budget: settled}


def test_every_row_of_money_reads_as_it_did_before_its_tables_were_replaced(tmp_path: Path) -> None:
    directory = unpacked(2, "killed", tmp_path)
    raw = sqlite3.connect(directory / "bursard.db")
    names = ", ".join(f'"{name}"' for name in ChargeRow._fields[:24])
    charges = raw.execute(f"select {names} from charges order by rowid").fetchall()
    lines = raw.execute("select seq, tx_kind, account, nanos, ref from entries order by rowid").fetchall()
    of_jobs = ", ".join(f'"{name}"' for name in JobRow._fields)
    jobs = raw.execute(f"select {of_jobs} from jobs order by rowid").fetchall()
    raw.close()
    assert (len(charges), len(lines), len(jobs)) == (17, 134, 19)
    digest = hashlib.sha256()
    for table, rows in (("charges", charges), ("entries", lines), ("jobs", jobs)):
        for row in rows:
            digest.update(msgspec.msgpack.encode((table, row)))
    store = SqliteStore(directory)
    with store.picture() as picture:
        assert [tuple(row[:24]) for row in picture.charges(0)] == charges
        assert list(picture.entries(0)) == lines
    assert sum(store.balances().values()) == 0
    # What an archive said of these rows when it was made is still true of them.
    found = eventfile.rows_of(store._connection, store.last_seq, columns=0)
    assert (found.charges, found.entries, found.digest) == (len(charges), len(lines), digest.hexdigest())
    store.close()


def test_a_killed_daemon_of_schema_2_opens_by_replay(tmp_path: Path) -> None:
    store = SqliteStore(unpacked(2, "killed", tmp_path))
    state = restore(store, Limits())
    assert (store.last_seq, state.version) == (100, 100)
    check_common(state)
    assert live_jobs(state) == {8: ("big", "RUNNING", False), 12: ("dep", "PENDING", False), **WAITING}
    assert state.counts["PENDING"] == 21
    assert ended_jobs(store) == ENDED
    assert state.ledger.settled("vision", PERIOD[0]) == 12075514
    assert state.ledger.held("vision", PERIOD[0]) == 3814017009
    assert {node.facts.name: (node.through, node.live) for node in state.nodes.values()} == {
        "local-1": (1795804939107928, {"att_9nyctnsg6f6ddgv8": 0}),
        "local-2": (1795804939109990, {"att_9nyctnsg6f6ddgv8": 1}),
    }
    check_books(store, 12075514 - 11908518)  # the running gang's hour is still open
    store.close()


def test_a_stopped_daemon_of_schema_2_opens_by_its_image_and_by_replay(stopped: Path) -> None:
    store = SqliteStore(stopped)
    state = restore(store, Limits())
    assert (store.last_seq, state.version) == (115, 115)
    check_common(state)
    assert live_jobs(state) == WAITING
    assert state.counts["PENDING"] == 20
    assert ended_jobs(store) == {**ENDED, **ENDED_LATER}
    assert (state.ledger.settled("vision", PERIOD[0]), state.ledger.held("vision", PERIOD[0])) == (
        27144566,
        0,
    )
    assert all(not node.live and not node.connected for node in state.nodes.values())
    check_books(store, 27144566)
    store.close()


def test_the_image_of_schema_2_alone_is_the_whole_state(tmp_path: Path) -> None:
    connection = sqlite3.connect(unpacked(2, "stopped", tmp_path) / "bursard.db")
    ((seq, packed),) = connection.execute("select seq, data from snapshots").fetchall()
    connection.close()
    state = image.decode(zlib.decompress(packed), Limits())
    assert (seq, state.version) == (115, 115)
    check_common(state)


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_every_event_of_schema_2_survives_being_written_anew(name: str, tmp_path: Path) -> None:
    store = SqliteStore(unpacked(2, name, tmp_path))
    events = store.events(limit=1000)
    assert len(events) == store.last_seq
    assert {schema_of(row.payload) for row in events} == {2}
    for row in events:
        event = decode(row.payload)
        assert decode(encode(event)) == event
    store.close()


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_a_daemon_starts_on_schema_2_and_stops_in_order(name: str, tmp_path: Path) -> None:
    directory = unpacked(2, name, tmp_path)
    start_and_stop(directory, tmp_path)
    store = SqliteStore(directory)
    state = restore(store, Limits())
    assert live_jobs(state).items() >= {9: ("toobig", "PENDING", True)}.items()
    assert ended_jobs(store).items() >= ENDED.items()
    assert ("Budget", "vision") in state.policies
    store.close()


def test_a_key_that_schema_2_kept_is_still_that_of_its_job(tmp_path: Path) -> None:
    store = SqliteStore(unpacked(2, "killed", tmp_path))
    events = [decode(row.payload) for row in store.events(limit=1000)]
    (asked,) = (event for event in events if isinstance(event, JobSubmitted) and event.key == "k1")
    kept = store.keys(asked.user, ["k1"])["k1"]
    assert (kept.job_id, kept.digest) == (asked.job_id, spec_bytes(asked.spec))
    store.close()
