"""What would happen, and why it does not: the answers of `bursar plan` and `bursar explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from bursar.codec.amounts import exact, put_amounts, saturated
from bursar.codec.spec import shares_to_wire
from bursar.model import LIMITS, JobSpec, Reason, ReasonCode
from bursar.model.check import TIME_LIMIT_MAX_US
from bursar.money import cumulative, format_nanos
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursar.words import plural
from bursar_policies.decision import BudgetRoom, Explanation, JobClass, Snapshot, Start, WhatIf, cap_of
from bursard.access.identity import caller
from bursard.cycle import Cycle, aside, begins, depends, in_turn, reason_of
from bursard.engine import Engine
from bursard.events.deadlines import DeadlinePromised, PromisedMember
from bursard.machines.choose import Choice
from bursard.machines.renting import Renting, serves
from bursard.scheduler import explain, what_if
from bursard.scheduler.explain import WHAT_IF_ID, worst_of
from bursard.scheduler.money_reasons import UNNUMBERED, array_name
from bursard.scheduler.pricing import share_rates
from bursard.services import reserved
from bursard.services.failures import add_failed_tasks
from bursard.services.history import UNKNOWN, add_expected, expected_cost
from bursard.services.idling import asks_for_gpus, idleness_of_spec
from bursard.services.unseen import may_see, words
from bursard.services.views import job_view, node_state, reason_of_node, reason_view, visible, why_told
from bursard.state import JobRecord, NodeRecord, State
from bursard.state.admission import cheapest_hold, cheapest_rate, cheapest_start, largest
from bursard.state.arrays import size_of_spec
from bursard.state.fold.jobs import waits_next

SERVICES_NAMED: Final = 3
"""Of those that hold what a job waits for."""
_Placed = tuple[PromisedMember, int]
"""What a member takes of which node, and its nanos per hour."""


class _Asked(NamedTuple):
    """A job that is planned, and the world that it is planned in. `payers`: a cap of its own among them."""

    user: str
    spec: JobSpec
    budgets: tuple[str, ...]
    hard: tuple[str, ...]
    payers: tuple[str, ...]
    snapshot: Snapshot
    job_class: JobClass


async def plan_view(
    engine: Engine,
    user: str,
    spec: JobSpec,
    waiting_on: Sequence[tuple[str, str]] = (),
    rents: Renting | None = None,
    note: str = "",
    promised: DeadlinePromised | None = None,
) -> pb.PlanResponse:
    """Where an admitted job would go, what it may cost, what is left of each budget.

    `waiting_on`: the jobs that it waits for. Until they have ended, and before its begin time, it starts
    nowhere: the places and prices told are those of now. `rents`: who would rent a machine for it. `note`:
    what else is to be known of it, told with the reason for its place, or for waiting. `promised`: the
    place and the size that its deadline is promised with: all that is told is of those.
    """
    state, now = engine.state, engine.now()
    asked = _asked(engine, user, spec, promised)
    snapshot, job_class = asked.snapshot, asked.job_class
    turn = state.pending.turn_if(user, job_class, spec.priority, state.next_order)
    answer: WhatIf = await aside(
        snapshot,
        lambda: what_if(snapshot, job_class, now, spec.priority, spec.project, user),
        thread=engine.aside,
    )
    if promised is not None and _begins_before(answer, promised):
        promised = None
    later = _later(engine, spec, waiting_on)
    if later is None and turn is not None and turn.plans:
        later = in_turn(user, turn)
    wire = _answered(engine, asked, answer, later)
    if answer.start is not None and promised is None:
        wire.why = why_told(answer.start.why, caller())
    if later is not None:
        wire.reason.CopyFrom(reason_view(later, state, caller()))
    if answer.start is None:
        _why_not(engine, wire, asked, answer, rents, later is None, promised is None)
        endless = _without_end(state, snapshot, answer.expected_start_at, now)
        if endless is not None and wire.reason.code != ReasonCode.PROVISIONING:
            wire.expected_start_at, wire.ahead_counted = 0, False
            if wire.reason.code == ReasonCode.WAITING_FOR_RESOURCES:
                _never_by_itself(wire.reason, state, endless)
    if promised is not None and later is None:
        _begins_as_promised(wire, promised, now)
    if note and wire.HasField("reason"):
        wire.reason.message += f"; {note}"
    elif note:
        wire.why = "; ".join(filter(None, (wire.why, note)))
    _where(engine, wire, asked, answer, promised)
    await _costs(engine, wire, asked)
    return wire


def _asked(engine: Engine, user: str, spec: JobSpec, promised: DeadlinePromised | None) -> _Asked:
    """The job as it would wait, and the world as it is."""
    state = engine.state
    budgets, hard = state.budgets.matching(user, spec)
    state.quotas.covering(user, spec.project)  # what bounds each user is in the snapshot from then on
    snapshot, payers = state.snapshot(), hard
    if spec.caps_array:
        cap = BudgetRoom(cap_of(WHAT_IF_ID), spec.max_cost_nanos, 0, 0, state.currency, array=UNNUMBERED)
        snapshot = replace(snapshot, budgets={**snapshot.budgets, cap.name: cap})
        payers = (*hard, cap.name)
    gates = state.budgets.gates(budgets)
    likely_us = state.runs.likely_us(spec)
    limit_us = state.time_limit_of(spec)
    job_class = state.class_of_spec(spec, payers, limit_us, gates=gates, likely_us=likely_us, user=user)
    if promised is not None:
        job_class = _of_its_promise(job_class, promised)
    return _Asked(user, spec, budgets, hard, payers, snapshot, job_class)


def _answered(engine: Engine, asked: _Asked, answer: WhatIf, later: Reason | None) -> pb.PlanResponse:
    """Whether it starts, when otherwise, and at which price."""
    job_class, tasks = asked.job_class, size_of_spec(asked.spec)
    wire = pb.PlanResponse(
        starts_now=answer.start is not None and later is None,
        currency=engine.state.currency,
        tasks=tasks if asked.spec.array is not None else 0,
        time_limit_us=_limit_of(answer.start) if answer.start else job_class.time_limit_us,
        expected_start_at=_expected_start(answer, asked.spec, later),
        ahead_total=answer.ahead_total,
        ahead_counted=answer.foreseen,
    )
    wire.worst_case_us = wire.time_limit_us + job_class.hold_us - job_class.time_limit_us
    if job_class.lease_us:
        wire.lease_us = job_class.leased_us(wire.time_limit_us)
    put_amounts(
        wire,
        rate_nanos_per_hour=answer.rate_nanos_per_hour if answer.priced else -1,
        worst_case_nanos=answer.worst_nanos * tasks,
        task_worst_case_nanos=answer.worst_nanos,
        hold_nanos=answer.start.hold_nanos if answer.start is not None and answer.priced else 0,
    )
    return wire


def _why_not(
    engine: Engine,
    wire: pb.PlanResponse,
    asked: _Asked,
    answer: WhatIf,
    rents: Renting | None,
    due: bool,
    unpromised: bool,
) -> None:
    """What keeps it from starting, a machine that would be rented for it, and what it would cost.

    `due`: it would be looked at now. `unpromised`: no place is kept for it.
    """
    spec, job_class, rented = asked.spec, asked.job_class, False
    if due:
        told = answer.reason
        if rents is not None and serves(told):
            told = rents.told(told, spec, job_class)
        wire.reason.CopyFrom(reason_view(told, engine.state, caller()))
    if due and unpromised and spec.array is None and rents is not None and serves(answer.reason):
        job = _as_job(engine, asked.user, spec, asked.budgets, asked.hard)
        rented = _is_rented(engine, wire, rents, job, job_class)
    if not rented:
        _price_held(engine, wire, asked.snapshot, answer.unpaid, job_class, size_of_spec(spec))


def _where(
    engine: Engine,
    wire: pb.PlanResponse,
    asked: _Asked,
    answer: WhatIf,
    promised: DeadlinePromised | None,
) -> None:
    """Its nodes: those that it is promised, or those on which it would start."""
    if promised is not None:
        _as_promised(engine, wire, promised, asked.snapshot, asked.job_class)
        return
    start = answer.start or answer.unpaid
    _members(engine, wire, [] if start is None else _placed(asked.snapshot, start))
    _of_a_range(engine, wire, asked.job_class, size_of_spec(asked.spec))


async def _costs(engine: Engine, wire: pb.PlanResponse, asked: _Asked) -> None:
    """What is expected of it, what idling would bring it, and what is left of budgets."""
    spec, state = asked.spec, engine.state
    if spec.caps_array:
        put_amounts(wire, worst_case_nanos=min(exact(wire, "worst_case_nanos"), spec.max_cost_nanos))
    if spec.service is not None:
        _as_service(wire, spec)
    else:
        await _expect(engine, wire, spec, size_of_spec(spec))
    idleness = idleness_of_spec(state, asked.user, spec, asks_for_gpus(spec))
    if idleness is not None:
        wire.idleness.CopyFrom(idleness)
    caps = [asked.snapshot.budgets[name] for name in asked.payers[len(asked.hard) :]]
    _afterwards(engine, wire, asked.budgets, asked.hard, caps)


def _as_service(wire: pb.PlanResponse, spec: JobSpec) -> None:
    """It runs for ever: what it costs is told by the hour, of as few and as many replicas as it may have."""
    service, each = spec.service, exact(wire, "rate_nanos_per_hour")
    assert service is not None
    wire.service.replicas_min, wire.service.replicas_max = service.replicas_min, service.replicas_max
    if each >= 0:
        cap = spec.max_price_nanos_per_hour or each * service.replicas_max
        wire.service.rate_min.nanos = str(each * service.replicas_min)
        wire.service.rate_max.nanos = str(min(each * service.replicas_max, cap))
    wire.time_limit_us = wire.worst_case_us = 0
    put_amounts(
        wire, expected_nanos=-1, task_expected_nanos=-1, worst_case_nanos=-1, task_worst_case_nanos=-1
    )


def _as_job(
    engine: Engine, user: str, spec: JobSpec, budgets: tuple[str, ...], hard: tuple[str, ...]
) -> JobRecord:
    """The job that it would be, submitted now."""
    return JobRecord(
        id=WHAT_IF_ID,
        number=0,
        user=user,
        spec=spec,
        order=0,
        submitted_at=engine.now(),
        budgets=budgets,
        hard_budgets=hard,
    )


def _is_rented(
    engine: Engine, wire: pb.PlanResponse, rents: Renting, job: JobRecord, job_class: JobClass
) -> bool:
    """A machine would be rented for it: which, what its launch and run cost, and when it would be there.

    Where none would be, the reason says why.
    """
    found = rents.would_rent(job, job_class)
    if isinstance(found, str):
        if found:
            never = rents.why_unheld(job_class)
            told = "nothing would be rented for it" if never else "no machine is rented for it now"
            wire.reason.message += f"; {told}: {words(found, engine.state, caller())}"
        return False
    provider, choice, most = found
    place, currency = choice.offer.place, engine.state.currency
    rate = format_nanos(choice.offer.rate_nanos_per_hour).rstrip("0").rstrip(".")
    instead = ", with all on demand where fewer spot machines are given" if most > choice.whole_nanos else ""
    reason = Reason(
        ReasonCode.PROVISIONING,
        f"{_too_few(job_class, choice)} {place.instance_type} of {provider} in {place.zone} ({place.market},"
        f" {rate} {currency}/h{' each' if choice.machines > 1 else ''}) {_is_are(choice)} rented for it",
        "it starts by itself then; the worst case is the launch and the run" + instead,
        (("instance_type", place.instance_type), ("zone", place.zone), ("market", place.market)),
    )
    wire.reason.CopyFrom(reason_view(reason, engine.state, caller()))
    wire.expected_start_at = engine.now() + choice.offer.boot_us
    whole = choice.whole_nanos
    put_amounts(
        wire,
        rate_nanos_per_hour=choice.rate_nanos_per_hour * job_class.nodes,
        worst_case_nanos=most,
        task_worst_case_nanos=most,
        hold_nanos=whole,
    )
    return True


def _too_few(job_class: JobClass, choice: Choice) -> str:
    if job_class.nodes == 1:
        return "no node has room: a"
    return f"{choice.machines} of its {job_class.nodes} nodes lack room: {choice.machines}"


def _is_are(choice: Choice) -> str:
    return "is" if choice.machines == 1 else "are"


def _later(engine: Engine, spec: JobSpec, waiting_on: Sequence[tuple[str, str]]) -> Reason | None:
    """Why it would not be looked at yet, wherever there is room."""
    if spec.held:
        return Reason(ReasonCode.HELD, "the job is on hold", "release it with `bursar release` once it is in")
    if waiting_on:
        return depends(engine.state, waiting_on)
    return begins(spec.begin_after, engine.now()) if spec.begin_after > engine.now() else None


def _expected_start(answer: WhatIf, spec: JobSpec, later: Reason | None) -> int:
    if later is None:
        return answer.expected_start_at
    return max(answer.expected_start_at, spec.begin_after) if later.code is ReasonCode.BEGIN_TIME else 0


def _afterwards(
    engine: Engine, wire: pb.PlanResponse, budgets: Sequence[str], hard: Sequence[str], caps: list[BudgetRoom]
) -> None:
    """What is left of each budget when as much of the job is placed as all that may refuse it pay for."""
    state, tasks = engine.state, max(wire.tasks, 1)
    each = exact(wire, "hold_nanos") if wire.rate_nanos_per_hour >= 0 else 0
    rooms = state.budgets.rooms(state.ledger)
    found = [(rooms[name], name in hard) for name in budgets if name in rooms] + [(cap, True) for cap in caps]

    def pays(room: BudgetRoom) -> int:
        return min(tasks, max(room.room_nanos, 0) // each) if each else tasks

    paid = min((pays(room) for room, refuses in found if refuses), default=tasks)
    for room, refuses in found:
        if not may_see(state, room.name, caller()):
            continue
        after = _after(room, each * paid, refuses)
        after.tasks_paid = pays(room) if refuses and wire.tasks else 0
        wire.budgets.append(after)
    wire.tasks_paid = paid if wire.tasks else 0


def _of_a_range(engine: Engine, wire: pb.PlanResponse, job_class: JobClass, tasks: int) -> None:
    """Of a range of sizes the worst case is of the largest: a later attempt may have it."""
    most = largest(engine.state, job_class)
    hold = cheapest_hold(engine.state, most)
    if most is job_class or hold is None or wire.rate_nanos_per_hour < 0:
        return
    wire.worst_case_nodes = most.nodes
    gpus = most.options[0].gpus
    wire.worst_case_gpus = gpus.count if gpus is not None else 0
    worst = max(exact(wire, "task_worst_case_nanos"), hold)
    put_amounts(wire, worst_case_nanos=worst * tasks, task_worst_case_nanos=worst)


def _price_without_place(engine: Engine, wire: pb.PlanResponse, job_class: JobClass, tasks: int) -> None:
    """What it would cost at the cheapest place that could ever hold it, though none can now."""
    hold = cheapest_hold(engine.state, job_class)
    if hold is None:
        return
    put_amounts(
        wire,
        rate_nanos_per_hour=cheapest_rate(engine.state, job_class) or 0,
        worst_case_nanos=hold * tasks,
        task_worst_case_nanos=hold,
        hold_nanos=cheapest_start(engine.state, job_class) or 0,
    )


def _limit_of(start: Start) -> int:
    return start.full_limit_us or start.time_limit_us


def _price_held(
    engine: Engine,
    wire: pb.PlanResponse,
    snapshot: Snapshot,
    unpaid: Start | None,
    job_class: JobClass,
    tasks: int,
) -> None:
    """What it would cost where it would go, if a budget did not hold it; else at the cheapest place."""
    if unpaid is None:
        _price_without_place(engine, wire, job_class, tasks)
    elif all(int(snapshot.nodes.rate[member.node]) >= 0 for member in unpaid.members):
        put_amounts(
            wire,
            rate_nanos_per_hour=sum(member.rates.total for member in unpaid.members),
            worst_case_nanos=worst_of(unpaid, job_class) * tasks,
            task_worst_case_nanos=worst_of(unpaid, job_class),
            hold_nanos=unpaid.hold_nanos,
        )


def _placed(snapshot: Snapshot, start: Start) -> list[_Placed]:
    """What each member takes, and its nanos per hour."""
    return [
        (
            PromisedMember(snapshot.nodes.ids[one.node], one.cpu_milli, one.memory_bytes, one.devices),
            one.rates.total,
        )
        for one in start.members
    ]


def _members(engine: Engine, wire: pb.PlanResponse, placed: Sequence[_Placed]) -> None:
    found = [engine.state.nodes.get(member.node_id) for member, _ in placed]
    nodes = [node for node in found if node is not None]
    if len(nodes) < len(found):
        return  # a node has left while the answer was worked out: where it would go is not known any more
    fraction = any(share.milli < 1000 for member, _ in placed for share in member.devices)
    asked = [name for name in LIMITS if name != "gpu" or fraction]
    wire.limits_not_held.extend(
        name
        for name in asked
        if any(name in node.facts.needed_limits and name not in node.facts.limits for node in nodes)
    )
    for rank, ((member, rate), node) in enumerate(zip(placed, nodes, strict=True)):
        wire.members.append(
            types_pb2.Member(
                rank=rank,
                node=node.facts.name,
                address=node.facts.address,
                devices=shares_to_wire(member.devices),
                cpu_milli=member.cpu_milli,
                memory_bytes=member.memory_bytes,
                rate_nanos_per_hour=saturated(rate),
                price_id=node.price_id,
            )
        )


def _begins_before(answer: WhatIf, promised: DeadlinePromised) -> bool:
    """At its size it has room now, for no more than where it is promised."""
    no_more = answer.priced and answer.rate_nanos_per_hour <= promised.rate
    return answer.start is not None and (promised.rate < 0 or no_more)


def _of_its_promise(job_class: JobClass, promised: DeadlinePromised) -> JobClass:
    """At the size that is promised alone, wherever it begins."""
    option = job_class.options[promised.option]
    if promised.gpu_type and option.gpus is not None:
        option = replace(option, gpus=replace(option.gpus, types=(promised.gpu_type,)))
    sized = replace(job_class, nodes=len(promised.members), options=(option,), max_nodes=0)
    return sized.limited(promised.time_limit_us) if promised.time_limit_us else sized


def _as_promised(
    engine: Engine, wire: pb.PlanResponse, promised: DeadlinePromised, snapshot: Snapshot, job_class: JobClass
) -> None:
    """Of a promised job: the place that is kept for it, at its size, and what is set aside for it there."""
    there, nodes, known = snapshot.nodes, engine.state.nodes, promised.rate >= 0
    placed = [
        (
            one,
            share_rates(there, nodes[one.node_id].row, one.devices, one.cpu_milli, one.memory_bytes).total,
        )
        for one in promised.members
        if one.node_id in nodes and nodes[one.node_id].row < len(there.ids)
    ]
    if len(placed) == len(promised.members):
        _members(engine, wire, placed)
    if promised.time_limit_us:
        wire.time_limit_us, wire.worst_case_us = promised.time_limit_us, promised.until - promised.start
    worst = promised.nanos
    if job_class.lease_us:
        wire.lease_us = job_class.leased_us(wire.time_limit_us)
        worst = cumulative(max(promised.rate, 0), wire.worst_case_us)
    put_amounts(
        wire,
        rate_nanos_per_hour=promised.rate if known else -1,
        worst_case_nanos=worst if known else 0,
        task_worst_case_nanos=worst if known else 0,
        hold_nanos=promised.nanos if known else 0,
    )


def _begins_as_promised(wire: pb.PlanResponse, promised: DeadlinePromised, now: int) -> None:
    """Nothing but its promise says when it begins: at the latest then."""
    wire.starts_now = promised.start <= now
    if wire.starts_now:
        wire.ClearField("reason")
        wire.expected_start_at = wire.ahead_total = 0
    elif not 0 < wire.expected_start_at <= promised.start:
        wire.expected_start_at = promised.start


async def _expect(engine: Engine, wire: pb.PlanResponse, spec: JobSpec, tasks: int) -> None:
    """What past runs of this name cost; without them the time limit says what it costs at most, no more."""
    found = await expected_cost(engine, spec, exact(wire, "rate_nanos_per_hour"))
    wire.expected_basis, wire.expected_runs = found.basis, found.runs
    whole = task = found.nanos
    if found.nanos != UNKNOWN and wire.rate_nanos_per_hour >= 0:
        task = min(found.nanos, exact(wire, "task_worst_case_nanos"))
        whole = min(found.nanos * tasks, exact(wire, "worst_case_nanos"))
    likely = min(found.p90_nanos, exact(wire, "task_worst_case_nanos"))
    put_amounts(wire, expected_nanos=whole, task_expected_nanos=task, expected_p90_nanos=likely)


def _after(room: BudgetRoom, held: int, hard: bool) -> pb.BudgetAfter:
    wire = pb.BudgetAfter(
        budget=f"max_cost of {array_name(room)}" if room.array else room.name,
        renews_at=room.renews_at,
        hard=hard,
        stages=dict.fromkeys(one.action for one in room.stages),
    )
    put_amounts(
        wire,
        limit_nanos=room.limit_nanos,
        settled_nanos=room.settled_nanos,
        held_nanos=room.held_nanos,
        room_after_nanos=room.room_nanos - held,
    )
    return wire


async def explain_view(engine: Engine, cycle: Cycle, job: JobRecord) -> pb.ExplainResponse:
    """One job, why it is where it is, and what would change that."""
    state, now = engine.state, engine.now()
    reason = reason_of(state, cycle, job, now)
    behind = waits_next(state, job) if job.array is not None else None
    if reason is None and behind is not None:
        reason = reason_of(state, cycle, behind, now)  # of an array that runs, why the rest of it waits
    wire = pb.ExplainResponse(job=job_view(state, job, reason, seen_by=caller(), now=now))
    await add_failed_tasks(engine, wire.job, job)
    await add_expected(engine, wire.job, job)
    attempt = job.attempts[-1] if job.attempts else None
    if attempt is not None and job.id not in state.pending:
        wire.placed_because = wire.job.attempts[-1].why
    rooms = state.budgets.rooms(state.ledger)
    for name in job.budgets:
        if name in rooms and may_see(state, name, caller()):
            wire.budgets.append(_after(rooms[name], 0, name in job.hard_budgets))
    if job.spec.caps_array and (array := state.jobs.get(job.parent_id or job.id)) is not None:
        wire.budgets.append(_after(state.cap_room(array), 0, True))
    job = behind or job
    if reason is not None:
        wire.reason.CopyFrom(reason_view(reason, state, caller()))
    if job.id in state.pending:
        await _pending(engine, cycle, wire, job, now)
    return wire


def _waits(state: State, node: NodeRecord) -> str:
    """Whether a rented one is kept for a gang; empty when it is not."""
    machine = state.machines.get(state.rented.get(node.facts.name, ""))
    if machine is None or not machine.waits:
        return ""
    return "it was rented for a gang, and waits for its other machines (bursar cloud ls)"


def _away(node: NodeRecord, now: int) -> str:
    """Which of the things that keep a node away it is; empty when the record does not say."""
    name, state, why = node.facts.name, node_state(node), reason_of_node(node, caller(), now)
    if state == "quarantined":
        return f"quarantined: {why}; `bursar node resume {name}` once that is understood"
    if state == "unwell":
        return f"unwell: {why}; it takes work again by itself once that is mended"
    if state == "silent":
        return f"down: {why or 'its agent is not connected'}"
    if state != "up":
        reason = f" ({why})" if why else ""
        return f"{state}{reason}; `bursar node resume {name}` takes it back"
    if node.doubtful:
        return (
            f"it could not start the last {plural(len(node.not_started), 'job')}, so it gets one at a time,"
            f" and has one; `bursar node resume {name}` once that is understood"
        )
    return ""


def _without_end(state: State, snapshot: Snapshot, at: int, now: int) -> list[JobRecord] | None:
    """The services whose replicas would have to end by an instant for something to start then; None where
    it rests on none of them. What has no limit ends by somebody's word, so no date can be told.
    """
    if at <= now:
        return None
    running, found = snapshot.running, dict[str, JobRecord]()
    for row in np.flatnonzero(running.ends_at <= at).tolist():
        attempt = state.attempts.get(running.attempt_ids[row])
        job = state.jobs.get(attempt.job_id) if attempt is not None else None
        if job is not None and job.spec.service is not None:
            service = state.jobs.get(job.parent_id) or job
            found[service.id] = service
    return list(found.values()) if found or at - now >= TIME_LIMIT_MAX_US else None


def _never_by_itself(reason: types_pb2.Reason, state: State, services: Sequence[JobRecord]) -> None:
    """Say with why a job waits that services hold its room, those by name that the caller may see."""
    seen = visible(state, tuple(one.id for one in services), caller())
    named = [one for one in services if one.id in seen][:SERVICES_NAMED]
    each = [f"service {one.spec.name} (job {one.display})" for one in named]
    who = " and ".join(each) or "services"
    reason.remedy = (
        f"{who} may hold the room it needs, and what has no time limit does not end by itself: have fewer"
        " replicas (`bursar service scale`), or ask for less"
    )


def _order(wire: pb.ExplainResponse, state: State, found: Explanation) -> None:
    """Who comes first and why, and what the score of this one is made of."""
    why = {one.job_id: one.why for one in found.ahead}
    for job_id in visible(state, tuple(why), caller()):
        wire.ahead.append(job_id)
        before = state.job(job_id)
        if before is not None:
            wire.ahead_jobs.add(id=job_id, number=before.display, name=before.spec.name, why=why[job_id])
    wire.ahead_total = found.ahead_total
    wire.overdue = found.overdue
    for term in found.terms:
        wire.terms.add(
            factor=term.name,
            weight_milli=term.weight,
            factor_micro=term.factor,
            points_micro=term.points,
        )


async def _pending(engine: Engine, cycle: Cycle, wire: pb.ExplainResponse, job: JobRecord, now: int) -> None:
    state = engine.state
    turn = None if state.pending.shows(job.id) else state.pending.turn_of(job.id)
    snapshot = state.snapshot(job.id)
    key = state.pending.key_of(job.id)
    index = next(i for i, queue in enumerate(snapshot.queues) if queue.key == key)
    found: Explanation = await aside(
        snapshot, lambda: explain(snapshot, index, now, job.id), thread=engine.aside
    )
    told = found.reason
    if turn is not None:
        told = in_turn(job.user, turn)
        then = found.reason.message or "it would start"
        told = replace(told, message=f"{told.message}; if it were looked at now: {then}")
    if cycle.rents is not None:
        told = cycle.rents.reason(job.id, told) or told
    if told.message:
        wire.reason.CopyFrom(reason_view(told, state, caller()))
    for verdict in found.nodes[:100]:
        why_not = "" if verdict.fits else f"{verdict.check}: {verdict.detail}"
        node = state.node_by_name(verdict.node)
        if verdict.check == "ready" and node is not None:
            why_not = _away(node, now) or _waits(state, node) or why_not
        why_not = reserved.named(why_not, state, caller())
        wire.nodes.append(pb.NodeVerdict(node=verdict.node, fits=verdict.fits, why_not=why_not))
    _order(wire, state, found)
    wire.expected_start_at, wire.ahead_counted = found.expected_start_at, found.foreseen
    endless = _without_end(state, snapshot, found.expected_start_at, now)
    if endless is not None:
        wire.expected_start_at, wire.ahead_counted = 0, False
        if told.code is ReasonCode.WAITING_FOR_RESOURCES:
            _never_by_itself(wire.reason, state, endless)
    if cycle.rents is not None and told.code is ReasonCode.PROVISIONING:
        wire.expected_start_at = cycle.rents.comes_at(job.id)  # by the machine, not by what runs elsewhere
    if found.alternatives:
        best = found.alternatives[0]
        wire.suggestion = f"{best.change}: it would start now on {', '.join(best.nodes)}"
        put_amounts(wire, suggestion_rate_nanos_per_hour=best.rate_nanos_per_hour if best.priced else -1)
