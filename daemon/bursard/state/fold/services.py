"""How the events of services change the state: places of replicas, keys, what gateways told."""

from __future__ import annotations

from bursar.model import JobState
from bursar.model.ranges import with_index
from bursard.events import (
    KeyIssued,
    KeyRevoked,
    KeysCharged,
    ServiceMetered,
    ServiceRolledBack,
    ServiceScaled,
)
from bursard.state.fold.jobs import open_tasks, step_back, tasks_of
from bursard.state.records import JobRecord, RolledBack, ServiceKey
from bursard.state.tables import Applied, Tables


def scaled(state: Tables, event: ServiceScaled, at: int, applied: Applied) -> None:
    """So many places are open. What runs beyond them goes on until it ends; what waits steps back at once."""
    job = state.jobs[event.job_id]
    array = job.array
    assert array is not None
    array.open_slots += event.target - array.max_parallel
    array.max_parallel = event.target
    waiting = [one for one in tasks_of(state, job) if one.state is JobState.PENDING and one.has_slot]
    for task in sorted(waiting, key=lambda one: one.array_index, reverse=True):
        if array.open_slots >= 0:
            break
        leave_slot(state, job, task)
    open_tasks(state, job, at)


def leave_slot(state: Tables, parent: JobRecord, task: JobRecord) -> None:
    """A replica that waits gives its place up, and is one of those that are not wanted."""
    assert parent.array is not None
    state.pending.remove(task.id)
    step_back(state, task)
    parent.array.unopened = with_index(parent.array.unopened, task.array_index)


def key_issued(state: Tables, event: KeyIssued, at: int, applied: Applied) -> None:
    """One key more."""
    state.service_keys[event.key_id] = ServiceKey(
        id=event.key_id,
        job_id=event.job_id,
        sha256=event.sha256,
        name=event.name,
        project=event.project,
        user=event.user,
        issued_at=at,
        requests_per_minute=event.requests_per_minute,
        concurrency=event.concurrency,
        expires_at=event.expires_at,
        budget=event.budget,
    )


def key_revoked(state: Tables, event: KeyRevoked, at: int, applied: Applied) -> None:
    """And one less."""
    state.service_keys.pop(event.key_id, None)


def metered(state: Tables, event: ServiceMetered, at: int, applied: Applied) -> None:
    """The numbers are in the log; here stays how far each gateway has told."""
    job = state.jobs.get(event.job_id)
    if job is not None:
        job.gateways = {**job.gateways, event.gateway: event.seq}


def keys_charged(state: Tables, event: KeysCharged, at: int, applied: Applied) -> None:
    """It is spent of the budget in the period that it is of. The replicas' own charges stay as they are."""
    record = state.budgets.records.get(event.budget)
    state.keys_charged.add(event, record.window()[0] if record is not None else 0)
    for one in event.hours:
        if one.nanos:
            spent = state.ledger.spend(event.budget, one.period_start, one.hour, one.nanos)
            applied.transactions.append(spent)


def rolled_back(state: Tables, event: ServiceRolledBack, at: int, applied: Applied) -> None:
    """Of the update before this."""
    job = state.jobs.get(event.job_id)
    if job is not None:
        job.back = RolledBack(event.revision, event.to, event.why)
