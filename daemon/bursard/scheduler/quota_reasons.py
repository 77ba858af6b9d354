"""Why a quota says no, with its numbers, and what would make it say yes."""

from __future__ import annotations

from bursar.model import Reason, ReasonCode
from bursar_policies.decision import JobClass, Plan, Snapshot, Verdict
from bursar_policies.read_quota import as_fact, written
from bursar_policies.specs import GPUS, SPEND_RATE
from bursard.scheduler.quotas import Tenancy


def refused(snapshot: Snapshot, plan: Plan, job_class: JobClass, verdict: Verdict) -> Reason:
    """The reason behind a verdict of a quota, with what it had used by then."""
    tenancy = Tenancy(snapshot)
    tenancy.started(plan.starts[: verdict.starts], [queue.job_class for queue in snapshot.queues])
    if not verdict.quota:
        return _guaranteed_to_others(tenancy, job_class, verdict)
    name, resource, asked = verdict.quota, verdict.resource, verdict.needed_nanos
    spec = tenancy.specs[name]
    most, used = tenancy.most[name][resource], tenancy.used[name][resource]

    def shown(amount: int) -> str:
        return written(resource, amount, spec.currency)

    facts = (
        ("quota", name),
        ("resource", resource),
        ("used", as_fact(resource, used)),
        ("asked", as_fact(resource, asked)),
        ("max", as_fact(resource, most)),
        ("guaranteed", as_fact(resource, tenancy.owed[name].get(resource, 0))),
        ("currency", spec.currency),
    )
    what = named(resource)
    if asked > most:
        return Reason(
            ReasonCode.EXCEEDS_MAX_QUOTA,
            f"it asks for {shown(asked)} {what}, and quota {name} ({spec.scope}) never allows more than"
            f" {shown(most)}",
            f"ask for {shown(most)} or less, or have the quota raised (bursar policy apply)",
            facts,
        )
    figures = f"{shown(used)} of at most {shown(most)} {what} of quota {name} ({spec.scope}) are used"
    if resource == SPEND_RATE:
        figures = f"quota {name} ({spec.scope}) spends {shown(used)} of at most {shown(most)}"
    if verdict.for_job:
        return Reason(
            ReasonCode.WAITING_FOR_QUOTA,
            f"{figures}, and another job that waits for it comes first; this one asks for {shown(asked)}",
            "wait"
            if job_class.endless
            else "wait, or set a --time-limit that ends before that one can start",
            (*facts, ("for_job", verdict.for_job)),
        )
    return Reason(
        ReasonCode.WAITING_FOR_QUOTA,
        f"{figures}, this asks for {shown(asked)}",
        f"it starts when jobs of the quota have ended; or ask for {shown(max(most - used, 0))} or less"
        if most > used
        else "it starts when jobs of the quota have ended",
        facts,
    )


def _guaranteed_to_others(tenancy: Tenancy, job_class: JobClass, verdict: Verdict) -> Reason:
    """It may not be stopped, and would take what is guaranteed."""
    resource, asked = verdict.resource, verdict.needed_nanos
    total, spoken_for = tenancy.totals[resource], tenancy.spoken_for(resource)
    what = named(resource)
    left = written(resource, max(total - spoken_for, 0))
    facts = (
        ("resource", resource),
        ("total", as_fact(resource, total)),
        ("guaranteed", as_fact(resource, spoken_for)),
        ("asked", as_fact(resource, asked)),
    )
    return Reason(
        ReasonCode.WAITING_FOR_QUOTA,
        f"it may not be stopped for others, so it borrows nothing that quotas guarantee: of"
        f" {written(resource, total)} {what} all but {left} are guaranteed or held by such jobs, and it asks"
        f" for {written(resource, asked)}",
        "let it be stopped (preemptible: true, and no --no-requeue), or wait until such jobs have ended",
        facts,
    )


def named(resource: str) -> str:
    """A resource as a sentence says it."""
    if resource == SPEND_RATE:
        return "of spending"
    head, _, kind = resource.partition("/")
    return {GPUS: f"{kind} GPUs".strip(), "cpus": "CPUs", "memory": "of memory"}[head]
