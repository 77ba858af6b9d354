"""`launch: torchrun | mpi | ray | dask | spark`: the examples of the docs with the real programs.

Why     each engine says itself how many there are of it: a fake would say what we think it says.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import TERMINAL, processes, until
from step_cluster import StepCluster, two_nodes

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
UP_AND_DONE_S = 240
"""Six processes that import torch take a minute on a busy machine."""
OWN_BIN = Path(sys.executable).parent
SPARK = shutil.which("spark-class")


@pytest.fixture(scope="module")
def cluster() -> Iterator[StepCluster]:
    yield from two_nodes()


def ended(cluster: StepCluster, job: str) -> int:
    """The exit code of a job that takes its time."""

    def probe() -> bool:
        found = cluster.looks(lambda client: client.get(job))
        return found is not None and found.state in TERMINAL

    until(probe, f"{job} ended", UP_AND_DONE_S)
    return int(cluster.show(job)["exit_code"])


def run_example(
    cluster: StepCluster, engine: str, old: str = "", new: str = "", python: str = sys.executable
) -> list[str]:
    """What the example printed, run by the Python that has the engine."""
    text = (EXAMPLES / engine / "job.yaml").read_text()
    text = text.replace("[python3, ", f"[{python}, {EXAMPLES / engine}/")
    job = cluster.submit(text.replace(old, new) if old else text)
    assert ended(cluster, job) == 0, cluster.log(job)
    return cluster.log(job).splitlines()


def test_torchrun_makes_one_world_of_the_processes_of_all_nodes(cluster: StepCluster) -> None:
    # One process a node: each of them takes seconds to import torch.
    told = run_example(cluster, "torchrun", "tasks_per_node: 2", "tasks_per_node: 1")
    assert told[-1] == "2 processes found [3.0, -1.0]"


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no Open MPI; apt-get install openmpi-bin")
def test_mpi_starts_as_many_processes_on_each_node_as_are_asked_for(cluster: StepCluster) -> None:
    told = run_example(cluster, "mpi")
    assert sorted(line for line in told if line.startswith("rank")) == [
        f"rank {rank} of 4" for rank in range(4)
    ]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no Open MPI; apt-get install openmpi-bin")
@pytest.mark.parametrize(
    "text",
    [
        "touch on.$OMPI_COMM_WORLD_RANK; until [ -e gate ]; do sleep 0.02; done; env",
        "#!/usr/bin/env python3\nimport os, time\nopen('on.' + os.environ['OMPI_COMM_WORLD_RANK'], 'w')\n"
        "while not os.path.exists('gate'): time.sleep(0.02)\n"
        "print(*(f'{name}={value}' for name, value in os.environ.items()))",
    ],
)
def test_the_text_of_mpi_on_several_nodes_stands_in_no_command_line(cluster: StepCluster, text: str) -> None:
    canary = f"canary-{os.getpid()}"
    script = textwrap.indent(f"{text}  # {canary}\n", "  ")
    spec = "nodes: 2\nresources: {cpus: 1}\ntime_limit: 5m\nlaunch: mpi\ntasks_per_node: 1\nrun: |\n"
    job = cluster.submit(spec + script)
    until(lambda: all((cluster.work / f"on.{rank}").exists() for rank in (0, 1)), "both ranks run")
    assert processes(canary) == []
    (cluster.work / "gate").touch()
    assert ended(cluster, job) == 0, cluster.log(job)
    said = cluster.log(job)
    assert "OMPI_COMM_WORLD_RANK" in said
    assert "BURSAR_SCRIPT_TEXT=" not in said
    for path in (cluster.work / name for name in ("on.0", "on.1", "gate")):
        path.unlink()


def test_dask_has_a_worker_on_each_node_before_the_command_starts(cluster: StepCluster) -> None:
    assert run_example(cluster, "dask") == ["2 workers with 2 threads: 14"]


def test_ray_has_all_nodes_before_the_command_starts(cluster: StepCluster) -> None:
    assert run_example(cluster, "ray")[-1] == "2 nodes with 2 CPUs: 14"


@pytest.mark.skipif(
    SPARK is None, reason="no PySpark; put the bin directory of an environment with it on PATH"
)
def test_spark_spreads_over_its_executors(cluster: StepCluster) -> None:
    assert SPARK is not None
    python = str(Path(SPARK).with_name("python3"))
    assert run_example(cluster, "spark", python=python)[-1] == "on spark: 14"


def test_the_commands_exit_code_is_the_jobs_and_the_engine_ends_with_it(cluster: StepCluster) -> None:
    text = (
        "launch: dask\nresources: {cpus: 1}\ntime_limit: 5m\nenv: {PATH: '"
        + f"{OWN_BIN}:/usr/bin:/bin"
        + "'}\n"
    )
    job = cluster.submit(text + "run: |\n  pgrep -f 'dask (scheduler|worker)' | sort > pids; exit 7\n")
    assert ended(cluster, job) == 7
    pids = cluster.appears("pids").split()
    assert pids
    cluster.gone(*pids)


def test_an_engine_that_is_not_there_is_named_with_what_to_do(cluster: StepCluster) -> None:
    job = cluster.submit(
        "launch: spark\nnodes: 2\nenv: {PATH: '/usr/bin:/bin'}\ntime_limit: 5m\ncommand: [true]\n"
    )
    assert ended(cluster, job) == 127
    assert cluster.log(job).splitlines() == [
        "bursar-launch: error: spark-class is not on the job's PATH; install pyspark on the node, or name "
        "the directory that has it in env: {PATH: ...}"
    ]
