"""Why a job waits for a place that is kept for one that was promised its deadline, and what would help."""

from __future__ import annotations

from bursar.clock import SECOND_US
from bursar.model import Reason, ReasonCode
from bursar_policies.decision import JobClass, Snapshot
from bursard.scheduler import text


def kept_for(snapshot: Snapshot, job_class: JobClass, now: int, job_id: str = "") -> Reason:
    """It fits now, but on nodes where others were promised to begin before it must have ended."""
    until = now + job_class.hold_us
    others = [one for one in snapshot.promises if one.job_id != job_id]
    met = [one for one in others if one.start < until]
    first = min(met or others or snapshot.promises, key=lambda one: (one.start, one.job_id))
    begins = text.instant(max(first.start, now))
    spare = first.start - now - (job_class.hold_us - job_class.time_limit_us)
    remedy = "wait: it starts when there is room beside what is promised"
    if spare >= SECOND_US and not job_class.endless:
        remedy = f"set --time-limit {text.duration(spare)} or less to end before that, or wait"
    facts = (
        ("promised", first.job_id),
        ("starts_at", str(first.start)),
        ("deadline", str(first.by)),
        ("spare_us", str(max(spare, 0))),
    )
    return Reason(
        ReasonCode.RESERVED_FOR_OTHER,
        f"fits now, but may run until {text.instant(until)}, and that room is promised to job"
        f" {first.job_id} from {begins} on, to meet its deadline",
        remedy,
        facts,
    )


def cheaper(snapshot: Snapshot, job_id: str) -> Reason:
    """It could start now, for more than it costs where it is promised to begin in time."""
    own = next((one for one in snapshot.promises if one.job_id == job_id), None)
    if own is None:
        return Reason(ReasonCode.WAITING_FOR_CHEAPER_PRICE, "waits for a cheaper place", "wait")
    return Reason(
        ReasonCode.WAITING_FOR_CHEAPER_PRICE,
        f"what is free now costs more than its promised place, where it begins by {text.instant(own.start)}"
        f" and meets its deadline {text.instant(own.by)}",
        "wait: it starts by itself then, or before where that costs no more",
        (("starts_by", str(own.start)), ("deadline", str(own.by))),
    )
