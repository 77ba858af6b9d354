"""How attempt events change the state: resources, money, and the job's way through its states."""

from __future__ import annotations

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvariantViolation
from bursar.model import EndCause, JobState, runs_once
from bursar.model.steps import failures_of
from bursar_policies.idleness import Mark
from bursard.events import (
    AttemptAttached,
    AttemptEnded,
    AttemptIdle,
    AttemptPlaced,
    IdleActed,
    IdleOver,
    IdleSeen,
    MemberEnded,
    MemberOverdue,
    MemberStarted,
    StopRequested,
)
from bursard.state.ends import steps_of
from bursard.state.fold import books
from bursard.state.fold.jobs import begin_anew, claim, finish, meet_started, move, open_tasks, take_slot
from bursard.state.fold.nodes import refresh
from bursard.state.fold.services import leave_slot
from bursard.state.records import AttemptRecord, EndedUsage, JobRecord, MemberRecord, NodeRecord
from bursard.state.tables import Applied, Tables, latest_end, still_to_cost

FREE_RETRY = (EndCause.NODE_LOST, EndCause.PREEMPTED)
"""Not the job's fault: tried again without using up `retry.max`."""
WAIT_MAX_US = 60 * SECOND_US
"""The longest wait between free retries; an attempt that ran for so long is no part of a row of them."""

RESTART_US, RESTART_MAX_US = 10 * SECOND_US, 300 * SECOND_US
"""Between two starts of a replica that ends: the first wait, and the longest."""
RESTART_ROW_US = 600 * SECOND_US
"""A replica that ran for so long is no part of a row of ends."""

_TERMINAL = {EndCause.COMPLETED: JobState.SUCCEEDED, EndCause.CANCELLED: JobState.CANCELLED}
"""Every other cause ends a job in FAILED when it is not tried again."""


def placed(state: Tables, event: AttemptPlaced, at: int, applied: Applied) -> None:
    """Resources and money are taken; the job is STARTING."""
    job = claim(state, event.job_id, at)
    if job.parent_id:
        take_slot(state, job)
    if job.attempt is not None:
        raise InvariantViolation(f"J4: {job.id} already has a live attempt")
    members = [MemberRecord(alloc, state.nodes[alloc.node_id].boot_id) for alloc in event.members]
    attempt = AttemptRecord(
        id=event.attempt_id,
        job_id=job.id,
        number=event.number,
        option=event.option,
        members=members,
        time_limit_us=event.time_limit_us,
        grace_us=event.grace_us,
        holds=event.holds,
        placed_at=at,
        why=event.why,
        port=event.port,
        cut_by_budget=event.cut_by_budget,
        after=event.after,
        lease_us=event.lease_us,
        full_limit_us=event.full_limit_us,
    )
    if attempt.after:
        _wait_behind(state, attempt)
    for member in members:
        node = state.nodes[member.alloc.node_id]
        member.placed_axis, member.node = node.through, node.facts.name
        if not attempt.after:
            state.take(attempt, member)
        node.live[attempt.id] = member.alloc.rank
        if not member.alloc.price_id:
            job.unpriced = True
        if any(node.facts.devices[share.index].simulated for share in member.alloc.devices):
            job.simulated = True
    state.pending.remove(job.id)
    state.leave_room(job)
    state.attempts[attempt.id] = attempt
    if attempt.lease_us:
        state.leased[attempt.id] = None
    _refresh_doubtful(state, attempt)
    job.attempts.append(attempt)
    job.requeue = False
    move(state, job, JobState.STARTING)
    if job.parent_id:
        state.array_money[job.parent_id].held_nanos += still_to_cost(attempt)
        open_tasks(state, state.jobs[job.parent_id], at)
    transaction = state.ledger.place(attempt.id, job.id, event.holds)
    if transaction is not None:
        applied.transactions.append(transaction)


def _wait_behind(state: Tables, attempt: AttemptRecord) -> None:
    """It gets the share of another and needs nothing more. Raises `InvariantViolation` otherwise."""
    other = state.attempts[attempt.after]
    mine, its = ([one.alloc for one in each.members] for each in (attempt, other))
    if len(its) != 1 or mine != its or other.members[0].report is not None:
        raise InvariantViolation(f"R1: {attempt.id} cannot have the share of {other.id}")
    if other.id in state.behind:
        raise InvariantViolation(f"R1: the share of {other.id} is promised to {state.behind[other.id]}")
    state.behind[other.id] = attempt.id


def _leave_the_line(state: Tables, attempt: AttemptRecord) -> None:
    """It ends without having had room: who waited for it waits for what it waited for."""
    following = state.behind.pop(attempt.id, "")
    if following:
        state.behind[attempt.after] = following
        state.attempts[following].after = attempt.after
    else:
        del state.behind[attempt.after]


def _hand_over(state: Tables, attempt: AttemptRecord, member: MemberRecord) -> None:
    """What a member held is free again, or the one's that was promised it, with the same event (R1)."""
    state.give(attempt, member)
    following = state.attempts.get(state.behind.pop(attempt.id, ""))
    if following is None:
        return
    heir = following.members[0]
    following.after = ""
    state.take(following, heir)
    if member.started_at and member.report is not None:
        # It cannot have begun before: no share is billed to two for the same time.
        heir.placed_axis = max(heir.placed_axis, member.started_at + member.report.held_us)


def _refresh_doubtful(state: Tables, attempt: AttemptRecord) -> None:
    for member in attempt.members:
        node = state.nodes.get(member.alloc.node_id)
        if node is not None and node.doubtful:
            refresh(state, node)


def stop_requested(state: Tables, event: StopRequested, at: int, applied: Applied) -> None:
    """The attempt must end. The first cause stands, but for a cancel: a job that was being preempted or
    requeued would otherwise come back. A later request may only be more urgent.
    """
    attempt = state.attempts[event.attempt_id]
    if attempt.stop_cause is None:
        attempt.stop_grace_us = event.grace_us
    if attempt.stop_cause is None or event.cause is EndCause.CANCELLED:
        attempt.stop_cause, attempt.stop_message = event.cause, event.message
    attempt.stop_grace_us = min(attempt.stop_grace_us, event.grace_us)
    attempt.stops += 1
    attempt.state = "STOPPING"
    move(state, state.jobs[attempt.job_id], JobState.STOPPING)
    waiting = state.jobs.get(event.for_job)
    if waiting is not None and waiting.state is JobState.PENDING:
        state.make_room(waiting, at, event.grace_us)


def member_started(state: Tables, event: MemberStarted, at: int, applied: Applied) -> None:
    """A process exists; the attempt runs once all of them do, or the one that runs its program."""
    attempt = state.attempts[event.attempt_id]
    member = attempt.members[event.rank]
    member.started_at, member.pid = event.at, event.pid
    attempt.overdue.pop(event.rank, None)
    node = state.nodes[member.alloc.node_id]
    if node.not_started:
        node.not_started = []
        refresh(state, node)
    # Of a job that runs once the first member is the program: it may be over before the last place is held.
    program = event.rank == 0 and runs_once(state.jobs[attempt.job_id].spec)
    if attempt.state == "STARTING" and (program or all(m.started_at for m in attempt.members)):
        attempt.state, attempt.started_at = "RUNNING", at
        if event.measured:  # that is what is charged: not since the daemon heard of it
            since = event.at if program else max(m.started_at for m in attempt.members)
            attempt.started_at = min(max(since, attempt.placed_at), at)
        for one in attempt.live():
            state.members.retime(attempt.id, one.alloc.rank, latest_end(attempt))
        job = state.jobs[attempt.job_id]
        job.started_at = job.started_at or attempt.started_at
        move(state, job, JobState.RUNNING)
        meet_started(state, job, at)


def idle(state: Tables, event: AttemptIdle, at: int, applied: Applied) -> None:
    """It is remembered when that was told last, and how far it was."""
    attempt = state.attempts.get(event.attempt_id)
    if attempt is not None:
        attempt.idle_told_at = at
        attempt.idle[f"{event.ground}/{event.policy}"] = Mark(
            event.idle_us, at, event.idle_us, event.most_ppm, at
        )


def idle_seen(state: Tables, event: IdleSeen, at: int, applied: Applied) -> None:
    """It is remembered how far it is; that it was told, as long as that lasts."""
    attempt = state.attempts.get(event.attempt_id)
    if attempt is not None:
        key = f"{event.ground}/{event.policy}"
        before = attempt.idle.get(key, Mark(0, at))
        attempt.idle[key] = Mark(event.idle_us, at, before.warned_us, event.most_ppm, before.warned_at)


def idle_over(state: Tables, event: IdleOver, at: int, applied: Applied) -> None:
    """What was remembered of it counts no more."""
    attempt = state.attempts.get(event.attempt_id)
    if attempt is not None:
        attempt.idle.pop(f"{event.ground}/{event.policy}", None)


def idle_acted(state: Tables, event: IdleActed, at: int, applied: Applied) -> None:
    """It is a record of why; what follows from it is told by the events after it."""


def attached(state: Tables, event: AttemptAttached, at: int, applied: Applied) -> None:
    """It is a record of who was there, and changes nothing."""


def member_overdue(state: Tables, event: MemberOverdue, at: int, applied: Applied) -> None:
    """It is remembered until its node starts or ends it; nothing it holds is given away."""
    state.attempts[event.attempt_id].overdue[event.rank] = event.message


def member_ended(state: Tables, event: MemberEnded, at: int, applied: Applied) -> None:
    """Its process tree is gone: what it held is free, what it cost is settled."""
    attempt = state.attempts[event.attempt_id]
    member = attempt.members[event.rank]
    node = state.nodes[member.alloc.node_id]
    if member.report is not None:
        raise InvariantViolation(f"J5: rank {event.rank} of {attempt.id} ended twice")
    member.report = event.report
    attempt.overdue.pop(event.rank, None)
    if attempt.after:
        _leave_the_line(state, attempt)
    else:
        _hand_over(state, attempt, member)
    node.live.pop(attempt.id, None)
    _refresh_doubtful(state, attempt)
    _keep_usage(node, member, event.report.held_us)
    for piece in event.pieces:
        books.book_piece(state, attempt, member, piece, at, applied)
        if (member.started_at + piece.held_us) % HOUR_US:  # the last one, or where a budget's period ends
            books.close_member(node, member, applied)
    member.charged_us = max(member.charged_us, event.report.held_us)
    books.close_member(node, member, applied)


def _keep_usage(node: NodeRecord, member: MemberRecord, held_us: int) -> None:
    """Until the node's own time is metered: what is settled at the end is not charged to it as idle."""
    if member.started_at and held_us > member.charged_us and member.alloc.price_id:
        # May begin before `through`, when it was reported late: the next interval makes up for it.
        start = member.started_at + member.charged_us
        end = member.started_at + held_us
        if end > start:
            node.ended.append(EndedUsage(start, end, member.started_at, member.alloc.rates, member.alloc))


def _wait(job: JobRecord, attempt: AttemptRecord, event: AttemptEnded, at: int) -> None:
    """Free retries have no end, so in a row each waits twice as long as the last; the first does not."""
    ran_us = at - attempt.started_at if attempt.started_at else 0
    free = event.requeue and not event.counts and not job.requeue
    first_us, most_us, row_us = SECOND_US << 1, WAIT_MAX_US, WAIT_MAX_US
    if job.spec.service is not None:
        first_us, most_us, row_us = RESTART_US, RESTART_MAX_US, RESTART_ROW_US
    job.free_retries = job.free_retries * (ran_us < row_us) + 1 if free else 0
    job.retry_at = at + event.wait_us if event.wait_us else 0
    if job.free_retries > 1:
        doublings = min(job.free_retries - 2, WAIT_MAX_US.bit_length())
        job.retry_at = at + min(first_us << doublings, most_us)


def _replica_ended(state: Tables, task: JobRecord, at: int) -> None:
    """It starts again as its service is by now, unless there are more than are wanted."""
    parent = state.jobs[task.parent_id]
    assert parent.array is not None
    if task.spec is not parent.spec:
        begin_anew(state, task, parent.spec)
        task.spec = parent.spec
        task.budgets, task.hard_budgets = state.budgets.matching(task.user, task.spec)
    if parent.array.open_slots < 0:
        leave_slot(state, parent, task)
    open_tasks(state, parent, at)


def _count_stepped(state: Tables, task: JobRecord) -> None:
    """A task has completed over a step that failed: its array says how many did."""
    parent = state.jobs.get(task.parent_id)
    if parent is not None and parent.array is not None:
        parent.array.stepped += 1


def attempt_ended(state: Tables, event: AttemptEnded, at: int, applied: Applied) -> None:
    """The attempt is over: its holds resolve, its job goes back to the queue or ends."""
    attempt = state.attempts.pop(event.attempt_id)
    state.leased.pop(attempt.id, None)
    job = state.jobs[attempt.job_id]
    attempt.state, attempt.finished_at = "ENDED", at
    attempt.cause, attempt.exit_code, attempt.message = event.cause, event.exit_code, event.message
    attempt.stops = 0  # of no use any more, and what ended before it was kept has none
    if job.parent_id:
        state.array_money[job.parent_id].held_nanos -= still_to_cost(attempt)
    transaction = state.ledger.release(attempt.id)
    if transaction is not None:
        applied.transactions.append(transaction)
    if event.cause is EndCause.COMPLETED:
        state.runs.add(job.spec, max(one.report.held_us for one in attempt.members if one.report is not None))
    if attempt.after:
        # It never had a share, so it was no try: its events are its only trace.
        job.attempts.remove(attempt)
    if event.requeue:
        job.retries += event.counts
        if not attempt.after:
            _wait(job, attempt, event, at)
        job.requeue = False
        job.budgets, job.hard_budgets = state.budgets.matching(job.user, job.spec)
        move(state, job, JobState.PENDING)
        if job.spec.service is not None and job.parent_id:
            _replica_ended(state, job, at)
        state.enqueue(job, at)
        return
    job.exit_code = event.exit_code
    if event.cause is EndCause.COMPLETED and failures_of(steps_of(attempt), ended_well=True):
        _count_stepped(state, job)
    finish(state, job, _TERMINAL.get(event.cause, JobState.FAILED), at, applied, event.message)
