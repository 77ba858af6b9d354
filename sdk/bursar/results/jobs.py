"""Jobs, their attempts, plans, explanations and logs, as the clients answer with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from bursar.errors import BursarError
from bursar.model import EndCause, JobState
from bursar.money import Money
from bursar.results.base import Enforcement, Result


class AttemptState(StrEnum):
    """Where an attempt is."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ENDED = "ENDED"


class StepState(StrEnum):
    """How a step ended, or that it runs. Cut off: it ran when its job ended, or was killed from outside."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    CUT_OFF = "cut_off"


class Why(Result, frozen=True, kw_only=True):
    """The dominant reason why a job is where it is.

    Attributes:
        code: token of the contract, such as `WaitingForResources`.
        message: a sentence with numbers. remedy: what to do; may be empty.
        facts: the numbers, as text.
    """

    code: str
    message: str
    remedy: str
    facts: Mapping[str, str]


class Gpus(Result, frozen=True, kw_only=True):
    """GPUs asked for on each node.

    Attributes:
        count: devices, or the fraction of one.
        types: acceptable types; empty: any. memory_bytes: least memory of each device; 0: any.
    """

    count: float
    types: tuple[str, ...]
    memory_bytes: int


class Resources(Result, frozen=True, kw_only=True):
    """What each node must give. `memory_bytes` 0: no reservation; `gpus` None: none."""

    cpus: float
    memory_bytes: int
    gpus: Gpus | None


class Place(Result, frozen=True, kw_only=True):
    """One rank of an attempt on its node.

    Attributes:
        devices: indices of its GPUs. gpus: how many, or the fraction of one.
        rate_per_hour: its price; None: unknown. held: for how long it was charged so far.
        started_at: when its process started; None: not yet.
        gpu_limited: it has a fraction of a GPU, and its node keeps it to that.
    """

    rank: int
    node: str
    address: str
    devices: tuple[int, ...]
    gpus: float
    cpus: float
    memory_bytes: int
    rate_per_hour: Money | None
    price_id: str
    held: timedelta
    started_at: datetime | None
    gpu_limited: bool


class Step(Result, frozen=True, kw_only=True):
    """What a place of an attempt started with `srun` or `bursar step`.

    Attributes:
        number: of the place that started it, from 0. rank: of that place.
        name: of its program; empty for whoever may not see what the job runs.
        exit_code: the highest of its tasks; None: `signal` ended it, or it had not ended.
        failed_task: that failed first. started_at: None where it is not known.
    """

    number: int
    rank: int
    name: str
    state: StepState
    nodes: int
    tasks: int
    exit_code: int | None
    signal: int | None
    failed_task: int | None
    started_at: datetime | None
    elapsed: timedelta


class Attempt(Result, frozen=True, kw_only=True):
    """One try of a job.

    Attributes:
        places: one per rank, in rank order.
        finished_at: when the last of them was gone, as its node measured it; None while it lives.
        elapsed: as long as its place that was held and charged longest; None: none has begun.
        end_cause: why it ended; None while it lives.
        message: what the agent said of the end. placed_because: evidence for the placement.
        time_limit: what it may run for, and is held and billed by. wanted_time_limit: by the newest update,
            which the nodes of `limit_waits_for` have not taken yet; None: nothing waits.
        leased: of `time_limit`, what is paid for by now where budgets pay by leases; None: all of it.
        steps: that its places have started: 16 of each, those that run or failed first.
        steps_failed, steps_cut_off: of `steps_total`; what was cut off still ran when its place ended.
        image_digest: of the image that its containers were of; empty: none, not known, or not ended yet.
        pull_time: until that was there; None likewise.
    """

    id: str
    number: int
    state: AttemptState
    places: tuple[Place, ...]
    started_at: datetime | None
    finished_at: datetime | None
    elapsed: timedelta | None
    exit_code: int | None
    end_cause: EndCause | None
    message: str
    time_limit: timedelta | None
    placed_because: str
    wanted_time_limit: timedelta | None = None
    limit_waits_for: tuple[str, ...] = ()
    leased: timedelta | None = None
    steps: tuple[Step, ...] = ()
    steps_total: int = 0
    steps_failed: int = 0
    steps_cut_off: int = 0
    image_digest: str = ""
    pull_time: timedelta | None = None


class Progress(Result, frozen=True, kw_only=True):
    """How far a job says that it has come; what it did not tell, or is not known, is None.

    Attributes:
        step, total: done since its first attempt began, and wanted.
        samples, tokens: done in them. steps_per_second, samples_per_second, tokens_per_second: now, as its
            node sees them grow. left: at this rate.
        elapsed: of the newest attempt's loop; data_wait, compute, communication and checkpoint are in it.
        goodput_ratio: compute and communication of elapsed, 0 to 1. mfu_ratio: of the devices' peak FLOP/s.
        cost_per_step, cost_per_million_samples, cost_per_million_tokens: at what the job has cost so far.
    """

    step: int
    total: int | None
    samples: int | None
    tokens: int | None
    steps_per_second: float | None
    samples_per_second: float | None
    tokens_per_second: float | None
    left: timedelta | None
    elapsed: timedelta | None
    data_wait: timedelta | None
    compute: timedelta | None
    communication: timedelta | None
    checkpoint: timedelta | None
    goodput_ratio: float | None
    mfu_ratio: float | None
    cost_per_step: Money | None
    cost_per_million_samples: Money | None
    cost_per_million_tokens: Money | None


class Promise(Result, frozen=True, kw_only=True):
    """That a job ends by its deadline.

    Attributes:
        by: the deadline. starts_by: its place is kept from then on, until it begins.
        cost_at_most: there; None: the price is not known.
        state: promised, kept, broken, or given-up: by its owner. cause, message: of the last two.
    """

    by: datetime | None
    given_at: datetime | None
    starts_by: datetime | None
    cost_at_most: Money | None
    state: str
    broken_at: datetime | None
    cause: str
    message: str


class IdleRule(Result, frozen=True, kw_only=True):
    """One condition that a job is under.

    Attributes:
        policy: the name of the IdlePolicy; empty: of the job itself.
        ground: gpu, cpu or attendance. below_percent: of multiprocessors or CPUs; None of attendance.
        time_window: so long before `action`: notify, stop, hold, requeue or cancel. warn_after: so long
            before it is told.
        idle: seen so for so long. told_at: None: it was not told.
    """

    policy: str
    ground: str
    below_percent: int | None
    time_window: timedelta
    warn_after: timedelta
    action: str
    idle: timedelta
    told_at: datetime | None


class Idleness(Result, frozen=True, kw_only=True):
    """The idle policies that a job is under. `snooze`: the most that it may be put off from now.
    `snoozes_left`: how often still; None: without a bound.
    """

    rules: tuple[IdleRule, ...]
    snoozed_until: datetime | None
    snooze: timedelta
    snoozes_left: int | None


class ArrayProgress(Result, frozen=True, kw_only=True):
    """An array: how many tasks there are, and how many are in which state."""

    size: int
    max_parallel: int
    counts: Mapping[JobState, int]


class JobBudget(Result, frozen=True, kw_only=True):
    """A budget that pays for a job, and how much of it this job holds and has used.

    Attributes:
        settled: what attempts of it cost that held money of the budget, in all periods, as corrected since.
            What ended before the budget came into force is in the budget's sum, whose account began with it.
    """

    name: str
    held: Money
    settled: Money


class FailedTask(Result, frozen=True, kw_only=True):
    """A task of an array that failed."""

    index: int
    cause: str
    exit_code: int | None
    signal: int | None
    message: str


class End(Result, frozen=True, kw_only=True):
    """How a job ended.

    Attributes:
        cause: as of an attempt, and what only a job can end of, such as a dependency that failed.
        rank: the member that ended first of those that did not complete; None where none is to blame.
        message: one sentence. remedy: one thing to do; may be empty.
        failed_tasks: of an array, where it is asked for alone: the first 1,000 of `failed_total`.
    """

    cause: str
    rank: int | None
    exit_code: int | None
    signal: int | None
    message: str
    remedy: str
    failed_tasks: tuple[FailedTask, ...]
    failed_total: int


class Job(Result, frozen=True, kw_only=True):
    """A job as it was when it was asked for; ask again to see it change.

    Attributes:
        finished_at: when its last attempt ended, of an array the last of its tasks; None while it has not.
        elapsed: held and charged by all of its attempts together, until now; of an array since its first task
            began. None: it never began.
        end: how it ended; None while it has not.
        partition: where it is for Slurm's commands, as it said or as its node is; empty: neither is known.
        cost: until now, what runs since the last metering included; None: none of it has a known price.
        cost_settled: what is booked. cost_held: what budgets keep for it.
        cost_expected, cost_at_most: estimates; None: unknown.
        cost_unknown: some of it ran where no price is known, so `cost` is not all.
        rate_per_hour: of what runs now; None: nothing does, or its price is unknown.
        progress: that it tells of itself; progress_problem: why what it tells cannot be.
        idleness: the idle policies that it is under; None: none, or it has ended.
        redacted: the caller may not see command, env and script.
        left_out: fields that this answer does not carry, as rows of `list`; `get` has them.
    """

    id: str
    number: int
    name: str
    user: str
    state: JobState
    reason: Why | None
    project: str
    experiment: str
    model: str
    model_version: str
    labels: Mapping[str, str]
    priority: int
    preemptible: bool
    nodes: int
    max_nodes: int | None
    throughput: Mapping[str, float]
    partition: str
    resources: tuple[Resources, ...]
    time_limit: timedelta | None
    begin_after: datetime | None
    deadline: datetime | None
    promise: Promise | None
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    elapsed: timedelta | None
    exit_code: int | None
    end: End | None
    attempts: tuple[Attempt, ...]
    cost: Money | None
    cost_settled: Money
    cost_held: Money
    cost_expected: Money | None
    cost_at_most: Money | None
    cost_unknown: bool
    max_cost: Money | None
    rate_per_hour: Money | None
    budgets: tuple[JobBudget, ...]
    array: ArrayProgress | None
    array_job: str
    array_index: int | None
    command: tuple[str, ...]
    workdir: str
    output_file: str
    error_file: str
    image: str
    mounts: tuple[str, ...]
    comment: str
    cpu_time: timedelta
    max_rss_bytes: int
    gpu_energy_joules: float | None
    progress: Progress | None
    progress_problem: str
    idleness: Idleness | None
    simulated: bool
    redacted: bool
    left_out: tuple[str, ...]

    @property
    def ended(self) -> bool:
        """Nothing changes it any more."""
        return self.state.terminal

    @property
    def succeeded(self) -> bool:
        """It ended, and well."""
        return self.state is JobState.SUCCEEDED


class Executed(Result, frozen=True, kw_only=True):
    """A program that was run inside a job, and has ended.

    Attributes:
        exit_code: 128 and the signal of one that a signal ended.
        stdout, stderr: what it wrote.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes


class Submitted(Result, frozen=True, kw_only=True):
    """What became of one of many submissions.

    Attributes:
        id, number: of the job; empty and 0 when it was refused.
        existed: its idempotency key was seen before.
        error: why it was refused; None when it was accepted.
    """

    id: str
    number: int
    existed: bool
    error: BursarError | None


class BudgetAfter(Result, frozen=True, kw_only=True):
    """A budget, and what is left of it: in a plan when all of the job is placed that its budgets pay for, in
    an explanation now.

    Attributes:
        tasks_paid: of a planned array, how many tasks it can pay for; None of a soft one.
    """

    name: str
    enforcement: Enforcement
    limit: Money
    settled: Money
    held: Money
    available_after: Money
    renews_at: datetime | None
    stages: tuple[str, ...] = ()
    tasks_paid: int | None = None


class Plan(Result, frozen=True, kw_only=True):
    """What a submit would do now.

    Attributes:
        starts_now: it would; else `reason` says why not.
        cost_expected, cost_at_most: of all tasks; None: unknown. task_cost_at_most: of each of an array.
        expected_basis: what the expectation rests on. tasks: that the sums are for.
        limits_not_held: of memory, cpu, pids, gpu: what some node of it cannot hold the job to.
        worst_case_time: what `cost_at_most` is of: time limit, grace and the margin for a late kill.
        cost_expected_p90: of one run, of an array of one task: nine of ten cost no more. expected_runs: what
            that and `cost_expected` rest on; None of both: not known.
        hold_at_start: where budgets pay by leases, what the first one holds, of an array of one task. lease:
            how much of the time limit that pays for; None: all is held for.
        worst_case_nodes: of a job with a range of sizes, how many nodes `cost_at_most` is of.
        tasks_paid: of an array, how many tasks its hard budgets and its own cap can pay for.
        expected_start_at: when it starts if what runs, and the `ahead_total` jobs that come before it and
            wait, take their whole limits. ahead_counted: False where they could not be followed; then there
            is room for it at that instant, as if none of them stood before it.
        promise: that it would be given of its deadline. idleness: the idle policies that it would be under.
    """

    starts_now: bool
    places: tuple[Place, ...]
    rate_per_hour: Money | None
    cost_expected: Money | None
    expected_basis: str
    cost_at_most: Money | None
    task_cost_at_most: Money | None
    tasks: int
    time_limit: timedelta | None
    budgets: tuple[BudgetAfter, ...]
    reason: Why | None
    expected_start_at: datetime | None
    placed_because: str
    limits_not_held: tuple[str, ...]
    worst_case_time: timedelta | None = None
    cost_expected_p90: Money | None = None
    expected_runs: int | None = None
    hold_at_start: Money | None = None
    lease: timedelta | None = None
    tasks_paid: int | None = None
    ahead_total: int = 0
    ahead_counted: bool = False
    worst_case_nodes: int | None = None
    promise: Promise | None = None
    idleness: Idleness | None = None


class NodeVerdict(Result, frozen=True, kw_only=True):
    """Could the job run on this node, and why not."""

    node: str
    fits: bool
    why_not: str


class NamedJob(Result, frozen=True, kw_only=True):
    """A job as people call it.

    Attributes:
        number: of a task with its index, `12[3]`.
        why: what puts it first: `priority 80`, `2.913 points`, `submitted first`.
    """

    id: str
    number: str
    name: str
    why: str


class ScoreTerm(Result, frozen=True, kw_only=True):
    """What one factor of a PriorityPolicy adds to a job's score: points = weight x factor, factor 0 to 1."""

    factor: str
    weight: float
    value: float
    points: float


class Explanation(Result, frozen=True, kw_only=True):
    """Why a job is where it is, and what would change it.

    Attributes:
        ahead: ids of jobs before it that the caller may see. ahead_jobs: the same with what people call them.
        ahead_total: how many there are.
        terms: what its score is made of, largest first; none where no policy ranks, or nothing waits.
        overdue: it has waited past the policy's `max_wait`, which stands above its score.
        suggestion: a change that would start it now, and its price.
        expected_start_at, ahead_counted: as of a `Plan`.
    """

    job: Job
    reason: Why | None
    nodes: tuple[NodeVerdict, ...]
    ahead: tuple[str, ...]
    ahead_jobs: tuple[NamedJob, ...]
    ahead_total: int
    terms: tuple[ScoreTerm, ...]
    overdue: bool
    budgets: tuple[BudgetAfter, ...]
    expected_start_at: datetime | None
    ahead_counted: bool
    suggestion: str
    suggestion_rate_per_hour: Money | None
    placed_because: str


class LogChunk(Result, frozen=True, kw_only=True):
    """What a rank wrote: bytes, where they start, and how many before them were dropped over the size cap."""

    data: bytes
    offset: int
    dropped_bytes: int
