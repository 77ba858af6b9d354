"""What the tables of migration 0003 held opens, and says the same (P1): compact postings, prices in time.

`killed`: a daemon after `kill -9`, with a gang that ran over a change of price; a write-ahead log and no
image. `stopped`: the same site, started again and stopped in order, with an image at the end of the log.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import pytest
from released import ended_jobs, live_jobs, start_and_stop, unpacked, without_images

from bursar.clock import HOUR_US
from bursard.audit import problems_of
from bursard.replay import restore
from bursard.state import Limits, State, image
from bursard.store import SqliteStore

FOLDER = "database-3"
ENDED = {
    1: ("ok", "SUCCEEDED", 6079),
    2: ("gpu", "SUCCEEDED", 2787812),
    3: ("bad", "FAILED", 1653),
    4: ("gang", "SUCCEEDED", 4713052),
    5: ("arr", "SUCCEEDED", 9114),
}
"""By number: what had ended when the daemon was killed, with its cost in nanos."""
LIVE = {6: ("big", "RUNNING", False), 7: ("toobig", "PENDING", False)}
PERIOD = 1793487600000000
"""Where November 2026 begins in Berlin."""
COLUMNS = (
    "seq, kind, node_id, node_name, pool, attempt_id, job_id, job_number, rank, start_at, end_at, held_us,"
    " nanos, gpu, cpu, memory, price_id, project, user, experiment, model, model_version, labels, simulated"
)
"""Of a charge, as that version had them."""


@pytest.fixture(params=["killed", "stopped", "stopped without its image"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, _, less = request.param.partition(" ")
    found = unpacked(FOLDER, name, tmp_path)
    if less:
        without_images(found)
    return found


def check_state(state: State) -> None:
    assert (state.cluster_id, state.next_number) == ("cluster_mpkn8ecs5ak4k4cz", 8)
    assert state.policies["CostModel", "rack-a"].version == 3
    assert live_jobs(state) == LIVE
    assert state.ledger.settled("vision", PERIOD) == 28949119
    assert state.ledger.held("vision", PERIOD) == 3575081221
    assert state.ledger.violations() == []


def test_every_charge_reads_as_it_did_before(directory: Path) -> None:
    sql = f"select {COLUMNS} from charges order by id"
    raw = sqlite3.connect(directory / "bursard.db")
    before = raw.execute(sql).fetchall()
    (transactions,) = raw.execute("select count(*) from postings").fetchone()
    raw.close()
    SqliteStore(directory).close()
    raw = sqlite3.connect(directory / "bursard.db")
    assert raw.execute(sql).fetchall() == before
    assert raw.execute("select count(*) from postings").fetchone() == (transactions,)
    raw.close()
    assert (len(before), transactions) == (15, 20)
    assert sum(row[12] for row in before) == 75384049


def test_charges_of_before_get_the_shares_that_their_members_were_placed_with(directory: Path) -> None:
    store = SqliteStore(directory)
    rows = {(row.job_number, row.rank): row for row in store.charges() if row.kind == "usage"}
    gang = rows[4, 1]
    assert (gang.gpu_milli, gang.devices, gang.cpu_milli) == (2000, 2, 1000)
    for row in rows.values():
        whole = [rate * row.held_us // HOUR_US for rate in (row.gpu_rate, row.cpu_rate, row.memory_rate)]
        assert whole == [row.gpu, row.cpu, row.memory]
    assert all(row.rate == 0 for row in store.charges() if row.kind != "usage")
    assert all(row.posted_at > 0 for row in store.charges())
    store.close()


def test_it_opens_with_all_it_had_to_the_nano(directory: Path) -> None:
    store = SqliteStore(directory)
    check_state(restore(store, Limits()))
    assert ended_jobs(store) == ENDED
    assert store.verify() == []
    with store.picture() as picture:
        assert problems_of(picture) == []
    assert store.balances("budget") == {
        f"budget/vision/{PERIOD}/available": -3604030340,
        f"budget/vision/{PERIOD}/held": 3596529476,
        f"budget/vision/{PERIOD}/settled": 7500864,
    }
    store.close()


def test_its_image_alone_is_the_whole_state(tmp_path: Path) -> None:
    connection = sqlite3.connect(unpacked(FOLDER, "stopped", tmp_path) / "bursard.db")
    ((seq, packed),) = connection.execute("select seq, data from snapshots").fetchall()
    connection.close()
    state = image.decode(zlib.decompress(packed), Limits())
    assert (seq, state.version) == (76, 76)
    check_state(state)


def test_a_daemon_starts_on_it_and_stops_in_order(tmp_path: Path) -> None:
    directory = unpacked(FOLDER, "killed", tmp_path)
    start_and_stop(directory, tmp_path)
    store = SqliteStore(directory)
    check_state(restore(store, Limits()))
    assert ended_jobs(store) == ENDED
    store.close()
