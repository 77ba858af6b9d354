"""A job with a range of sizes: how it is written, and that it starts as the largest that can start."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.jobfile import RunFlags, parse_job, spec_from_flags
from bursar.jobfile.render import spec_to_yaml
from bursar.model import JobSpec
from bursar.resources import GpuRequest, gpu_sizes
from bursar_policies.decision import BudgetRoom, Snapshot, Start
from bursar_policies.document import parse_documents
from bursar_policies.specs import QuotaSpec
from bursard.scheduler import plan
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot
from bursard.sim.rows import read_jobs, read_nodes
from bursard.sim.simulation import Simulation

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
UNIT = 1_000_000_000
RANGED = """\
nodes: 2..8
throughput: {A100: 1, H100: 2.6, A100x4: 3.1}
resources: {gpus: "A100|H100:2..6", cpus: 4}
run: python train.py
"""


def ranged() -> JobSpec:
    return parse_job(RANGED, "job.yaml", "")


# ------------------------------------------------------------------ how it is written


def test_a_file_says_both_ends_and_how_fast_it_is_where() -> None:
    spec = ranged()
    assert (spec.nodes, spec.max_nodes) == (2, 8)
    assert spec.throughput == (("A100", 0, 1_000_000), ("A100", 4, 3_100_000), ("H100", 0, 2_600_000))
    assert [one.gpus for one in spec.options] == [GpuRequest(n, ("A100", "H100")) for n in (6, 4, 2)]
    assert spec.ordered


def test_it_comes_back_from_a_file_and_from_the_wire_as_it_was() -> None:
    text = spec_to_yaml(ranged())
    assert "nodes: 2..8\n" in text
    assert "gpus: A100|H100:2..6\n" in text
    assert parse_job(text, "again.yaml", "") == ranged() == spec_from_wire(spec_to_wire(ranged()))


def test_flags_say_the_same() -> None:
    flags = RunFlags(
        command=("python", "train.py"), nodes="2..8", gpus="A100|H100:2..6", cpus="4",
        throughput=("A100=1", "H100=2.6", "A100x4=3.1"),
    )  # fmt: skip
    assert replace(spec_from_flags(flags), command=(), script="python train.py") == ranged()


def test_alternatives_in_order_may_each_be_a_range() -> None:
    text = "run: x\nresources: {ordered: [{gpus: 'H100:2..4'}, {gpus: 'A100:8'}]}\n"
    spec = parse_job(text, "job.yaml", "")
    assert [str(one.gpus) for one in spec.options] == ["H100:4", "H100:2", "A100:8"]
    assert parse_job(spec_to_yaml(spec), "again.yaml", "") == spec


@pytest.mark.parametrize(
    ("ends", "sizes"), [((1, 8), (8, 4, 2, 1)), ((2, 6), (6, 4, 2)), ((3, 8), (8, 4, 3)), ((3, 4), (4, 3))]
)
def test_a_range_of_gpus_has_its_ends_and_the_powers_of_two_between(
    ends: tuple[int, int], sizes: tuple[int, ...]
) -> None:
    assert gpu_sizes(*ends) == sizes


# ------------------------------------------------------------------ how large it starts


def started(shot: Snapshot) -> dict[str, Start]:
    return {start.job_id: start for start in plan(shot, NOW).starts}


def nodes(count: int) -> list[Node]:
    return [Node(name=f"n{row}", gpus=8, rates=(UNIT, 0, 0)) for row in range(count)]


def of_nodes(least: int, most: int, **more: object) -> object:
    return job_class(request(8), nodes=least, max_nodes=most, **more)


@pytest.mark.parametrize(("there", "gets"), [(1, None), (2, 2), (5, 5), (8, 8), (12, 8)])
def test_it_gets_as_many_nodes_as_there_are_up_to_its_most(there: int, gets: int | None) -> None:
    shot = snapshot(columns(nodes(there)), queue(of_nodes(2, 8), (1, "j")))
    found = started(shot)
    assert (len(found["j"].members) if found else None) == gets


def test_a_range_of_gpus_takes_the_most_that_one_node_has_free() -> None:
    sizes = [request(count) for count in (8, 4, 2, 1)]
    shot = snapshot(columns([Node(name="a", gpus=6)]), queue(job_class(*sizes, ordered=True), (1, "j")))
    assert len(started(shot)["j"].members[0].devices) == 4


def test_more_nodes_are_taken_only_with_the_most_gpus_on_each() -> None:
    sizes = job_class(request(8), request(4), ordered=True, nodes=1, max_nodes=4)
    there = columns([Node(name="a", gpus=8), Node(name="b", gpus=8), *[Node(name="c", gpus=4)]])
    start = started(snapshot(there, queue(sizes, (1, "j"))))["j"]
    assert [len(member.devices) for member in start.members] == [8, 8]


def test_its_budget_pays_for_the_size_that_starts_and_bounds_it() -> None:
    """A node is 1 an hour, and it holds for an hour and a minute."""
    room = BudgetRoom("team", 4 * UNIT, 0, 0, "USD")
    wanted = of_nodes(1, 8, budgets=("team",))
    start = started(snapshot(columns(nodes(8)), queue(wanted, (1, "j")), budgets=[room]))["j"]
    assert len(start.members) == 3
    assert start.hold_nanos == 3 * UNIT * 61 // 60


def test_a_cap_of_its_own_never_buys_more_nodes_for_a_shorter_time() -> None:
    wanted = of_nodes(1, 8, max_cost_nanos=4 * UNIT)
    start = started(snapshot(columns(nodes(8)), queue(wanted, (1, "j"))))["j"]
    assert (len(start.members), start.time_limit_us) == (3, HOUR_US)


def test_a_quota_bounds_it() -> None:
    shot = snapshot(columns(nodes(8)), queue(of_nodes(1, 8, quotas=("team",)), (1, "j")))
    quota = QuotaSpec(project="p", max=(("gpus", 40_000),), currency="USD")
    assert len(started(replace(shot, quotas={"team": quota}))["j"].members) == 5


def test_it_leaves_what_a_job_before_it_waits_for() -> None:
    """Of four nodes one is held for an hour; the job before it needs four, and starts after that."""
    there = columns(nodes(4))
    first = started(snapshot(there, queue(job_class(request(8)), (0, "runs"))))["runs"]
    running = occupy(there, first, NOW + HOUR_US)
    long = of_nodes(1, 3, hours=5)
    short = of_nodes(1, 3, hours=0.5)
    head = queue(job_class(request(8), nodes=4), (1, "head"))
    assert started(snapshot(there, head, queue(long, (2, "j")), running=running)) == {}
    found = started(snapshot(there, head, queue(short, (2, "j")), running=running))
    assert len(found["j"].members) == 3


def test_of_two_the_first_is_large_and_the_second_gets_the_rest() -> None:
    shot = snapshot(columns(nodes(5)), queue(of_nodes(1, 4), (1, "a"), (2, "b")))
    assert {job: len(start.members) for job, start in started(shot).items()} == {"a": 4, "b": 1}


# ------------------------------------------------------------------ in a simulation


def test_a_simulation_reads_ranges_and_runs_as_fast_as_its_size(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text(
        "node_id,cpu_milli,memory_mib,gpus,gpu_type,price_per_hour\na,9000,9000,4,A100,4\nb,9000,9000,4,A100,4\n"
    )
    (tmp_path / "jobs").write_text(
        "job_id,submit_s,duration_s,nodes,gpus,cpu_milli,project,throughput\n"
        "grow,0,800,1..2,4,1000,p,A100x4=1;A100x8=2\n"
        "small,1000,800,1,1..4,1000,p,A100x4=2\n"
    )
    budget = "kind: Budget\nname: b\nspec: {scope: {project: p}, limit: 1000 USD, period: month}\n"
    made = Simulation(
        read_jobs(str(tmp_path / "jobs")), read_nodes(str(tmp_path / "nodes")), parse_documents(budget, "b")
    )
    made.run()
    assert {run.row.job_id: (len(run.nodes), run.end_us // 1_000_000) for run in made.runs} == {
        "grow": (2, 400),
        "small": (1, 1400),
    }
    assert made.checks.found == []
