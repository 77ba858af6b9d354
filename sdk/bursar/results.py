"""What the clients answer with: frozen structs with money, instants and enums where a program wants them.

Owns    names and types of every result of `bursar.Client` and `bursar.AsyncClient`. Amounts are `Money`,
        instants `datetime` in UTC, durations `timedelta`; what is not known, or not yet, is None.
Why     protobuf stays underneath: nobody should meet nanos, microseconds and -1 for "unknown" in a notebook.
        `bursar.codec.results` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from bursar.errors import BursarError
from bursar.model import EndCause, JobState
from bursar.money import Money


class NodeState(StrEnum):
    """Whether a node takes work."""

    UP = "up"
    SILENT = "silent"
    UNWELL = "unwell"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DRAINED = "drained"
    QUARANTINED = "quarantined"


class AttemptState(StrEnum):
    """Where an attempt is."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ENDED = "ENDED"


class Enforcement(StrEnum):
    """Hard budgets are never passed; soft ones tell."""

    HARD = "hard"
    SOFT = "soft"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all results."""


# ------------------------------------------------------------------ jobs


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


class Attempt(Result, frozen=True, kw_only=True):
    """One try of a job.

    Attributes:
        places: one per rank, in rank order.
        elapsed: as long as its place that was held and charged longest; None: none has begun.
        end_cause: why it ended; None while it lives.
        message: what the agent said of the end. placed_because: evidence for the placement.
        time_limit: what it may run for, and is held and billed by. wanted_time_limit: by the newest update,
            which the nodes of `limit_waits_for` have not taken yet; None: nothing waits.
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
        elapsed: held and charged by all of its attempts together, until now; of an array since its first task
            began. None: it never began.
        end: how it ended; None while it has not.
        cost: until now, what runs since the last metering included; None: none of it has a known price.
        cost_settled: what is booked. cost_held: what budgets keep for it.
        cost_expected, cost_at_most: estimates; None: unknown.
        cost_unknown: some of it ran where no price is known, so `cost` is not all.
        rate_per_hour: of what runs now; None: unknown.
        progress: that it tells of itself; progress_problem: why what it tells cannot be.
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
    resources: tuple[Resources, ...]
    time_limit: timedelta | None
    begin_after: datetime | None
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
    comment: str
    cpu_time: timedelta
    max_rss_bytes: int
    gpu_energy_joules: float | None
    progress: Progress | None
    progress_problem: str
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
    """A budget, and what is left of it: in a plan after the start, in an explanation before it."""

    name: str
    enforcement: Enforcement
    limit: Money
    settled: Money
    held: Money
    available_after: Money
    renews_at: datetime | None


class Plan(Result, frozen=True, kw_only=True):
    """What a submit would do now.

    Attributes:
        starts_now: it would; else `reason` says why not.
        cost_expected, cost_at_most: of all tasks; None: unknown. task_cost_at_most: of each of an array.
        expected_basis: what the expectation rests on. tasks: that the sums are for.
        limits_not_held: of memory, cpu, pids: what some node of it cannot hold the job to.
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


class NodeVerdict(Result, frozen=True, kw_only=True):
    """Could the job run on this node, and why not."""

    node: str
    fits: bool
    why_not: str


class NamedJob(Result, frozen=True, kw_only=True):
    """A job as people call it. `number`: of a task with its index, `12[3]`."""

    id: str
    number: str
    name: str


class Explanation(Result, frozen=True, kw_only=True):
    """Why a job is where it is, and what would change it.

    Attributes:
        ahead: ids of jobs before it that the caller may see. ahead_jobs: the same with what people call them.
        ahead_total: how many there are.
        suggestion: a change that would start it now, and its price.
    """

    job: Job
    reason: Why | None
    nodes: tuple[NodeVerdict, ...]
    ahead: tuple[str, ...]
    ahead_jobs: tuple[NamedJob, ...]
    ahead_total: int
    budgets: tuple[BudgetAfter, ...]
    expected_start_at: datetime | None
    suggestion: str
    suggestion_rate_per_hour: Money | None
    placed_because: str


class LogChunk(Result, frozen=True, kw_only=True):
    """What a rank wrote: bytes, where they start, and how many before them were dropped over the size cap."""

    data: bytes
    offset: int
    dropped_bytes: int


# ------------------------------------------------------------------ nodes


class Device(Result, frozen=True, kw_only=True):
    """One GPU of a node. `free`: the share of it that nobody holds, 0 to 1."""

    index: int
    uuid: str
    type: str
    memory_bytes: int
    simulated: bool
    free: float


class GpuReading(Result, frozen=True, kw_only=True):
    """One device, read live. None: not known, which is never a 0."""

    index: int
    utilization_ratio: float | None
    sm_ratio: float | None
    memory_used_bytes: int | None
    power_watts: float | None
    temperature_celsius: float | None
    simulated: bool


class Reading(Result, frozen=True, kw_only=True):
    """A node, read live; no money depends on it."""

    at: datetime | None
    cpu_utilization_ratio: float
    memory_used_bytes: int
    power_watts: float | None
    gpus: tuple[GpuReading, ...]


class Node(Result, frozen=True, kw_only=True):
    """A node: what it has, what is free, what it costs, how it is.

    Attributes:
        reason: why it takes no work; empty when it does.
        limits: what it can hold a job to, of memory, cpu and pids.
        rate_per_hour: None: its price is unknown.
        reading: the newest live one; None: none came yet.
    """

    id: str
    name: str
    state: NodeState
    reason: str
    pool: str
    provider: str
    region: str
    zone: str
    rack: str
    instance_type: str
    market: str
    labels: Mapping[str, str]
    address: str
    limits: tuple[str, ...]
    cpus: float
    cpus_free: float
    memory_bytes: int
    memory_free_bytes: int
    devices: tuple[Device, ...]
    rate_per_hour: Money | None
    price_id: str
    jobs: int
    last_seen_at: datetime | None
    agent_version: str
    reading: Reading | None


class Top(Result, frozen=True, kw_only=True):
    """The live picture; `jobs` and `nodes` end at 1 MiB each, the totals count all."""

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    nodes_total: int
    jobs_total: int


class NewToken(Result, frozen=True, kw_only=True):
    """A secret with which a node enrols; it is shown to nobody again."""

    token: str
    expires_at: datetime | None


class NodeToken(Result, frozen=True, kw_only=True):
    """A secret that is good now, without the secret. `state`: unused | bound."""

    id: str
    node: str
    state: str
    issued_at: datetime | None
    expires_at: datetime | None


class RemovedNode(Result, frozen=True, kw_only=True):
    """A node that is forgotten."""

    id: str
    name: str


# ------------------------------------------------------------------ money and policies


class BudgetPosting(Result, frozen=True, kw_only=True):
    """What a budget was given, or what was taken: a grant, a transfer, a carry-over, and its other end."""

    kind: str
    amount: Money
    at: datetime | None
    by: str
    reason: str
    other: str
    other_since: datetime | None


class Budget(Result, frozen=True, kw_only=True):
    """A budget in its period: `limit` is in force, of `base_limit` of its document and what was given beside;
    `available` is negative when real spend passed a soft limit.
    """

    id: str
    name: str
    scope: str
    period: str
    enforcement: Enforcement
    hold: str
    limit: Money
    settled: Money
    held: Money
    available: Money
    base_limit: Money
    granted: Money
    transferred: Money
    carried_over: Money
    carry_over: str
    postings: tuple[BudgetPosting, ...]
    period_start: datetime | None
    period_end: datetime | None
    crossed_percent: tuple[int, ...]
    live_jobs: tuple[str, ...]
    version: int


class CostRow(Result, frozen=True, kw_only=True):
    """One row of a cost report.

    Attributes:
        keys: value by dimension, as asked for.
        cost: of what its price is known; `gpu_cost`, `cpu_cost` and `memory_cost` are its parts.
        held: node time in all. unknown: of that, without a known price.
        gpu_time, cpu_time: what jobs used of GPUs and of CPUs: a half GPU for an hour is half an hour.
        percent: of the total, None where that is 0. others: so many rows beyond the first, in one.
        before: in the period before, `change` the difference, `change_percent` of before (None of nothing);
            None where no comparison was asked for.
    """

    keys: Mapping[str, str]
    cost: Money
    gpu_cost: Money
    cpu_cost: Money
    memory_cost: Money
    held: timedelta
    gpu_time: timedelta
    cpu_time: timedelta
    unknown: timedelta
    jobs: int
    percent: float | None = None
    others: int = 0
    before: Money | None = None
    change: Money | None = None
    change_percent: float | None = None


class Cost(Result, frozen=True, kw_only=True):
    """Cost by dimensions, and their total.

    Attributes:
        since, until: of which time; None: from the first charge, until now. period: its name, if it has one.
        before_since, before_until, before_period: what it is compared with.
        timezone: whose midnights these are.
    """

    rows: tuple[CostRow, ...]
    total: CostRow
    since: datetime | None
    until: datetime | None
    period: str = ""
    timezone: str = "UTC"
    before_since: datetime | None = None
    before_until: datetime | None = None
    before_period: str = ""


class Price(Result, frozen=True, kw_only=True):
    """A price with its dates and source, and the machine it buys."""

    provider: str
    region: str
    pool: str
    instance_type: str
    market: str
    rate_per_hour: Money | None
    rate_per_gpu_hour: Money | None
    gpus: int
    gpu_type: str
    gpu_memory_bytes: int
    cpus: float
    memory_bytes: int
    valid_from: datetime | None
    valid_until: datetime | None
    source: str
    price_id: str


class BudgetShift(Result, frozen=True, kw_only=True):
    """What the account of a budget has settled more, below zero less. `since`: where its period begins."""

    budget: str
    since: datetime | None
    amount: Money


class Correction(Result, frozen=True, kw_only=True):
    """What became of a correction.

    Attributes:
        charges: how many were reversed and posted anew. before, after: what all of that time were, and are.
        booked_at: None when nothing changed. budgets: whose accounts follow.
    """

    job: str
    charges: int
    before: Money
    after: Money
    booked_at: datetime | None
    budgets: tuple[BudgetShift, ...]


class BookPeriod(Result, frozen=True, kw_only=True):
    """A month of the books; of a closed one, what it was signed as.

    Attributes:
        state: `open`, `closed`, or `closing`: closed and not yet signed.
        hash: of the log up to the event that closed it. missing: what it was closed in spite of.
        totals: by kind of charge. charges: how many rows.
    """

    period: str
    since: datetime | None
    until: datetime | None
    state: str
    closed_at: datetime | None
    closed_by: str
    hash: str
    missing: tuple[str, ...]
    totals: Mapping[str, Money]
    total: Money
    charges: int


class PriceExplanation(Result, frozen=True, kw_only=True):
    """Every part of a price, for a whole machine and hour.

    Attributes:
        name: which machines, for people. nodes: how many of this kind there are.
        parts: of `cost`, by name; of an owned machine alone.
        cost: what it costs its site. charge: what jobs pay. listed: before any discount, None where unknown.
        effective: purchases spread over their life. marginal: what an hour of use adds.
        sold: what jobs held of its pool this month, by cost, of 1; None where nothing is known.
        full_absorption: the rate at which that would have paid for it.
        stable_id: what is priced, through every change of its price.
    """

    name: str
    pool: str
    nodes: int
    gpus: int
    gpu_type: str
    parts: Mapping[str, Money]
    cost: Money
    charge: Money
    listed: Money | None
    effective: Money
    marginal: Money
    sold: float | None
    full_absorption: Money | None
    valid_from: datetime | None
    valid_until: datetime | None
    source: str
    price_id: str
    stable_id: str


class BudgetOpening(Result, frozen=True, kw_only=True):
    """What the account of a budget began with.

    Attributes:
        since: what was used before does not count; None: all does.
        settled: what its scope had cost since. held: by the `attempts` that ran under it.
    """

    since: datetime | None
    settled: Money
    held: Money
    attempts: int


class Policy(Result, frozen=True, kw_only=True):
    """One policy document, who applied it and when.

    Attributes:
        opening: of a Budget whose account was opened, by `apply_policies` and `check_policies`.
        change: created | changed | unchanged | removed; empty in lists.
        problem: why this version cannot read it: then it is not in force.
        notes: of a change, what follows from it that one may not have meant.
        text: empty in lists.
    """

    kind: str
    name: str
    version: int
    change: str
    applied_at: datetime | None
    applied_by: str
    effective_at: datetime | None
    problem: str
    notes: tuple[str, ...]
    text: str
    opening: BudgetOpening | None = None


# ------------------------------------------------------------------ events, the server, rights


class Event(Result, frozen=True, kw_only=True):
    """One event of the log; `data` is its payload."""

    seq: int
    at: datetime | None
    actor: str
    kind: str
    subject: str
    data: Any


class Server(Result, frozen=True, kw_only=True):
    """Who serves, since when, how it is doing, and who it takes the caller for."""

    version: str
    cluster_id: str
    epoch: int
    started_at: datetime | None
    ready: bool
    pid: int
    state_dir: str
    pending: int
    running: int
    nodes_up: int
    nodes_silent: int
    last_seq: int
    user: str
    role: str
    counters: Mapping[str, int]


class Finding(Result, frozen=True, kw_only=True):
    """One check of `doctor`."""

    check: str
    ok: bool
    message: str
    remedy: str


class Grant(Result, frozen=True, kw_only=True):
    """A role of a user over a project and all below it; `project` empty: the whole site."""

    user: str
    role: str
    project: str
    change: str


class Secret(Result, frozen=True, kw_only=True):
    """A secret, without its value."""

    name: str
    project: str
    set_at: datetime | None
    change: str
