"""The environment a member runs in: the names of contract section 4, as torchrun and users read them."""

from __future__ import annotations

from bursar.jobfile.slurm import is_slurm_script
from bursar.steps import names
from bursard.fleet.slurm import SCRATCH_PLACEHOLDER, slurm_environment
from bursard.state import AttemptRecord, JobRecord, MemberRecord, State

CHECKPOINT_PLACEHOLDER = "@checkpoint"
"""The agent puts its own directory for the job in its place."""


def job_environment(
    state: State, job: JobRecord, attempt: AttemptRecord, member: MemberRecord
) -> dict[str, str]:
    """Slurm's names where the script speaks Slurm, the job's own, then Bursar's (which stand above both)."""
    spec = job.spec
    nodes = [state.nodes[m.alloc.node_id] for m in attempt.members]
    addresses = [node.facts.address for node in nodes]
    held = member.alloc
    gpus = sum(share.milli for share in member.alloc.devices)
    # What `srun --pty` and `salloc` make has no script, and says as whose it was submitted all the same.
    slurm = is_slurm_script(spec.script) or names.SCRIPT_FILE in dict(spec.env)
    env = slurm_environment(state, job, attempt, member) if slurm else {}
    env.update(spec.env)
    env.update(
        BURSAR_JOB_ID=job.id,
        BURSAR_JOB_NUMBER=str(job.number),
        BURSAR_ATTEMPT=str(attempt.number),
        BURSAR_NODES=str(len(nodes)),
        BURSAR_NODE_RANK=str(member.alloc.rank),
        BURSAR_NODE_ADDRESSES=",".join(addresses),
        BURSAR_NODE_NAMES=",".join(node.facts.name for node in nodes),
        BURSAR_GPUS=f"{gpus / 1000:g}",
        BURSAR_CPUS=f"{held.cpu_milli / 1000:g}",
        BURSAR_PROJECT=spec.project,
        BURSAR_EXPERIMENT=spec.experiment,
        BURSAR_MODEL=spec.model,
        BURSAR_CHECKPOINT_DIR=CHECKPOINT_PLACEHOLDER,
        BURSAR_TIME_LIMIT_S=str(attempt.longest_us // 1_000_000),
        # Without devices the list is empty, so that a job cannot use what it does not pay for.
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
        CUDA_VISIBLE_DEVICES=",".join(str(share.index) for share in member.alloc.devices),
    )
    if held.memory_bytes:
        env[names.MEMORY_BYTES] = str(held.memory_bytes)
    given = [name for name in spec.secrets if name != spec.image_auth]
    if given:
        files = spec.secret_files
        env[names.SECRETS_GIVEN] = ",".join(f"{n}:file" if n in files else n for n in given)
    if spec.tasks_per_node:
        env[names.TASKS_PER_NODE] = str(spec.tasks_per_node)
    if spec.interactive:
        env[names.SESSION_DIR] = SCRATCH_PLACEHOLDER
    if job.array_index >= 0:
        env["BURSAR_ARRAY_INDEX"] = str(job.array_index)
    if spec.service is not None:
        env.update(
            BURSAR_PORT=str(attempt.port),
            BURSAR_SERVICE=spec.name,
            BURSAR_REPLICA=str(job.array_index),
            BURSAR_REVISION=str(spec.service.revision),
        )
    if len(nodes) > 1 or spec.max_nodes:  # a job of a range reads them at each of its sizes
        env.update(
            MASTER_ADDR=addresses[0],
            MASTER_PORT=str(attempt.port),
            NODE_RANK=str(member.alloc.rank),
            NNODES=str(len(nodes)),
        )
        # What runs once is no world: a program that it starts would wait for the others of one.
        if spec.launch != "once":
            env["WORLD_SIZE"] = str(len(nodes))
    return env
