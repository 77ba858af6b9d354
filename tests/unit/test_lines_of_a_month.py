"""What the lines of a closed month and of Slurm's tables say, to the blank."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.cli.period import period_text
from bursar.codec import view
from bursar.steps.tables import cpus_of, reason_of


def test_every_kind_of_a_month_stands_apart_from_its_amount() -> None:
    totals = {"usage": view.money(10**9, "USD"), "absorption": view.money(-6 * 10**8, "USD")}
    row: dict[str, Any] = {
        "period": "2026-11", "state": "open", "closed_at": None, "hash": None, "missing": [],
        "totals": totals, "total": view.money(4 * 10**8, "USD"), "charges": 2,
    }  # fmt: skip
    assert period_text(row).splitlines()[-3:] == [
        "usage      1.00 USD",
        "absorption -0.6000 USD",
        "total      0.4000 USD in 2 charges",
    ]


@pytest.mark.parametrize(("cpus", "nodes", "shown"), [(0, 1, "1"), (0.5, 3, "3"), (1, 1, "1"), (2.5, 2, "6")])
def test_slurm_counts_whole_cpus_and_at_least_one_a_node(cpus: float, nodes: int, shown: str) -> None:
    assert cpus_of({"resources": {"cpus": cpus}, "nodes": nodes}) == shown


@pytest.mark.parametrize(
    ("code", "facts", "shown"),
    [
        ("WaitingForQuota", {"max_parallel": "2"}, "JobArrayTaskLimit"),
        ("WaitingForQuota", {"quota": "team"}, "AssocGrpLimit"),
        ("WaitingForResources", {}, "Resources"),
    ],
)
def test_a_task_that_its_array_holds_back_waits_for_slurm_s_own_reason(
    code: str, facts: dict[str, str], shown: str
) -> None:
    assert reason_of({"reason": {"code": code, "facts": facts}}) == shown
    assert reason_of({"reason": None}) == "None"
