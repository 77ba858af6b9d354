"""A deadline and the market: until when a job may count on spot machines, and from when on it may not.

Owns    how long a job may still need, and the two instants that follow from that.
Why     a spot machine costs a third and is taken away. A job with a deadline has time for that or has not,
        and arithmetic decides: it begins on demand while there is still time for all of its work, and takes
        no spot machine whose loss would leave less than that. Before that it waits for one: it asked to be
        done by an instant, not at once. ("Can't be late", NSDI 2024.)

All of a job's time limit counts as work, less what it has saved: a job that ends sooner is done sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bursar.clock import SECOND_US
from bursar.model import EndCause
from bursard.machines.provider import MachineOffer
from bursard.state import AttemptRecord, JobRecord, State

SPARE_US: Final = 300 * SECOND_US
"""What an interruption takes beside another boot, until the job is where it was: where no PriorityPolicy says
what a restart takes."""
KEPT_PPM: Final = 150_000
"""So much of the work that is left is kept as slack by a job that comes back to spot; published policies keep
a tenth to a fifth ("ADRS", 2025)."""
WORTH: Final = 2
"""What a move saves is to be so many times what it costs: prices move, and a machine may be lost at once."""


class InTime(NamedTuple):
    """Of a job with a deadline.

    Attributes:
        wait_until: it waits so long for a spot machine. One that can come back from on demand to spot keeps a
            part of its slack for the interruptions that are still to come.
        spot_until: a spot machine that is ordered by then may be lost, and the job ends in time all the same.
        order_by: one on demand is to be ordered by then. left_us: what it may still need.
    """

    wait_until: int
    spot_until: int
    order_by: int
    left_us: int


def spare_us(state: State) -> int:
    """What an interruption takes beside another boot."""
    rules = state.priority
    return rules.restart_us if rules is not None and rules.restart_us else SPARE_US


def in_time(
    job: JobRecord, hold_us: int, offers: Sequence[MachineOffer], spare: int = SPARE_US
) -> InTime | None:
    """None for a job without a deadline.

    Args:
        hold_us: for how long an attempt of it may hold its nodes. offers: what could be rented for it.
        spare: what an interruption takes beside another boot.
    """
    if not job.spec.deadline_at:
        return None
    boots = {
        market: max((one.boot_us for one in offers if one.place.market == market), default=0)
        for market in ("spot", "on-demand")
    }
    left = max(hold_us - saved_us(job, spare), 0)
    order_by = job.spec.deadline_at - left - boots["on-demand"] - spare
    lost = spare if job.spec.checkpoint.signal else left
    spot_until = order_by - boots["spot"] - lost
    kept = left * KEPT_PPM // 1_000_000 if comes_back(job) else 0
    return InTime(spot_until - kept, spot_until, order_by, left)


def comes_back(job: JobRecord) -> bool:
    """May it be moved while it runs, from a machine on demand to a spot machine?"""
    spec = job.spec
    moves = bool(spec.checkpoint.signal) and spec.preemptible and spec.nodes == 1 and not spec.max_nodes
    return bool(spec.deadline_at) and moves and spec.spot_policy == "auto" and job.promise is None


def worth_moving(
    job: JobRecord, hold_us: int, rate: int, to: MachineOffer, now: int, spare: int = SPARE_US
) -> bool:
    """Does a running job have the time to go on on a spot machine, and is what that saves twice what is lost:
    its launch, and the work until the job is where it was?

    Args:
        rate: of the machine that it runs on, whole; nanos an hour.
    """
    times, lost_us = in_time(job, hold_us, (to,), spare), to.boot_us + spare
    if times is None or now >= times.spot_until - lost_us:
        return False
    saved = (rate - to.rate_nanos_per_hour) * max(times.left_us - lost_us, 0)
    return saved > WORTH * to.rate_nanos_per_hour * lost_us


def saved_us(job: JobRecord, spare: int = SPARE_US) -> int:
    """How much of its time limit a job has behind it: what attempts that were asked to save themselves had
    run, each less what it took to begin.
    """
    if not job.spec.checkpoint.signal:
        return 0
    saved = (one for one in job.attempts if one.state == "RUNNING" or one.cause is EndCause.PREEMPTED)
    return sum(max(_held_us(one) - spare, 0) for one in saved)


def _held_us(attempt: AttemptRecord) -> int:
    return min((member.charged_us for member in attempt.members), default=0)
