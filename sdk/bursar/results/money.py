"""Budgets, costs, prices, corrections, closed periods and policies, as the clients answer with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from bursar.money import Money
from bursar.results.base import Enforcement, Result


class BudgetPosting(Result, frozen=True, kw_only=True):
    """What a budget was given, or what was taken: a grant, a transfer, a carry-over, and its other end."""

    kind: str
    amount: Money
    at: datetime | None
    by: str
    reason: str
    other: str
    other_since: datetime | None


class BudgetStage(Result, frozen=True, kw_only=True):
    """What a threshold of a budget does now, at which share of the limit, and what ends it."""

    action: str
    on: str
    at_percent: float
    since: str
    remedy: str


class BudgetThreshold(Result, frozen=True, kw_only=True):
    """A threshold of a budget that was passed: at which share of the limit, and of what."""

    on: str
    at_percent: float


class BudgetApproval(Result, frozen=True, kw_only=True):
    """What is approved of a budget. `ceiling`: what may be settled and held in all; None: the limit."""

    at: datetime | None
    by: str
    reason: str
    until: datetime | None
    ceiling: Money | None


class Quantiles(Result, frozen=True):
    """An amount three ways: with a chance of so many percent it is no more than that."""

    p10: Money
    p50: Money
    p90: Money


class BudgetForecast(Result, frozen=True, kw_only=True):
    """What is expected of a budget: estimates, by which nothing is booked, held or refused.

    Attributes:
        ends_at: the end that is meant. learned_days: complete days that it rests on.
        burn_rate: spent an hour, the mean of the last week. run_rate: what runs now costs an hour.
        running, queued: what is expected of what runs and of what waits. end: settled at the end.
        exhausted_p10_at: with a chance of ten percent the limit is reached before; None: not by then.
        unpriced_jobs: whose cost no price tells; they are in none of this.
    """

    at: datetime | None
    ends_at: datetime | None
    learned_days: int
    burn_rate: Money
    run_rate: Money
    running: Money
    queued: Money
    end: Quantiles
    exhausted_p10_at: datetime | None
    exhausted_p50_at: datetime | None
    exhausted_p90_at: datetime | None
    unpriced_jobs: int = 0


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
    stages: tuple[BudgetStage, ...] = ()
    approval: BudgetApproval | None = None
    crossed: tuple[BudgetThreshold, ...] = ()
    forecast: BudgetForecast | None = None


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
        called: of a job, its number and name; empty of other rows.
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
    called: str = ""


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
        notes: of a change, what follows from it that one may not have meant; else which of several is in
            force.
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
