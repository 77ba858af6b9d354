"""Names that agents, jobs and steps share.

Owns    variables, and the files of the directory that an agent makes for steps.
Why     the agent writes them, the daemon chooses which of them a member that holds its place needs, programs
        of other releases read them in running jobs.
"""

from __future__ import annotations

from typing import Final

DIRECTORY: Final = "BURSAR_STEPS"
"""The directory that the agent made for steps: `SOCKET`, `SERVE`, `SHIMS`, `TOOLS` are in it."""
VERSION: Final = "slurm-bursar 0.1\n"
"""What Slurm's commands say of themselves."""
SOCKET: Final = "sock"
SERVE: Final = "serve"
SHIMS: Final = "slurm"
TOOLS: Final = "bin"
BASH_ENV: Final = "bash-env"
"""In that directory: what a bash of a job with Slurm's commands reads first, or after its profile."""
OWN_BASH_ENV: Final = "BURSAR_BASH_ENV"
"""The `BASH_ENV` that the job itself was given."""
SECRETS: Final = "BURSAR_SECRETS_DIR"
"""The directory of a member's secrets that are files."""
SECRETS_GIVEN: Final = "BURSAR_SECRET_NAMES"
"""The secrets that a job was given, by comma: `NAME`, or `NAME:file`."""
SCRIPT_FILE: Final = "SLURM_SUBMIT_SCRIPT"
"""Where the script lay that was submitted, which `scontrol show job` calls `Command`."""
SUBMITTED_AS: Final = "BURSAR_SUBMITTED_AS"
"""Told by `sbatch` to `bursar submit`, which is given a copy and names it by its last part alone: the file
that it was made from, empty for none."""
SBATCH_WORDS: Final = "BURSAR_SBATCH_WORDS"
"""Told by it as well: its options, as a shell would read them."""
OUTPUT_FILE: Final = "BURSAR_OUTPUT_FILE"
ERROR_FILE: Final = "BURSAR_ERROR_FILE"
"""Paths of the job's own output files, where it has some."""
STEP_TASKS_MAX: Final = 4096
"""Of one step, on all nodes together."""

MEMBER: Final = "BURSAR_ATTEMPT_MEMBER"
NODE_NAMES: Final = "BURSAR_NODE_NAMES"
CPUS: Final = "BURSAR_CPUS"
MEMORY_BYTES: Final = "BURSAR_MEMORY_BYTES"
TASKS_PER_NODE: Final = "BURSAR_TASKS_PER_NODE"
SESSION_DIR: Final = "BURSAR_SESSION_DIR"
"""An interactive job's own directory: a number written to `end` there ends one that waits, with that code."""
SCRIPT_TEXT: Final = "BURSAR_SCRIPT_TEXT"
"""The text of a script on its way to ranks on other nodes; what runs it takes it out of its environment."""
LAUNCH: Final = "bursar-launch"
"""The program in `TOOLS` that starts an engine with a job's command."""

TASK_FACTOR: Final = 4_000_037
"""Of the whole numbers that tasks of arrays have under Slurm's names: a prime above every index, so that a
port made of the number by a remainder differs from task to task and from array to array."""
TASK_INDEX_MAX: Final = 4_000_000

STEP_RANK, STEP_LOCAL_RANK, STEP_TASKS = "BURSAR_STEP_RANK", "BURSAR_STEP_LOCAL_RANK", "BURSAR_STEP_TASKS"

OF_THE_NODE: Final = frozenset(
    {
        "BURSAR_ATTEMPT_MEMBER", "BURSAR_CHECKPOINT_DIR", "BURSAR_CPUS", "BURSAR_GPUS", "BURSAR_MEMORY_BYTES",
        "BURSAR_NODE_RANK", "BURSAR_PROGRESS_FILE", "BURSAR_SECRETS_DIR", "BURSAR_STEPS", "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES", "NODE_RANK", "SLURMD_NODENAME", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE",
        "SLURM_JOB_GPUS", "SLURM_TMPDIR", "SLURM_TOPOLOGY_ADDR", "TMPDIR",
    }
)  # fmt: skip
"""What a task has from the member it runs on; all else it has from whoever started the step."""
