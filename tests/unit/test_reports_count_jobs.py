"""A job is one job, on however many nodes it ran and in however many parts its charges come."""

from __future__ import annotations

from bursard.reports.cost import fold
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
