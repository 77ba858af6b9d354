"""Jobs that ask to run again, over and over: how long each waits, and when that is the end of it. PURE.

Why     a script whose `scontrol requeue` stands where it is always reached would start for ever, as fast as
        the scheduler turns. A job that ran a while and asks for its next piece is none of these.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import SECOND_US
from bursar.model.ends import REQUEUED
from bursard.state.records import AttemptRecord, JobRecord

ROW_US: Final = 60 * SECOND_US
"""An attempt that ran for so long is no part of a row of them."""
FIRST_WAIT_US: Final = 2 * SECOND_US
WAIT_MAX_US: Final = 300 * SECOND_US
ROW_MAX: Final = 16
"""So many in a row, and the job is put on hold."""
ATTEMPTS_MAX: Final = 1_000
"""However long each ran: a job whose attempt of each such number asks to run again is put on hold. All are
kept, and a loop without an end is meant by nobody; a release gives it as many again."""


def in_a_row(job: JobRecord) -> int:
    """The last ended attempts that were ended by a request to run again, each shortly after its start."""
    count = 0
    for attempt in reversed(job.attempts):
        if attempt.state != "ENDED":
            continue
        if not attempt.message.startswith(REQUEUED) or not _short(attempt, attempt.finished_at):
            break
        count += 1
    return count


def is_too_often(job: JobRecord, attempt: AttemptRecord, now: int) -> bool:
    """Is this request to end a live attempt the last one of a row, or of very many?"""
    return (_short(attempt, now) and in_a_row(job) + 1 >= ROW_MAX) or attempt.number % ATTEMPTS_MAX == 0


def of_very_many(job: JobRecord) -> int:
    """How many attempts a job has had that is on hold since they were so many; 0: that is not why."""
    last = job.attempts[-1] if job.attempts else None
    if last is None or last.number % ATTEMPTS_MAX or not last.message.startswith(REQUEUED):
        return 0
    return last.number


def wait_us(job: JobRecord, ran_us: int) -> int:
    """How long a job waits for its next try whose attempt ran so long; the first of a row does not wait."""
    before = in_a_row(job)
    if ran_us >= ROW_US or not before:
        return 0
    return min(FIRST_WAIT_US << min(before - 1, WAIT_MAX_US.bit_length()), WAIT_MAX_US)


def _short(attempt: AttemptRecord, until: int) -> bool:
    return not attempt.started_at or until - attempt.started_at < ROW_US
