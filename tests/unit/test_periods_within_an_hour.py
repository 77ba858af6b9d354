"""A budget whose period ends within an hour of UTC, as in India and Nepal: what it says its scope cost is
what `cost` says of that scope and period, to the nano.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from money_daemon import BUDGET, COST_MODEL, Daemon, in_a_daemon

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.money import format_nanos
from bursar.v1 import money_pb2 as pb
from bursard.audit import problems_of
from bursard.reports.period import find_period
from bursard.state import Limits
from bursard.state.decide import policies

MINUTE_US = HOUR_US // 60
LAST_HOURS = 1_796_060_400 * SECOND_US  # 2026-11-30T17:40:00Z
ZONES = {"Asia/Kolkata": 50, "Asia/Kathmandu": 35, "Asia/Yangon": -10, "Europe/Berlin": 320}
"""With the minutes after `LAST_HOURS` in which November ends there."""


def budget(zone: str, name: str = "vision") -> str:
    return BUDGET.replace("name: vision", f"name: {name}") + f"  timezone: {zone}\n"


MONTHS = ("2026-11", "2026-12")


async def settled_is_cost(
    daemon: Daemon, zone: str, name: str = "vision", months: Sequence[str] = MONTHS
) -> dict[str, int]:
    """By month, what both say."""
    found = {}
    for month in months:
        asked = pb.CostRequest(period=month, timezone=zone, project="research")
        cost = (await daemon.money.Cost(asked, None)).total.nanos
        since = find_period(month, 0, zone).since
        found[month] = daemon.engine.state.ledger.settled(name, since)
        assert found[month] == cost, f"{month}: {found[month]} is settled, the books say {cost}"
    return found


def tied(daemon: Daemon) -> list[str]:
    found = [*daemon.engine.state.ledger.violations(), *daemon.store.verify()]
    with daemon.store.picture() as picture:
        return found + problems_of(picture, Limits())


def roll(daemon: Daemon) -> None:
    """As the fleet does it before it books what a node tells."""
    daemon.engine.commit(policies.roll_periods(daemon.engine.state, daemon.engine.now()), "bursard")


def passes(daemon: Daemon, minutes: int) -> None:
    daemon.clock.advance(minutes * MINUTE_US)
    roll(daemon)
    daemon.meter()


async def late_in_november(daemon: Daemon) -> None:
    daemon.clock.advance(LAST_HOURS - daemon.engine.now())
    await daemon.apply(COST_MODEL)
    daemon.node("a")


def story(tell: Callable[[Daemon], Awaitable[None]]) -> None:
    async def whole(daemon: Daemon) -> None:
        await late_in_november(daemon)
        await tell(daemon)
        await daemon.engine.durable()
        assert tied(daemon) == []

    in_a_daemon(whole)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("every", [1, 7, 45, 180])
def test_a_budget_is_what_cost_says_over_a_months_end(zone: str, every: int) -> None:
    async def tell(daemon: Daemon) -> None:
        await daemon.apply(budget(zone))
        first = daemon.submit(project="research/vision")
        second = daemon.submit(project="research/speech")
        for _ in range(90 // every):
            passes(daemon, every)
            await settled_is_cost(daemon, zone)
        daemon.clock.advance(11 * MINUTE_US)
        roll(daemon)
        daemon.finish(first)
        for _ in range(360 // every):
            passes(daemon, every)
        daemon.finish(second)
        found = await settled_is_cost(daemon, zone)
        assert found["2026-12"] > 0
        assert found["2026-11"] > 0 or ZONES[zone] < 0

    story(tell)


def test_a_job_that_ends_after_the_months_end_and_was_not_heard_of_before_it_counts_in_both() -> None:
    async def tell(daemon: Daemon) -> None:
        await daemon.apply(budget("Asia/Kolkata"))
        job = daemon.submit(project="research")
        passes(daemon, 25)
        daemon.clock.advance(50 * MINUTE_US)
        roll(daemon)
        daemon.finish(job)
        daemon.meter()
        found = await settled_is_cost(daemon, "Asia/Kolkata")
        assert found["2026-11"] == pytest.approx(2 * found["2026-12"], rel=1e-6)

    story(tell)


@pytest.mark.parametrize("minutes", [45, 51, 59, 60, 70, 80, 100])
def test_an_account_that_opens_in_the_hour_of_a_months_end_says_what_cost_says(minutes: int) -> None:
    """What is open of that hour is of November, whoever asks; what is charged from then on is of December."""

    async def tell(daemon: Daemon) -> None:
        daemon.submit(project="research")
        for _ in range(minutes):
            passes(daemon, 1)
        await daemon.apply(budget("Asia/Kolkata"), budget("Asia/Kathmandu", "other"))
        for _ in range(100):
            passes(daemon, 1)
        await settled_is_cost(daemon, "Asia/Kolkata", months=MONTHS[1:])
        await settled_is_cost(daemon, "Asia/Kathmandu", "other", months=MONTHS[1:])

    story(tell)


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_charged_of_that_hour_while_the_books_are_read_is_of_the_row_that_is_open(ends: bool) -> None:
    async def tell(daemon: Daemon) -> None:
        job = daemon.submit(project="research")
        for _ in range(60):
            passes(daemon, 1)
        books = daemon.engine.books

        async def slow() -> Any:
            found = await books()
            daemon.clock.advance(5 * MINUTE_US)
            if ends:
                daemon.finish(job)
            daemon.meter()
            return found

        daemon.engine.books = slow  # type: ignore[method-assign]
        await daemon.apply(budget("Asia/Kolkata"))
        daemon.engine.books = books  # type: ignore[method-assign]
        passes(daemon, 4)
        await settled_is_cost(daemon, "Asia/Kolkata", months=MONTHS[1:])

    story(tell)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(ZONES)),
    st.lists(
        st.one_of(
            st.tuples(st.just("passes"), st.sampled_from([1, 4, 13, 31, 60])),
            st.tuples(st.just("submit"), st.integers(0, 9)),
            st.tuples(st.just("finish"), st.integers(0, 9)),
            st.tuples(st.just("apply"), st.sampled_from(sorted(ZONES))),
        ),
        max_size=14,
    ),
)
def test_no_order_of_what_happens_at_a_months_end_parts_them(
    zone: str, steps: list[tuple[str, int | str]]
) -> None:
    async def tell(daemon: Daemon) -> None:
        await daemon.apply(budget(zone))
        zones, running = {"vision": zone}, [daemon.submit(project="research")]
        for what, how in steps:
            if what == "submit" and len(running) < 4:
                running.append(daemon.submit(project="research"))
            elif what == "finish" and running:
                daemon.finish(running.pop(int(how) % len(running)))
            elif what == "apply":
                zones["other"] = str(how)
                await daemon.apply(budget(str(how), "other"))
            elif what == "passes":
                passes(daemon, int(how))
            for name, place in zones.items():
                december = find_period("2026-12", 0, place).since
                if name == "vision" or daemon.engine.state.budgets.records[name].period_start == december:
                    await settled_is_cost(daemon, place, name, MONTHS[1:])

    story(tell)


@pytest.mark.parametrize("zone", [*ZONES, "America/Los_Angeles", "UTC"])
def test_the_report_of_budgets_shows_each_in_the_month_that_is_asked_for_in_its_own_place(zone: str) -> None:
    """The end of November in UTC is in December in India: its November was told as December's."""

    async def tell(daemon: Daemon) -> None:
        await daemon.apply(budget(zone))
        daemon.submit(project="research")
        told = {}
        for _ in range(16):
            passes(daemon, 60)
            for month in MONTHS:
                data, _ = await daemon.report(kind="budgets", format="json", period=month)
                [row] = json.loads(data)["rows"]
                told[month] = row
        found = {month: told[month]["settled"] and told[month]["settled"]["amount"] for month in MONTHS}
        ledger = daemon.engine.state.ledger
        for month in MONTHS:
            since = find_period(month, 0, zone).since
            settled = ledger.settled("vision", since)
            assert found[month] == (format_nanos(settled) if settled else None)
            assert told[month]["since"] == format_instant(Instant(since))

    story(tell)
