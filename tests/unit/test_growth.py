"""What a day leaves on disk, and that what it leaves and what is still open are the same money."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from growth_bench import load

from bursar.clock import HOUR_US
from bursard.backup import inspect
from bursard.engine import unposted
from bursard.replay import restore
from bursard.state import Limits
from bursard.store import ChargeFilter, Dim, ScratchStore, SqliteStore

growth = load()


def test_a_day_of_eight_jobs_grows_the_database_by_two_megabytes_at_most() -> None:
    grown, engine = asyncio.run(growth.play(8, 1, short=False))
    assert sum(grown.values()) <= growth.BAR_BYTES
    store = engine.views
    rows = list(store.charges(ChargeFilter(kinds=("usage",))))
    assert (
        len({(row.attempt_id, row.start_at - row.start_at % HOUR_US) for row in rows}) == len(rows) == 8 * 24
    )
    assert store.verify() == []


def test_a_change_of_a_job_takes_what_it_changes_and_not_what_the_job_says() -> None:
    grown = asyncio.run(growth.updates(200))
    assert sum(grown.values()) < 200 * 1_000, "the script has 43 kB"


def _played(minutes: int) -> tuple[growth.Day, ScratchStore]:  # type: ignore[name-defined]
    store = ScratchStore()
    day = growth.Day(store, 2)
    day.start_jobs(9 * HOUR_US)
    for _ in range(minutes):
        day.clock.advance(growth.MINUTE_US)
        day.meter()
    return day, store


def test_cost_is_rows_and_open_hours_at_any_minute_and_after_a_kill() -> None:
    async def play() -> None:
        day, store = _played(0)
        for minute in range(1, 131):
            day.clock.advance(growth.MINUTE_US)
            day.meter()
            if minute in (1, 59, 60, 61, 95, 130):
                books = await day.engine.books()
                (total,) = store.charge_sums([], ChargeFilter(), books)
                node = day.node
                assert total.nanos == -day.engine.state.ledger.balances[f"node/{node.id}"]
                usage = store.charge_sums([Dim.JOB], ChargeFilter(kinds=("usage",)), books)
                settled = {job.id: job.settled_nanos for job in day.engine.state.jobs.values()}
                assert {part.keys[0]: part.nanos for part in usage} == settled
                assert {part.held_us for part in usage} == {minute * growth.MINUTE_US}
                again = unposted(restore(store, Limits()))
                assert again == books, "a start makes the open hours anew"
                assert store.verify() == []
        assert len(list(store.charges(ChargeFilter(kinds=("usage",))))) == 2 * 2
        await day.engine.writer.close()

    asyncio.run(play())


def test_what_closes_while_a_report_reads_is_counted_once() -> None:
    async def play() -> None:
        day, store = _played(59)
        books = await day.engine.books()
        (before,) = store.charge_sums([], ChargeFilter(), books)
        for _ in range(5):
            day.clock.advance(growth.MINUTE_US)
            day.meter()
        await day.engine.durable()
        assert list(store.charges()) != [], "the hour has been posted meanwhile"
        assert store.charge_sums([], ChargeFilter(), books) == [before]
        assert sum(row.nanos for row in store.charges(ChargeFilter(), books)) == before.nanos
        await day.engine.writer.close()

    asyncio.run(play())


def test_an_end_posts_what_was_open_and_leaves_no_more() -> None:
    async def play() -> None:
        day, store = _played(5)
        day.end_jobs()
        await day.engine.durable()
        usage = list(store.charges(ChargeFilter(kinds=("usage",))))
        assert [row.held_us for row in usage] == [5 * growth.MINUTE_US] * 2
        assert not [row for row in unposted(day.engine.state).rows if row.kind == "usage"]
        sums = store.balances(f"job/{usage[0].job_id}")
        assert sums == {f"job/{usage[0].job_id}": usage[0].nanos}
        assert store.verify() == []
        await day.engine.writer.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    "damage",
    [
        "update charge_rows set nanos = nanos + 1 where rowid = 1",
        "update charge_rows set held_us = held_us - 1 where rowid = 2",
        "update sources set price_id = 'other' where id = (select source from charge_rows where rowid = 1)",
        "update attempts set job_id = 'job_9' where id = (select max(attempt) from charge_rows)",
        "update charge_rows set seq = seq - 60 where rowid = 1",
        "delete from charge_rows where rowid = 2",
        "insert into charge_rows select * from charge_rows where rowid = 1",
    ],
)
def test_a_row_that_the_log_does_not_bear_out_is_found(damage: str) -> None:
    async def play() -> None:
        day, store = _played(125)
        await day.engine.durable()
        await day.engine.writer.close()
        assert store.verify() == []
        with store._reading() as connection:
            for table in ("charge_rows", "sources", "attempts"):
                for verb in ("update", "delete"):
                    connection.execute(f"drop trigger {table}_refuse_{verb}")
            connection.execute(damage)
        assert [problem for problem in store.verify() if problem.startswith("charges of event")]

    asyncio.run(play())


def test_a_backup_with_running_jobs_is_found_sound(tmp_path: Path) -> None:
    async def play() -> None:
        store = SqliteStore(tmp_path / "state")
        day = growth.Day(store, 2)
        day.start_jobs(9 * HOUR_US)
        for _ in range(70):
            day.clock.advance(growth.MINUTE_US)
            day.meter()
        await day.engine.durable()
        await day.engine.writer.close()
        store.close()
        assert inspect(tmp_path / "state").problems == ()

    asyncio.run(play())
