"""How long attempts and jobs have been held: the time that is charged for. PURE.

Why     an end is told when an agent is heard, perhaps minutes later, and a job of several attempts waits
        between them. Nobody pays for that; the time that is shown beside a cost is what the cost is of.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import SECOND_US
from bursard.state import AttemptRecord, JobRecord, MemberRecord
from bursard.state.ends import job_ended_at

OVERRUN_US: Final = 5 * SECOND_US
"""How far past limit and grace an end may come: part of the most that an attempt can cost."""


def held_us(attempt: AttemptRecord, member: MemberRecord, now: int) -> int:
    """For how long a member has been held: what is charged, and of one that lives until `now`, but no longer
    than it may run.
    """
    if member.report is not None or not member.started_at:
        return member.charged_us
    most_us = attempt.time_limit_us + attempt.grace_us + OVERRUN_US
    return max(min(now - member.started_at, most_us), member.charged_us)


def attempt_elapsed_us(attempt: AttemptRecord, now: int) -> int | None:
    """As long as its member that was held longest; None where none has begun."""
    begun = [member for member in attempt.members if member.started_at or member.charged_us]
    return max((held_us(attempt, member, now) for member in begun), default=None)


def job_elapsed_us(job: JobRecord, now: int) -> int | None:
    """Of all its attempts together; of an array, whose tasks have their own, since the first of them began.
    None where it never began.
    """
    if job.array is not None:
        return max((job_ended_at(job) or now) - job.started_at, 0) if job.started_at else None
    spans = [attempt_elapsed_us(attempt, now) for attempt in job.attempts]
    begun = [span for span in spans if span is not None]
    return sum(begun) if begun else None
