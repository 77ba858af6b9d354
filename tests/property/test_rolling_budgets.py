"""Histories of rolling budgets beside a book that adds up every row of usage: days pass, daemons die between
any two commits, documents change, money is granted. The window is what it costs by the rows, no limit is
passed, and what is older is free again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from budget_histories import SCOPES, History
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US
from bursar.errors import BursarError
from bursar_policies.document import parse_documents
from bursard.engine import unposted
from bursard.state import State, compare, image
from bursard.state import budgets as tables
from bursard.state.budgets import limit_of, settled_of
from bursard.state.decide import carrying, giving, policies
from bursard.state.decide.opening import Before, openings

PERIODS = ("rolling-2d", "rolling-3d", "rolling-1d", "day")
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York")
"""Also where a midnight is within an hour of UTC, and rows of that hour end there."""
ROLLING = (
    "kind: Budget\nname: {name}\nspec: {{scope: {{project: {project}}}, limit: {usd} USD, period: {period},"
    " timezone: {zone}}}\n"
)


class Rolling(History):
    """Hours pass, and budgets count the last days."""

    def __init__(self, zone: str) -> None:
        self.zone, self.documents = zone, 0
        super().__init__()

    def document(self, name: str, usd: int, period: str) -> None:
        period = period if period in PERIODS else PERIODS[0]
        text = ROLLING.format(name=name, project=SCOPES[name], usd=usd, period=period, zone=self.zone)
        world = self.world
        world.engine.commit(policies.roll_periods(world.state, world.engine.now()), "bursard")
        spent, before = {}, {}
        for one in openings(world.state, parse_documents(text, "t"), world.engine.now()):
            cost = [row for row in self.all_rows() if self._within(row.project, one.budget)]
            spent[one.budget] = sum(row.nanos for row in cost if one.since <= row.start_at)
            starts = [*one.earlier, one.period_start]
            days = {
                begin: sum(row.nanos for row in cost if begin <= row.start_at < end)
                for begin, end in pairwise(starts)
            }
            before[one.budget] = Before({}, days)
        try:
            world.apply(text, spent, before)
        except BursarError:
            return
        world.writer.flush()

    def grant(self, name: str, usd: int) -> None:
        world = self.world
        if not world.state.budgets.due(world.engine.now()):
            try:
                events = giving.grant(world.state, name, usd * 10**9, "ann", "more", "")
            except BursarError:
                return
            world.engine.commit(events, "ann")
            world.writer.flush()

    def passes(self, hours: int) -> None:
        for _ in range(hours):
            self.clock.advance(HOUR_US)
            self.nodes.enforce()
            self.house.turn(self.world.engine.now())
            self.world.writer.flush()
            self.nodes.report()
            self.world.cycle()
            self.nodes.report()
            self.world.writer.flush()
            self.check()

    def all_rows(self) -> list[Any]:
        rows = [*self.rows, *self.world.writer.charges, *unposted(self.world.state).rows]
        return [row for row in rows if row.kind == "usage"]

    def check(self) -> None:
        state, ledger = self.world.state, self.world.state.ledger
        assert ledger.violations() == []
        rows = self.all_rows()
        for record in state.budgets.records.values():
            spent, limit = settled_of(record, ledger), limit_of(record, ledger)
            held = sum(ledger.held(record.name, start) for start in ledger.periods_of(record.name))
            assert spent + held <= limit, f"B1: {record.name}: {spent} + {held} of {limit}"
            since, until = self._since(record.spec.period, record.period_start), record.period_end
            cost = sum(
                row.nanos
                for row in rows
                if since <= row.start_at < until and self._within(row.project, record.name)
            )
            assert spent == cost, f"B5: {record.name} has {spent} in its window, its rows say {cost}"
            holds = [
                hold
                for attempt in state.attempts
                for hold in ledger.open_holds(attempt)
                if hold.budget == record.name
            ]
            assert sum(hold.nanos for hold in holds) == held, "B3"
            assert all(hold.period_start == record.period_start for hold in holds)

    def _since(self, period: str, today: int) -> int:
        """Where so many days of the place begin that end with today."""
        many = int(period.removeprefix("rolling-").removesuffix("d")) if period != "day" else 1
        zone = ZoneInfo(self.zone)
        day = datetime.fromtimestamp(today // 1_000_000, zone).date() - timedelta(days=many - 1)
        return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000_000

    def replayed(self) -> None:
        """An image, read again, is the state; so is the log."""
        state: State = self.world.state
        data = image.encode(state, self.world.engine.now())
        assert compare.differences(data, state) == []


HOURS = st.sampled_from([1, 5, 11, 24, 30])
STEPS = st.one_of(
    st.tuples(
        st.just("submit"), st.sampled_from(["p", "p/a"]), st.sampled_from([120, 600, 2400]), st.just(1)
    ),
    st.tuples(st.just("passes"), HOURS),
    st.tuples(st.just("passes"), HOURS),
    st.tuples(st.just("dies"), st.sampled_from([1, 60]), st.booleans()),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("grant"), st.sampled_from(list(SCOPES)), st.sampled_from([10, 40])),
    st.tuples(
        st.just("document"),
        st.sampled_from(list(SCOPES)),
        st.sampled_from([12, 60, 150]),
        st.sampled_from(PERIODS),
    ),
    st.tuples(st.just("replayed")),
)


def tell(zone: str, steps: Sequence[tuple[Any, ...]]) -> Rolling:
    history = Rolling(zone)
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
        history.check()
    return history


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(ZONES), st.lists(STEPS, max_size=12))
def test_no_history_of_rolling_budgets_passes_a_limit_or_counts_what_its_rows_do_not(
    zone: str, steps: list[tuple[Any, ...]]
) -> None:
    tell(zone, [("submit", "p/a", 2400, 1), ("passes", 3), *steps])


def test_what_is_older_than_the_window_is_free_again() -> None:
    history = tell("UTC", [("document", "wide", 90, "rolling-2d"), ("submit", "p", 600, 1), ("passes", 12)])
    record = history.world.state.budgets.records["wide"]
    spent = settled_of(record, history.world.state.ledger)
    assert spent > 0
    history.passes(24)
    assert 0 < settled_of(record, history.world.state.ledger) <= spent
    history.passes(48)
    assert settled_of(record, history.world.state.ledger) == 0


def test_days_that_passed_while_nobody_looked_leave_the_window_one_by_one() -> None:
    """Nodes go on without their daemon, and tell it of two days when it is back."""
    history = tell(
        "UTC", [("document", "wide", 900, "rolling-3d"), ("submit", "p", 70 * 60, 1), ("passes", 5)]
    )
    history.dies(50 * 60, False)
    history.passes(60)


def test_money_that_was_granted_and_spent_does_not_pass_a_limit_when_its_day_leaves_the_window() -> None:
    history = tell("UTC", [("document", "wide", 10, "rolling-2d"), ("grant", "wide", 60)])
    history.passes(20)
    history.submit("p", 1200, 1)
    history.passes(40)


@pytest.mark.parametrize(
    ("where", "what", "instead"),
    [
        (tables, "window", lambda period, zone, start: (start,)),
        (carrying, "_made_up", lambda *_: []),
    ],
)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, where: Any, what: str, instead: Any
) -> None:
    monkeypatch.setattr(where, what, instead)

    def all_of_it() -> None:
        test_money_that_was_granted_and_spent_does_not_pass_a_limit_when_its_day_leaves_the_window()
        test_what_is_older_than_the_window_is_free_again()

    with pytest.raises(AssertionError, match=r"B1|B5"):
        all_of_it()
