"""What agents report of attempts: started, ended, lost. Placing them is `bursard.place`."""

from __future__ import annotations

from bursar.model import ORDERED, EndCause, runs_once
from bursard.events import (
    AttemptEnded,
    Event,
    ExitReport,
    MemberEnded,
    MemberStarted,
    Piece,
    StopRequested,
)
from bursard.ledger import member_charges
from bursard.state import requeues
from bursard.state.core import State
from bursard.state.decide import launches, leases
from bursard.state.ends import Ended, ended, first_to_fail, ran
from bursard.state.fold.attempts import FREE_RETRY
from bursard.state.records import AttemptRecord, JobRecord, MemberRecord, NodeRecord

START_TRIES_MAX = 3
"""Of a job that doubtful nodes could not start, or lost before it began."""


def started(
    state: State, node: NodeRecord, attempt_id: str, rank: int, boot_us: int, pid: int
) -> list[Event]:
    """A member's process exists. Empty when that is known, or the attempt is not this node's."""
    member = _member(state, node, attempt_id, rank)
    if member is None or member.started_at:
        return []
    began = MemberStarted(attempt_id, rank, node.axis(boot_us), boot_us, pid, measured=True)
    return [began, *launches.ran(state, state.attempts[attempt_id], node)]


def exited(
    state: State,
    node: NodeRecord,
    attempt_id: str,
    rank: int,
    report: ExitReport,
    started_boot_us: int,
) -> list[Event]:
    """A member's process tree is gone: settle it, and end the attempt when it was the last."""
    member = _member(state, node, attempt_id, rank)
    if member is None:
        return []
    events: list[Event] = []
    attempt = state.attempts[attempt_id]
    started_at = member.started_at
    if not started_at and started_boot_us:
        started_at = node.axis(started_boot_us)
        events.append(MemberStarted(attempt_id, rank, started_at, started_boot_us, 0, measured=True))
        events += launches.ran(state, attempt, node)
    alloc = member.alloc
    charges = member_charges(
        attempt_id=attempt_id,
        job_id=attempt.job_id,
        rank=rank,
        node_id=alloc.node_id,
        price_id=alloc.price_id,
        rates=alloc.rates,
        started_at=started_at,
        from_us=member.charged_us,
        to_us=max(member.charged_us, report.held_us) if started_at else member.charged_us,
        cuts=state.borders(attempt),
    )
    pieces = tuple(Piece(each.end - started_at, each.gpu, each.cpu, each.memory) for each in charges)
    events.append(MemberEnded(attempt_id, rank, report, pieces))
    others = [m for m in attempt.members if m.report is None and m is not member]
    if others:
        if rank == 0 and runs_once(state.jobs[attempt.job_id].spec):
            return [*events, _release_the_places(attempt, report)]
        if report.cause is not EndCause.COMPLETED and attempt.stop_cause is None:
            message = _ended(rank, report)
            events.append(StopRequested(attempt_id, report.cause, attempt.grace_us, message))
        return events
    before = [ended(m, m.report, m.started_at) for m in attempt.members if m.report is not None]
    events.append(_end(state, attempt, [*before, ended(member, report, started_at)]))
    return events


def _ended(rank: int, report: ExitReport) -> str:
    """For everybody: what the node says of an end may quote the command, the interpreter or a directory."""
    return f"rank {rank} ended: {report.cause.value}"


def _told(rank: int, report: ExitReport) -> str:
    return f"rank {rank} ended: {report.cause.value} {report.message}".rstrip()


def _release_the_places(attempt: AttemptRecord, report: ExitReport) -> StopRequested:
    """The program of a `launch: once` job is over, and with it the job: nothing is waited for elsewhere."""
    if attempt.stop_cause is not None:
        return StopRequested(attempt.id, attempt.stop_cause, 0, attempt.stop_message)
    completed = report.cause is EndCause.COMPLETED
    message = "" if completed else _ended(0, report)
    return StopRequested(attempt.id, report.cause, 0, message)


def _member(state: State, node: NodeRecord, attempt_id: str, rank: int) -> MemberRecord | None:
    attempt = state.attempts.get(attempt_id)
    if attempt is None or not 0 <= rank < len(attempt.members):
        return None
    member = attempt.members[rank]
    return member if member.report is None and member.alloc.node_id == node.id else None


def _end(state: State, attempt: AttemptRecord, members: list[Ended]) -> AttemptEnded:
    """The one end of an attempt, from the ends of its members: that of the first to fail, unless all of them
    were told to end.
    """
    job = state.jobs[attempt.job_id]
    only = members[0].report
    cancelled = attempt.stop_cause is EndCause.CANCELLED
    if attempt.after and only.cause is EndCause.PREEMPTED and not cancelled:
        # It comes back untouched: nothing of it ever ran, whatever its retries say.
        return AttemptEnded(attempt.id, EndCause.PREEMPTED, -1, only.message, True, False)
    if attempt.overdue and attempt.stop_cause is EndCause.PREEMPTED and not any(map(ran, members)):
        # Neither did anything of one that its nodes never started.
        return AttemptEnded(attempt.id, EndCause.PREEMPTED, -1, attempt.stop_message, True, False)
    bad = first_to_fail(members)
    first = (bad or min(members, key=lambda one: one.rank)).report
    cause, message = first.cause, first.message
    if bad is not None and (attempt.stop_cause in ORDERED or attempt.stop_cause is EndCause.COMPLETED):
        cause = attempt.stop_cause
        first = next((one.report for one in members if one.report.cause is cause), first)
        message = attempt.stop_message or first.message
    elif cause is EndCause.NODE_LOST and attempt.stop_cause is EndCause.TIME_LIMIT:
        cause, message = EndCause.TIME_LIMIT, attempt.stop_message
    elif bad is not None and attempt.stop_cause is not None:
        message = _told(bad.rank, first)
    if cause is EndCause.TIME_LIMIT and attempt.cut_by_budget:
        leased = attempt.time_limit_us < attempt.full_limit_us
        message = leases.over(state, job, attempt) if leased else "budget.max_cost was reached"
        cause = EndCause.BUDGET
    code = first.exit_code if first.exit_code >= 0 else (128 + first.signal if first.signal else -1)
    blamed = cause is EndCause.START_FAILED and _node_is_blamed(state, job, attempt, members)
    requeue, counts = (True, False) if blamed else _again(state, job, attempt, cause)
    again_us = 0
    if requeue and job.requeue:
        again_us = requeues.wait_us(job, max(one.report.ran_us or one.report.held_us for one in members))
    return AttemptEnded(attempt.id, cause, code, message, requeue, counts, again_us)


def _node_is_blamed(state: State, job: JobRecord, attempt: AttemptRecord, members: list[Ended]) -> bool:
    """Could it not start on a node that started nothing of others either, or that lost it before it began?
    Then it is tried again, a few times: a node that starts nothing must not end all that was sent there. As
    often as that happens where the node itself says that it cannot start anything: it gets no more work then.
    """
    failed = [m for m in attempt.members if m.report is None or m.report.cause is EndCause.START_FAILED]
    if any(state.nodes[member.alloc.node_id].trouble for member in failed):
        return True
    doubtful = any(state.nodes[member.alloc.node_id].doubtful for member in failed)
    before = sum(one.cause is EndCause.START_FAILED for one in job.attempts)
    unbegun = any(one.report.unbegun for one in members)
    return (doubtful or unbegun) and before < START_TRIES_MAX - 1


def _again(state: State, job: JobRecord, attempt: AttemptRecord, cause: EndCause) -> tuple[bool, bool]:
    """(run it again, it used up one of `retry.max`)."""
    if job.spec.service is not None and EndCause.CANCELLED not in (cause, attempt.stop_cause):
        return True, False  # a replica is started again, whatever it ended of
    if cause in (EndCause.COMPLETED, EndCause.CANCELLED):
        return False, False
    retry = job.spec.retry
    if job.requeue or (cause in FREE_RETRY and not retry.never):
        return True, False
    wanted = cause.value in retry.on and job.retries < retry.max
    return wanted, wanted


def lost(
    state: State, node: NodeRecord, attempt_id: str, rank: int, message: str, held_us: int = 0
) -> list[Event]:
    """A member whose process is known to be gone without a report: billed as far as it was reported.

    `held_us`: the largest counter its node still has in its spool, 0 when it has none.
    """
    member = _member(state, node, attempt_id, rank)
    if member is None:
        return []
    held_us = max(member.charged_us, held_us if member.started_at else 0)
    report = ExitReport(cause=EndCause.NODE_LOST, message=message, held_us=held_us)
    return exited(state, node, attempt_id, rank, report, 0)
