"""What will be spent, by what was spent before: pure functions over integers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US, HOUR_US
from bursard.forecast.completion import Left, left, steps_left_us
from bursard.forecast.outlook import Account, Flow, learn, outlook
from bursard.forecast.usual import DAYS_MIN, HISTORY_DAYS, PPM, usual

USD = 10**9
TODAY = 20_000 * DAY_US
NOON = TODAY + DAY_US // 2


def account(days: list[int], *, limit: int = 10_000 * USD, ahead: int = 10, settled: int = 0) -> Account:
    """One that knows these days up to yesterday."""
    first = 20_000 - len(days)
    known = {first + at: nanos for at, nanos in enumerate(days)}
    return Account(limit, settled, TODAY + ahead * DAY_US, known, first)


def test_the_same_each_day_goes_on() -> None:
    found = usual([7 * USD] * 30, 10)
    assert found is not None
    assert found.days == (7 * USD,) * 10
    low, high = found.spread_after(10)
    assert low < PPM < high < PPM * 3 // 2


def test_weekends_that_rest_go_on_resting() -> None:
    week = [100 * USD] * 5 + [10 * USD] * 2
    found = usual(week * 8, 7)
    assert found is not None
    assert min(found.days[:5]) > 90 * USD
    assert max(found.days[5:]) < 25 * USD


def test_a_history_that_jumps_is_not_trusted_to_jump_no_more_when_its_last_weeks_were_calm() -> None:
    calm = [10 * USD] * 45
    never = usual([10 * USD] * 46 + calm, 20)
    jumped = usual([10 * USD] * 16 + [25 * USD] * 10 + [4 * USD] * 10 + [20 * USD] * 10 + calm, 20)
    assert never is not None
    assert jumped is not None
    (low, high), (lower, higher) = never.spread_after(20), jumped.spread_after(20)
    assert lower < low
    assert higher > high
    assert abs(sum(jumped.days) - sum(never.days)) * 4 < sum(never.days), (
        "what is expected stays about the same"
    )


def test_where_no_weekday_is_another_a_change_that_never_came_is_allowed_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steady = [(95 + day * 7 % 11) * USD for day in range(14)]
    resting = [one // (1 if at % 7 < 5 else 4) for at, one in enumerate(steady)]

    def spread(days: list[int]) -> tuple[int, int]:
        found = usual(days, 9)
        assert found is not None
        return found.spread_after(9)

    wide, of_people = spread(steady), spread(resting)
    monkeypatch.setattr("bursard.forecast.usual._DOUBTED", 1)
    low, high = spread(steady)
    assert wide[0] < low
    assert wide[1] > high
    assert spread(resting) == of_people


def test_too_few_days_are_not_called_usual() -> None:
    assert usual([USD] * (DAYS_MIN - 1), 10) is None
    assert usual([USD] * DAYS_MIN, 10) is not None
    assert learn(account([]), NOON) is None


def test_nothing_spent_is_nothing_expected() -> None:
    found = usual([0] * 40, 5)
    assert found is not None
    assert found.days == (0,) * 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**15), max_size=HISTORY_DAYS + 5), st.integers(1, 366))
def test_any_history_gives_whole_amounts_in_order(days: list[int], ahead: int) -> None:
    one = account(days, ahead=ahead, settled=5)
    found = outlook(one, learn(one, NOON), [Flow(USD, HOUR_US, 3 * HOUR_US)], NOON, None)
    assert all(isinstance(nanos, int) for nanos in (*found.end, *found.peak))
    assert 5 <= found.end.p10 <= found.end.p50 <= found.end.p90  # type: ignore[operator]
    times = [at for at in found.exhausted if at is not None]
    assert times == sorted(times)
    assert all(NOON <= at <= found.until for at in times)


def test_a_history_that_is_older_than_thirteen_weeks_changes_nothing() -> None:
    days = [USD * (3 + at % 5) for at in range(HISTORY_DAYS)]
    assert usual([999 * USD] * 50 + days, 9) == usual(days, 9)


def test_without_a_history_what_runs_and_waits_is_all_there_is() -> None:
    one = account([], limit=40 * USD, ahead=2, settled=20 * USD)
    flows = [Flow(2 * USD, 5 * HOUR_US, 30 * HOUR_US), Flow(USD, 4 * HOUR_US, 10 * HOUR_US, waits=True)]
    found = outlook(one, learn(one, NOON), flows, NOON, None)
    assert found.learned == 0
    assert found.end == (30 * USD, 34 * USD, 90 * USD)
    assert (found.run_rate, found.running, found.queued) == (2 * USD, 10 * USD, 4 * USD)
    assert found.exhausted.p50 is None
    assert found.exhausted.p90 is None
    # Three USD an hour for ten hours, then two: half of today's twelve hours cost 34.
    assert found.exhausted.p10 == NOON + 12 * HOUR_US * 20 // 34


def test_what_runs_counts_beside_the_usual_only_where_it_is_more() -> None:
    days = [24 * USD] * 40
    quiet = account(days, ahead=3)
    usual_rate, large = Flow(USD, 72 * HOUR_US, 72 * HOUR_US), Flow(11 * USD, 12 * HOUR_US, 12 * HOUR_US)
    learned = learn(quiet, NOON)
    alone = outlook(quiet, learned, [], NOON, None)
    same = outlook(quiet, learned, [usual_rate], NOON, None)
    more = outlook(quiet, learned, [large], NOON, None)
    assert alone.end == same.end
    assert alone.end.p50 == 60 * USD
    assert more.end.p50 == 60 * USD + 120 * USD


def test_what_the_nodes_cannot_run_at_once_comes_later() -> None:
    one = account([], limit=24 * USD, ahead=3)
    waiting = [Flow(10 * USD, 12 * HOUR_US, 12 * HOUR_US, waits=True)]
    at_once = outlook(one, None, waiting, NOON, None)
    in_turn = outlook(one, None, waiting, NOON, 2 * USD)
    assert at_once.exhausted.p50 < in_turn.exhausted.p50  # type: ignore[operator]
    assert in_turn.exhausted.p50 == NOON + 12 * HOUR_US
    assert at_once.end.p50 == in_turn.end.p50 == 120 * USD


def test_a_limit_that_is_reached_is_reached_now() -> None:
    one = account([USD] * 30, limit=5 * USD, settled=9 * USD)
    assert outlook(one, learn(one, NOON), [], NOON, None).exhausted == (NOON, NOON, NOON)


def test_what_leaves_a_rolling_window_is_no_more_in_it() -> None:
    one = account([], limit=100 * USD, ahead=3, settled=30 * USD)
    one = one._replace(leaving=[(TODAY + DAY_US, 10 * USD), (TODAY + 2 * DAY_US, 20 * USD)])
    found = outlook(one, None, [Flow(USD, 12 * HOUR_US, 12 * HOUR_US)], NOON, None)
    assert found.end.p50 == 12 * USD
    assert found.peak.p50 == 32 * USD


def test_the_burn_rate_is_the_mean_of_the_last_week() -> None:
    one = account([100 * USD] * 20 + [24 * USD] * 7)
    found = outlook(one, None, [], TODAY, None)
    assert found.burn_rate == USD


@pytest.mark.parametrize(
    ("ran", "limit", "usual_us", "expected"),
    [
        (10, 100, 0, Left(90, 90)),
        (10, 100, 40, Left(30, 90)),
        (50, 100, 40, Left(50, 50)),
        (10, 100, 400, Left(90, 90)),
        (200, 100, 0, Left(0, 0)),
    ],
)
def test_runs_like_it_tell_how_long_it_goes_on_and_the_limit_how_long_at_most(
    ran: int, limit: int, usual_us: int, expected: Left
) -> None:
    assert left(ran, limit, usual_us) == expected


@pytest.mark.parametrize(
    ("step", "total", "pace", "expected"),
    [(20, 100, 2 * PPM, 40 * 10**6), (100, 100, 1, 0), (0, 9, 1, None), (9, 3, 1, None), (1, 9, 0, None)],
)
def test_steps_tell_what_is_left_when_they_can_be_believed(
    step: int, total: int, pace: int, expected: int | None
) -> None:
    assert steps_left_us(step, total, pace) == expected
