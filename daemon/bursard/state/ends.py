"""Who ended an attempt, by time on one axis, and when it ended. PURE.

Why     of a gang one member fails, and the others end because of it: by a broken connection, or since they
        are told to. The first alone says what went wrong, whatever its rank and whoever reported first. And
        an end is heard when daemon and agent speak again, perhaps a night later; records keep that instant,
        which only grows, and what is shown is when its nodes say that it was over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from bursar.model import ORDERED, EndCause, EndFacts, JobState, Steps
from bursar.model.ends import LEFT
from bursar.model.steps import together
from bursard.events import ExitReport
from bursard.state.records import AttemptRecord, JobRecord, MemberRecord

_AT_THE_START: Final = (EndCause.START_FAILED, EndCause.NODE_LOST)
_LATEST: Final = 1 << 63


class Ended(NamedTuple):
    """One member's end. `at`: on the daemon's axis."""

    rank: int
    at: int
    report: ExitReport


def ended(member: MemberRecord, report: ExitReport, started_at: int) -> Ended:
    """When its own process was gone; what it left behind may have lived on. A member that could not be
    started ended before any other; one that did not get to it since it was told to end, after them.
    """
    if started_at:
        at = started_at + (report.ran_us or report.held_us)
    else:
        at = 0 if report.cause in _AT_THE_START else _LATEST
    return Ended(member.alloc.rank, at, report)


def ran(one: Ended) -> bool:
    """Was there ever a process of it?"""
    return 0 < one.at < _LATEST


def first_to_fail(members: Iterable[Ended]) -> Ended | None:
    """The first that did not complete: one that was told to end comes after all that did so by themselves,
    and of the same instant the lower rank is taken.
    """
    bad = [one for one in members if one.report.cause is not EndCause.COMPLETED]
    return min(bad, key=lambda one: (one.report.stopped, one.at, one.rank), default=None)


def culprit(attempt: AttemptRecord) -> Ended | None:
    """Of an attempt that has ended, the member to blame; None when it was none of them."""
    if attempt.cause is None or attempt.cause in ORDERED:
        return None
    return first_to_fail(
        ended(member, member.report, member.started_at) for member in attempt.members if member.report
    )


def began_at(attempt: AttemptRecord, member: MemberRecord) -> int:
    """Since when a member is held, on the daemon's clock: not before it was placed. 0: it has not begun."""
    if attempt.started_at and len(attempt.members) == 1:
        return attempt.started_at
    return max(member.started_at, attempt.placed_at) if member.started_at else 0


def attempt_ended_at(attempt: AttemptRecord) -> int:
    """When its last member was gone: its start and the time that is charged for, neither before the attempt
    began nor after that was heard. Of one that never began, when it was heard. 0 while it lives.
    """
    heard_at = attempt.finished_at
    begun = [member for member in attempt.members if member.started_at]
    if not heard_at or not begun:
        return heard_at
    gone_at = max(began_at(attempt, member) + member.charged_us for member in begun)
    return min(max(gone_at, attempt.started_at), heard_at)


def job_ended_at(job: JobRecord) -> int:
    """When its last attempt ended, of an array the last of its tasks; when it was decided where no attempt
    was its end. 0 while it has not ended.
    """
    if not job.finished_at:
        return 0
    if job.array is not None:
        return min(job.array.ended_at, job.finished_at) if job.array.ended_at > 0 else job.finished_at
    last = _last_of(job)
    return attempt_ended_at(last) if last is not None else job.finished_at


def _last_of(job: JobRecord) -> AttemptRecord | None:
    """The attempt that a job ended with; None where something else was its end."""
    last = job.attempts[-1] if job.attempts else None
    if last is None or last.cause is None or last.finished_at != job.finished_at:
        return None
    return last


def facts_of(job: JobRecord) -> EndFacts:
    """What is known of the end of a job that has ended; of one task, or of a job without tasks."""
    attempt = _last_of(job)
    if attempt is None or attempt.cause is None:
        cause = EndCause.CANCELLED if job.state is JobState.CANCELLED else EndCause.FAILED
        return EndFacts(job=job.display, cause=cause, detail=job.message, started=False)
    first, steps = culprit(attempt), steps_of(attempt)
    if first is None:
        return EndFacts(
            job=job.display,
            cause=attempt.cause,
            members=len(attempt.members),
            exit_code=attempt.exit_code,
            detail=attempt.message or _left(attempt),
            time_limit_us=attempt.time_limit_us,
            steps=steps,
        )
    member = attempt.members[first.rank]
    return EndFacts(
        job=job.display,
        cause=attempt.cause,
        rank=first.rank,
        members=len(attempt.members),
        node=member.node,
        exit_code=attempt.exit_code,
        signal=first.report.signal,
        detail=first.report.message,
        time_limit_us=attempt.time_limit_us,
        memory_bytes=member.alloc.memory_bytes,
        max_rss_bytes=first.report.max_rss_bytes,
        steps=steps,
    )


def _left(attempt: AttemptRecord) -> str:
    """What the agent of the first member that has something to say says of a good end."""
    if attempt.cause is not EndCause.COMPLETED:
        return ""
    told = (member.report.message for member in attempt.members if member.report is not None)
    return next((text for text in told if LEFT.fullmatch(text)), "")


def steps_of(attempt: AttemptRecord) -> Steps | None:
    """All steps that its members started, as those tell that have ended; None: none."""
    reports = ((member.alloc.rank, member.report) for member in attempt.members)
    return together((rank, report.steps) for rank, report in reports if report is not None)
