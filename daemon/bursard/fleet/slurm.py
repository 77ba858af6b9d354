"""Slurm's variables of one member: what scripts with `#SBATCH` lines read.

Owns    their values; which there are says `bursar.jobfile.variables`.
Input   the state, the attempt, what the submission left in the job's own environment (tasks, directory).
"""

from __future__ import annotations

from bursar.jobfile import variables
from bursard.state import AttemptRecord, JobRecord, MemberRecord, State

SCRATCH_PLACEHOLDER = "@scratch"
"""The agent puts its own directory for the member in its place, and removes it at the end."""
_MIB = 1024**2
TERMINAL = "xterm"
"""Slurm copies it from a person's shell: without one `clear` fails, and with it a script under `set -e`."""


def slurm_environment(
    state: State, job: JobRecord, attempt: AttemptRecord, member: MemberRecord
) -> dict[str, str]:
    """What a member finds under Slurm's names. What the job's own environment says stands above it."""
    env = {"TERM": TERMINAL, **_job(state, job, attempt), **_place(state, attempt, member)}
    env |= _sizes(job, attempt, member)
    if job.array_index >= 0:
        env |= _array(job)
    if attempt.number > 1:
        env["SLURM_RESTART_COUNT"] = str(attempt.number - 1)
    env |= dict.fromkeys(("SLURM_TMPDIR", "TMPDIR"), SCRATCH_PLACEHOLDER)
    return env


def _job(state: State, job: JobRecord, attempt: AttemptRecord) -> dict[str, str]:
    number = str(variables.slurm_job_id(job.number, job.array_index))
    limit_us = attempt.longest_us
    first = state.nodes[attempt.members[0].alloc.node_id].facts
    return {
        "SLURM_JOB_ID": number,
        "SLURM_JOBID": number,
        "SLURM_JOB_NAME": job.spec.name,
        "SLURM_JOB_ACCOUNT": job.spec.project,
        "SLURM_JOB_USER": job.user,
        "SLURM_JOB_PARTITION": first.partition,
        "SLURM_JOB_QOS": "normal",
        "SLURM_CLUSTER_NAME": state.cluster_id,
        "SLURM_SUBMIT_DIR": job.spec.workdir,
        "SLURM_SUBMIT_HOST": first.name,
        "SLURM_JOB_START_TIME": str(attempt.placed_at // 1_000_000),
        "SLURM_JOB_END_TIME": str((attempt.placed_at + limit_us) // 1_000_000),
    }


def _place(state: State, attempt: AttemptRecord, member: MemberRecord) -> dict[str, str]:
    facts = [state.nodes[each.alloc.node_id].facts for each in attempt.members]
    rank = str(member.alloc.rank)
    mine = facts[member.alloc.rank].name
    env = {"SLURMD_NODENAME": mine, "SLURM_TOPOLOGY_ADDR": mine, "SLURM_TOPOLOGY_ADDR_PATTERN": "node"}
    env |= dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), str(len(facts)))
    hosts = variables.compress_hosts(each.name for each in facts)
    env |= dict.fromkeys(("SLURM_JOB_NODELIST", "SLURM_NODELIST"), hosts)
    env |= dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_GTIDS"), rank)
    return env | {"SLURM_LOCALID": "0", "SLURM_LAUNCH_NODE_IPADDR": facts[0].address}


def _sizes(job: JobRecord, attempt: AttemptRecord, member: MemberRecord) -> dict[str, str]:
    own = dict(job.spec.env)
    nodes, cpus = len(attempt.members), max(member.alloc.cpu_milli // 1000, 1)
    per_node = variables.whole(own, "SLURM_NTASKS_PER_NODE", 1)
    tasks = variables.whole(own, "SLURM_NTASKS", nodes * per_node)
    spread = [len(range(rank, tasks, nodes)) for rank in range(nodes)]
    env = dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), str(tasks))
    env |= {
        "SLURM_NTASKS_PER_NODE": str(per_node),
        "SLURM_TASKS_PER_NODE": variables.counts_by_node(spread),
        "SLURM_CPUS_PER_TASK": str(max(cpus // per_node, 1)),
        "SLURM_CPUS_ON_NODE": str(cpus),
        "SLURM_JOB_CPUS_PER_NODE": variables.counts_by_node([cpus] * nodes),
    }
    if member.alloc.memory_bytes and not own.keys() & {"SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"}:
        env["SLURM_MEM_PER_NODE"] = str(member.alloc.memory_bytes // _MIB)
    devices = member.alloc.devices
    if devices:
        wanted = job.spec.options[attempt.option].gpus
        kind = f"{wanted.types[0].lower()}:" if wanted is not None and wanted.types else ""
        env["SLURM_GPUS_ON_NODE"] = str(len(devices))
        env["SLURM_GPUS_PER_NODE"] = f"{kind}{len(devices)}"
        env["SLURM_GPUS"] = str(len(devices) * nodes)
        env["SLURM_JOB_GPUS"] = ",".join(str(share.index) for share in devices)
    return env


def _array(job: JobRecord) -> dict[str, str]:
    array = job.spec.array
    assert array is not None
    indices = array.indices
    step = array.ranges[0][2] if len(array.ranges) == 1 else 1
    return {
        "SLURM_ARRAY_JOB_ID": str(job.number),
        "SLURM_ARRAY_TASK_ID": str(job.array_index),
        "SLURM_ARRAY_TASK_COUNT": str(len(indices)),
        "SLURM_ARRAY_TASK_MIN": str(indices[0]),
        "SLURM_ARRAY_TASK_MAX": str(indices[-1]),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }
