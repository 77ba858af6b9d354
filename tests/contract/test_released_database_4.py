"""What the tables of migration 0004 held opens, says the same, and can be corrected (P1).

`killed`: with a job that ran over a change of price; a write-ahead log and no image. `stopped`: the same,
closed in order with an image at the end of the log.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from released import ended_jobs, live_jobs, unpacked, without_images

from bursard.audit import problems_of
from bursard.engine import posting_rows
from bursard.events import encode
from bursard.replay import restore
from bursard.services.corrections import standing
from bursard.state import Applied, Limits
from bursard.state.decide import corrections
from bursard.state.decide.corrections import Target
from bursard.store import Batch, ChargeFilter, ChargeRow, EventRow, SqliteStore
from bursard.store.corrections import correction_rows

NAMES = ", ".join(f'"{name}"' for name in ChargeRow._fields[:33])
"""Columns of a charge, as that version had them."""
ENDED = {1: ("one", "SUCCEEDED", 4_169_595_938), 2: ("arr", "SUCCEEDED", 88_451_040)}


@pytest.fixture(params=["killed", "stopped", "stopped without its image"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, _, less = request.param.partition(" ")
    found = unpacked("database-4", name, tmp_path)
    if less:
        without_images(found)
    return found


def test_every_charge_reads_as_it_did_before_and_corrects_nothing(directory: Path) -> None:
    raw = sqlite3.connect(directory / "bursard.db")
    before = raw.execute(f"select {NAMES} from charges order by id").fetchall()
    raw.close()
    store = SqliteStore(directory)
    with store.picture() as picture:
        rows = list(picture.charges(0))
        assert problems_of(picture) == []
    assert [row[:33] for row in rows] == before
    assert len(before) == 24
    assert {(row.corrects, row.for_start, row.for_end, row.reason) for row in rows} == {(0, 0, 0, "")}
    assert store.verify() == []
    store.close()


def test_it_opens_with_all_it_had_and_takes_a_correction(directory: Path) -> None:
    store = SqliteStore(directory)
    state = restore(store, Limits())
    assert live_jobs(state) == {3: ("big", "RUNNING", False)}
    assert ended_jobs(store) == ENDED
    assert (state.corrected, state.adjusted) == ({}, 0)
    found = standing(store.charges(ChargeFilter(kinds=("usage",), job_number=1)))
    assert sum(one.nanos for one in found) == ENDED[1][2]
    (event,) = corrections.correct(state, found, Target(ppm=0), "a credit", found[-1].end)
    applied = Applied()
    state.apply(event, found[-1].end, applied)
    store.append(
        Batch(
            events=[EventRow(state.version, found[-1].end, "fay", encode(event))],
            charges=correction_rows(state.version, event, found[-1].end),
            postings=posting_rows(state.version, applied.transactions),
        )
    )
    (total,) = store.charge_sums([], ChargeFilter(kinds=("usage",), job_number=1))
    assert total.nanos == 0
    assert store.verify() == []
    with store.picture() as picture:
        assert problems_of(picture) == []
    assert state.ledger.violations() == []
    store.close()
