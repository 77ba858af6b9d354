"""Records as messages: how the state looks from outside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec

from bursar.clock import HOUR_US
from bursar.codec.amounts import exact, put_amounts, saturated
from bursar.codec.progress import device_use_to_wire, progress_to_wire
from bursar.codec.spec import calibration_to_wire, facts_to_wire, shares_to_wire, spec_to_wire
from bursar.codec.steps import steps_to_wire
from bursar.errors import WrongState
from bursar.model import DeviceShare, JobSpec, JobState, Reason
from bursar.model.job import ASKED_FIELDS
from bursar.model.reason import MEANINGS_LIVE
from bursar.v1 import nodes_pb2
from bursar.v1 import types_pb2 as pb
from bursar_policies.decision import JobClass
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.events import DeadlinePromised
from bursard.events.public import SPEC, path_alone, unnamed
from bursard.ledger.metering import held_nanos
from bursard.services import reserved
from bursard.services.elapsed import OVERRUN_US, attempt_elapsed_us, held_us, job_elapsed_us
from bursard.services.ends import end_view, may_quote
from bursard.services.idling import idleness_of
from bursard.services.unseen import may_see, unname, words
from bursard.state import AttemptRecord, JobRecord, MemberRecord, NodeRecord, State, documents, trouble
from bursard.state.admission import cheapest_hold, largest
from bursard.state.arrays import is_lean, size_of, told_state
from bursard.state.counted import counted_nanos
from bursard.state.decide.why import REASON_MAX
from bursard.state.ends import attempt_ended_at, began_at, job_ended_at, steps_of
from bursard.state.fold.jobs import tasks_of
from bursard.state.records import PromiseRecord
from bursard.state.told import told_progress
from bursard.store import JobRow
from bursard.turns import breathe

log = logging.getLogger(__name__)

PRIVATE_FIELDS: Final[frozenset[Any]] = frozenset(JobSpec.__struct_fields__) - SPEC.keys() - ASKED_FIELDS
"""Of a spec: they may hold what only the owner should know."""
DAMAGED: Final = "damaged: the rest of what was kept of it cannot be read; run `bursar audit verify`"
"""What a list says of a job whose document is damaged."""
START_FAILED_TEXT: Final = "it could not be started; its owner and operators see why"
RETRY_SHOWN = 100
"""Attempts of one job that a message carries, newest last."""
MEMBERS_SHOWN = 20_000
"""Members of all those attempts together; the newest attempt is always whole."""
MEMBERS_IN_ROW = 256
BUDGETS_IN_ROW = 32
SAMPLE_ATTEMPTS_IN_ROW = 64
ROWS_BYTES_MAX = 1 << 20
"""Of the rows of one message. Rows are bounded, but 1000 of them can be too many."""


Row = TypeVar("Row", pb.Job, pb.Node, nodes_pb2.Machine)


class Form(Enum):
    """How much of a job an answer carries. The value: fields of its spec that are left out.

    Not `WHOLE = ()`: Python 3.11.2, which Debian 12 has, takes an empty tuple for no value at all.
    """

    WHOLE = frozenset[str]()
    ROW = ("command", "script", "arguments", "setup", "env", "constraints")
    """In lists, of which a page may hold 1000."""
    BRIEF = (
        *ROW, "labels", "depends_on", "secrets", "secret_files", "workdir", "comment", "output_file",
        "error_file", "image", "image_auth", "mounts",
    )  # fmt: skip
    """After a verb: none of what it may have named, up to 1000, can be left for another page."""


_EMPTY: Final[Mapping[str, Any]] = dict.fromkeys(
    ("script", "setup", "workdir", "comment", "output_file", "error_file", "image", "image_auth"), ""
)
_BUDGETS_SHOWN: Final = {Form.WHOLE: None, Form.ROW: BUDGETS_IN_ROW, Form.BRIEF: 0}
_BRIEF_LACKS: Final = (*Form.BRIEF.value, "attempts", "budgets")
_TERSE_LACKS: Final = ("spec", "attempts", "budgets", "cost", "array")


def record_of(row: JobRow, parent: JobRecord | None = None) -> JobRecord:
    """A finished job as the record it was; a task with the spec of its array, `parent`.

    Raises `WrongState` when the row's document is damaged, or of another job.
    """
    try:
        job = documents.decode(row.document)
        if job.id != row.id:
            raise ValueError(f"it is that of {job.id}")
    except Exception as error:
        log.error(
            "the document of an ended job is damaged",
            extra={"job": row.id, "number": row.number, "reason": f"{type(error).__name__}: {error}"},
        )
        raise WrongState(
            f"what is kept of job {row.number} is damaged (table jobs, row {row.id}); its columns can still"
            " be listed: `bursar ls --state all`. `bursar audit verify` says what else is; then restore"
            " a backup: `bursar restore FILE --state-dir DIR`",
            {"job": row.id},
        ) from error
    if parent is not None and is_lean(job):
        job.spec = parent.spec
    return job


def listed_record_of(row: JobRow, parent: JobRecord | None = None) -> JobRecord:
    """The same for lists: of a damaged document what the columns of its row say, marked so."""
    try:
        return record_of(row, parent)
    except WrongState:
        return _record_of_columns(row)


def _record_of_columns(row: JobRow) -> JobRecord:
    labels: dict[str, str] = {}
    with suppress(msgspec.MsgspecError):
        labels = msgspec.json.decode(row.labels, type=dict[str, str])
    spec = JobSpec(
        name=row.name,
        project=row.project,
        experiment=row.experiment,
        model=row.model,
        model_version=row.model_version,
        labels=tuple(sorted(labels.items())),
        priority=row.priority,
    )
    return JobRecord(
        id=row.id,
        number=row.number,
        user=row.user,
        spec=spec,
        order=0,
        submitted_at=row.submitted_at,
        state=JobState(row.state),
        started_at=row.started_at,
        finished_at=row.finished_at,
        message=DAMAGED,
        settled_nanos=row.settled_nanos,
        parent_id=row.parent_id,
        array_index=row.array_index,
    )


def reason_view(reason: Reason, state: State, seen_by: Identity) -> pb.Reason:
    """A reason. It may name jobs by their numbers, budgets, quotas and whom nodes are reserved for; not those
    that `seen_by` may not see.
    """
    wire = pb.Reason(
        code=reason.code.value, message=reason.message, remedy=reason.remedy, facts=dict(reason.facts)
    )
    unname(wire, state, seen_by)
    wire.message = reserved.named(wire.message, state, seen_by)
    if reason.code in MEANINGS_LIVE and not allowed(seen_by, Action.STEER_NODES):
        wire.remedy = f"ask an operator: {reason.remedy}"
    return wire


def why_told(why: str, seen_by: Identity) -> str:
    """Why a place was taken, which may name the job whose end it waits for."""
    return why if allowed(seen_by, Action.SEE_JOBS) else unnamed(why)


def visible(state: State, job_ids: Iterable[str], seen_by: Identity) -> list[str]:
    """Those of some active jobs that `seen_by` may see; of one that is gone nobody can tell."""
    jobs = ((job_id, state.job(job_id)) for job_id in job_ids)
    return [
        job_id
        for job_id, job in jobs
        if job is not None and allowed(seen_by, Action.SEE_JOBS, job.spec.project, job.user)
    ]


def job_view(
    state: State,
    job: JobRecord,
    reason: Reason | None = None,
    *,
    seen_by: Identity,
    now: int,
    form: Form = Form.WHOLE,
) -> pb.Job:
    """A job, active or finished, as `seen_by` may see it at this moment, in one of three forms."""
    wire = pb.Job(
        id=job.id,
        number=job.number,
        user=job.user,
        state=told_state(job).value,
        spec=spec_to_wire(_spec(job.spec, form)),
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job_ended_at(job),
        currency=state.currency,
        cost_unknown=job.unpriced,
        parent_id=job.parent_id,
        array_index=max(job.array_index, 0),
        simulated=job.simulated,
        partition=_partition(state, job),
        budgets_total=sum(may_see(state, name, seen_by) for name in job.budgets),
        left_out=_BRIEF_LACKS if form is Form.BRIEF else form.value,
    )
    put_amounts(wire, settled_nanos=job.settled_nanos + state.corrected.get(job.id, 0))
    # A job without one gets the cluster's; a service has none.
    wire.spec.time_limit_us = 0 if job.spec.service is not None else state.time_limit_of(job.spec)
    if (elapsed_us := job_elapsed_us(job, now)) is not None:
        wire.elapsed_us = elapsed_us
    if job.exit_code >= 0:
        wire.exit_code = job.exit_code
    if reason is not None:
        wire.reason.CopyFrom(reason_view(reason, state, seen_by))
    elif job.message:
        wire.reason.message = words(job.message, state, seen_by)
    if job.array is not None:
        _array(state, wire, job, now)
    if job.promise is not None:
        wire.promise.CopyFrom(promise_view(job.promise, job.state))
        if not allowed(seen_by, Action.SEE_JOBS):
            wire.promise.message = unnamed(wire.promise.message)
    if form is Form.WHOLE and (idleness := idleness_of(state, job, now)) is not None:
        wire.idleness.CopyFrom(idleness)
    if form is not Form.BRIEF:
        most = MEMBERS_SHOWN if form is Form.WHOLE else MEMBERS_IN_ROW
        lasts = job.spec.service is not None
        wire.attempts.extend(_attempt(state, one, seen_by, now, lasts) for one in _newest(job, most))
    _money(state, wire, job, form, now, seen_by)
    private = allowed(seen_by, Action.SEE_PRIVATE, job.spec.project, job.user)
    if (end := end_view(job, private)) is not None:
        wire.end.CopyFrom(end)
        wire.end.message = words(end.message, state, seen_by)
    if not private:
        _redact(wire, job)
    return wire


def promised_view(event: DeadlinePromised) -> pb.DeadlinePromise:
    """What a job would be promised."""
    wire = pb.DeadlinePromise(by=event.by, starts_by=event.start, state="promised")
    if event.rate >= 0:
        wire.cost_at_most.nanos = str(event.nanos)
    return wire


def promise_view(promise: PromiseRecord, job_state: JobState) -> pb.DeadlinePromise:
    """What was promised of a deadline, and what became of it."""
    state = "kept" if job_state.terminal else "promised"
    cause, message = promise.cause, promise.message
    if promise.broken_at:
        state = "given-up" if promise.given_up else "broken"
    elif job_state is JobState.CANCELLED:
        state, cause, message = "given-up", "cancelled", "it was cancelled before its end"
    elif job_state is JobState.FAILED:
        state, cause, message = "given-up", "failed", "the job failed by itself before its deadline"
    wire = pb.DeadlinePromise(
        by=promise.by,
        given_at=promise.given_at,
        starts_by=promise.start,
        state=state,
        broken_at=promise.broken_at,
        cause=cause,
        message=message,
    )
    if promise.rate >= 0:
        wire.cost_at_most.nanos = str(promise.nanos)
    return wire


def _partition(state: State, job: JobRecord) -> str:
    """As the job itself finds it under Slurm's name, once it has a place."""
    said = dict(job.spec.env).get("SLURM_JOB_PARTITION", "")
    node_id = job.attempts[-1].members[0].alloc.node_id if job.attempts else ""
    return said or (state.nodes[node_id].facts.partition if node_id in state.nodes else "")


def job_terse(job: JobRecord, reason: Reason | None) -> pb.Job:
    """Which job, and what state it is in: what an answer still has room for, however long it is."""
    wire = pb.Job(
        id=job.id, number=job.number, user=job.user, state=told_state(job).value, left_out=_TERSE_LACKS
    )
    if reason is not None:
        wire.reason.code = reason.code.value
    return wire


async def fitting_in_turns(rows: Iterable[Row]) -> list[Row]:
    """As many rows as one message holds, at least one if there is any. Between, others have turns."""
    found: list[Row] = []
    size = 0
    for row in rows:
        size += row.ByteSize()
        if size > ROWS_BYTES_MAX and found:
            break
        found.append(row)
        await breathe()
    return found


def _spec(spec: JobSpec, form: Form) -> JobSpec:
    """Without what the form leaves out, and without the ranges of an array: `Job.array` tells its size."""
    if form is Form.WHOLE:
        return spec
    lacking = {name: _EMPTY.get(name, ()) for name in form.value}
    return msgspec.structs.replace(spec, array=None, **lacking)


def _newest(job: JobRecord, members_max: int) -> list[AttemptRecord]:
    """The newest attempts that have no more members together, oldest first; the last one in any case."""
    found: list[AttemptRecord] = []
    members = 0
    for attempt in reversed(job.attempts[-RETRY_SHOWN:]):
        members += len(attempt.members)
        if found and members > members_max:
            break
        found.append(attempt)
    return found[::-1]


def _redact(wire: pb.Job, job: JobRecord) -> None:
    """Without what only its owner, project-admins and operators may see."""
    wire.redacted = True
    for name in PRIVATE_FIELDS:
        wire.spec.ClearField(name)
    if wire.spec.HasField("service"):
        wire.spec.service.probe_path = path_alone(wire.spec.service.probe_path)
    quoting = {attempt.id for attempt in job.attempts if may_quote(attempt)}
    for attempt in wire.attempts:
        if attempt.message and attempt.id in quoting:
            attempt.message = START_FAILED_TEXT
        for step in attempt.steps.told:
            step.ClearField("name")
    if job.message and job.attempts and job.attempts[-1].id in quoting:
        wire.reason.message = START_FAILED_TEXT


def _array(state: State, wire: pb.Job, job: JobRecord, now: int) -> None:
    array = job.array
    assert array is not None
    counts = {name: count for name, count in array.counts.items() if count}
    wire.array.CopyFrom(pb.ArrayStatus(size=size_of(job), max_parallel=array.max_parallel, counts=counts))
    live = [task for task in tasks_of(state, job) if not task.state.terminal]
    attempts = [task.attempt for task in live if task.attempt is not None]
    put_amounts(
        wire,
        settled_nanos=exact(wire, "settled_nanos") + sum(task.settled_nanos for task in live),
        accrued_nanos=sum(_unmetered(attempt, now) for attempt in attempts),
        rate_nanos_per_hour=_together(attempts),
        held_nanos=sum(_held(state, attempt) for attempt in attempts),
    )


def _together(live: list[AttemptRecord]) -> int:
    """What runs costs per hour; -1: nothing runs, or the price of some of it is not known."""
    return sum(attempt.rate for attempt in live) if live and all(one.priced for one in live) else -1


def _held(state: State, attempt: AttemptRecord) -> int:
    """What is set aside for an attempt: the same worst case in each budget, so the largest counts once."""
    return max((hold.nanos for hold in state.ledger.open_holds(attempt.id)), default=0)


def _unmetered(attempt: AttemptRecord, now: int) -> int:
    """What its live members have cost since each was charged last, if they ran until now; no more than they
    may run.
    """
    cost = 0
    for member in attempt.live():
        rates = member.alloc.rates
        cost += held_nanos(rates, held_us(attempt, member, now)) - held_nanos(rates, member.charged_us)
    return cost


def _settled_in(state: State, job: JobRecord, budget: str) -> int:
    """What a budget counted of a job, or of an array's tasks, and what it was corrected by since."""
    tasks = tasks_of(state, job) if job.array is not None else ()
    live = sum(counted_nanos(task, budget) for task in tasks if not task.state.terminal)
    return counted_nanos(job, budget) + live + state.shifted_in(job.id, budget)


def _money(state: State, wire: pb.Job, job: JobRecord, form: Form, now: int, seen_by: Identity) -> None:
    live = job.attempt
    held: Mapping[str, int] = {}
    if live is not None:
        held = {hold.budget: hold.nanos for hold in state.ledger.open_holds(live.id)}
        put_amounts(
            wire,
            rate_nanos_per_hour=_together([live]),
            held_nanos=max(held.values(), default=0),
            accrued_nanos=_unmetered(live, now),
        )
    elif job.array is None:
        wire.rate_nanos_per_hour = -1
    settled_nanos = exact(wire, "settled_nanos")
    put_amounts(wire, accrued_nanos=exact(wire, "accrued_nanos") + settled_nanos)
    # What it could cost at most stays beside what it did, and no correction changes it: of an ended job,
    # that of its newest attempt.
    wire.estimate_expected_nanos = -1  # `bursard.services.history` knows, where past runs tell
    placed = live or (job.attempts[-1] if job.state.terminal and job.attempts else None)
    left_nanos = None if placed is None and job.state.terminal else _left(state, job, placed)
    charged_nanos = settled_nanos - state.corrected.get(job.id, 0)
    most = -1 if left_nanos is None else _within_cap(job, charged_nanos + left_nanos, settled_nanos)
    put_amounts(wire, estimate_max_nanos=most)
    seen = [name for name in job.budgets if may_see(state, name, seen_by)]
    for name in seen[: _BUDGETS_SHOWN[form]]:
        put_amounts(
            wire.budgets.add(budget=name),
            held_nanos=held.get(name, 0),
            settled_nanos=_settled_in(state, job, name),
        )
    for one in job.attempts:
        for member in one.members:
            if member.report is not None:
                wire.max_rss_bytes = max(wire.max_rss_bytes, member.report.max_rss_bytes)
                wire.cpu_us = saturated(wire.cpu_us + member.report.cpu_us)
                wire.gpu_energy_millijoules = saturated(
                    wire.gpu_energy_millijoules + member.report.gpu_energy_millijoules
                )
                wire.gpu_energy_source = _source_of_both(
                    wire.gpu_energy_source, member.report.gpu_energy_source
                )
    told = told_progress(job)
    if told is not None:
        wire.progress.CopyFrom(progress_to_wire(told))


def _source_of_both(one: str, other: str) -> str:
    """Of energy that was added up: measured only when all of it was."""
    if not one or not other or one == other:
        return one or other
    return "modelled"


def _left(state: State, job: JobRecord, placed: AttemptRecord | None) -> int | None:
    """The most that what has not been settled of a job may cost; None where no price tells, or for ever."""
    if job.spec.service is not None:
        return None
    if placed is not None:
        return _left_of(placed)
    if job.array is None:
        return _left_waiting(state, state.class_of(job), 1)
    live = (task.attempt for task in tasks_of(state, job) if not task.state.terminal)
    lefts = [_left_of(attempt) for attempt in live if attempt is not None]
    ended = sum(count for name, count in job.array.counts.items() if JobState(name).terminal)
    # A cap of each task is of each: what others have cost takes nothing of it.
    each = state.class_of_spec(job.spec, (), state.time_limit_of(job.spec))
    lefts.append(_left_waiting(state, each, size_of(job) - ended - len(lefts)))
    return None if None in lefts else sum(left for left in lefts if left is not None)


def _left_of(attempt: AttemptRecord) -> int | None:
    """Of an attempt: its worst case, less what was settled of it."""
    if not attempt.priced:
        return None
    most_us = attempt.longest_us + attempt.grace_us + OVERRUN_US
    return max(attempt.rate * most_us // HOUR_US - attempt.settled_nanos, 0)


def _left_waiting(state: State, job_class: JobClass, tasks: int) -> int | None:
    """Of so many that wait: at the cheapest place that could ever hold one. None where none is priced."""
    if tasks == 0 or job_class.max_cost_nanos < 0:  # its cap is spent
        return 0
    hold = cheapest_hold(state, largest(state, job_class))
    return None if hold is None else hold * tasks


def _within_cap(job: JobRecord, most_nanos: int, settled_nanos: int) -> int:
    """No more than `max_cost` allows, and no less than it has cost."""
    cap_nanos = job.spec.max_cost_nanos * (1 if job.spec.caps_array else size_of(job))
    return max(min(most_nanos, cap_nanos) if cap_nanos else most_nanos, settled_nanos)


def _waits_for(attempt: AttemptRecord, member: MemberRecord) -> str:
    """The node, and why it has not taken another time limit where it has said that."""
    problem = attempt.refused.get(member.alloc.rank, "")
    return f"{member.node} ({problem})" if problem else member.node


def _attempt(
    state: State, attempt: AttemptRecord, seen_by: Identity, now: int, lasts: bool = False
) -> pb.Attempt:
    """One attempt. `lasts`: it has no time limit, and ends when nobody pays."""
    wire = pb.Attempt(
        id=attempt.id,
        number=attempt.number,
        state=attempt.state,
        started_at=attempt.started_at,
        finished_at=attempt_ended_at(attempt),
        message=words(attempt.message, state, seen_by),
        time_limit_us=0 if lasts else attempt.longest_us,
        leased_us=attempt.time_limit_us if attempt.lease_us else 0,
        why=why_told(attempt.why, seen_by),
        end_cause=attempt.cause.value if attempt.cause is not None else "",
    )
    waits = attempt.unlimited()
    if waits and (attempt.refused or not attempt.lease_us):  # leases come and go by themselves
        wire.wanted_time_limit_us = attempt.wanted_limit_us
        wire.limit_waits_for.extend(_waits_for(attempt, member) for member in waits)
    if (elapsed_us := attempt_elapsed_us(attempt, now)) is not None:
        wire.elapsed_us = elapsed_us
    if attempt.exit_code >= 0:
        wire.exit_code = attempt.exit_code
    if (steps := steps_of(attempt)) is not None:
        wire.steps.CopyFrom(steps_to_wire(steps))
    for report in (one.report for one in attempt.members if one.report is not None):
        wire.image_digest = wire.image_digest or report.image_digest
        wire.pull_us = max(wire.pull_us, report.pull_us)
    for member in attempt.members:
        alloc = member.alloc
        node = state.nodes.get(alloc.node_id)
        wire.members.append(
            pb.Member(
                rank=alloc.rank,
                node=node.facts.name if node is not None else member.node or alloc.node_id,
                address=node.facts.address if node is not None else "",
                devices=shares_to_wire(alloc.devices),
                cpu_milli=alloc.cpu_milli,
                memory_bytes=alloc.memory_bytes,
                rate_nanos_per_hour=saturated(alloc.rates.total),
                price_id=alloc.price_id,
                held_us=member.charged_us,
                started_at=min(began_at(attempt, member), attempt.finished_at or now),
                gpu_memory_share_bytes=_memory_share(node, alloc.devices),
                gpu_limited=_shares_limited(node, alloc.devices),
            )
        )
        if member.report is not None and member.report.device_use is not None:
            wire.members[-1].device_use.CopyFrom(device_use_to_wire(member.report.device_use))
    return wire


def _memory_share(node: NodeRecord | None, shares: Iterable[DeviceShare]) -> int:
    """Half a device is half of its memory, whether anything keeps a job to it or not."""
    if node is None:
        return 0
    sizes = {device.index: device.memory_bytes for device in node.facts.devices}
    return saturated(sum(sizes.get(share.index, 0) * share.milli // 1000 for share in shares))


def _shares_limited(node: NodeRecord | None, shares: Iterable[DeviceShare]) -> bool:
    """Whether there is a part of a device that its node keeps the member to."""
    return node is not None and "gpu" in node.facts.limits and any(share.milli < 1000 for share in shares)


def node_state(node: NodeRecord) -> str:
    """One word for operators."""
    if node.mode == "quarantine":
        return "quarantined"
    if not node.connected:
        return "silent"
    if node.mode == "drain":
        return "draining" if node.live else "drained"
    if node.mode == "cordon":
        return "cordoned"
    return "unwell" if node.trouble else "up"


def sample_view(
    state: State,
    node: NodeRecord,
    sample: pb.Sample,
    seen_by: Identity,
    attempts_max: int | None = None,
) -> pb.Sample:
    """A reading of the node's own devices, and of those attempts live there that `seen_by` may see."""
    wire = pb.Sample(
        at=sample.at,
        cpu_utilization_ratio=sample.cpu_utilization_ratio,
        memory_used_bytes=sample.memory_used_bytes,
        power_watts=sample.power_watts,
        gpus=sample.gpus[: len(node.facts.devices)],
    )
    live = (each for each in sample.attempts if each.attempt_id in node.live)
    if not allowed(seen_by, Action.SEE_JOBS):
        live = (each for each in live if _sees_attempt(state, each.attempt_id, seen_by))
    wire.attempts.extend(islice(live, attempts_max))
    for one in wire.attempts:
        one.ClearField("steps")  # of these a job's own view tells
    return wire


def _sees_attempt(state: State, attempt_id: str, seen_by: Identity) -> bool:
    """May it see the job of a live attempt?"""
    return bool(visible(state, (state.attempts[attempt_id].job_id,), seen_by))


def add_samples(wire: pb.Job, newest: Callable[[str], pb.Sample | None]) -> None:
    """Put the newest reading of its processes and devices beside each member of a job that runs, and what the
    first of them says of its progress in the place of what an earlier attempt said.
    """
    for attempt in wire.attempts:
        if attempt.state == "ENDED":
            continue
        for member in attempt.members:
            sample = newest(member.node)
            if sample is None:
                continue
            held = {share.index for share in member.devices}
            member.gpus.extend(gpu for gpu in sample.gpus if gpu.index in held)
            for one in sample.attempts:
                if (one.attempt_id, one.rank) == (attempt.id, member.rank):
                    member.sample.CopyFrom(one)
                    _add_steps(wire, attempt, member)
        telling = [member.sample for member in attempt.members if member.sample.HasField("progress")]
        if telling:
            wire.progress.CopyFrom(telling[0].progress)
        problems = [member.sample.progress_problem for member in attempt.members]
        wire.progress_problem = next(filter(None, problems), "")


def _add_steps(wire: pb.Job, attempt: pb.Attempt, member: pb.Member) -> None:
    """Move the steps of a member that runs from its reading to its attempt, which tells of all."""
    if not member.sample.HasField("steps"):
        return
    steps = member.sample.steps
    attempt.steps.total += steps.total
    attempt.steps.failed += steps.failed
    for one in steps.told:
        step = attempt.steps.told.add()
        step.CopyFrom(one)
        step.member = member.rank
        step.after_us = max(attempt.elapsed_us - one.after_us, 0)
        if wire.redacted:
            step.ClearField("name")
    member.sample.ClearField("steps")


def reason_of_node(node: NodeRecord, seen_by: Identity, now: int, token: str = "") -> str:
    """Why it takes no work: words of an operator, of the daemon that put it into quarantine, or its own; of
    one that does not answer also since when. `token`: that its agent's has ended.
    """
    told = node.reason if node.mode != "open" else node.trouble
    if not node.connected and now - node.changed_at >= trouble.SILENT_TOLD_US:
        told = "; ".join(filter(None, (token, trouble.of_silent(node, now), told)))
    named = node.mode in ("quarantine", "open") and not allowed(seen_by, Action.SEE_JOBS)
    reason = unnamed(told) if named else told
    # An older log holds reasons of any length.
    return reason if len(reason) <= REASON_MAX else reason[: REASON_MAX - 1] + "…"


def node_view(
    state: State, node: NodeRecord, sample: pb.Sample | None, last_seen_at: int, seen_by: Identity, now: int
) -> pb.Node:
    """A node with what is free of it, as `seen_by` may see it at this moment; `sample` is already."""
    cluster, row = state.cluster, node.row
    free = [DeviceShare(index, int(cluster.gpu_free[row, index])) for index in range(len(node.facts.devices))]
    wire = pb.Node(
        id=node.id,
        facts=facts_to_wire(node.facts),
        state=node_state(node),
        cpu_free_milli=max(int(cluster.cpu_free[row]), 0),
        memory_free_bytes=max(int(cluster.memory_free[row]), 0),
        devices_free=shares_to_wire(free),
        rate_nanos_per_hour=saturated(node.rates.total) if node.price_id else -1,
        price_id=node.price_id,
        currency=state.currency,
        jobs=sum(not state.attempts[attempt_id].after for attempt_id in node.live),
        last_seen_at=last_seen_at or node.changed_at,
        reason=reason_of_node(node, seen_by, now, trouble.of_token(state, node, now)),
    )
    if node.calibration is not None:
        wire.calibration.CopyFrom(calibration_to_wire(node.calibration))
    if sample is not None:
        wire.sample.CopyFrom(sample)
    return wire
