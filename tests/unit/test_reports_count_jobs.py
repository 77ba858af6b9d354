"""A job is one job, on however many nodes it ran and in however many parts its charges come."""

from __future__ import annotations

from bursard.reports.cost import fold
from bursard.store import ChargeSum


def part(*keys: str, nanos: int = 5) -> ChargeSum:
    return ChargeSum(keys=keys, nanos=nanos, gpu=0, cpu=nanos, memory=0, charges=1, held_us=1, unpriced_us=0)


def test_a_gang_is_one_job_of_its_project_and_all_its_parts_are_its_cost() -> None:
    table = fold(
        ["project"], [part("z", "job_1"), part("z", "job_1"), part("a", "job_2"), part("z", "job_3")]
    )
    assert {row.keys: (row.jobs, row.nanos) for row in table.rows} == {("z",): (2, 15), ("a",): (1, 5)}
    assert (table.total.jobs, table.total.nanos) == (3, 20)


def test_what_is_of_no_job_counts_as_none() -> None:
    table = fold(["kind"], [part("idle", ""), part("idle", ""), part("usage", "job_1")])
    assert {row.keys: row.jobs for row in table.rows} == {("idle",): 0, ("usage",): 1}
