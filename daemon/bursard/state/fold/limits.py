"""How another time limit of a live attempt becomes the one in force, and what is held for it follows."""

from __future__ import annotations

import msgspec

from bursard.events import LimitChanged, LimitRefused, LimitTaken
from bursard.state.records import AttemptRecord
from bursard.state.tables import Applied, Tables, latest_end, still_to_cost


def changed(state: Tables, event: LimitChanged, at: int, applied: Applied) -> None:
    """Its members are asked to live by another limit. A later one is billed and held for from now on."""
    attempt = state.attempts[event.attempt_id]
    attempt.limit_order, attempt.wanted_limit_us = event.order, event.time_limit_us
    attempt.cut_by_budget = event.cut_by_budget
    attempt.taken, attempt.refused = {}, {}
    attempt.full_limit_us = event.full_limit_us or attempt.full_limit_us
    if event.time_limit_us > attempt.time_limit_us:
        _live_by(state, attempt, event.time_limit_us, event.hold_nanos, applied)
    elif event.full_limit_us:
        _retime(state, attempt)


def taken(state: Tables, event: LimitTaken, at: int, applied: Applied) -> None:
    """A member lives by it; with the last of them it is in force, and what is over is free again."""
    attempt = state.attempts[event.attempt_id]
    attempt.taken[event.rank] = event.ran_us
    attempt.refused.pop(event.rank, None)
    if event.time_limit_us:
        attempt.wanted_limit_us = 0
        _live_by(state, attempt, event.time_limit_us, event.hold_nanos, applied)


def refused(state: Tables, event: LimitRefused, at: int, applied: Applied) -> None:
    """It is remembered, to be told; the order stands."""
    state.attempts[event.attempt_id].refused[event.rank] = event.problem


def _live_by(state: Tables, attempt: AttemptRecord, limit_us: int, hold_nanos: int, applied: Applied) -> None:
    job, before = state.jobs[attempt.job_id], still_to_cost(attempt)
    attempt.time_limit_us = limit_us
    if job.parent_id:
        state.array_money[job.parent_id].held_nanos += still_to_cost(attempt) - before
    _retime(state, attempt)
    if not attempt.holds:
        return
    transaction = state.ledger.resize(attempt.id, hold_nanos - attempt.holds[0].nanos)
    attempt.holds = tuple(msgspec.structs.replace(hold, nanos=hold_nanos) for hold in attempt.holds)
    if transaction is not None:
        applied.transactions.append(transaction)


def _retime(state: Tables, attempt: AttemptRecord) -> None:
    for member in attempt.live():
        state.members.retime(attempt.id, member.alloc.rank, latest_end(attempt))
