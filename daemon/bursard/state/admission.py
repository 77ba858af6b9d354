"""Refusal at the door: a job that its hard budgets could never pay for is told so at once.

Why     a job that waits for money that can never come is worse than an error with the numbers. One that
        the budget could pay later (holds are released, a period renews) is accepted and waits.
"""

from __future__ import annotations

from msgspec.structs import replace

from bursar.clock import SECOND_US, format_duration
from bursar.errors import BudgetExceeded, InvalidRequest, QuotaExceeded
from bursar.model import DeviceShare, JobSpec
from bursar.money import format_nanos
from bursar.resources import ResourceRequest, least_gpus
from bursar_policies.decision import JobClass
from bursar_policies.read_quota import as_fact, written
from bursar_policies.specs import QuotaSpec
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.scheduler.pricing import share_rates, worst_hold
from bursard.scheduler.text import at_least, money
from bursard.state.budgets import limit_of, settled_of
from bursard.state.records import JobRecord
from bursard.state.tables import Tables

RATES_MAX = 1000
"""Answers kept: many jobs of one class ask between two changes of the cluster."""


def cheapest_hold(state: Tables, job_class: JobClass) -> int | None:
    """The least worst case of this class on an empty cluster, in nanos; None when no priced node could
    hold it: too small, of another market, or without what its constraints ask.

    A cap (`max_cost`) shortens the time limit, so the hold is never more than the cap.
    """
    return _cheapest(state, job_class, job_class.hold_us)


def cheapest_start(state: Tables, job_class: JobClass) -> int | None:
    """The least that a start holds, likewise: with leases, the first of them."""
    return _cheapest(state, job_class, job_class.start_hold_us)


def largest(state: Tables, job_class: JobClass) -> JobClass:
    """Of a range of sizes the class of the largest that priced nodes could hold; else the same class."""
    sizes = least_gpus(job_class.options, job_class.ordered) > 0
    if not job_class.max_nodes and not sizes:
        return job_class
    columns = state.cluster.columns()
    if not sizes:
        asks = asks_of(job_class)
        there = max(int((Candidates(ask, columns).capable & (columns.rate >= 0)).sum()) for ask in asks)
        most = min(job_class.max_nodes, there)
        return replace(job_class, nodes=max(most, job_class.nodes), max_nodes=0)
    for option in job_class.options:
        alone = replace(job_class, options=(option,))
        [ask] = asks_of(alone)
        there = int((Candidates(ask, columns).capable & (columns.rate >= 0)).sum())
        if there >= job_class.nodes:
            most = min(max(job_class.max_nodes, job_class.nodes), there)
            return replace(alone, nodes=most, max_nodes=0)
    return job_class


def _cheapest(state: Tables, job_class: JobClass, hold_us: int) -> int | None:
    rate = cheapest_rate(state, job_class)
    if rate is None:
        return None
    total = worst_hold(rate, hold_us)  # as the plan holds it, to the nano
    return min(total, job_class.max_cost_nanos) if job_class.max_cost_nanos > 0 else total


def cheapest_rate(state: Tables, job_class: JobClass) -> int | None:
    """Nanos per hour of the whole gang where it is cheapest; None when no priced node fits."""
    # All that decides it.
    shape = replace(job_class, time_limit_us=0, hold_us=0, max_cost_nanos=0, budgets=())
    rates, key = state.cluster.cheapest_rates, (state.cluster.facts_version, shape)
    if key not in rates:
        if len(rates) >= RATES_MAX:
            rates.clear()
        rates[key] = _searched(state, shape)
    return rates[key]


def _searched(state: Tables, job_class: JobClass) -> int | None:
    columns = state.cluster.columns()
    least: dict[int, int] = {}
    for ask in asks_of(job_class):
        request = ask.request
        count, milli = (request.gpus.count, request.gpus.milli) if request.gpus is not None else (0, 0)
        devices = tuple(DeviceShare(index, milli) for index in range(count))
        priced = Candidates(ask, columns).capable & (columns.rate >= 0)
        for row in priced.nonzero()[0].tolist():
            rate = share_rates(columns, row, devices, request.cpu_milli, request.memory_bytes).total
            least[row] = min(rate, least.get(row, rate))
    return sum(sorted(least.values())[: job_class.nodes]) if len(least) >= job_class.nodes else None


def refuse_beyond_quota(state: Tables, user: str, spec: JobSpec) -> None:
    """Raise `QuotaExceeded` when a quota that counts the job would never allow one of its alternatives."""
    for name in state.quotas.covering(user, spec.project):
        quota = state.quotas.specs[name]
        passed = [first_beyond(quota, spec, option) for option in spec.options]
        if not passed or None in passed:
            continue
        resource, asked, most = next(one for one in passed if one is not None)
        shown = [written(resource, amount, quota.currency) for amount in (asked, most)]
        what = resource.replace("gpus/", "gpus ")
        raise QuotaExceeded(
            f"quota {name} ({quota.scope}) never allows {shown[0]} {what}: its max is {shown[1]}; ask for"
            f" {shown[1]} or less, or have it raised (`bursar policy show Quota/{name}`)",
            {
                "quota": name,
                "resource": resource,
                "asked": as_fact(resource, asked),
                "max": as_fact(resource, most),
            },
        )


def first_beyond(quota: QuotaSpec, spec: JobSpec, option: ResourceRequest) -> tuple[str, int, int] | None:
    """(resource, asked, max) of the first of a quota's bounds that a job passes wherever it goes."""
    gpus = option.gpus
    asked = {"cpus": option.cpu_milli, "memory": option.memory_bytes}
    if gpus is not None:
        asked["gpus"] = gpus.count * gpus.milli
        if len(gpus.types) == 1:
            asked[f"gpus/{gpus.types[0]}"] = asked["gpus"]
    for resource, most in quota.max:
        if spec.nodes * asked.get(resource, 0) > most:
            return resource, spec.nodes * asked[resource], most
    return None


def refuse_unaffordable(state: Tables, user: str, spec: JobSpec, settled_nanos: int = 0) -> None:
    """Raise `BudgetExceeded` when a hard budget that covers the job could never pay its worst case, the
    `max_cost` of an array not that of one task, or that of a job not one second of it.

    Args:
        settled_nanos: what the array has cost already.
    """
    if spec.caps_array:
        _refuse_small_cap(state, spec, settled_nanos)
    elif spec.max_cost_nanos:
        _refuse_useless_cap(state, spec)
    if not state.budgets.records:
        return
    _, hard = state.budgets.matching(user, spec)
    if not hard:
        return
    likely_us = state.runs.likely_us(spec)
    job_class = state.class_of_spec(spec, hard, state.time_limit_of(spec), likely_us=likely_us)
    needed = cheapest_start(state, job_class)
    if needed is None:
        return
    for name in hard:
        record = state.budgets.records[name]
        limit = limit_of(record, state.ledger)
        settled = settled_of(record, state.ledger)
        # The next period has the document's limit again.
        reachable = max(limit, record.spec.limit.nanos) if record.period_end else limit - settled
        if needed <= reachable:
            continue
        held = state.ledger.held(name, record.period_start)
        remedy = _cheaper(job_class, needed, reachable)
        if not job_class.endless:
            remedy += ", set budget.max_cost"
        raise BudgetExceeded(
            f"budget {name} can never pay for this: {_what(job_class, at_least(needed, state.currency))}, the"
            " budget is"
            f" {money(limit, state.currency)} with {money(settled, state.currency)} settled and"
            f" {money(held, state.currency)} held; {remedy}, or raise the budget",
            {
                "budget": name,
                "needed": format_nanos(needed),
                "limit": format_nanos(limit),
                "settled": format_nanos(settled),
                "held": format_nanos(held),
                "currency": state.currency,
                "reason": "BudgetExhausted",
            },
        )


def _what(job_class: JobClass, needed: str) -> str:
    """What is needed, and for what."""
    leased_us = job_class.leased_us(job_class.time_limit_us)
    if leased_us < job_class.time_limit_us:
        return f"its first lease costs {needed} ({format_duration(leased_us)})"
    return f"the worst case is {needed} ({format_duration(job_class.time_limit_us)} limit)"


def _cheaper(job_class: JobClass, needed: int, reachable: int) -> str:
    """What to ask for instead, so that it costs no more than can be had."""
    if job_class.endless:
        return "ask for less for each replica"
    affordable_us = job_class.start_hold_us * max(reachable, 0) // needed if needed else 0
    limit_us = affordable_us - (job_class.hold_us - job_class.time_limit_us)
    if limit_us >= SECOND_US:
        return f"ask for a time limit of {format_duration(limit_us)} or less"
    return "ask for fewer resources"


def _refuse_small_cap(state: Tables, spec: JobSpec, settled: int) -> None:
    job_class = state.class_of_spec(spec, (), state.time_limit_of(spec))
    needed = cheapest_hold(state, job_class)
    left = spec.max_cost_nanos - settled
    if needed is None or needed <= left:
        return
    cash = state.currency
    spent = f" with {money(settled, cash)} of it settled" if settled else ""
    raise BudgetExceeded(
        f"budget.max_cost can never pay for a task of this array: the worst case of one is"
        f" {at_least(needed, cash)} ({format_duration(job_class.time_limit_us)} limit), the cap on all is"
        f" {money(spec.max_cost_nanos, cash)}{spent}; set it to {at_least(settled + needed, cash)} or more,"
        f" {_cheaper(job_class, needed, left)}, or say `per: task` if it is meant for each",
        {
            "needed": format_nanos(needed),
            "max_cost": format_nanos(spec.max_cost_nanos),
            "settled": format_nanos(settled),
            "currency": cash,
            "reason": "BudgetExhausted",
        },
    )


def _refuse_useless_cap(state: Tables, spec: JobSpec) -> None:
    """`max_cost` shortens the time limit, down to one second: what does not pay for that never starts."""
    limit_us = state.time_limit_of(spec)
    job_class = state.class_of_spec(spec, (), limit_us)
    overhead_us = job_class.hold_us - job_class.time_limit_us
    rate = cheapest_rate(state, job_class)
    needed = worst_hold(rate, overhead_us + min(SECOND_US, limit_us)) if rate else 0
    if needed <= spec.max_cost_nanos:
        return
    cash = state.currency
    raise BudgetExceeded(
        f"max_cost {money(spec.max_cost_nanos, cash)} can never pay for this: one second of it with its"
        f" {format_duration(overhead_us)} of grace costs {at_least(needed, cash)} where it is cheapest; set"
        f" it to {at_least(needed, cash)} or more, or ask for fewer resources",
        {
            "needed": format_nanos(needed),
            "max_cost": format_nanos(spec.max_cost_nanos),
            "currency": cash,
            "reason": "BudgetExhausted",
        },
    )


def refuse_cap_below(state: Tables, array: JobRecord, spec: JobSpec) -> None:
    """Raise `BudgetExceeded` when an array has committed more than a new `max_cost` of it allows."""
    committed = state.array_money[array.id].committed_nanos
    if committed <= spec.max_cost_nanos:
        return
    settled, held = state.array_money[array.id].settled_nanos, state.array_money[array.id].held_nanos
    cash = state.currency
    service = spec.service is not None
    what = f"service {spec.name}" if service else f"array {array.display}"
    its, less = ("replicas", "scale it down") if service else ("running tasks", "cancel tasks")
    raise BudgetExceeded(
        f"max_cost {money(spec.max_cost_nanos, cash)} of {what} is below the"
        f" {money(settled, cash)} settled and {money(held, cash)} held by its {its}; set"
        f" {at_least(committed, cash)} or more, or {less} first",
        {"settled": format_nanos(settled), "held": format_nanos(held), "currency": cash},
    )


def check_currency(state: Tables, currency: str, where: str) -> None:
    """Everything in one cluster is in one currency. Raises `InvalidRequest`."""
    if currency != state.currency:
        raise InvalidRequest(
            f"{where} is in {currency}, this cluster keeps its books in {state.currency}; convert the"
            f" amount to {state.currency}"
        )
