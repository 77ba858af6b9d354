"""Days and runs that cost what their like do not: as functions, and as the report of a daemon."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.clock import DAY_US
from bursar.errors import InvalidRequest
from bursar.v1 import money_pb2 as pb
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


def test_a_run_is_held_against_the_others_and_not_against_itself() -> None:
    assert unusual_runs([10, 2, 2, 11, 1, 40])[-1] == Unusual(5, 40, 2)


@given(st.lists(st.integers(0, 60), min_size=RUNS_MIN + 1, max_size=14))
def test_what_is_usual_is_the_median_of_the_other_runs(costs: list[int]) -> None:
    told = {one.at: one.usual for one in unusual_runs(costs)}
    for at, cost in enumerate(costs):
        others = [*costs[:at], *costs[at + 1 :]]
        usual = int(median(others))
        off = int(median(abs(one - usual) for one in others))
        unusual = cost > usual + max(5 * off, usual // 4)
        assert told.get(at) == (usual if unusual else None)


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


async def _rows(daemon: Daemon, project: str = "") -> list[tuple[str, str, str, str]]:
    data, _ = await daemon.report(kind="anomalies", format="json", project=project)
    return [(row["what"], row["project"], row["job"], row["mostly"]) for row in json.loads(data)["rows"]]


async def _correct(daemon: Daemon, job: int, **asked: Any) -> None:
    request = pb.CorrectRequest(job=str(job), reason="agreed", currency="USD", **asked)
    await daemon.money.Correct(request, None)


def test_a_run_costs_what_its_charges_are_now() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        for number in range(7):
            daemon.run(name=f"train-{number}", project="nlp")
        daemon.run(hours=8, name="train-99", project="nlp")
        assert [row[2] for row in await _rows(daemon)] == ["8 train-99"]
        await _correct(daemon, 8, to_ppm=125_000)
        assert await _rows(daemon) == []
        await _correct(daemon, 3, to_ppm=9_000_000)
        [(what, project, job, mostly)] = await _rows(daemon)
        assert (what, project, job) == ("run", "nlp", "3 train-2")
        assert mostly == "attempt 1 completed 11.26"

    in_a_daemon(story)


def test_a_run_that_was_retagged_is_one_of_the_project_that_pays_it() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        for number in range(7):
            for project in ("nlp", "vision"):
                daemon.run(name=f"train-{number}", project=project)
        daemon.run(hours=8, name="train-99", project="nlp")
        await _correct(daemon, 15, retag=pb.Retag(project="vision"))
        assert await _rows(daemon, "nlp") == []
        told = [("run", "vision", "15 train-99", "attempt 1 completed 10.01")]
        assert await _rows(daemon, "vision") == await _rows(daemon) == told

    in_a_daemon(story)


def test_a_day_names_the_jobs_that_it_is_of_as_they_are_corrected_now() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        for day in range(21):
            began = daemon.clock.now()
            for project in ("nlp", "vision"):
                daemon.run(hours=8 if (day, project) == (20, "nlp") else 1, name=f"of-{day}", project=project)
            if day == 20:
                daemon.run(hours=5, name="also", project="nlp")
            daemon.clock.advance(DAY_US - (daemon.clock.now() - began))
            daemon.meter()
        before = [row for row in await _rows(daemon) if row[0] == "day"]
        assert before == [("day", "nlp", "", "job 41 10.01, job 43 6.25")]
        await _correct(daemon, 41, retag=pb.Retag(project="vision"))
        days = {row[1]: row[3] for row in await _rows(daemon) if row[0] == "day"}
        assert days == {"nlp": "job 43 6.25", "vision": "job 41 10.01, job 42 1.25"}

    in_a_daemon(story)
