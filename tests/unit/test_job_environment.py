"""The variables of a job: Bursar's own always, Slurm's names where the script speaks Slurm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from bursar.jobfile.slurm import SET_VARIABLES
from bursar.model import DeviceShare, JobSpec, MemberAllocation
from bursard.fleet.environment import job_environment
from bursard.state import AttemptRecord, JobRecord, MemberRecord, State

SBATCH = "#!/bin/bash\n#SBATCH --nodes=2\necho $SLURM_JOB_ID\n"


def environment(
    script: str,
    *,
    rank: int = 0,
    nodes: int = 1,
    index: int = -1,
    env: tuple[tuple[str, str], ...] = (),
    devices: tuple[DeviceShare, ...] = (),
) -> dict[str, str]:
    facts = {f"node_{n}": SimpleNamespace(facts=SimpleNamespace(address=f"10.0.0.{n}")) for n in range(nodes)}
    state = cast(State, SimpleNamespace(nodes=facts))
    members = [
        MemberRecord(MemberAllocation(rank=n, node_id=f"node_{n}", devices=devices), "boot")
        for n in range(nodes)
    ]
    spec = JobSpec(name="train", nodes=nodes, script=script, env=env)
    attempt = AttemptRecord(
        id="att_1", job_id="job_1", number=1, option=0, members=members, time_limit_us=60_000_000, grace_us=0,
        holds=(), placed_at=1, port=29_500,
    )  # fmt: skip
    job = JobRecord(
        id="job_1", number=12, user="ann", spec=spec, order=1, submitted_at=1, array_index=index,
        parent_id="job_0" if index >= 0 else "",
    )  # fmt: skip
    return job_environment(state, job, attempt, members[rank])


def slurm_part(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("SLURM_")}


def test_a_script_with_sbatch_lines_finds_slurms_names() -> None:
    found = slurm_part(environment(SBATCH, rank=1, nodes=2))
    assert found == {
        "SLURM_JOB_ID": "12",
        "SLURM_JOBID": "12",
        "SLURM_JOB_NAME": "train",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "1",
    }


def test_tasks_of_an_array_have_an_id_of_their_own_and_their_index() -> None:
    found = slurm_part(environment(SBATCH, index=3))
    assert found["SLURM_JOB_ID"] == "12_3"
    assert (found["SLURM_ARRAY_JOB_ID"], found["SLURM_ARRAY_TASK_ID"]) == ("12", "3")
    assert set(found) == set(SET_VARIABLES)


def test_without_an_sbatch_line_nothing_pretends_to_be_slurm() -> None:
    """Training libraries look for these names and then expect Slurm's tools to be there."""
    for script in ("", "#!/bin/bash\n#BURSAR --gpus 1\n", "echo '#SBATCH --nodes=2'", "#SBATCHES\n"):
        assert slurm_part(environment(script, nodes=2)) == {}


def test_the_jobs_own_word_stands_above_slurms_and_below_bursars() -> None:
    env = environment(SBATCH, env=(("BURSAR_NODES", "9"), ("SLURM_JOB_ID", "mine")))
    assert (env["SLURM_JOB_ID"], env["BURSAR_NODES"]) == ("mine", "1")


def test_a_job_sees_the_devices_it_pays_for_and_no_others() -> None:
    env = environment("x", devices=(DeviceShare(2), DeviceShare(5, 500)))
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("2,5", "PCI_BUS_ID")
    assert environment("x", env=(("CUDA_VISIBLE_DEVICES", "0"),))["CUDA_VISIBLE_DEVICES"] == ""
