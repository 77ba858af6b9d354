"""A job is one job, on however many nodes it ran and in however many parts its charges come."""

from __future__ import annotations

from bursard.reports.cost import Shape, fold
from bursard.store import ChargeSum


def part(*keys: str, nanos: int = 5) -> ChargeSum:
    used = {"gpu_milli_us": 0, "cpu_milli_us": 1000, "held_us": 1, "unpriced_us": 0}
    return ChargeSum(keys=keys, nanos=nanos, gpu=0, cpu=nanos, memory=0, charges=1, **used)


def test_a_gang_is_one_job_of_its_project_and_all_its_parts_are_its_cost() -> None:
    table = fold(
        ["project"], [part("z", "job_1"), part("z", "job_1"), part("a", "job_2"), part("z", "job_3")]
    )
    assert {row.keys: (row.jobs, row.nanos) for row in table.rows} == {("z",): (2, 15), ("a",): (1, 5)}
    assert (table.total.jobs, table.total.nanos) == (3, 20)


def test_an_array_is_one_job_however_many_of_its_tasks_are_charged() -> None:
    tasks = [part("z", f"job_1.{index}") for index in range(7)]
    table = fold(["project"], [*tasks, part("a", "job_1.7"), part("z", "job_10"), part("z", "job_10.x")])
    assert {row.keys: (row.jobs, row.nanos) for row in table.rows} == {("z",): (2, 45), ("a",): (1, 5)}
    assert table.total.jobs == 2
    each = fold(["job"], [part(task.keys[1], task.keys[1]) for task in tasks])
    assert ([row.jobs for row in each.rows], each.total.jobs) == ([1] * 7, 1)


def test_what_is_of_no_job_counts_as_none() -> None:
    table = fold(["kind"], [part("idle", ""), part("idle", ""), part("usage", "job_1")])
    assert {row.keys: row.jobs for row in table.rows} == {("idle",): 0, ("usage",): 1}


def test_a_job_of_which_nothing_is_left_in_a_group_counts_there_no_more() -> None:
    back = part("a", "job_1", nanos=-5)._replace(held_us=-1)
    moved = [part("a", "job_1"), back, part("b", "job_1")]
    table = fold(["model"], [*moved, part("a", "job_2")])
    assert {row.keys: (row.jobs, row.nanos) for row in table.rows} == {("a",): (1, 5), ("b",): (1, 5)}
    assert table.total.jobs == 2
    free = part("a", "job_1", nanos=0)
    assert [row.jobs for row in fold(["model"], [free]).rows] == [1]
    topped = fold(["model"], [part("z", "job_9", nanos=99), *moved], Shape(top=1))
    assert [row.jobs for row in topped.rows] == [1, 1]
