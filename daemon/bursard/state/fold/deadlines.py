"""How promises of deadlines change the state."""

from __future__ import annotations

from bursard.events import DeadlineBroken, DeadlinePromised
from bursard.state.records import PromiseRecord
from bursard.state.tables import Applied, Tables


def promised(state: Tables, event: DeadlinePromised, at: int, applied: Applied) -> None:
    """A place and its money are kept; a place that was kept before is free."""
    job = state.jobs[event.job_id]
    before = job.promise
    again = before is not None and not before.broken_at and before.by == event.by
    job.promise = PromiseRecord(
        by=event.by,
        given_at=before.given_at if again and before is not None else at,
        start=event.start,
        until=event.until,
        option=event.option,
        rate=event.rate,
        nanos=event.nanos,
        members=event.members,
        gpu_type=event.gpu_type,
        time_limit_us=event.time_limit_us,
    )
    state.promises.put(job)
    state.enqueue(job, at)  # it asks for that size from now on


def broken(state: Tables, event: DeadlineBroken, at: int, applied: Applied) -> None:
    """Nothing is kept for it any more; it waits, or runs on, as any other job."""
    job = state.jobs.get(event.job_id)
    if job is None or job.promise is None:
        return
    promise = job.promise
    promise.broken_at, promise.cause, promise.message = at, event.cause, event.message
    promise.given_up, promise.members = event.given_up, ()
    state.promises.put(job)
    if not job.state.terminal:
        state.enqueue(job, at)
