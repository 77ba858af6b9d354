"""Days and runs that cost what their like do not: as functions, and as the report of a daemon."""

from __future__ import annotations

import json

import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.errors import InvalidRequest
from bursard.events import RoleGranted
from bursard.forecast.anomalies import DAYS_MIN, RUNS_MIN, Unusual, unusual_days, unusual_runs

USD = 10**9
WEEK = [100 * USD] * 5 + [10 * USD] * 2


def test_a_day_that_costs_twice_as_much_as_its_weekdays_is_told_with_what_was_usual() -> None:
    days = WEEK * 8
    days[50] *= 2
    [found] = unusual_days(days, 42)
    assert (found.at, found.nanos) == (50, 200 * USD)
    assert found.usual == pytest.approx(100 * USD, rel=1e-5)


def test_a_weekday_after_a_weekend_is_none_and_a_weekend_like_a_weekday_is_one() -> None:
    days = WEEK * 8
    assert unusual_days(days, 28) == []
    days[54] = 100 * USD
    assert [one.at for one in unusual_days(days, 28)] == [54]


def test_two_days_in_a_row_are_both_told_and_a_level_that_stays_is_no_anomaly_for_long() -> None:
    days = [100 * USD] * 40 + [300 * USD] * 10
    assert [one.at for one in unusual_days(days, 30)] == [40, 41]


def test_of_too_few_days_nothing_is_told() -> None:
    days = [USD] * (DAYS_MIN - 1) + [100 * USD]
    assert unusual_days(days, 0) == []
    assert [one.at for one in unusual_days([USD, *days], 0)] == [DAYS_MIN]


@pytest.mark.parametrize("days", [[0] * 40, [5] * 40, list(range(40))])
def test_what_goes_on_as_it_went_is_no_anomaly(days: list[int]) -> None:
    assert unusual_days(days, 20) == []


def test_a_run_that_costs_more_than_the_others_of_its_kind_is_told() -> None:
    costs = [10 * USD, 11 * USD, 9 * USD, 10 * USD, 40 * USD, 10 * USD, 11 * USD]
    assert unusual_runs(costs) == [Unusual(4, 40 * USD, 10 * USD)]
    assert unusual_runs(costs[2 : 2 + RUNS_MIN]) == []


def test_the_report_names_the_run_and_what_it_was_spent_in() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        for number in range(7):
            daemon.run(name=f"train-{number}", project="nlp")
        daemon.run(hours=6, name="train-99", project="nlp")
        daemon.run(hours=6, name="other", project="nlp")
        data, _ = await daemon.report(kind="anomalies", format="json")
        [row] = json.loads(data)["rows"]
        assert (row["what"], row["project"], row["job"]) == ("run", "nlp", "8 train-99")
        assert row["mostly"].startswith("attempt 1 completed ")
        assert row["of_usual_percent"] > 500
        with pytest.raises(InvalidRequest, match="project 'nlpp'; did you mean 'nlp'"):
            await daemon.report(kind="anomalies", format="json", project="nlpp")
        daemon.engine.commit([RoleGranted("bob", "viewer", "vision")], "ann")
        none, _ = await daemon.report(kind="anomalies", format="json", project="vision")
        assert json.loads(none)["rows"] == []

    in_a_daemon(story)
