"""A deadline and the market: until when a job may count on spot machines, and from when on it may not.

Owns    how long a job may still need, and the two instants that follow from that.
Why     a spot machine costs a third and is taken away. A job with a deadline has time for that or has not,
        and arithmetic decides: it begins on demand while there is still time for all of its work, and takes
        no spot machine whose loss would leave less than that. Before that it waits for one: it asked to be
        done by an instant, not at once. ("Can't be late", NSDI 2024, without the way back to spot.)

All of a job's time limit counts as work, less what it has saved: a job that ends sooner is done sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bursar.clock import SECOND_US
from bursar.model import EndCause
from bursard.machines.provider import MachineOffer
from bursard.state import AttemptRecord, JobRecord

SPARE_US: Final = 900 * SECOND_US
"""What an interruption takes beside another boot: until it is seen, and until the job is where it was."""


class InTime(NamedTuple):
    """Of a job with a deadline.

    Attributes:
        spot_until: a spot machine that is ordered by then may be lost, and the job ends in time all the same.
        order_by: one on demand is to be ordered by then.
    """

    spot_until: int
    order_by: int


def in_time(job: JobRecord, hold_us: int, offers: Sequence[MachineOffer]) -> InTime | None:
    """None for a job without a deadline.

    Args:
        hold_us: for how long an attempt of it may hold its nodes. offers: what could be rented for it.
    """
    if not job.spec.deadline_at:
        return None
    boots = {
        market: max((one.boot_us for one in offers if one.place.market == market), default=0)
        for market in ("spot", "on-demand")
    }
    left = max(hold_us - saved_us(job), 0)
    order_by = job.spec.deadline_at - left - boots["on-demand"] - SPARE_US
    lost = SPARE_US if job.spec.checkpoint.signal else left
    return InTime(order_by - boots["spot"] - lost, order_by)


def saved_us(job: JobRecord) -> int:
    """How much of its time limit a job has behind it: what attempts that were asked to save themselves had
    run, each less what it took to begin.
    """
    if not job.spec.checkpoint.signal:
        return 0
    return sum(max(_held_us(one) - SPARE_US, 0) for one in job.attempts if one.cause is EndCause.PREEMPTED)


def _held_us(attempt: AttemptRecord) -> int:
    return min((member.charged_us for member in attempt.members), default=0)
