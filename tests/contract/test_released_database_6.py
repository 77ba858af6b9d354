"""What schema 6 wrote opens, gets its sums of days, and is sound by every check of now (P1).

The books are those of database-5, brought to schema 6: `killed` with a write-ahead log, `stopped` without.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from released import ended_jobs, unpacked

from bursard.backup import inspect
from bursard.store import Dim, SqliteStore, days

ENDED = {1: ("one", "SUCCEEDED", 4_169_595_938), 2: ("arr", "SUCCEEDED", 88_451_040)}


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_it_opens_with_all_it_had_and_sums_its_days_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unpacked("database-6", name, tmp_path)
    raw = sqlite3.connect(directory / "bursard.db")
    assert raw.execute("pragma user_version").fetchone() == (6,)
    ((nanos, rows),) = raw.execute("select sum(nanos), count(*) from charges")
    raw.close()
    store = SqliteStore(directory)
    assert ended_jobs(store) == ENDED
    before = store.charge_sums([Dim.PROJECT, Dim.KIND, Dim.JOB])
    monkeypatch.setattr(days, "DAY_ROWS", 2)
    monkeypatch.setattr(days, "BATCH_ROWS", 5)
    while store.sum_days():
        pass
    assert store.charge_sums([Dim.PROJECT, Dim.KIND, Dim.JOB]) == before
    (whole,) = store.charge_sums([])
    assert (whole.nanos, whole.charges) == (nanos, rows)
    store.close()
    assert inspect(directory).problems == ()
