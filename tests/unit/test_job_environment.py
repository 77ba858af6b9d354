"""The variables of a job: Bursar's own always, Slurm's names where the script speaks Slurm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bursar.jobfile import variables
from bursar.jobfile.variables import ALWAYS, ARRAYS, GPUS
from bursar.model import DeviceShare, JobSpec, MemberAllocation
from bursar.model.job import ArraySpec
from bursar.model.node import NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursard.fleet.environment import job_environment
from bursard.state import AttemptRecord, JobRecord, MemberRecord, State

SBATCH = "#!/bin/bash\n#SBATCH --nodes=2\necho $SLURM_JOB_ID\n"


def environment(
    script: str,
    *,
    rank: int = 0,
    nodes: int = 1,
    index: int = -1,
    number: int = 1,
    env: tuple[tuple[str, str], ...] = (),
    devices: tuple[DeviceShare, ...] = (),
    labels: tuple[tuple[str, str], ...] = (),
    **spec: Any,
) -> dict[str, str]:
    facts = {
        f"node_{n}": SimpleNamespace(
            facts=NodeFacts(
                address=f"10.0.0.{n}",
                name=f"gpu-0{n + 8}",
                pool="rack-a",
                cpu_milli=1,
                memory_bytes=1,
                labels=labels,
            )
        )
        for n in range(nodes)
    }
    state = cast(State, SimpleNamespace(nodes=facts, cluster_id="c1"))
    members = [
        MemberRecord(
            MemberAllocation(
                rank=n, node_id=f"node_{n}", devices=devices, cpu_milli=8_500, memory_bytes=3 << 30
            ),
            "boot",
        )
        for n in range(nodes)
    ]
    made = JobSpec(name="train", nodes=nodes, script=script, env=env, workdir="/home/ann", **spec)
    attempt = AttemptRecord(
        id="att_1", job_id="job_1", number=number, option=0, members=members, time_limit_us=60_000_000,
        grace_us=0, holds=(), placed_at=1_700_000_000_000_000, port=29_500,
    )  # fmt: skip
    job = JobRecord(
        id="job_1", number=12, user="ann", spec=made, order=1, submitted_at=1, array_index=index,
        parent_id="job_0" if index >= 0 else "",
    )  # fmt: skip
    return job_environment(state, job, attempt, members[rank])


def slurm_part(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("SLURM")}


def test_a_job_of_a_range_finds_its_own_size_on_one_node_too() -> None:
    one = environment("true", max_nodes=4)
    assert (one["NNODES"], one["WORLD_SIZE"], one["NODE_RANK"]) == ("1", "1", "0")
    assert one["MASTER_ADDR"] == "10.0.0.0"
    assert environment("true", nodes=3, max_nodes=4)["NNODES"] == "3"
    assert "NNODES" not in environment("true")


def test_what_runs_once_on_several_nodes_is_told_of_no_world() -> None:
    assert environment(SBATCH, nodes=2)["WORLD_SIZE"] == "2"
    once = environment(SBATCH, nodes=2, launch="once")
    assert (once["NNODES"], "WORLD_SIZE" in once) == ("2", False)


def test_a_script_with_sbatch_lines_finds_slurms_names() -> None:
    whole = environment(SBATCH, nodes=2)
    found = slurm_part(whole)
    assert whole["TERM"] == "xterm"
    assert found == {
        "SLURM_JOB_ID": "12",
        "SLURM_JOBID": "12",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ACCOUNT": "default",
        "SLURM_JOB_USER": "ann",
        "SLURM_JOB_PARTITION": "rack-a",
        "SLURM_JOB_QOS": "normal",
        "SLURM_CLUSTER_NAME": "c1",
        "SLURM_SUBMIT_DIR": "/home/ann",
        "SLURM_SUBMIT_HOST": "gpu-08",
        "SLURM_JOB_START_TIME": "1700000000",
        "SLURM_JOB_END_TIME": "1700000060",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "gpu-[08-09]",
        "SLURM_NODELIST": "gpu-[08-09]",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_GTIDS": "0",
        "SLURM_LOCALID": "0",
        "SLURMD_NODENAME": "gpu-08",
        "SLURM_TOPOLOGY_ADDR": "gpu-08",
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.0",
        "SLURM_NTASKS": "2",
        "SLURM_NPROCS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_TASKS_PER_NODE": "1(x2)",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_CPUS_ON_NODE": "8",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
        "SLURM_MEM_PER_NODE": "3072",
        "SLURM_TMPDIR": "@scratch",
    }


def test_a_job_is_in_the_partition_that_it_named_or_that_its_node_is_in() -> None:
    for env, labels, there in (
        ((), (), "rack-a"),
        ((), (("partition", "gpu"),), "gpu"),
        ((("SLURM_JOB_PARTITION", "old"),), (("partition", "gpu"),), "old"),
    ):
        assert environment(SBATCH, env=env, labels=labels)["SLURM_JOB_PARTITION"] == there


def test_the_table_says_what_is_set() -> None:
    """What scripts are held against, and what docs/from-slurm.md says, is what the daemon does."""
    named = {when: {v.name for v in variables.TABLE if v.when == when} for when in (ALWAYS, ARRAYS, GPUS)}
    plain = set(slurm_part(environment(SBATCH)))
    assert plain - named[ALWAYS] == {"SLURM_MEM_PER_NODE"}
    assert named[ALWAYS] <= plain
    array = environment(SBATCH, index=3, array=ArraySpec((1, 3)))
    assert set(slurm_part(array)) - plain == named[ARRAYS]
    gpus = environment(SBATCH, devices=(DeviceShare(2),), options=(ResourceRequest(GpuRequest(1)),))
    assert set(slurm_part(gpus)) - plain == named[GPUS]


def test_the_second_attempt_knows_that_it_is_one() -> None:
    assert "SLURM_RESTART_COUNT" not in environment(SBATCH)
    assert environment(SBATCH, number=3)["SLURM_RESTART_COUNT"] == "2"


def test_tasks_are_spread_over_the_nodes_and_share_their_cpus() -> None:
    env = environment(SBATCH, nodes=2, env=(("SLURM_NTASKS", "7"), ("SLURM_NTASKS_PER_NODE", "4")))
    assert (env["SLURM_NTASKS"], env["SLURM_TASKS_PER_NODE"], env["SLURM_CPUS_PER_TASK"]) == (
        "7",
        "4,3",
        "2",
    )
    odd = environment(SBATCH, env=(("SLURM_NTASKS_PER_NODE", "lots"),))
    assert odd["SLURM_CPUS_PER_TASK"] == "8"


def test_gpus_are_counted_and_named() -> None:
    env = environment(
        SBATCH,
        nodes=2,
        devices=(DeviceShare(2), DeviceShare(5)),
        options=(ResourceRequest(GpuRequest(2, ("H100",))),),
    )
    names = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS", "SLURM_JOB_GPUS")
    assert [env[name] for name in names] == ["2", "h100:2", "4", "2,5"]


def test_memory_is_said_in_the_words_in_which_it_was_asked_for() -> None:
    assert "SLURM_MEM_PER_NODE" not in environment(SBATCH, env=(("SLURM_MEM_PER_CPU", "512"),))


def test_tasks_of_an_array_have_a_whole_number_of_their_own_and_their_index() -> None:
    env = environment(SBATCH, index=3, array=ArraySpec((1, 3, 5)))
    assert env["SLURM_JOB_ID"] == env["SLURM_JOBID"] == str(12 * 4_000_037 + 3)
    assert {name: value for name, value in env.items() if name.startswith("SLURM_ARRAY")} == {
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "5",
        "SLURM_ARRAY_TASK_STEP": "2",
    }
    odd = environment(SBATCH, index=9, array=ArraySpec((1, 4, 9)))
    assert odd["SLURM_ARRAY_TASK_STEP"] == "1"


def test_the_number_of_a_task_leads_back_to_it() -> None:
    for number, index in ((1, -1), (12, 0), (12, 4_000_000), (4_000_036, -1), (90_000, 77)):
        assert variables.job_of(variables.slurm_job_id(number, index)) == (number, index)
    ports = {10_000 + variables.slurm_job_id(n, i) % 50_000 for n in (7, 8) for i in range(30)}
    assert len(ports) == 60


def test_temporary_files_have_a_place_of_their_own() -> None:
    env = environment(SBATCH)
    assert (env["TMPDIR"], env["SLURM_TMPDIR"]) == ("@scratch", "@scratch")
    own = environment(SBATCH, env=(("TMPDIR", "/data/tmp"),))
    assert (own["TMPDIR"], own["SLURM_TMPDIR"]) == ("/data/tmp", "@scratch")


def test_without_an_sbatch_line_nothing_pretends_to_be_slurm() -> None:
    """Training libraries look for these names and then expect Slurm's tools to be there."""
    for script in ("", "#!/bin/bash\n#BURSAR --gpus 1\n", "echo '#SBATCH --nodes=2'", "#SBATCHES\n"):
        env = environment(script, nodes=2)
        assert slurm_part(env) == {}
        assert "TMPDIR" not in env


def test_the_jobs_own_word_stands_above_slurms_and_below_bursars() -> None:
    env = environment(SBATCH, env=(("BURSAR_NODES", "9"), ("SLURM_JOB_ID", "mine")))
    assert (env["SLURM_JOB_ID"], env["BURSAR_NODES"]) == ("mine", "1")


def test_a_job_sees_the_devices_it_pays_for_and_no_others() -> None:
    env = environment("x", devices=(DeviceShare(2), DeviceShare(5, 500)))
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("2,5", "PCI_BUS_ID")
    assert environment("x", env=(("CUDA_VISIBLE_DEVICES", "0"),))["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["n1"], "n1"),
        (["n1", "n2", "n3", "m"], "n[1-3],m"),
        (["n3", "n1", "n2"], "n[3,1-2]"),
        (["n9", "n10"], "n[9-10]"),
        (["n09", "n10", "n011"], "n[09-10,011]"),
        (["a", "b"], "a,b"),
        (["r1-n1", "r1-n2", "r2-n3"], "r1-n[1-2],r2-n3"),
    ],
)
def test_lists_of_nodes_are_short_and_lead_back(names: list[str], short: str) -> None:
    assert variables.compress_hosts(names) == short
    assert variables.expand_hosts(short) == names


@pytest.mark.parametrize("text", ["", "n[", "n[a-b]", "n[3-1]", "n[1-99999]", ","])
def test_what_is_no_list_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|names"):
        variables.expand_hosts(text)


def test_numbers_of_nodes_are_counted_together() -> None:
    assert variables.counts_by_node([2, 2, 1, 2]) == "2(x2),1,2"


def test_what_srun_at_a_terminal_and_salloc_make_speaks_slurm_without_a_script() -> None:
    submitted = (("SLURM_SUBMIT_HOST", "login-1"), ("SLURM_SUBMIT_SCRIPT", "/home/ann/srun"))
    env = environment("", nodes=2, env=submitted)
    assert (env["SLURM_JOB_NUM_NODES"], env["SLURM_SUBMIT_HOST"]) == ("2", "login-1")
    assert "SLURM_JOB_ID" in env
    assert "SLURM_JOB_ID" not in environment("", nodes=2)
