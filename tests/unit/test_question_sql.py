"""Questions about ended jobs as SQL: each condition word for word, with its values in order."""

from __future__ import annotations

from typing import Any

import pytest

from bursard.store.base import JobFilter
from bursard.store.queries import Where, where_jobs

BELOW = "((array_index < 0 and project = ?) or (array_index < 0 and project >= ? and project < ?))"
OLDEST = "number >= (select min(+number) from jobs where {0} >= ? and array_index < 0)"


@pytest.mark.parametrize(
    ("asked", "clauses", "values"),
    [
        ({}, [], []),
        ({"states": ("FAILED", "SUCCEEDED")}, ["state in (select value from json_each(?))"],
         ['["FAILED", "SUCCEEDED"]']),
        ({"project": "NLP/a"}, [BELOW], ["nlp/a", "nlp/a/", "nlp/a0"]),
        ({"within": ("a", "b")}, [
            "exists (select 1 from json_each(?) where lower(project) = value"
            " or (lower(project) >= value || '/' and lower(project) < value || '0'))"], ['["a", "b"]']),
        ({"user": "ann", "experiment": "e", "model": "m", "name": "n"},
         ['"user" = ?', "experiment = ?", "model = ?", "name = ?"], ["ann", "e", "m", "n"]),
        ({"labels": (("k", "v"), ("l", "w"))}, [
            "exists (select 1 from json_each(labels) where json_each.key = ? and value = ?)"] * 2,
         ["k", "v", "l", "w"]),
        ({"ended_since": 6}, ["finished_at >= ?", OLDEST.format("finished_at")], [6, 6]),
        ({"cursor": (9, 2)}, ["number <= ? and (number < ? or array_index > ?)"], [9, 9, 2]),
    ],
)  # fmt: skip
def test_each_filter_of_jobs_is_one_condition(asked: Any, clauses: list[str], values: list[Any]) -> None:
    found = where_jobs(JobFilter(**asked))
    assert str(found) == " where " + " and ".join(["array_index < 0", *clauses])
    assert found.values == values


def test_tasks_are_found_by_the_number_of_their_array_and_no_walk_is_cut_short() -> None:
    found = where_jobs(JobFilter(parent_id="job_1", project="a", ended_since=6))
    assert str(found) == (
        " where number = (select number from jobs where id > ? and id < ? limit 1)"
        " and array_index >= 0 and parent_id = ?"
        " and ((project = ?) or (project >= ? and project < ?))"
        " and finished_at >= ?"
    )
    assert found.values == ["job_1.", "job_1/", "job_1", "a", "a/", "a0", 6]


def test_nothing_asked_is_no_condition() -> None:
    where = Where()
    where.equal("a", "")
    where.any_of("a", ())
    where.below("a", "")
    where.within("a", ())
    where.labels(())
    assert (str(where), where.values) == ("", [])
