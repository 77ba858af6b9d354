"""What a job asks for, as accepted, the words for where it is, and what of it its process is started with.

Why     a job's description used to be copied field by field through every room between its file and its
        process. Now whatever only the process needs is one value, `Launch`, which agents carry unopened, so
        that a new field concerns nobody in between (docs/howto-add-a-job-field.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, cast

import msgspec

from bursar.model.constraints import CONTAINER_GPUS, CONTAINERS
from bursar.model.ranges import Indices, Range, Ranges, compress
from bursar.model.service import ServiceSpec
from bursar.resources import ResourceRequest
from bursar.steps.names import DIRECTORY, LAUNCH, OF_THE_NODE, SESSION_DIR, TOOLS


class JobState(StrEnum):
    """Where a job is. The last three are terminal and immutable."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """No event changes it any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class EndCause(StrEnum):
    """Why an attempt ended. Exactly one per attempt."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    TIME_LIMIT = "time_limit"
    BUDGET = "budget"
    IDLE = "idle"
    OUT_OF_MEMORY = "out_of_memory"
    START_FAILED = "start_failed"
    IMAGE_FAILED = "image_failed"


class Dependency(msgspec.Struct, frozen=True):
    """Another job that must end first.
    `when`: succeeded | failed | finished | started | singleton | task-succeeded.

    `started`: it has begun to run, or ended. `singleton`: all jobs of this name that its user has submitted
    before have ended; there need not be any. `task-succeeded`, of an array that waits for another: each task
    waits for the task of its own index there, and for all of the other where that has none; of anything
    else it means `succeeded`.
    """

    job: str
    when: str = "succeeded"


class ArraySpec(msgspec.Struct, frozen=True, dict=True):
    """A sweep of tasks that share one spec.

    Attributes:
        parts: the task indices, each >= 0, as ranges that ascend. Given as plain indices they become
            ranges; that, and the name in documents, is how arrays were once written down.
        max_parallel: tasks alive at once; 0 means no limit.
    """

    parts: tuple[int | Range, ...] = msgspec.field(name="indices")
    max_parallel: int = 0

    def __post_init__(self) -> None:
        if any(isinstance(part, int) for part in self.parts):
            msgspec.structs.force_setattr(self, "parts", compress(self.parts))

    @property
    def ranges(self) -> Ranges:
        """The indices as ranges."""
        return cast("Ranges", self.parts)

    @cached_property
    def indices(self) -> Indices:
        """The indices one by one, ascending; kept, since each task of an array asks for its place."""
        return Indices(self.ranges)


class RetrySpec(msgspec.Struct, frozen=True):
    """When a failed attempt is followed by another.

    Attributes:
        on: causes among `failed`, `out_of_memory`, `start_failed`, `image_failed`, `time_limit`, `node_lost`,
            `preempted` (the last two never use up `max`).
        max: further attempts after the first.
        avoid_same_node: the next attempt goes elsewhere.
        never: no other attempt, also where its node was lost or its place taken.
    """

    on: tuple[str, ...] = ()
    max: int = 0
    avoid_same_node: bool = False
    never: bool = False


class CheckpointSpec(msgspec.Struct, frozen=True):
    """How a job is asked to save itself: `signal` name without SIG, then `grace_us` before TERM.

    Attributes:
        before_us: send the signal so long before the time limit instead of at it, and go on; 0 for at it.
        script_only: to the process that was started alone, not to all below it.
    """

    signal: str = ""
    grace_us: int = 0
    before_us: int = 0
    script_only: bool = False


class IdleSpec(msgspec.Struct, frozen=True):
    """What becomes of a job whose devices do nothing (`window_us` 0: nothing), or that nobody is attached to.

    Attributes:
        below_percent: of multiprocessors at work; a device below it is idle, whatever it holds.
        window_us: so long all devices of all its members are idle before it is acted.
        warn_after_us: so long before it is told.
        action: stop, hold or requeue (stopped, and back in the queue, on hold or not), cancel, or notify:
            tell alone.
        snoozed_until: before this instant it is neither told nor acted. snoozes: how often that was said.
        detached_us: so long nobody is attached to it before it is stopped; 0: for ever.
        cpu_below_percent: of a job without GPUs, the same of its CPUs; 0: it is not judged.
    """

    below_percent: int = 5
    window_us: int = 0
    warn_after_us: int = 0
    action: str = "stop"
    snoozed_until: int = 0
    detached_us: int = 0
    cpu_below_percent: int = 0
    snoozes: int = 0

    @property
    def judged(self) -> bool:
        """Does it say anything of its own?"""
        return bool(self.window_us or self.detached_us)


PUBLIC_FIELDS: Final = frozenset(
    (
        "name", "project", "experiment", "model", "model_version", "labels", "priority", "preemptible",
        "nodes", "max_nodes", "throughput", "ordered", "constraints", "spot_policy", "secrets",
        "time_limit_us", "begin_after", "deadline_at", "deadline_policy", "max_cost_nanos", "max_cost_per",
        "max_price_nanos_per_hour", "currency", "on_exceed", "held",
        "launch", "secret_files", "tasks_per_node", "interactive",
    )
)  # fmt: skip
"""Plain fields of `JobSpec` that whoever sees a job may see, and who follows events. Fields with parts of
their own are shown part by part (`bursard.events.public`).
"""
ASKED_FIELDS: Final = frozenset(
    ("workdir", "comment", "output_file", "error_file", "open_mode", "image", "image_auth", "mounts")
)
"""Beside them, what whoever may see a job is shown who asks for it, and no event tells. Any other field, env
and program before all, is for its owner, project-admins and operators alone, and so is a new one.
"""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the user asked for, as accepted. One spec serves every attempt and every array task.

    Attributes:
        project: path such as `nlp/finetune`; owns budgets.
        labels: (key, value) pairs, sorted by key.
        priority: 0..100, higher first; low 25, normal 50, high 75.
        nodes: size of the gang, >= 1: all or nothing, one member per node. Of a range, the least.
        max_nodes: the most that a gang of a range may have, > `nodes`; 0: it has one size. An attempt has the
            most that can start at its time, and keeps that.
        throughput: (GPU type, GPUs in all or 0 for any number, millionths): how fast it is there, relative to
            1,000,000, which it is where nothing is said.
        options: alternatives of what each node must give; at least one.
        ordered: try the options in order (True) or take the cheapest that fits now (False).
        constraints: (key, pattern) pairs; glob, `!` negates; keys node, pool, zone, region, rack,
            provider, instance_type or any node label.
        spot_policy: auto | spot | on-demand.
        time_limit_us: running time after which an attempt is stopped; 0 means the daemon's default.
        begin_after: earliest start, 0 for none.
        deadline_at: when it is to have ended, 0 for none.
        deadline_policy: promise: accepted only with a promise that it ends by its deadline. best-effort: its
            deadline only says how urgent it is.
        max_cost_nanos: all attempts together; 0 for none. max_price_nanos_per_hour: whole job.
        max_cost_per: of an array, what `max_cost_nanos` caps: `job`, all its tasks together, or `task`, each.
            The default is what it was before there was a choice; whoever submits says `job` unless told
            otherwise.
        currency: of the two above; empty when both are 0.
        on_exceed: stop | checkpoint-stop, what happens at `max_cost`.
        env: (name, value) pairs, sorted.
        command: argv, used as is; empty when `script` is given.
        script: run by the interpreter of its `#!` line, without one by bash; `setup`, shell text, runs
            before it in the same environment.
        workdir: absolute directory on the node.
        secrets: names of `bursar secret`; each is a variable of the environment, its value never here.
        secret_files: those of `secrets` that the job gets as private files; the variable holds the path.
        launch: per-node | once, or an engine (`ENGINES`). Once: the first member runs the command, the
            others hold their place; so too with the engines that start on the first member.
        tasks_per_node: processes that an engine starts on each node; 0: one per GPU, or as it does it.
        output_file: where its output goes too, beside its log: a path, relative to `workdir`, that may hold
            Slurm's patterns (`%j`, `%A_%a`, `%N`). Standard error goes there with it, unless `error_file`
            says otherwise. Empty: to the log alone.
        open_mode: truncate | append, what becomes of a file that is there; empty: the first attempt empties
            it, and later ones append.
        interactive: people attach to it; without a program it waits for them.
        image: the name of an image of a registry: the job runs in a container of it on each node. Empty: on
            the node itself.
        image_auth: which of `secrets` shows the registry who asks; the job itself does not get that one.
        mounts: `SOURCE:TARGET` or `SOURCE:TARGET:ro`, directories and files of the node that the container
            has too, beside its `workdir`.
        service: it is a service: its tasks are replicas, of which each is started again whenever it ends.
    """

    name: str = ""
    project: str = "default"
    experiment: str = ""
    model: str = ""
    model_version: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 50
    preemptible: bool = True
    nodes: int = 1
    max_nodes: int = 0
    throughput: tuple[tuple[str, int, int], ...] = ()
    options: tuple[ResourceRequest, ...] = (ResourceRequest(),)
    ordered: bool = False
    constraints: tuple[tuple[str, str], ...] = ()
    spot_policy: str = "auto"
    time_limit_us: int = 0
    begin_after: int = 0
    deadline_at: int = 0
    deadline_policy: str = "promise"
    depends_on: tuple[Dependency, ...] = ()
    array: ArraySpec | None = None
    max_cost_nanos: int = 0
    max_cost_per: str = "task"
    max_price_nanos_per_hour: int = 0
    currency: str = ""
    on_exceed: str = "stop"
    checkpoint: CheckpointSpec = CheckpointSpec()
    retry: RetrySpec = RetrySpec()
    env: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    script: str = ""
    arguments: tuple[str, ...] = ()
    setup: str = ""
    workdir: str = ""
    held: bool = False
    comment: str = ""
    secrets: tuple[str, ...] = ()
    secret_files: tuple[str, ...] = ()
    launch: str = "per-node"
    tasks_per_node: int = 0
    output_file: str = ""
    error_file: str = ""
    open_mode: str = ""
    image: str = ""
    image_auth: str = ""
    mounts: tuple[str, ...] = ()
    service: ServiceSpec | None = None
    idle_policy: IdleSpec = IdleSpec()
    interactive: bool = False

    @property
    def where(self) -> tuple[tuple[str, str], ...]:
        """What it asks of a node's place and properties: its constraints, and for an image what runs one."""
        if not self.image:
            return self.constraints
        gpus = any(option.gpus is not None for option in self.options)
        return (*self.constraints, (CONTAINERS, "*"), *(((CONTAINER_GPUS, "*"),) if gpus else ()))

    @property
    def most_nodes(self) -> int:
        """The most that an attempt may have."""
        return self.max_nodes or self.nodes

    @property
    def caps_array(self) -> bool:
        """Its `max_cost` is for all tasks of an array together."""
        return self.array is not None and self.max_cost_nanos > 0 and self.max_cost_per == "job"


WRITTEN_OTHERWISE: Final = frozenset((
    "max_nodes", "throughput", "options", "ordered", "constraints", "time_limit_us", "deadline_at",
    "max_cost_nanos", "max_cost_per",
    "max_price_nanos_per_hour", "currency", "on_exceed", "checkpoint", "script", "secret_files", "service",
    "interactive",
))  # fmt: skip
"""Fields whose key in a job file has another name or form. All others are written under their own."""


class OutputFiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Files that one member's output goes to beside its log, with no pattern in their names.

    Attributes:
        output: absolute, or relative to its `workdir`; empty: none.
        error: likewise, of standard error; empty: where `output` says.
        append: keep what is in them.
    """

    output: str = ""
    error: str = ""
    append: bool = False


NO_FILES: Final = OutputFiles()


class Launch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one member's process is started with. Exactly one of `command` and `script` is given.

    The supervisor opens it, and nobody before it. A field that has the name of one of `JobSpec` is filled
    from it by `launch_of`.

    Attributes:
        command: argv, used as is.
        script: with a `#!` first line a file that this interpreter runs; else shell text. It is the text as
            it was given: what reads its own file (`sbatch $0`) finds that. arguments: of the script.
        setup: shell text run to success first, in the same environment, directory and log.
        workdir: absolute; empty: the home of the account.
        env: complete but for what only the node knows (its account, its PATH). It may hold secrets, so
            nobody writes a Launch to a file.
        checkpoint: the supervisor minds what it says of the time before the limit, and of the script.
        files: by variable, what the private file holds whose path the variable is to have.
        output_files: opened before anything runs; one that cannot be is the job's failure.
        image: it runs in a container of this. image_auth: what its registry is shown, a secret's value.
        mounts: as in `JobSpec`.
    """

    command: tuple[str, ...] = ()
    script: str = ""
    arguments: tuple[str, ...] = ()
    setup: str = ""
    workdir: str = ""
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    checkpoint: CheckpointSpec = CheckpointSpec()
    files: Mapping[str, str] = msgspec.field(default_factory=dict)
    output_files: OutputFiles = NO_FILES
    image: str = ""
    image_auth: str = ""
    mounts: tuple[str, ...] = ()


_FROM_SPEC = tuple(
    name
    for name in Launch.__struct_fields__
    if name in JobSpec.__struct_fields__ and name not in ("env", "image_auth")
)
ENGINES: Final = ("torchrun", "mpi", "ray", "dask", "spark")
"""What `launch` may name beside per-node and once: the agents' program for it starts the command."""
_ON_THE_FIRST: Final = frozenset({"once", *ENGINES} - {"torchrun"})
_ENGINE: Final = ("sh", "-c", f'exec "${DIRECTORY}/{TOOLS}/{LAUNCH}" "$@"', LAUNCH)
_SESSION: Final = (
    "sh", "-c",
    f'cd / && end="${SESSION_DIR}/end"; [ -e "$end" ] || mkfifo -m 600 "$end"; read -r code <"$end"; sleep 1;'
    ' exit "${code:-1}"',
)  # fmt: skip
"""Waits until a program that was attached says in that file how it ended (`run --pty`), and ends likewise."""
_WAIT: Final = ("sh", "-c", "trap '' TERM; exec sleep 2147483647")
"""Waits until it is killed: it outlives the TERM that begins a grace, for which the place is needed too."""


def launch_of(
    spec: JobSpec,
    env: Mapping[str, str],
    rank: int = 0,
    secrets: Mapping[str, str] | None = None,
    output_files: OutputFiles = NO_FILES,
) -> Launch:
    """What a member of a job is started with, in its own environment, with its own secrets and files."""
    given = dict(secrets or {})
    auth = given.pop(spec.image_auth, "") if spec.image_auth else ""
    files = {name: value for name, value in given.items() if name in spec.secret_files}
    env = {**env, **{name: value for name, value in given.items() if name not in files}}
    fields = {name: getattr(spec, name) for name in _FROM_SPEC}
    if spec.interactive and not spec.command and not spec.script:
        fields["command"] = _SESSION
    whole = Launch(env=env, files=files, output_files=output_files, image_auth=auth, **fields)
    if holds_its_place(spec, rank):
        return _holding(whole)
    if spec.launch in ENGINES:
        code = ("--script", spec.script, *spec.arguments) if spec.script else ("--", *spec.command)
        command = (*_ENGINE, spec.launch, *code)
        return msgspec.structs.replace(whole, command=command, script="", arguments=())
    return whole


def _holding(whole: Launch) -> Launch:
    """What a member that only holds its place is started with: all that is asked of the process, since steps
    of the job start in it, but for its code, and for the files of its output, which are the first member's.
    """
    code: dict[str, Any] = {"command": _WAIT, "script": "", "arguments": (), "checkpoint": CheckpointSpec()}
    waits = msgspec.structs.replace(whole, **code, output_files=NO_FILES)
    if whole.setup:
        return waits
    # Until a step comes, which brings its environment, nothing of the job's is here, secrets before all: but
    # for those that are files, which no environment brings.
    kept = {k: v for k, v in whole.env.items() if k in OF_THE_NODE}
    return msgspec.structs.replace(waits, workdir="/", env=kept)


def runs_once(spec: JobSpec) -> bool:
    """Does the first member run the program, and the others hold their place?"""
    return spec.launch in _ON_THE_FIRST


def holds_its_place(spec: JobSpec, rank: int) -> bool:
    """Is this a member that runs nothing of its own but waits to be used by the first, and to be ended?"""
    return rank > 0 and runs_once(spec)
