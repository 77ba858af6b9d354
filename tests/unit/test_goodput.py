"""`goodput`: jobs with a range of sizes grow and shrink, as all of them together get on best."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from bursar.jobfile import parse_job
from bursar_policies import allocators
from bursar_policies.allocators import ONE, Contender, Problem, Size, Supply
from bursar_policies.document import parse_documents
from bursard.scheduler import targets
from bursard.sim.rows import read_jobs, read_nodes
from bursard.sim.simulation import Simulation

MINUTE_US = 60_000_000
ALLOCATOR = allocators.find("goodput")


def sizes(*speeds: float, gpu_type: str = "A100") -> tuple[Size, ...]:
    """1, 2, 4, 8 GPUs at these speeds."""
    return tuple(Size(gpu_type, 1, 1 << at, int(speed * ONE)) for at, speed in enumerate(speeds))


def contender(order: int, *ways: Size, **known: object) -> Contender:
    return Contender(job_id=f"job_{order}", order=order, sizes=ways, **known)  # type: ignore[arg-type]


def given(*contenders: Contender, supply: tuple[Supply, ...], **weights: float) -> dict[str, int]:
    """GPUs of each."""
    told = {name: weight.default for name, weight in ALLOCATOR.weights.items()}
    problem = Problem(contenders=contenders, supply=supply, round_us=MINUTE_US, weights=told | weights)
    found = targets.ask(ALLOCATOR, problem)
    assert not found.refused
    return {job_id: size.gpus_in_all for job_id, size in found.given.items()}


def a100(*nodes: tuple[int, int]) -> tuple[Supply, ...]:
    return (Supply("A100", nodes),)


def test_one_that_is_alone_is_as_large_as_it_gains_by():
    assert given(contender(0, *sizes(1, 1.9, 3.5, 6)), supply=a100((8, 1))) == {"job_0": 8}
    assert given(contender(0, *sizes(1, 1.9, 1.9, 1.9)), supply=a100((8, 1)))["job_0"] == 2


def test_gpus_go_to_who_gains_more_by_them():
    well, badly = contender(0, *sizes(1, 2, 4, 8)), contender(1, *sizes(1, 1.1, 1.2, 1.3))
    assert given(well, badly, supply=a100((4, 1), (1, 1))) == {"job_0": 4, "job_1": 1}


def test_nobody_waits_while_others_have_more_than_one():
    four = [contender(order, *sizes(1, 1.9, 3.6)) for order in range(4)]
    assert given(*four, supply=a100((4, 1))) == {f"job_{order}": 1 for order in range(4)}


def test_each_type_goes_to_who_is_faster_on_it():
    def on(old: float, new: float) -> tuple[Size, ...]:
        return Size("T4", speed=int(old * ONE)), Size("A100", speed=int(new * ONE))

    supply = (Supply("A100", ((1, 1),)), Supply("T4", ((1, 1),)))
    told = {name: weight.default for name, weight in ALLOCATOR.weights.items()}
    asked = Problem(
        contenders=(contender(0, *on(1, 1.2)), contender(1, *on(1, 6))),
        supply=supply, round_us=MINUTE_US, weights=told,
    )  # fmt: skip
    found = targets.ask(ALLOCATOR, asked).given
    assert {job_id: size.gpu_type for job_id, size in found.items()} == {"job_0": "T4", "job_1": "A100"}


def test_a_restart_that_costs_more_than_it_gains_is_left():
    """Of four GPUs two are free: a young job whose restart takes minutes stays as it is, an old one grows."""
    ways = sizes(1, 1.9, 3.4)
    held = contender(0, *ways, holds=ways[1], restart_us=10 * MINUTE_US, age_us=10 * MINUTE_US)
    assert given(held, supply=a100((4, 1))) == {"job_0": 2}
    assert given(replace(held, age_us=600 * MINUTE_US), supply=a100((4, 1))) == {"job_0": 4}


def test_who_has_had_much_counts_less_where_the_document_says_so():
    one, other = (contender(order, *sizes(1)) for order in (0, 1))
    long = replace(one, held_us=100 * MINUTE_US)
    assert given(long, other, supply=a100((1, 1))) == {"job_0": 1}
    assert given(long, other, supply=a100((1, 1)), attained=0.5) == {"job_1": 1}


def test_sizes_are_those_of_one_node_and_then_nodes_that_are_full_of_it():
    spec = parse_job("nodes: 1..3\nresources: {gpus: '1..8'}\nrun: x\nthroughput: {A100x8: 6}", "j", "")
    places = [{"A100": 2}, *[{"A100": 2, "T4": 3}] * 3]
    found = {(one.gpu_type, one.nodes, one.gpus) for one in targets.sizes_of(spec, places)}
    assert found == {
        *(("A100", 1, gpus) for gpus in (1, 2, 4, 8)), ("A100", 2, 8),
        *(("T4", 1, gpus) for gpus in (1, 2, 4)), ("T4", 2, 4), ("T4", 3, 4),
    }  # fmt: skip


def test_a_range_of_gpus_contends_without_a_word_of_its_speed():
    ranged = parse_job("resources: {gpus: '1..8'}\nrun: x", "j", "")
    assert targets.contends(ranged)
    assert not targets.contends(replace(ranged, preemptible=False))
    assert not targets.contends(parse_job("resources: {ordered: [{gpus: 8}, {cpus: 1}]}\nrun: x", "j", ""))


# ------------------------------------------------------------------ a life of elastic jobs


POLICY = """\
kind: PlacementPolicy
name: elastic
spec: {strategy: pack, allocator: {name: goodput, round: 60s, restart: 10s}}
"""
NODES = "node_id,cpu_milli,memory_mib,gpus,gpu_type\na,8000,8000,4,A100\nb,8000,8000,4,A100\n"
JOBS = (
    "job_id,submit_s,duration_s,nodes,gpus,cpu_milli,throughput,saves,restart_s\n"
    "long,0,4000,1..2,4,1000,A100x4=1;A100x8=1.8,1,10\n"
    "short,1000,300,1..2,4,1000,A100x4=1;A100x8=1.8,1,10\n"
)


def test_a_job_gives_nodes_to_one_that_comes_and_takes_them_back_when_it_has_ended(tmp_path: Path):
    (tmp_path / "jobs").write_text(JOBS)
    (tmp_path / "nodes").write_text(NODES)
    made = Simulation(
        read_jobs(str(tmp_path / "jobs")), read_nodes(str(tmp_path / "nodes")), parse_documents(POLICY, "p")
    )
    sized: list[tuple[int, int]] = []
    started = made._started

    def note(attempt):
        sized.append((made._now_us // 1_000_000, len(attempt.members)))
        started(attempt)

    made._started = note  # type: ignore[method-assign]
    made.run()
    assert sized == [(0, 2), (1020, 1), (1020, 1), (1320, 2)]
    # 1020 s at 1.8, then 10 s lost and 290 s at 1, then 10 s lost and the rest at 1.8.
    left = 4000 - 1020 * 1.8 - 290
    ends = {run.row.job_id: run.end_us / 1e6 for run in made.runs}
    assert ends["short"] == 1320
    assert ends["long"] == round(1320 + 10 + left / 1.8, 6)
    assert made.checks.found == []
