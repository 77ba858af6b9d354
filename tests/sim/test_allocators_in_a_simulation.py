"""Jobs that contend, in a simulation: who runs where, who is moved, and what that costs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bursar_policies import allocators
from bursar_policies.allocators import Allotment, Problem, Weight, allotted
from bursar_policies.document import parse_documents
from bursard.sim import rows
from bursard.sim.runs import JobRun
from bursard.sim.simulation import Simulation

NODES = "node_id,cpu_milli,memory_mib,gpus,gpu_type\nv,9000,1000,1,V100\nk,9000,1000,1,K80\n"
HEAD = (
    "job_id,submit_s,duration_s,gpus,gpu_type,throughput,checkpoint_s,restart_s,preemptible,max_cost,project,"
    "time_limit_s\n"
)
BOTH = "1,V100|K80,V100=1;K80=0.5"


class Turns:
    """The GPU to whoever has had the least of it: so that jobs are moved, each round."""

    name = "turns"
    weights: dict[str, Weight] = {}

    def __init__(self) -> None:
        self.asked: list[Problem] = []

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        self.asked.append(problem)
        room, found = allocators.Room(problem.supply), []
        for one in sorted(problem.contenders, key=lambda one: (one.held_us, one.order)):
            best = sorted(one.sizes, key=lambda size: (-size.speed, size))
            size = next((size for size in best if room.take(size)), None)
            if size is not None:
                found.append(allotted(one.job_id, size))
        return found


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    made = Turns()
    monkeypatch.setattr(allocators.registry, "SHIPPED", (*allocators.SHIPPED, made))
    return made


def simulate(
    folder: Path, jobs: str, name: str = "in-order", nodes: str = NODES, more: str = ""
) -> tuple[dict[str, JobRun], Simulation]:
    (folder / "jobs.csv").write_text(HEAD + jobs)
    (folder / "nodes.csv").write_text(nodes)
    text = (
        "kind: PlacementPolicy\nname: p\nspec:\n  strategy: pack\n"
        f"  allocator: {{name: {name}, round: 10m, restart: 0s}}\n{more}"
    )
    files = rows.read_jobs(str(folder / "jobs.csv")), rows.read_nodes(str(folder / "nodes.csv"))
    found = Simulation(*files, parse_documents(text, "p"))
    found.run()
    assert found.checks.count == 0
    return {run.row.job_id: run for run in found.runs}, found


def ends(found: dict[str, JobRun]) -> dict[str, tuple[str, int]]:
    return {name: (run.state, run.end_us // 1_000_000) for name, run in found.items()}


def test_jobs_get_the_gpu_on_which_they_are_fastest_and_what_is_free_between_rounds(tmp_path: Path):
    found, _ = simulate(
        tmp_path,
        f"a,0,1000,{BOTH},1,0,1,,,\nb,0,1000,{BOTH},1,0,1,,,\nc,1,1000,{BOTH},1,0,1,,,\n",
    )
    assert ends(found) == {"a": ("SUCCEEDED", 1000), "b": ("SUCCEEDED", 2000), "c": ("SUCCEEDED", 2000)}
    assert [found[name].nodes for name in "abc"] == [("v",), ("k",), ("v",)]
    assert [found[name].attempts for name in "abc"] == [1, 1, 1]


def test_jobs_take_turns_by_rounds_and_lose_what_is_not_saved_and_the_restart(tmp_path: Path, turns: Turns):
    one = "node_id,cpu_milli,memory_mib,gpus,gpu_type\nv,9000,1000,1,V100\n"
    jobs = "a,0,1000,1,V100,V100=1,60,30,1,,,\nb,0,1000,1,V100,V100=1,60,30,1,,,\n"
    found, simulation = simulate(tmp_path, jobs, "turns", one)
    # a: [0, 600) does 600; b: [600, 1200) does 600; a: [1200, 1800) restarts for 30 and does the other 400.
    assert ends(found) == {"a": ("SUCCEEDED", 1630), "b": ("SUCCEEDED", 2060)}
    assert (found["a"].attempts, found["b"].attempts) == (2, 2)
    assert simulation.totals.preemptions == 2


def test_a_job_may_be_moved_while_nobody_waits(tmp_path: Path, turns: Turns):
    # From its second round on b has had less than a, and gets the better GPU.
    jobs = f"a,0,3000,{BOTH},1,0,1,,,\nb,300,3000,{BOTH},1,0,1,,,\n"
    found, simulation = simulate(tmp_path, jobs, "turns")
    assert ends(found)["b"][0] == "SUCCEEDED"
    moved = [problem for problem in turns.asked if any(one.holds is not None for one in problem.contenders)]
    assert moved, "those that run are asked about too"
    assert simulation.totals.preemptions >= 2, "both change places"
    assert all(len(problem.contenders) == 2 for problem in moved[1:3])


def test_what_an_allocator_is_told_of_a_job(tmp_path: Path, turns: Turns):
    simulate(tmp_path, f"a,0,2000,{BOTH},1,0,1,,,\nb,100,900,{BOTH},1,0,1,,,\n", "turns")
    second = next(one for one in turns.asked if one.now >= turns.asked[0].now + 600_000_000)
    a, b = second.contenders
    assert (a.work_us, a.held_us, a.age_us) == (600_000_000, 600_000_000, 600_000_000)
    assert (b.work_us, b.held_us, b.age_us) == (250_000_000, 500_000_000, 500_000_000), "half as fast there"
    assert [(size.gpu_type, size.nodes, size.gpus, size.speed) for size in a.sizes] == [
        ("K80", 1, 1, 500_000),
        ("V100", 1, 1, 1_000_000),
    ]
    assert (a.holds, b.holds) == (a.sizes[1], b.sizes[0])
    assert [(one.gpu_type, one.nodes) for one in second.supply] == [("K80", ((1, 1),)), ("V100", ((1, 1),))]


def test_what_does_not_contend_comes_first_and_is_never_moved(tmp_path: Path, turns: Turns):
    jobs = (
        f"a,0,3000,{BOTH},1,0,1,,,\nb,0,3000,{BOTH},1,0,1,,,\n"
        "plain,100,600,1,,,1,0,1,,,\nfixed,100,5000,1,V100,V100=1,1,0,0,,,\n"
    )
    found, _ = simulate(tmp_path, jobs, "turns")
    assert (found["plain"].attempts, found["fixed"].attempts) == (1, 1)
    assert found["plain"].start_us == found["fixed"].start_us == 600_000_000, "at the first round after"
    assert found["fixed"].nodes == ("v",)


def test_a_job_that_others_would_always_come_before_has_part_of_an_equal_share(tmp_path: Path):
    """Two GPUs and three jobs that gain as much, of whom nobody counts less for what it has had."""
    jobs = "".join(f"{name},{at},30000,{BOTH},1,0,1,,,\n" for at, name in enumerate("abc"))
    jobs = jobs.replace("K80=0.5", "K80=1")
    never, _ = simulate(tmp_path, jobs, "relative-speed, attained: 0, fair: 0")
    assert never["c"].start_us == 30_000_000_000, "when one of the others has ended"
    found, _ = simulate(tmp_path, jobs, "relative-speed, attained: 0")
    # A quarter of two thirds of a GPU: 24 rounds after its first it is owed four rounds of one.
    assert 24 * 600_000_000 < found["c"].start_us <= 26 * 600_000_000
    assert found["a"].attempts + found["b"].attempts > 2, "one of them gave way"


def test_a_share_is_not_kept_for_ever_for_a_job_that_its_budget_does_not_let_start(
    tmp_path: Path, turns: Turns
):
    priced = (
        "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour\n"
        "v,9000,1000,1,V100,10\nk,9000,1000,1,K80,1\n"
    )
    more = (
        "---\nkind: Budget\nname: b\nspec:\n  scope: {project: p}\n  limit: 15 USD\n  period: one-time\n"
        "  enforcement: hard\n"
    )
    # `hog` holds what `poor` would need of the budget. `poor` is given the V100 first, since it had nothing.
    jobs = (
        "hog,0,50000,1,K80,,1,0,0,,p,54000\n"
        "poor,1,600,1,V100,V100=1,1,0,1,,p,1200\n"
        "rich,2,3000,1,V100,V100=1,1,0,1,,q,36000\n"
    )
    found, _ = simulate(tmp_path, jobs, "turns", priced, more)
    assert found["rich"].state == "SUCCEEDED"
    assert found["rich"].end_us < 4 * 3_600_000_000, "its turn comes although `poor` would always be first"
    assert found["poor"].state == "SUCCEEDED"
    assert found["poor"].start_us >= 50_000_000_000, "when the money is there"


def test_the_same_jobs_and_nodes_give_the_same_rows(tmp_path: Path, turns: Turns):
    jobs = "".join(f"j{n},{n * 37},{900 + n * 13},{BOTH},1,5,1,,,\n" for n in range(12))
    first, _ = simulate(tmp_path, jobs, "turns")
    second, _ = simulate(tmp_path, jobs, "turns")
    assert ends(first) == ends(second)
    assert all(run.state == "SUCCEEDED" for run in first.values())
