"""What nodes cannot hold jobs to is said where a cluster is looked at, and of a job that runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bursar.cli import local, unheld
from bursar.errors import NotFound

ALL = ["memory", "cpu", "pids"]
JOB: dict[str, Any] = {
    "state": "RUNNING",
    "attempts": [{"nodes": [{"node": "old"}]}, {"nodes": [{"node": "n1"}, {"node": "n2"}]}],
}


def test_nodes_that_lack_the_same_are_told_together() -> None:
    assert unheld.said_of([("a", ALL), ("b", [*ALL, "gpu"])]) == ""
    assert unheld.said_of([("a", []), ("b", ALL), ("c", []), ("d", ["cpu"])]) == (
        "jobs can take more than they ask for of memory, cpu, pids on a, c; memory, pids on d"
        " (see `bursar doctor`)"
    )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ALL, ""),
        (["memory"], "it can take more than it asks for of cpu, pids (see `bursar doctor`)"),
        (None, ""),
    ],
)
def test_of_a_job_that_runs_its_first_node_is_asked(limits: list[str] | None, said: str) -> None:
    asked: list[str] = []

    def node(name: str) -> Any:
        asked.append(name)
        if limits is None:
            raise NotFound("no such node")
        return SimpleNamespace(facts=SimpleNamespace(limits=limits))

    client: Any = SimpleNamespace(node=node)
    assert unheld.of_job(client, JOB) == said
    assert asked == ["n1"]
    for other in ({**JOB, "state": "SUCCEEDED"}, {**JOB, "state": "PENDING"}, {**JOB, "attempts": []}):
        assert unheld.of_job(client, other) == ""
    assert asked == ["n1"]


def test_status_says_it_of_the_nodes_that_it_knows() -> None:
    row: dict[str, Any] = {
        "server": "unix:///s", "state_dir": "/d", "web": None, "gateway": None, "keeper": None,
        "daemon": {"pid": 1, "version": "1", "ready": True, "state": "ready", "trouble": None},
        "agents": [
            {"name": "a", "pid": 2, "state": "up", "limits": ["cpu"]},
            {"name": "b", "pid": 3, "state": "starting", "limits": None},
        ],
    }  # fmt: skip
    told = "limits     jobs can take more than they ask for of memory, pids on a (see `bursar doctor`)"
    assert local._status_text(row).splitlines()[-1] == told
    row["agents"][0]["limits"] = ALL
    assert "limits" not in local._status_text(row)
