"""Reports take whole days from sums that were made before: always what the rows themselves say."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest
from bursard.backup import accept_loss
from bursard.events import JobHeld, encode
from bursard.reports.cost import cost_table, fold
from bursard.store import (
    Batch,
    ChargeFilter,
    ChargeRow,
    Dim,
    EventRow,
    ScratchStore,
    SqliteStore,
    Unposted,
    days,
)
from bursard.store.home import DATABASE

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
BERLIN = ((0, HOUR_US),)
DIMS = [*Dim, "label:team"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(days, "BATCH_ROWS", 60)
    monkeypatch.setattr(days, "DAY_ROWS", 10)


def charge(random: random.Random, seq: int, at: int) -> ChargeRow:
    """Of one of a few owners, sometimes of a correction, sometimes told two months late."""
    job, node, idle = random.randint(1, 3), random.choice("ab"), random.random() < 0.2
    start = at - at % HOUR_US - (random.randint(0, 70) * DAY_US if random.random() < 0.1 else 0)
    fields: dict[str, Any] = {
        **{"seq": seq, "kind": "idle" if idle else random.choice(["usage", "usage", "variance"])},
        **{"node_id": f"node_{node}", "node_name": node, "pool": "local", "rank": 0},
        **{"attempt_id": "" if idle else f"att_{job}", "job_id": "" if idle else f"job_{job}.{job}"},
        **{"job_number": 0 if idle else job, "start_at": start, "end_at": start + HOUR_US},
        **{"held_us": HOUR_US - random.randint(0, 9), "nanos": random.randint(-(2**62), 2**63 - 1)},
        **{"gpu": random.randint(0, 9), "cpu": 1, "memory": 2, "price_id": random.choice(["", "p1"])},
        **{"project": "" if idle else f"nlp/{job}", "user": "ann", "experiment": "", "model": "m"},
        **{"model_version": "", "labels": random.choice(["{}", '{"team":"a"}']), "simulated": 0},
        **{"gpu_milli": 1000 * job, "cpu_milli": 500},
    }
    if random.random() < 0.05 and not idle:
        fields |= {"corrects": 1, "for_start": start - 40 * DAY_US, "for_end": start, "reason": "wrong"}
    return ChargeRow(**fields)


def write(store: SqliteStore, seed: int, events: int) -> None:
    chance = random.Random(seed)
    for seq in range(store.last_seq + 1, store.last_seq + 1 + events):
        at = T0 + seq * 3 * HOUR_US
        rows = [charge(chance, seq, at) for _ in range(chance.randint(0, 9))]
        event = EventRow(seq, at, "ann", encode(JobHeld(job_id="job_1")))
        store.append(Batch(events=[event], charges=rows))


def questions(chance: random.Random, last_seq: int) -> Iterator[tuple[Any, ...]]:
    """Groupings, windows that begin and end within days or at midnight, filters, and moments of the past."""
    for _ in range(60):
        by = chance.sample(DIMS, chance.randint(0, 3))
        since, until = (chance.choice([0, T0 + chance.randint(0, 9 * 24) * HOUR_US]) for _ in range(2))
        asked: dict[str, Any] = chance.choice(
            [
                {},
                {"kinds": ("usage",)},
                {"project": "nlp"},
                {"labels": (("team", "a"),)},
                {"node": "a", "user": "ann"},
                {"job_number": 2},
                {"corrections": True},
                {"after_seq": 9},
                {"simulated": False},
            ]
        )
        open_hours = None
        if chance.random() < 0.7:
            open_hours = Unposted(chance.randint(0, last_seq), (charge(chance, 0, T0 + DAY_US),))
        query = ChargeFilter(since=since, until=until, **asked)
        yield by, query, open_hours, chance.choice([(), BERLIN])


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_asked_sums_say_what_the_rows_say(seed: int) -> None:
    plain, summed = ScratchStore(), ScratchStore()
    for store in (plain, summed):
        write(store, seed, 90)
    batches = 0
    while summed.sum_days():
        batches += 1
    for store in (plain, summed):  # some of it is of after the newest batch
        write(store, seed + 1, 2)
    assert batches >= 3
    for asked in questions(random.Random(seed), plain.last_seq):
        assert summed.charge_sums(*asked) == plain.charge_sums(*asked), asked
    assert summed.verify(full=False) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_table_by_hour_counts_the_jobs_that_a_fold_over_them_counts(seed: int) -> None:
    store = ScratchStore()
    write(store, seed, 60)
    now = Unposted(50, (charge(random.Random(seed), 0, T0 + DAY_US),))
    for by in (["hour"], ["project", "hour", "label:team"]):
        query = ChargeFilter(since=T0, until=T0 + 5 * DAY_US + HOUR_US)
        folded = fold(by, store.charge_sums([*by, Dim.JOB], query, now))
        assert len(folded.rows) > 20
        assert cost_table(store, by, query, now) == folded


def test_a_day_that_has_not_ended_is_summed_when_it_has() -> None:
    store = ScratchStore()

    def told(hours: int, rows: int) -> None:
        seq = store.last_seq + 1
        one = charge(random.Random(1), seq, T0)._replace(
            start_at=T0 + hours * HOUR_US, corrects=0, for_start=0, for_end=0, reason=""
        )
        event = EventRow(seq, T0 + hours * HOUR_US, "ann", encode(JobHeld(job_id="job_1")))
        store.append(Batch(events=[event], charges=[one] * rows))

    told(1, 8)
    told(2, 8)
    assert not store.sum_days()
    told(25, 1)
    assert store.sum_days()
    assert store._rows("select day, count from day_sums") == [(T0, 16)]
    assert not store.sum_days()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed state directory, for copies."""
    directory = tmp_path_factory.mktemp("kept") / "state"
    store = SqliteStore(directory)
    write(store, 1, 40)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(days, "BATCH_ROWS", 60)
        patched.setattr(days, "DAY_ROWS", 10)
        while store.sum_days():
            pass
    assert sums_are_wrong(store) == []
    store.close()
    return directory


@pytest.fixture
def state(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "state")


def sums_are_wrong(store: SqliteStore, newest_alone: bool = False) -> list[str]:
    with store._reading() as connection:
        return list(days.problems(connection, newest_alone))


EDITS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "a sum": lambda c: c.execute("update day_sums set nanos_low = nanos_low + 1 where rowid = 5"),
    "an owner": lambda c: c.execute("update day_sums set attempt = attempt + 1 where rowid = 5"),
    "a row gone": lambda c: c.execute("delete from day_sums where rowid = 5"),
    "a row more": lambda c: c.execute("insert into day_sums select * from day_sums where rowid = 5"),
    "a batch gone": lambda c: c.execute("delete from day_batches where id = 1"),
    "a batch shorter": lambda c: c.execute("update day_batches set upto = upto - 1 where id = 1"),
    "a batch of another moment": lambda c: c.execute("update day_batches set seq = seq - 1 where id = 1"),
    "rows of no batch": lambda c: c.execute("update day_sums set batch = 99 where rowid = 5"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_sums_that_are_not_those_of_the_charges_are_told_and_made_anew(state: Path, edit: str) -> None:
    connection = sqlite3.connect(state / DATABASE)
    EDITS[edit](connection)
    connection.commit()
    connection.close()
    store = SqliteStore(state)
    problems = sums_are_wrong(store)
    assert problems
    assert all(line.startswith("day_") and "accept-loss" in line for line in problems)
    store.close()
    accept_loss(state)
    store = SqliteStore(state)
    assert store._rows("select count(*) from day_sums") == [(0,)]
    while store.sum_days():
        pass
    assert sums_are_wrong(store) == []
    store.close()
    with pytest.raises(InvalidRequest, match="nothing is missing"):
        accept_loss(state)


def test_the_quick_check_looks_at_the_newest_batch(state: Path) -> None:
    connection = sqlite3.connect(state / DATABASE)
    connection.execute(
        "update day_sums set count = count + 1 where batch = (select max(id) from day_batches)"
    )
    connection.commit()
    connection.close()
    store = SqliteStore(state)
    assert any(line.startswith("day_sums: batch") for line in store.verify(full=False))
    store.close()
