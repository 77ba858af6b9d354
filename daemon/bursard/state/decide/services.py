"""What people and the autoscaler ask of services. PURE.

Owns    the one way to another number of replicas, another revision, a key (docs/adr/0029).
Why     a service is an array whose tasks are places for replicas. How many of them are open is one number,
        `ServiceScaled`, and only `bursard.serving` says it; people say between which numbers it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from bursar.clock import Instant
from bursar.errors import InvalidRequest, NotFound, RateLimited, WrongState
from bursar.ids import Ids
from bursar.model import ArraySpec, EndCause, JobSpec
from bursar.model.ends import REQUEUED
from bursar_policies.periods import period_bounds
from bursard.events import (
    Event,
    HourOfKeys,
    JobRequeued,
    JobUpdated,
    KeyIssued,
    KeyRevoked,
    KeysCharged,
    KeyUse,
    ServiceMetered,
    ServiceRolledBack,
    ServiceScaled,
    StopRequested,
)
from bursard.events.changes import difference, with_changes
from bursard.state.admission import check_currency, refuse_beyond_quota, refuse_cap_below, refuse_unaffordable
from bursard.state.arrays import size_of_spec
from bursard.state.budgets import BudgetRecord
from bursard.state.core import State
from bursard.state.counted_keys import LATE_US
from bursard.state.decide.changed import changed, refuse_while_launched
from bursard.state.decide.rights import secrets_of
from bursard.state.records import AttemptRecord, JobRecord, ServiceKey
from bursard.state.shares import bytes_of_spec, refuse_more

KEYS_MAX: Final = 1_000
"""Of one service."""
KEYS_OF_SITE_MAX: Final = 10_000
"""Every gateway knows them all."""
LAPSED_MAX: Final = 100
"""Keys that are dropped at one look."""
EXPIRES_MAX: Final = 253_402_300_799 * 1_000_000
"""The end of the year 9999: what is later fits no message, and gateways would get none."""
HOURS_MAX: Final = 1_000
"""Of one event."""
GATEWAYS_MAX: Final = 64
"""That ever told of one service."""
FIXED: Final = ("name", "project", "held", "begin_after", "depends_on")
"""What an update cannot change: whom it belongs to, how it is found, and when it began."""


def with_places(spec: JobSpec, least: int = 0) -> JobSpec:
    """A service with a task for each replica there may be at once, `least` if there were more; of them as
    many are open as it must have. Any other job as it is.
    """
    if spec.service is None:
        return spec
    places = max(spec.service.slots, least)
    return msgspec.structs.replace(spec, array=ArraySpec(((0, places, 1),), spec.service.replicas_min))


def named(state: State, name: str) -> JobRecord | None:
    """The service of a name that lives: a name may be of many jobs, and of one such service."""
    for job_id in state.names.get(name, ()) if name else ():
        found = state.jobs[job_id]
        if found.spec.service is not None and not found.parent_id and not found.state.terminal:
            return found
    return None


def second(state: State, spec: JobSpec) -> JobRecord | None:
    """The service that has the name of another one that is asked for."""
    return named(state, spec.name) if spec.service is not None else None


def refuse_second(state: State, spec: JobSpec) -> None:
    """A name of a service stands for one. Raises `InvalidRequest`."""
    if (other := second(state, spec)) is not None:
        raise InvalidRequest(
            f"name: there is a service {spec.name} already (job {other.display}); `bursar service update"
            f" {spec.name} FILE` changes it, `bursar cancel {other.display}` ends it"
        )


def scale(state: State, job: JobRecord, least: int, most: int) -> list[Event]:
    """Other bounds of the number of replicas. What runs and is as before goes on."""
    service = job.spec.service
    assert service is not None
    other = msgspec.structs.replace(service, replicas_min=least, replicas_max=most)
    return _updated(state, job, msgspec.structs.replace(job.spec, service=other))


def update(state: State, job: JobRecord, spec: JobSpec) -> list[Event]:
    """Another revision; one that says no `workdir` keeps it. Raises `InvalidRequest`, `BudgetExceeded`."""
    return _revised(state, job, msgspec.structs.replace(spec, workdir=spec.workdir or job.spec.workdir))


def _revised(state: State, job: JobRecord, spec: JobSpec) -> list[Event]:
    now = job.spec.service
    if spec.service is None or now is None:
        raise InvalidRequest("spec.service: is missing; the file must say type: service")
    kept = {name: getattr(job.spec, name) for name in FIXED}
    for name in ("name", "project"):
        if getattr(spec, name) != kept[name]:
            raise InvalidRequest(
                f"{name}: is {getattr(spec, name)!r}, the service's is {kept[name]!r}; an update keeps it:"
                " submit another service, and cancel this one"
            )
    same = msgspec.structs.replace(spec.service, revision=now.revision)
    wanted = msgspec.structs.replace(spec, **kept, service=same)
    if with_places(wanted, size_of_spec(job.spec)) == with_places(job.spec, size_of_spec(job.spec)):
        return []
    service = msgspec.structs.replace(spec.service, revision=now.revision + 1)
    return _updated(state, job, msgspec.structs.replace(wanted, service=service))


def rollback(state: State, job: JobRecord) -> list[Event]:
    """The revision before, as a new one. Raises `WrongState`."""
    if job.replaced is None:
        raise WrongState(f"service {job.spec.name} has had no other revision; there is nothing to go back to")
    return _revised(state, job, job.replaced)


def rolled_back(state: State, job: JobRecord, why: str) -> list[Event]:
    """The revision that is tried is no good: back to the one before, whose replicas stay. Raises
    `BursarError` as any update does; nothing where there is none to go back to.
    """
    now, before = job.spec.service, job.replaced.service if job.replaced is not None else None
    if now is None or before is None:
        return []
    # That it was scaled meanwhile is no part of what was tried.
    assert job.replaced is not None
    kept = msgspec.structs.replace(before, replicas_min=now.replicas_min, replicas_max=now.replicas_max)
    events = _revised(state, job, msgspec.structs.replace(job.replaced, service=kept))
    return [*events, ServiceRolledBack(job.id, now.revision, before.revision, why)] if events else []


def is_current(job: JobRecord, revision: int) -> bool:
    """Is a replica of this revision as the service is to be?"""
    service = job.spec.service
    return (
        service is None or revision == service.revision or (job.back is not None and revision == job.back.to)
    )


def _updated(state: State, job: JobRecord, spec: JobSpec) -> list[Event]:
    if job.state.terminal:
        raise WrongState(f"service {job.spec.name} has ended; submit it anew")
    spec = with_places(spec, size_of_spec(job.spec))
    refuse_while_launched(state, job, spec)
    if spec.currency:
        check_currency(state, spec.currency, "the job's budget")
    secrets_of(state, spec)
    if spec.options != job.spec.options:
        refuse_beyond_quota(state, job.user, spec)
    settled = 0
    if spec.caps_array:
        settled = state.array_money[job.id].settled_nanos
        refuse_cap_below(state, job, spec)
    refuse_unaffordable(state, job.user, spec, settled)
    share, more = state.shares.of(job.user), size_of_spec(spec) - size_of_spec(job.spec)
    size = bytes_of_spec(spec) - bytes_of_spec(job.spec)
    limits = state.limits
    refuse_more(share, max(more, 0), max(size, 0), limits.user_pending_max, limits.user_texts_bytes)
    if spec == job.spec:
        return []
    return [JobUpdated(job.id, difference(job.spec, spec), changed(job.spec, spec))]


def changed_spec(job: JobRecord, event: Event) -> JobSpec | None:
    """What a service would ask for after an event, to be checked as a submit is; None: it does not change."""
    return with_changes(job.spec, event.fields) if isinstance(event, JobUpdated) else None


def scaled(job: JobRecord, target: int, why: str) -> list[Event]:
    """So many replicas from now on; nothing where that is so."""
    assert job.array is not None
    return [] if job.array.max_parallel == target else [ServiceScaled(job.id, target, why)]


def replace(state: State, attempt: AttemptRecord, why: str, wanted: bool, grace_us: int) -> list[Event]:
    """End a replica; its place takes the next if one is wanted.

    Args:
        wanted: it was meant to go, which is no fault of it: it does not count as an end in a row.
    """
    if attempt.stop_cause is not None:
        return []
    told = [JobRequeued(attempt.job_id)] if wanted else []
    grace_us = min(grace_us, attempt.grace_us)
    return [*told, StopRequested(attempt.id, EndCause.PREEMPTED, grace_us, why or REQUEUED)]


def new_key(
    state: State, ids: Ids, job: JobRecord, *, sha256: str, user: str, name: str, project: str, now: int = 0,
    **limits: Any,
) -> list[Event]:  # fmt: skip
    """A key to a service. Raises `RateLimited`, `WrongState`."""
    if job.state.terminal:
        raise WrongState(f"service {job.spec.name} has ended")
    good = [key for key in state.service_keys.values() if not key.lapsed(now)]
    if sum(key.job_id == job.id for key in good) >= KEYS_MAX:
        raise RateLimited(
            f"service {job.spec.name} has {KEYS_MAX} keys already; revoke some: `bursar key revoke ID`"
        )
    if len(good) >= KEYS_OF_SITE_MAX:
        raise RateLimited(
            f"all services together have {KEYS_OF_SITE_MAX} keys already, as many as a gateway takes; revoke"
            " some: `bursar key revoke ID`"
        )
    if limits.get("expires_at", 0) > EXPIRES_MAX:
        text = "valid_us: ends after the year 9999; 0 is until it is revoked"
        raise InvalidRequest(text, {"field": "valid_us"})
    given = {key: value for key, value in limits.items() if value}
    return [
        KeyIssued(
            key_id=ids.new("key"),
            job_id=job.id,
            sha256=sha256,
            name=name,
            project=project,
            user=user,
            **given,
        )
    ]


def lapsed(state: State, now: int) -> list[Event]:
    """Keys that are good for nothing any more leave by themselves, so that they fill no list."""
    found = (key for key in state.service_keys.values() if key.lapsed(now))
    return [KeyRevoked(key.id, key.job_id) for key in islice(found, LAPSED_MAX)]


def keys_budget(state: State, job: JobRecord, name: str) -> BudgetRecord | None:
    """The budget against which what its keys are charged counts, if it is in force and does not pay for the
    replicas themselves: what it pays already counts once.
    """
    record = state.budgets.records.get(name)
    return None if record is None or name in job.budgets else record


def charged(state: State, job: JobRecord, name: str, hours: Mapping[int, int], since: int) -> list[Event]:
    """What keys that name a budget were charged of a service is this, hour by hour from an instant on: the
    difference to what the budget was told. Nothing where it is not in force, or pays for the service itself.
    """
    record = keys_budget(state, job, name)
    known = state.keys_charged.of(name, job.id)
    if record is not None:
        since = max(since, record.window()[0] - LATE_US)
    elif name not in state.budgets.records:
        return []
    found = []
    for hour in sorted({*hours, *known}):
        nanos = (hours.get(hour, 0) if record is not None else 0) - known.get(hour, 0)
        if nanos and hour >= since and hour >= (record.spec.counts_from if record is not None else 0):
            found.append(HourOfKeys(hour, _period_of(state.budgets.records[name], hour), nanos))
    return [
        KeysCharged(job.id, name, tuple(found[at : at + HOURS_MAX])) for at in range(0, len(found), HOURS_MAX)
    ]


def _period_of(record: BudgetRecord, hour: int) -> int:
    """Where the period begins in which an hour counts."""
    if hour >= record.period_start:
        return record.period_start
    return period_bounds(record.spec.period, record.spec.timezone, Instant(hour))[0]


def revoke_key(state: State, key_id: str) -> tuple[ServiceKey, list[Event]]:
    """A key is good for nothing any more. Raises `NotFound`."""
    key = state.service_keys.get(key_id)
    if key is None:
        raise NotFound(f"there is no key {key_id!r}; `bursar key ls` lists them")
    return key, [KeyRevoked(key.id, key.job_id)]


def metered(
    state: State, job: JobRecord, gateway: str, seq: int, minute: int, busy_us: int, capacity_us: int,
    uses: Sequence[KeyUse],
) -> list[Event]:  # fmt: skip
    """What a gateway counted, once: nothing where it has told that before. Raises `RateLimited`."""
    if seq <= job.gateways.get(gateway, 0):
        return []
    if gateway not in job.gateways and len(job.gateways) >= GATEWAYS_MAX:
        raise RateLimited(f"{GATEWAYS_MAX} gateways have told of service {job.spec.name}; that is all it has")
    return [ServiceMetered(job.id, gateway, seq, minute, busy_us, capacity_us, tuple(uses))]
