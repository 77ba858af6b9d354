"""Slurm's variables: which of them a job finds, and when.

Owns    the table that the daemon fills, scripts are held against and docs/from-slurm.md is made of.
Why     a script that reads a variable nobody sets goes on with an empty word: a port becomes 10000, a path
        `/`. So what is not in this table is refused before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bursar.model import JobSpec
from bursar.model.check import INDEX_MAX

TASK_FACTOR: Final = 4_000_037
"""Of the whole numbers that tasks of arrays have: a prime above every index, so that a port made of the
number by a remainder differs from task to task and from array to array."""

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
    Variable("SLURM_JOB_PARTITION", ALWAYS, "what `--partition` said, else the pool of the first node"),
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
    Variable("SLURM_JOB_GPUS", GPUS, "indices of this node's GPUs, `0,1`"),
    Variable("SLURM_ARRAY_JOB_ID", ARRAYS, "the number of the array"),
    Variable("SLURM_ARRAY_TASK_ID", ARRAYS, "the index of the task"),
    Variable("SLURM_ARRAY_TASK_COUNT", ARRAYS, "number of tasks"),
    Variable("SLURM_ARRAY_TASK_MIN", ARRAYS, "the smallest index"),
    Variable("SLURM_ARRAY_TASK_MAX", ARRAYS, "the largest index"),
    Variable("SLURM_ARRAY_TASK_STEP", ARRAYS, "the step of the range"),
    Variable("SLURM_RESTART_COUNT", RESTARTS, "attempts before this one; unset in the first, as in Slurm"),
    Variable("SLURM_STEP_ID", STEPS, "steps are not built"),
    Variable("SLURM_STEPID", STEPS, "steps are not built"),
    Variable("SLURM_STEP_NODELIST", STEPS, "steps are not built"),
    Variable("SLURM_STEP_NUM_NODES", STEPS, "steps are not built"),
    Variable("SLURM_STEP_NUM_TASKS", STEPS, "steps are not built"),
    Variable("SLURM_STEP_TASKS_PER_NODE", STEPS, "steps are not built"),
    Variable("SLURM_STEP_GPUS", STEPS, "steps are not built"),
    Variable("SLURM_SRUN_COMM_HOST", STEPS, "steps are not built"),
    Variable("SLURM_SRUN_COMM_PORT", STEPS, "steps are not built"),
    Variable("SLURM_TASK_PID", NEVER, "use $$"),
    Variable("SLURM_JOB_UID", NEVER, "use $(id -u)"),
    Variable("SLURM_JOB_GID", NEVER, "use $(id -g)"),
    Variable("SLURM_CONF", NEVER, "there is no slurm.conf"),
    Variable("SLURM_WORKING_CLUSTER", NEVER, "use $BURSAR_SERVER of your shell"),
    Variable("SLURM_JOB_RESERVATION", NEVER, "there are no reservations"),
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
    if variable.when in (STEPS, NEVER):
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


# ------------------------------------------------------------------ lists of nodes


_NUMBERED = re.compile(r"(.*?)(\d{1,18})", re.ASCII)
_EXPANDED_MAX = 10_000


def compress_hosts(names: Iterable[str]) -> str:
    """Slurm's short form, in the order given: `n1 n2 n3 m` is `n[1-3],m`."""
    groups: list[tuple[str, list[list[str]]]] = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        prefix, digits = (match.group(1), match.group(2)) if match is not None else (name, "")
        if not digits or not groups or groups[-1][0] != prefix or not groups[-1][1]:
            groups.append((prefix, [[digits, digits]] if digits else []))
        elif _follows(groups[-1][1][-1][1], digits):
            groups[-1][1][-1][1] = digits
        else:
            groups[-1][1].append([digits, digits])
    return ",".join(_group(prefix, runs) for prefix, runs in groups)


def _follows(one: str, other: str) -> bool:
    same_form = len(one) == len(other) or not (one.startswith("0") or other.startswith("0"))
    return same_form and int(other) == int(one) + 1


def _group(prefix: str, runs: list[list[str]]) -> str:
    if not runs or (len(runs) == 1 and runs[0][0] == runs[0][1]):
        return prefix + (runs[0][0] if runs else "")
    parts = (first if first == last else f"{first}-{last}" for first, last in runs)
    return f"{prefix}[{','.join(parts)}]"


def expand_hosts(text: str) -> list[str]:
    """The names of `n[1-3,07],m`. Raises `ValueError` for what is no such list."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        found += _expand(part.strip())
        if len(found) > _EXPANDED_MAX:
            raise ValueError(f"more than {_EXPANDED_MAX} names")
    if not found or text.count("[") != text.count("]"):
        raise ValueError("no list of names")
    return list(dict.fromkeys(found))


def _expand(part: str) -> list[str]:
    head, mark, rest = part.partition("[")
    if not mark:
        return [part] if part else []
    inside, _, tail = rest.partition("]")
    names: list[str] = []
    for span in inside.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", span.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"{span!r} is no range")
        first, last = match.group(1), match.group(2) or match.group(1)
        if not 0 <= int(last) - int(first) <= _EXPANDED_MAX:
            raise ValueError(f"{span!r} is no range")
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        names += [f"{head}{number}{end}" for number in numbers for end in (_expand(tail) or [""])]
    return names


def counts_by_node(counts: Iterable[int]) -> str:
    """`2(x3),1`: one number for each node, equal neighbours together."""
    runs: list[list[int]] = []
    for each in counts:
        if runs and runs[-1][0] == each:
            runs[-1][1] += 1
        else:
            runs.append([each, 1])
    return ",".join(str(value) if times == 1 else f"{value}(x{times})" for value, times in runs)


def whole(env: Mapping[str, str], name: str, default: int) -> int:
    """A whole number that a submission left in the environment; what is none counts as not given."""
    text = env.get(name, "")
    return int(text) if re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII) else default
