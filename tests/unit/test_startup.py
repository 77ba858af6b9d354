"""A start makes the best of what it finds: newest image, older image, whole log; and says what it skipped."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bursar.clock import Instant, VirtualClock
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.ids import SequentialIds
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec, CostModelSpec
from bursard import doctor, startup
from bursard.engine import Engine
from bursard.events import (
    SCHEMA,
    BudgetClosed,
    BudgetOpened,
    Event,
    HoldsRolled,
    PolicyApplied,
    PolicyRemoved,
    ThresholdCrossed,
    decode,
    encode,
)
from bursard.replay import restore
from bursard.state import Applied, Limits, State
from bursard.state import image as state_image
from bursard.state.decide import policies
from bursard.store import Batch, EventRow, SqliteStore
from bursard.writer import Writer

BUDGET = """\
kind: Budget
name: vision
spec: {scope: {project: vision}, limit: 5 USD, period: month, enforcement: hard}
"""
MODEL = """\
kind: CostModel
name: rack
spec: {pool: rack, node_capex: 1000 USD, useful_life: 5y}
"""
NOW = Instant(1_795_000_000_000_000)


def started(directory: Path, shipped: str = BUDGET + "---\n" + MODEL) -> State:
    """A daemon's first moments on a directory, and its end."""

    async def run() -> State:
        store = SqliteStore(directory)
        state = restore(store, Limits())
        writer = Writer(store)
        engine = Engine(state, store, writer, VirtualClock(NOW), SequentialIds())
        startup.first_events(engine, "USD", parse_documents(shipped, "shipped"))
        await engine.save_snapshot()
        await writer.close()
        store.close()
        return state

    return asyncio.run(run())


def committed(directory: Path, *events: Event) -> None:
    store = SqliteStore(directory)
    rows = [EventRow(store.last_seq + n, NOW, "ann", encode(one)) for n, one in enumerate(events, start=1)]
    store.append(Batch(events=rows))
    store.close()


def restored(directory: Path) -> State:
    store = SqliteStore(directory)
    try:
        return restore(store, Limits())
    finally:
        store.close()


def names(state: State) -> set[tuple[str, str]]:
    return set(state.policies)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stopped cluster with two images, of events 3 and 4, and a log of 5 events."""
    directory = tmp_path / "daemon"
    started(directory)
    committed(directory, PolicyRemoved("Budget", "vision"))
    started(directory)
    committed(directory, PolicyRemoved("CostModel", "rack"))
    return directory


@pytest.fixture
def raw(home: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(home / "bursard.db", isolation_level=None)
    yield connection
    connection.close()


def images(raw: sqlite3.Connection) -> list[int]:
    return [seq for (seq,) in raw.execute("select seq from snapshots order by seq")]


BROKEN = {
    "noise": b"\x07" * 200,
    "empty": b"",
    "cut": b"",  # filled in below: the first half of the real one
    "another format": zlib.compress(b'{"format": 99}'),
    "no format": zlib.compress(b"[]"),
    "not JSON": zlib.compress(b"\xff\xfe"),
    "half the fields": zlib.compress(b'{"format": 2}'),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("count", [1, 2])
def test_an_image_that_cannot_be_read_is_passed_over(
    what: str, count: int, home: Path, raw: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    good = restored(home)
    assert (good.version, names(good)) == (5, set())
    assert images(raw) == [3, 4]
    for seq in images(raw)[-count:]:
        data = BROKEN[what]
        if what == "cut":
            (whole,) = raw.execute("select data from snapshots where seq = ?", (seq,)).fetchone()
            data = whole[: len(whole) // 2]
        raw.execute("update snapshots set data = ? where seq = ?", (data, seq))
    raw.close()
    with caplog.at_level(logging.WARNING):
        state = restored(home)
    assert (state.version, names(state), state.cluster_id) == (5, set(), good.cluster_id)
    assert len(caplog.records) == count
    assert all(record.exc_info is None for record in caplog.records)


def test_an_image_of_another_event_than_it_says_is_passed_over(home: Path, raw: sqlite3.Connection) -> None:
    (older,) = raw.execute("select data from snapshots where seq = 3").fetchone()
    raw.execute("update snapshots set data = ? where seq = 4", (older,))
    raw.close()
    assert restored(home).version == 5


def test_an_event_that_cannot_be_read_is_named_with_what_to_do(home: Path, raw: sqlite3.Connection) -> None:
    store = SqliteStore(home)
    store.append(Batch(events=[EventRow(store.last_seq + 1, NOW, "ann", b'{"type":"from-the-future"}')]))
    store.close()
    with pytest.raises(StoreUnavailable, match=r"event 6 .* cannot be read by this version.*bursar restore"):
        restored(home)


def test_an_event_of_a_later_schema_is_refused_with_the_version_to_run(home: Path) -> None:
    store = SqliteStore(home)
    later = b'{"type":"job-held","job_id":"x","v":%d}' % (SCHEMA + 1)
    store.append(Batch(events=[EventRow(store.last_seq + 1, NOW, "ann", later)]))
    store.close()
    with pytest.raises(StoreUnavailable, match=r"event 6 .*run the version that wrote it, or a later one"):
        restored(home)


def test_a_database_of_later_events_is_refused_at_the_door(home: Path) -> None:
    store = SqliteStore(home)
    assert store.meta("event_schema") == str(SCHEMA)
    store.set_meta("event_schema", str(SCHEMA + 1))
    store.close()
    with pytest.raises(StoreUnavailable, match=rf"events of schema {SCHEMA + 1}, newer than .* {SCHEMA}"):
        SqliteStore(home)


# --- the catalogue


def test_shipped_documents_come_with_the_first_start_alone(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    assert names(started(directory)) == {("Budget", "vision"), ("CostModel", "rack")}
    committed(directory, PolicyRemoved("Budget", "vision"))
    assert names(started(directory)) == {("CostModel", "rack")}
    assert names(started(directory, shipped=BUDGET.replace("vision", "other"))) == {("CostModel", "rack")}


def test_a_directory_of_schema_1_has_had_its_first_start(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(Path(__file__).parents[1] / "fixtures/schema-1/stopped.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    before = names(restored(tmp_path / "daemon"))
    committed(tmp_path / "daemon", PolicyRemoved("PlacementPolicy", "default"))
    shipped = "kind: PlacementPolicy\nname: default\nspec: {strategy: spread}\n"
    state = started(tmp_path / "daemon", shipped=shipped)
    assert names(state) == before - {("PlacementPolicy", "default")}
    assert state.strategy == "pack"


def test_another_currency_than_the_books_is_refused(home: Path) -> None:
    async def run() -> None:
        store = SqliteStore(home)
        engine = Engine(restore(store, Limits()), store, Writer(store), VirtualClock(NOW), SequentialIds())
        try:
            startup.first_events(engine, "EUR", ())
        finally:
            await engine.writer.close()
            store.close()

    with pytest.raises(InvalidRequest, match="books are in USD, not EUR"):
        asyncio.run(run())


# --- policies of the past


def schema_1(*records: dict[str, object]) -> bytes:
    return msgspec.json.encode({"type": "policy-applied", "documents": records})


def record(text: str, name: str = "vision", kind: str = "Budget", version: int = 1) -> dict[str, object]:
    return {"kind": kind, "name": name, "version": version, "effective_at": NOW, "text": text}


def applied(*payloads: bytes) -> State:
    state = State()
    for payload in payloads:
        state.apply(decode(payload), NOW, Applied())
    return state


def test_a_text_of_schema_1_is_read_once_more_and_kept_as_what_it_says() -> None:
    event = decode(schema_1(record(BUDGET), record(MODEL, "rack", "CostModel")))
    assert isinstance(event, PolicyApplied)
    budget, model = event.documents
    assert isinstance(budget.spec, BudgetSpec)
    assert budget.spec.limit.nanos == 5_000_000_000
    assert isinstance(model.spec, CostModelSpec)
    assert (budget.text, budget.problem, budget.version) == (BUDGET, "", 1)
    assert decode(encode(event)) == event


def test_todays_events_are_never_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    event = decode(schema_1(record(BUDGET)))
    assert isinstance(event, PolicyApplied)
    broken = msgspec.structs.replace(event.documents[0], text="no: [yaml")
    state = applied(encode(PolicyApplied((broken,))))
    assert state.budgets.records["vision"].spec.limit.nanos == 5_000_000_000


@pytest.mark.parametrize(
    "text", ["", "no: [yaml", BUDGET.replace("limit", "linit"), "kind: Odd\nname: vision\n"]
)
def test_a_text_that_todays_parser_refuses_is_kept_out_of_force(text: str) -> None:
    state = applied(schema_1(record(text)))
    kept = state.policies["Budget", "vision"]
    assert (kept.text, kept.spec) == (text, None)
    assert kept.problem
    assert state.budgets.records == {}
    (finding,) = [one for one in doctor.check_state(state) if one.check == "policies"]
    assert not finding.ok
    assert finding.message.startswith("Budget vision is not in force: this version cannot read it (")
    assert "policy apply" in finding.remedy


def test_an_unreadable_version_ends_the_readable_one_before_it() -> None:
    model = record(MODEL, "rack", "CostModel")
    later = record("odd", "rack", "CostModel", 2) | {"effective_at": NOW + 5}
    state = applied(schema_1(record(BUDGET), model), schema_1(record("odd", version=2), later))
    assert state.budgets.records == {}
    (priced,) = state.priced
    assert priced.effective_until == NOW + 5


def test_what_came_after_an_unreadable_budget_is_replayed_without_it() -> None:
    rolled = HoldsRolled("vision", 1, 2)
    crossed = ThresholdCrossed("vision", 2, 500_000, "settled", 1, 0, 2)
    opened, closed = BudgetOpened("vision", 2, 7, 2), BudgetClosed("vision")
    state = applied(schema_1(record("odd")), *map(encode, (rolled, opened, crossed, closed)))
    assert (state.version, state.ledger.settled("vision", 2)) == (5, 7)
    assert state.budgets.records == {}


def test_an_unreadable_document_can_be_applied_again_with_the_same_text() -> None:
    state = applied(schema_1(record("odd")))
    kept = state.policies["Budget", "vision"]
    state.policies["Budget", "vision"] = msgspec.structs.replace(kept, text=BUDGET)
    (document,) = parse_documents(BUDGET, "again")
    event, opened = policies.apply_documents(state, [msgspec.structs.replace(document, text=BUDGET)], NOW)
    assert isinstance(event, PolicyApplied)
    assert event.documents[0].version == 2
    assert isinstance(opened, BudgetOpened)


def test_an_image_keeps_what_documents_say_and_what_cannot_be_read(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    store = SqliteStore(directory)
    payload = schema_1(record(BUDGET), record(MODEL, "rack", "CostModel"), record("odd", "odd"))
    store.append(Batch(events=[EventRow(1, NOW, "ann", payload)]))
    state = restore(store, Limits())
    store.save_snapshot(1, state_image.encode(state, NOW))
    store.close()
    again = restored(directory)
    assert again.policies == state.policies
    assert again.priced == state.priced
    assert again.budgets.records == state.budgets.records
    assert again.policies["Budget", "odd"].problem
