"""Services, their replicas and keys as messages: for people, and as routes for gateways."""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.clock import SECOND_US
from bursar.model import JobSpec, JobState, Reason, ReasonCode, ServiceSpec
from bursar.money import format_nanos
from bursar.pinned import digest_of
from bursar.v1 import services_pb2 as pb
from bursar.v1 import types_pb2
from bursard.access.identity import Grant, Identity, Role
from bursard.cycle import CRASH_LOOP, Cycle, reason_of
from bursard.engine import Engine
from bursard.services.unseen import may_see
from bursard.services.views import reason_view, record_of
from bursard.serving.board import Gateway
from bursard.serving.canary import Trial
from bursard.serving.keeper import Keeper
from bursard.state import AttemptRecord, JobRecord, State
from bursard.state.decide import services as decide
from bursard.state.fold.jobs import tasks_of
from bursard.state.records import ServiceKey

MONEY: Final = frozenset(
    (ReasonCode.BUDGET_EXHAUSTED, ReasonCode.BUDGET_COMMITTED, ReasonCode.PRICE_CAP_EXCEEDED)
)


_AMOUNTS: Final = frozenset(
    ("limit", "settled", "held", "room", "needed", "set_aside", "max_cost", "max_cost_left", "max_price")
) | {"approved_left", "rate_nanos_per_hour"}
"""Facts in nanos."""


def service_view(
    engine: Engine, cycle: Cycle, keeper: Keeper, job: JobRecord, seen_by: Identity
) -> pb.Service:
    """One service, as the caller may see it."""
    service, now, board = job.spec.service, engine.now(), keeper.board
    assert service is not None
    pace = board.pace(job.id)
    replicas = _replicas(engine, keeper, job)
    ready, target = _counts(keeper, job, replicas)
    state, reason = _state(engine, cycle, job, replicas, ready, target)
    wire = pb.Service(
        name=job.spec.name,
        job_id=job.id,
        number=job.number,
        project=job.spec.project,
        user=job.user,
        state=state,
        revision=service.revision,
        target=target,
        ready=ready,
        replicas_min=service.replicas_min,
        replicas_max=service.replicas_max,
        replicas=replicas,
        url=next((f"{one.url}/{job.spec.name}" for one in board.live_gateways(now) if one.url), ""),
        p50_us=pace.p50_us,
        p95_us=pace.p95_us,
        currency=engine.state.currency,
        api=service.api,
        settled=types_pb2.Amount(nanos=str(_settled(engine.state, job))),
        rate=types_pb2.Amount(nanos=str(sum(attempt.rate for _, attempt in keeper.live(job)))),
        balance=service.balance,
        fallback=service.fallback,
        fallback_state=_fallback_state(engine, cycle, keeper, job),
    )
    span_us = sum(span for _, span, _ in pace.asked)
    asked = sum(count for _, _, count in pace.asked)
    wire.requests_per_second_milli = asked * 1_000 * SECOND_US // span_us if span_us else 0
    minute = [one for one in pace.samples if one.at > now - 60 * SECOND_US]
    span_us = sum(one.span_us for one in minute)
    wire.concurrency_milli = sum(one.busy_us for one in minute) * 1_000 // span_us if span_us else 0
    if reason is not None:
        wire.reason.CopyFrom(reason_view(reason, engine.state, seen_by))
    if pace.memory is not None and (trial := pace.memory.trial) is not None and state == "updating":
        wire.update = _how_far(service, trial, now)
    if job.back is not None:
        wire.rolled_back = job.back.why
    return wire


def _replicas(engine: Engine, keeper: Keeper, job: JobRecord) -> list[pb.Replica]:
    tasks, now = sorted(tasks_of(engine.state, job), key=lambda one: one.array_index), engine.now()
    return [view for task in tasks if (view := _replica(keeper, task, now)) is not None]


def _counts(keeper: Keeper, job: JobRecord, replicas: list[pb.Replica]) -> tuple[int, int]:
    """How many of its replicas are ready, and how many are wanted."""
    assert job.array is not None
    memory = keeper.board.pace(job.id).memory
    target = memory.target if memory is not None else job.array.max_parallel
    return sum(one.state == "ready" for one in replicas), target


def _fallback_state(engine: Engine, cycle: Cycle, keeper: Keeper, job: JobRecord) -> str:
    """What the service does that answers for this one; "missing" where none could; "" where none is named."""
    if job.spec.service is None or not job.spec.service.fallback or job.state.terminal:
        return ""
    other = fallback_of(engine.state, job)
    if other is None:
        return "missing"
    replicas = _replicas(engine, keeper, other)
    return _state(engine, cycle, other, replicas, *_counts(keeper, other, replicas))[0]


def _how_far(service: ServiceSpec, trial: Trial, now: int) -> str:
    """A canary in words."""
    part, percent = service.parts[trial.step], trial.percent(service)
    if trial.last(service):
        return f"revision {trial.revision} takes over, replica by replica"
    if not trial.since:
        has = f"gets {percent} %" if percent else "gets no requests yet"
        return f"revision {trial.revision} {has}; {part} % once its replicas are ready"
    left_s = max(trial.since + service.hold_us - now, 0) // SECOND_US
    return f"revision {trial.revision} gets {percent} % of the requests for {left_s} s more"


def _settled(state: State, job: JobRecord) -> int:
    """What all its replicas have cost so far."""
    money = state.array_money.get(job.id)
    return money.settled_nanos if money is not None else job.settled_nanos


def _replica(keeper: Keeper, task: JobRecord, now: int) -> pb.Replica | None:
    """A place that is taken, or that waits for one; None for one that is not wanted."""
    attempt, spec = task.attempt, task.spec.service
    assert spec is not None
    if attempt is None:
        if task.state is not JobState.PENDING or not task.has_slot:
            return None
        return pb.Replica(slot=task.array_index, state="pending", revision=spec.revision)
    said = keeper.board.ready.get(attempt.id)
    return pb.Replica(
        attempt_id=attempt.id,
        slot=task.array_index,
        state=_replica_state(keeper, task, attempt),
        node=attempt.members[0].node,
        outstanding=keeper.board.outstanding(attempt.id, now),
        rate=types_pb2.Amount(nanos=str(attempt.rate)),
        revision=spec.revision,
        message=said.message if said is not None else "",
        since=said.since if said is not None else attempt.started_at or attempt.placed_at,
        port=attempt.port,
    )


def _replica_state(keeper: Keeper, task: JobRecord, attempt: AttemptRecord) -> str:
    said = keeper.board.ready.get(attempt.id)
    if attempt.stop_cause is not None:
        return "stopping"
    if attempt.id in keeper.board.draining:
        return "draining"
    if said is not None and said.ready:
        return "ready"
    return "unready" if said is not None and said.was_ready else "starting"


def _state(
    engine: Engine, cycle: Cycle, job: JobRecord, replicas: list[pb.Replica], ready: int, target: int
) -> tuple[str, Reason | None]:
    """What a service is doing, and why it is not all that it should be."""
    service = job.spec.service
    assert service is not None
    if job.state.terminal:
        return job.state.value.lower(), None
    if job.held or job.waiting_on:
        return "held", reason_of(engine.state, cycle, job, engine.now())
    waits = waiting_reason(engine, cycle, job)
    if waits is not None and waits[1] >= CRASH_LOOP:
        return "failing", waits[0]
    if any(not decide.is_current(job, one.revision) for one in replicas):
        return "updating", _update_waits(service, waits[0]) if waits is not None else None
    if not target and not replicas:
        return "idle", None
    if ready >= max(target, 1):
        return "ready", None
    if waits is not None:
        return ("failing" if waits[1] > 1 else "waiting"), waits[0]
    return ("scaling" if ready else "starting"), None


def _update_waits(service: ServiceSpec, reason: Reason) -> Reason:
    """Why a new revision takes over no further: it crashes, or there is no room for it."""
    if any(name == "ends_in_a_row" for name, _ in reason.facts):
        message = f"revision {service.revision} crashes: {reason.message}"
        return msgspec.structs.replace(reason, message=message)
    may = (
        "with update: {max_unavailable: 1} an old replica goes first; " if not service.max_unavailable else ""
    )
    return msgspec.structs.replace(
        reason,
        message=f"revision {service.revision} waits for room for a replica more: {reason.message}",
        remedy=f"{may}{reason.remedy}",
    )


def waiting_reason(engine: Engine, cycle: Cycle, job: JobRecord) -> tuple[Reason, int] | None:
    """Why the first of its replicas that waits does so, and how often it ended in a row."""
    found: tuple[Reason, int] | None = None
    for task in tasks_of(engine.state, job):
        if task.state is JobState.PENDING and task.has_slot:
            reason = reason_of(engine.state, cycle, task, engine.now())
            if reason is not None and (found is None or task.free_retries > found[1]):
                found = reason, task.free_retries
    return found


def route_view(engine: Engine, cycle: Cycle, keeper: Keeper, job: JobRecord, gateway: Gateway) -> pb.Route:
    """One service as a gateway serves it: with the replicas that it reaches."""
    service, state = job.spec.service, engine.state
    assert service is not None
    wire = pb.Route(
        job_id=job.id,
        name=job.spec.name,
        api=service.api,
        target=service.target,
        replicas_max=service.replicas_max,
        queue_us=service.queue_us,
        cold_us=service.cold_us,
        first_byte_us=service.first_byte_us,
        idle_us=service.idle_us,
        total_us=service.total_us,
        currency=state.currency,
        units=service.units,
        balance=service.balance,
        fallback=service.fallback if fallback_of(state, job) is not None else "",
    )
    if (left := _budget_left(state, job)) is not None:
        wire.budget_left.nanos = str(left)
    elsewhere, ours = 0, digest_of(gateway.certificate) if gateway.certificate else ""
    percent = wire.canary_percent = keeper.board.pace(job.id).percent
    for task, attempt in keeper.live(job):
        said = keeper.board.ready.get(attempt.id)
        leaving = attempt.stop_cause is not None or attempt.id in keeper.board.draining
        if said is None or not said.ready or leaving or attempt.id in keeper.board.pace(job.id).hidden:
            continue
        node, way = state.nodes[attempt.members[0].alloc.node_id], said.way
        is_here = node.boot_id == gateway.boot_id
        if not is_here and not (ours and ours in way.admits and way.port):
            elsewhere += 1
            continue
        found = wire.replicas.add(attempt_id=attempt.id, port=attempt.port)
        mine = task.spec.service
        found.canary = percent > 0 and mine is not None and mine.revision == service.revision
        found.rate.nanos = str(attempt.rate)
        if not is_here:
            found.address, found.forward_port = node.facts.address, way.port
            found.certificate = way.certificate
    if not wire.replicas:
        waits = waiting_reason(engine, cycle, job)
        if waits is not None:
            told = reason_view(waits[0], state, _holder(job))
            if waits[0].code in MONEY:
                _in_money(told, state.currency)
                wire.refused.CopyFrom(told)
            else:
                wire.waits.CopyFrom(told)
        elif elsewhere:
            wire.waits.message = (
                f"{elsewhere} of its replicas are ready on machines that this gateway does not reach: their"
                " agents are of another release or have no cryptography, or have not yet let it in"
            )
    return wire


def fallback_of(state: State, job: JobRecord) -> JobRecord | None:
    """The service that answers for this one when its money is at an end.

    It is of the same owner and project: whoever has a key of this one spends the other's money then.
    """
    return fallback_for(state, job.user, job.spec)


def fallback_for(state: State, user: str, spec: JobSpec) -> JobRecord | None:
    """The same of one that need not be there yet."""
    other = decide.named(state, spec.service.fallback) if spec.service is not None else None
    if other is None or (other.user, other.spec.project) != (user, spec.project):
        return None
    return other


def _holder(job: JobRecord) -> Identity:
    """Who holds a key of a service, as far as is known of all of them: somebody of its project."""
    return Identity(job.user, None, grants=(Grant(Role.SUBMITTER, job.spec.project),))


def _in_money(reason: types_pb2.Reason, currency: str) -> None:
    """Facts that are amounts as decimal strings, with their currency beside them."""
    reason.facts["currency"] = currency
    for name in list(reason.facts):
        if name in _AMOUNTS:
            nanos = int(reason.facts[name])
            del reason.facts[name]
            reason.facts[name.replace("_nanos_", "_")] = format_nanos(nanos)


def _budget_left(state: State, job: JobRecord) -> int | None:
    """Of the hard budgets over a service, the least that is neither spent nor held; None without one."""
    records = (state.budgets.records.get(name) for name in job.budgets)
    return min(
        (state.budgets.room(one, state.ledger).room_nanos for one in records if one is not None and one.hard),
        default=None,
    )


def service_named(engine: Engine, job_id: str) -> str:
    """The name of the service that a job is, or was; empty for any other. Called in a thread, for reports."""
    spec = _asked_for(engine, job_id)
    return spec.name if spec is not None and spec.service is not None else ""


def service_target(engine: Engine, job_id: str) -> int:
    """Requests that one replica of a service takes; 0 of any other job. Called in a thread, for reports."""
    spec = _asked_for(engine, job_id)
    return spec.service.target if spec is not None and spec.service is not None else 0


def _asked_for(engine: Engine, job_id: str) -> JobSpec | None:
    job = engine.state.jobs.get(job_id)
    if job is None:
        row = engine.views.find_job(job_id)
        job = record_of(row) if row is not None else None
    return job.spec if job is not None else None


def key_view(
    state: State, key: ServiceKey, seen_by: Identity, secret: str = "", change: str = ""
) -> pb.ServiceKey:
    """A key, without its secret but where it was just made."""
    job = state.jobs.get(key.job_id)
    return pb.ServiceKey(
        id=key.id,
        name=key.name,
        service=job.spec.name if job is not None else "",
        job_id=key.job_id,
        project=key.project,
        user=key.user,
        issued_at=key.issued_at,
        expires_at=key.expires_at,
        requests_per_minute=key.requests_per_minute,
        concurrency=key.concurrency,
        secret=secret,
        change=change,
        budget=key.budget if may_see(state, key.budget, seen_by) else "",
    )
