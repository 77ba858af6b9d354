"""Slurm's variables: which of them a job finds, and when.

Owns    the table that the daemon fills, scripts are held against and docs/from-slurm.md is made of.
Why     a script that reads a variable nobody sets goes on with an empty word: a port becomes 10000, a path
        `/`. So what is not in this table is refused before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from bursar.model import JobSpec
from bursar.model.check import INDEX_MAX
from bursar.steps.hosts import compress_hosts as compress_hosts
from bursar.steps.hosts import counts_by_node as counts_by_node
from bursar.steps.hosts import expand_hosts as expand_hosts
from bursar.steps.names import TASK_FACTOR as TASK_FACTOR

ALWAYS, ARRAYS, GPUS, ASKED, RESTARTS, STEPS, NEVER = (
    "always", "arrays", "gpus", "asked", "restarts", "steps", "never",
)  # fmt: skip


class Variable(NamedTuple):
    """One variable.

    Attributes:
        when: always, or only in `arrays`, with `gpus`, where `asked` for by its option, after `restarts`,
            in `steps` alone; or never.
        meaning: what it says; where it is never set, what to use.
    """

    name: str
    when: str
    meaning: str


TABLE: Final = (
    Variable("SLURM_JOB_ID", ALWAYS, "the job's number; in a task of an array a whole number of its own"),
    Variable("SLURM_JOBID", ALWAYS, "the same"),
    Variable("SLURM_JOB_NAME", ALWAYS, "the job's name"),
    Variable("SLURM_JOB_ACCOUNT", ALWAYS, "the project"),
    Variable("SLURM_JOB_USER", ALWAYS, "who submitted it"),
    Variable("SLURM_JOB_PARTITION", ALWAYS, "what `--partition` said, else that of the first node"),
    Variable("SLURM_JOB_QOS", ALWAYS, "what `--qos` said, else `normal`"),
    Variable("SLURM_CLUSTER_NAME", ALWAYS, "the id of the cluster"),
    Variable("SLURM_SUBMIT_DIR", ALWAYS, "the directory in which it was submitted"),
    Variable("SLURM_SUBMIT_HOST", ALWAYS, "the machine on which it was submitted"),
    Variable("SLURM_NNODES", ALWAYS, "number of nodes"),
    Variable("SLURM_JOB_NUM_NODES", ALWAYS, "the same"),
    Variable("SLURM_JOB_NODELIST", ALWAYS, "names of the nodes in short form, `n[1-3]`, first node first"),
    Variable("SLURM_NODELIST", ALWAYS, "the same"),
    Variable("SLURM_NODEID", ALWAYS, "0 in the script; the node's place in the list"),
    Variable("SLURM_PROCID", ALWAYS, "0 in the script; the rank of the process"),
    Variable("SLURM_LOCALID", ALWAYS, "0 in the script; the rank of the process on its node"),
    Variable("SLURM_GTIDS", ALWAYS, "ranks of this node's processes; 0 in the script"),
    Variable("SLURMD_NODENAME", ALWAYS, "name of this node"),
    Variable("SLURM_TOPOLOGY_ADDR", ALWAYS, "name of this node"),
    Variable("SLURM_TOPOLOGY_ADDR_PATTERN", ALWAYS, "`node`"),
    Variable("SLURM_LAUNCH_NODE_IPADDR", ALWAYS, "address of the first node"),
    Variable("SLURM_NTASKS", ALWAYS, "tasks in all: `--ntasks`, else nodes times tasks of a node"),
    Variable("SLURM_NPROCS", ALWAYS, "the same"),
    Variable("SLURM_NTASKS_PER_NODE", ALWAYS, "tasks of a node"),
    Variable("SLURM_TASKS_PER_NODE", ALWAYS, "the same for each node, `2(x4)`"),
    Variable("SLURM_CPUS_PER_TASK", ALWAYS, "CPUs of a node divided by its tasks, at least 1"),
    Variable("SLURM_CPUS_ON_NODE", ALWAYS, "CPUs that the job holds on this node, at least 1"),
    Variable("SLURM_JOB_CPUS_PER_NODE", ALWAYS, "the same for each node, `8(x4)`"),
    Variable("SLURM_JOB_START_TIME", ALWAYS, "when this attempt was placed, in seconds since 1970"),
    Variable("SLURM_JOB_END_TIME", ALWAYS, "when its time limit ends it, in seconds since 1970"),
    Variable("SLURM_TMPDIR", ALWAYS, "a private directory, removed at every end; `TMPDIR` is the same"),
    Variable("SLURM_MEM_PER_NODE", ASKED, "MiB of memory of a node, with `--mem` or `resources.memory`"),
    Variable("SLURM_MEM_PER_CPU", ASKED, "MiB of memory of a CPU, with `--mem-per-cpu`"),
    Variable("SLURM_MEM_PER_GPU", ASKED, "MiB of memory of a GPU, with `--mem-per-gpu`"),
    Variable("SLURM_JOB_DEPENDENCY", ASKED, "what `--dependency` said"),
    Variable("SLURM_GPUS_ON_NODE", GPUS, "GPUs of this node"),
    Variable("SLURM_GPUS_PER_NODE", GPUS, "GPUs of a node, with their type if one was asked for"),
    Variable("SLURM_GPUS", GPUS, "GPUs of all nodes"),
    Variable("SLURM_GPUS_PER_TASK", ASKED, "what `--gpus-per-task` said"),
    Variable("SLURM_GPU_BIND", ASKED, "what `--gpu-bind` said"),
    Variable("SLURM_JOB_GPUS", GPUS, "indices of this node's GPUs, `0,1`"),
    Variable("SLURM_ARRAY_JOB_ID", ARRAYS, "the number of the array"),
    Variable("SLURM_ARRAY_TASK_ID", ARRAYS, "the index of the task"),
    Variable("SLURM_ARRAY_TASK_COUNT", ARRAYS, "number of tasks"),
    Variable("SLURM_ARRAY_TASK_MIN", ARRAYS, "the smallest index"),
    Variable("SLURM_ARRAY_TASK_MAX", ARRAYS, "the largest index"),
    Variable("SLURM_ARRAY_TASK_STEP", ARRAYS, "the step of the range"),
    Variable("SLURM_RESTART_COUNT", RESTARTS, "attempts before this one; unset in the first, as in Slurm"),
    Variable("SLURM_STEP_ID", STEPS, "the step's number, from 0"),
    Variable("SLURM_STEPID", STEPS, "the same"),
    Variable("SLURM_STEP_NODELIST", STEPS, "nodes of the step"),
    Variable("SLURM_STEP_NUM_NODES", STEPS, "number of its nodes"),
    Variable("SLURM_STEP_NUM_TASKS", STEPS, "number of its tasks"),
    Variable("SLURM_STEP_TASKS_PER_NODE", STEPS, "its tasks of each node, `2(x4)`"),
    Variable("SLURM_STEP_GPUS", NEVER, "use $CUDA_VISIBLE_DEVICES"),
    Variable("SLURM_SRUN_COMM_HOST", NEVER, "steps have no port of their own"),
    Variable("SLURM_SRUN_COMM_PORT", NEVER, "steps have no port of their own"),
    Variable("SLURM_TASK_PID", NEVER, "use $$"),
    Variable("SLURM_JOB_UID", NEVER, "use $(id -u)"),
    Variable("SLURM_JOB_GID", NEVER, "use $(id -g)"),
    Variable("SLURM_CONF", NEVER, "there is no slurm.conf"),
    Variable("SLURM_WORKING_CLUSTER", NEVER, "use $BURSAR_SERVER of your shell"),
    Variable("SLURM_JOB_RESERVATION", NEVER, "a job does not name its reservation; see `bursar reserve ls`"),
)  # fmt: skip
BY_NAME: Final = {variable.name: variable for variable in TABLE}


def missing(name: str, spec: JobSpec) -> str | None:
    """Why a job with `#SBATCH` lines does not find a variable, with what helps; None: it is set."""
    variable = BY_NAME.get(name)
    if variable is None:
        return "is not set by bursar; docs/from-slurm.md lists what is"
    if variable.when == ARRAYS and spec.array is None:
        return "is set in arrays alone; submit with --array"
    if variable.when == GPUS and all(option.gpus is None for option in spec.options):
        return "is set in jobs with GPUs alone; ask for some, such as --gpus-per-node=1"
    if variable.when == ASKED and not _asked(name, spec):
        return f"is not set here: it holds {variable.meaning}"
    if variable.when == STEPS:
        return "is set in steps alone, for what srun starts"
    if variable.when == NEVER:
        return f"is not set by bursar: {variable.meaning}"
    return None


def _asked(name: str, spec: JobSpec) -> bool:
    if name in dict(spec.env):
        return True
    return name == "SLURM_MEM_PER_NODE" and any(option.memory_bytes for option in spec.options)


def slurm_job_id(number: int, array_index: int = -1) -> int:
    """The whole number by which Slurm's names call a job, or a task of an array. `job_of` is the way back."""
    return number if array_index < 0 else number * TASK_FACTOR + array_index


def job_of(slurm_id: int) -> tuple[int, int]:
    """(number, index of the task or -1) of what `slurm_job_id` made."""
    number, index = divmod(slurm_id, TASK_FACTOR)
    return (number, index) if number and index <= INDEX_MAX else (slurm_id, -1)


def whole(env: Mapping[str, str], name: str, default: int) -> int:
    """A whole number that a submission left in the environment; what is none counts as not given."""
    text = env.get(name, "")
    return int(text) if re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII) else default
