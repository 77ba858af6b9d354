"""Which idle policies a job is under, and how far they are with it, as the log says.

Why     the watch that judges, `plan` and `show` must name the same ones; what is said here is of records
        alone, so that a restart finds what was.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import DAY_US
from bursar.model import EndCause, JobSpec
from bursar_policies.idleness import Rule, document_of, rules
from bursar_policies.specs import IdlePolicySpec
from bursard.state.records import AttemptRecord, JobRecord
from bursard.state.tables import Tables

SNOOZE_US_MAX: Final = 7 * DAY_US


def document_for(state: Tables, user: str, spec: JobSpec) -> tuple[str, IdlePolicySpec] | None:
    """The policy of the site that such a job is under; services are under none."""
    if spec.service is not None:
        return None
    return document_of(
        state.idle_documents,
        user=user,
        project=spec.project,
        experiment=spec.experiment,
        model=spec.model,
        labels=spec.labels,
        of_type="interactive" if spec.interactive else "job",
    )


def rules_of(state: Tables, user: str, spec: JobSpec, gpus: bool) -> tuple[Rule, ...]:
    """What a job is under on a place with or without GPUs."""
    if spec.service is not None or not (spec.idle_policy.judged or state.idle_documents):
        return ()
    document = document_for(state, user, spec)
    return rules(spec.idle_policy, document, gpus=gpus, interactive=spec.interactive)


def snoozed_until(state: Tables, job: JobRecord) -> int:
    """Until when its owner has put it off; of a task, by itself or with its array."""
    parent = state.jobs.get(job.parent_id)
    whole = parent.spec.idle_policy.snoozed_until if parent is not None else 0
    return max(job.spec.idle_policy.snoozed_until, whole)


def may_snooze(state: Tables, user: str, spec: JobSpec) -> tuple[int, int | None]:
    """The most that it may be put off from now, and how often still; None: without a bound."""
    document = document_for(state, user, spec)
    if document is None:
        return SNOOZE_US_MAX, None
    _, policy = document
    left = None if policy.snoozes is None else max(policy.snoozes - spec.idle_policy.snoozes, 0)
    return min(policy.snooze_us, SNOOZE_US_MAX), left


def held_by_policy(state: Tables, job: JobRecord) -> AttemptRecord | None:
    """Of a job on hold, the attempt that an idle policy ended to hold it; None: somebody put it there.

    Nobody can hold what runs: while a policy that holds is in force, what it ended and is on hold it held.
    """
    last = job.attempts[-1] if job.attempts else None
    if not job.held or last is None or last.cause is not EndCause.IDLE:
        return None
    gpus = any(member.alloc.devices for member in last.members)
    rules = rules_of(state, job.user, job.spec, gpus)
    return last if any(rule.action == "hold" for rule in rules) else None
