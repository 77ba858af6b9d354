"""Jobs of a simulation that stop working: an idle policy ends them, and what that saves is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar_policies.document import parse_documents
from bursard.sim.rows import read_jobs, read_nodes
from bursard.sim.simulation import Simulation
from bursard.sim.summary import summarize

POLICY = "kind: IdlePolicy\nname: idle\nspec: {time_window: 1h, warn_after: 20m, action: ACTION}\n"
NODES = "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour\nn1,1000,1000,1,H100,10\n"
JOBS = (
    "job_id,submit_s,duration_s,gpus,project,time_limit_s,idle_after_s,saves\n"
    "forgotten,0,36000,1,p,90000,1800,1\n"
    "waits,60,600,1,p,3600,,0\n"
)


def ran(folder: Path, action: str = "") -> tuple[dict[str, Any], Any]:
    """Both on one GPU, to the end: the jobs by name, and the summary."""
    for name, text in (("jobs", JOBS), ("nodes", NODES)):
        (folder / name).write_text(text)
    rows = read_jobs(str(folder / "jobs")), read_nodes(str(folder / "nodes"))
    made = Simulation(*rows, parse_documents(POLICY.replace("ACTION", action), "p") if action else ())
    made.run()
    assert made.checks.found == []
    return {run.row.job_id: run for run in made.runs}, summarize(made, None, False)


def amount(summary: Any, name: str) -> float:
    return float(summary["cost"][name]["amount"])


def test_what_stops_working_holds_its_gpu_to_its_end_where_no_policy_is(tmp_path: Path) -> None:
    runs, summary = ran(tmp_path)
    assert runs["waits"].start_us == 36_000_000_000
    assert summary["idle"] == {"told": 0, "acted": 0}
    assert amount(summary, "held_idle") == pytest.approx(9.5 * 8.5, rel=0.01)  # its share of ten an hour


@pytest.mark.parametrize(
    ("action", "state", "attempts"),
    [("stop", "FAILED", 1), ("cancel", "CANCELLED", 1), ("requeue", "SUCCEEDED", 2), ("hold", "PENDING", 1)],
)
def test_a_policy_warns_waits_and_gives_the_gpu_to_who_waits(
    tmp_path: Path, action: str, state: str, attempts: int
) -> None:
    runs, summary = ran(tmp_path, action)
    # One that is queued again keeps its place: it works from then on, and what it had done is kept.
    over = 1800 + 3600 + (36_000 - 1800 if action == "requeue" else 0)
    assert runs["waits"].start_us == over * 1_000_000
    assert (runs["forgotten"].state or "PENDING", runs["forgotten"].attempts) == (state, attempts)
    assert summary["idle"] == {"told": 1, "acted": 1}
    assert amount(summary, "held_idle") == pytest.approx(8.5, rel=0.01)


def test_one_that_only_tells_changes_nothing_else(tmp_path: Path) -> None:
    runs, summary = ran(tmp_path, "notify")
    assert summary["idle"] == {"told": 1, "acted": 0}
    assert runs["waits"].start_us == 36_000_000_000
