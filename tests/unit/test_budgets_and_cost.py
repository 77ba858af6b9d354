"""`doctor` compares what budgets have spent with what `cost` says; dates of a log follow its clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from money_daemon import COST_MODEL, START, Daemon, in_a_daemon, set_clock

from bursar.clock import DAY_US, HOUR_US
from bursar.v1 import money_pb2 as pb
from bursard.ledger import Entry, Transaction
from bursard.ledger.accounts import budget_accounts
from bursard.services.apart import CHECK, budgets_and_cost
from bursard.services.dated import Dates
from bursard.services.spent import read_accounts
from bursard.state import image
from bursard.state.decide import policies
from bursard.store import EventRow

MONTH = "kind: Budget\nname: month\nspec: {scope: {project: a}, limit: 90 USD, period: month}\n"
YEAR = "kind: Budget\nname: year\nspec: {scope: {project: a}, limit: 900 USD, period: year}\n"
INDIA = MONTH.replace("name: month", "name: india").replace("month}", "day, timezone: Asia/Kolkata}")


def spend(daemon: Daemon, budget: str, nanos: int) -> None:
    """Its account says so much more than its scope has cost."""
    state = daemon.engine.state
    accounts = budget_accounts(budget, state.budgets.records[budget].period_start)
    entries = (Entry(accounts.available, -nanos), Entry(accounts.settled, nanos))
    state.ledger.post(Transaction("planted", entries, budget=budget))


def test_budgets_that_say_what_cost_says_are_well_and_what_was_not_compared_is_said() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, MONTH, YEAR, INDIA)
        daemon.node("n")
        daemon.run(hours=3, project="a")
        daemon.submit(project="a")
        daemon.clock.advance(HOUR_US // 2)
        daemon.meter()
        found = await budgets_and_cost(daemon.engine, full=False)
        assert (found.check, found.ok) == (CHECK, True)
        assert found.message == "1 budget says what `cost` says; 2 more were not compared"
        found = await budgets_and_cost(daemon.engine, full=True)
        assert found.message == "2 budgets say what `cost` says; 1 more was not compared"

    in_a_daemon(story)


@pytest.mark.parametrize("nanos", [1, -1, 10**9])
def test_a_budget_that_is_apart_from_cost_is_named_with_both_amounts(nanos: int) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, MONTH)
        daemon.node("n")
        daemon.clock.advance(DAY_US)
        daemon.run(hours=3, project="a")
        before = daemon.engine.state.ledger.settled("month", START - HOUR_US)
        assert before > 0
        spend(daemon, "month", nanos)
        found = await budgets_and_cost(daemon.engine, full=False)
        assert not found.ok
        assert "month has spent" in found.message
        assert f"{(before + nanos) / 10**9:.9f}" in found.message.replace(" USD", "")
        assert f"its scope cost {before / 10**9:.9f}" in found.message
        assert "apply it again" in found.remedy
        assert "month" not in found.for_one(sees_all=False).message

    in_a_daemon(story)


def row(seq: int, at: int) -> EventRow:
    return EventRow(seq, at, "ann", b"")


def test_what_was_done_while_a_clock_was_ahead_is_dated_by_the_right_one() -> None:
    dates = Dates([(10, 45 * DAY_US), (20, -45 * DAY_US)])
    assert [dates.moved_us(seq) for seq in (9, 10, 11, 19, 20, 21)] == [
        0,
        -45 * DAY_US,
        *[-45 * DAY_US] * 2,
        0,
        0,
    ]


def test_a_clock_that_is_behind_for_a_while_moves_nothing() -> None:
    dates = Dates([(10, -45 * DAY_US), (20, 45 * DAY_US)])
    assert [dates.moved_us(seq) for seq in (9, 15, 25)] == [0, 0, 0]


def test_a_small_correction_moves_nothing() -> None:
    assert Dates([(10, 45 * DAY_US), (20, -45 * DAY_US - 600_000_000)]).moved_us(5) == 0


def test_a_date_that_a_document_says_itself_is_not_moved() -> None:
    dates, at = Dates([(20, -45 * DAY_US)]), START + 777
    assert dates.since(row(5, at), at) == at - 45 * DAY_US
    assert dates.since(row(5, at + 31), at) == at - 45 * DAY_US, "committed a moment later"
    assert dates.since(row(5, at), START - DAY_US) == START - DAY_US
    assert dates.since(row(5, at), START + DAY_US) == START + DAY_US
    assert dates.since(row(25, at), at) == at


@pytest.mark.parametrize("hard", [False, True])
def test_a_budget_that_was_applied_while_the_clock_was_ahead_counts_what_its_scope_cost_by_the_right_one(
    hard: bool, tmp_path: Path
) -> None:
    text = MONTH.replace("month}", "month, enforcement: hard}") if hard else MONTH

    async def story(daemon: Daemon) -> None:
        state = daemon.engine.state
        await daemon.apply(COST_MODEL)
        daemon.node("n")
        daemon.run(hours=3, project="a")
        daemon.submit(project="a")
        await set_clock(daemon, tmp_path, 45 * DAY_US)
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        await daemon.apply(text)
        assert (await budgets_and_cost(daemon.engine, full=False)).ok
        december = state.budgets.records["month"].period_start
        await set_clock(daemon, tmp_path, -45 * DAY_US)
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        again = image.decode(image.encode(state, daemon.engine.now()))
        assert again.budgets.unread == {"month"}, "a daemon that dies now reads them with its next start"
        await read_accounts(daemon.engine)
        assert not state.budgets.unread
        found = await budgets_and_cost(daemon.engine, full=False)
        assert (found.ok, found.message) == (True, "1 budget says what `cost` says")
        november = state.budgets.records["month"].period_start
        asked = await daemon.money.Cost(pb.CostRequest(by=["project"], period="2026-11"), None)
        assert state.ledger.settled("month", november) == asked.total.nanos > 0
        daemon.clock.advance(december - daemon.clock.now() + HOUR_US)
        daemon.engine.commit(policies.roll_periods(state, daemon.engine.now()), "bursard")
        daemon.meter()
        await read_accounts(daemon.engine)
        asked = await daemon.money.Cost(pb.CostRequest(by=["project"], period="2026-12"), None)
        assert state.ledger.settled("month", december) == asked.total.nanos, "with what was booked ahead"
        assert state.ledger.violations() == []

    in_a_daemon(story)


def test_a_period_that_begins_as_always_asks_the_books_for_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, MONTH, INDIA)
        daemon.node("n")
        daemon.submit(project="a")
        for _ in range(40):
            daemon.engine.commit(policies.roll_periods(daemon.engine.state, daemon.engine.now()), "bursard")
            daemon.meter()
            daemon.clock.advance(DAY_US - 7_919)
        assert not daemon.engine.state.budgets.unread

    in_a_daemon(story)
