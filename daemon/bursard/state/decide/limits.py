"""Another time limit for an attempt that lives: what is asked, what its nodes answer. PURE.

Owns    the order that keeps the money safe (docs/adr/0023). A later limit is held for before any agent hears
        of it; an earlier one is believed, and what was held for more is free, once every live member has
        taken it.
"""

from __future__ import annotations

from bursar.clock import SECOND_US, format_duration
from bursar.errors import BudgetExceeded, WrongState
from bursar.model import JobSpec
from bursar.money import cumulative, format_nanos
from bursard.events import Event, LimitChanged, LimitRefused, LimitTaken
from bursard.scheduler.pricing import capped_time_limit_us
from bursard.scheduler.text import at_least, at_most, money
from bursard.state.core import State
from bursard.state.decide.reservations import refuse_later_end, refuse_promised_place
from bursard.state.records import AttemptRecord, JobRecord
from bursard.state.tables import HOLD_MARGIN_US


def change(state: State, job: JobRecord, attempt: AttemptRecord, spec: JobSpec, now: int) -> list[Event]:
    """The events by which a live attempt gets the limit that a changed spec means; none if it has it.

    Raises:
        WrongState: it is ending, has run for longer, its cost cannot be known, or it would run into a
            reservation of its nodes.
        BudgetExceeded: a hard budget has no room for what it may cost more.
    """
    limit_us = state.time_limit_of(spec)
    if attempt.stop_cause is not None:
        raise WrongState(
            f"job {job.display} is being stopped, so its time limit cannot change; wait until it has ended"
        )
    if spec.max_cost_nanos and not spec.caps_array:
        limit_us = _paid_for(state, job, attempt, spec, limit_us)
    ran_us = now - attempt.started_at if attempt.started_at else 0
    if limit_us <= ran_us:
        raise WrongState(
            f"job {job.display} has run for {format_duration(ran_us)}, longer than a time limit of"
            f" {format_duration(max(limit_us, 0))}; give it a longer one, or end it:"
            f" `bursar cancel {job.display}`",
            {"ran_us": str(ran_us), "time_limit_us": str(limit_us)},
        )
    cut = limit_us < state.time_limit_of(spec)
    refuse_later_end(state, job, attempt, limit_us)
    refuse_promised_place(state, job, attempt, limit_us)
    if attempt.lease_us:
        return _other_end(attempt, limit_us, cut)
    if (limit_us, cut) == (attempt.wanted_limit_us or attempt.time_limit_us, attempt.cut_by_budget):
        return []
    hold_nanos = worst(attempt, max(limit_us, attempt.time_limit_us))
    _refuse_without_room(state, job, attempt, hold_nanos, limit_us)
    return [LimitChanged(attempt.id, attempt.limit_order + 1, limit_us, hold_nanos, cut)]


def _other_end(attempt: AttemptRecord, full_us: int, cut: bool) -> list[Event]:
    """Leases go another way from now on. The one that it has is as long as it was, but for what is beyond."""
    if full_us == attempt.full_limit_us:
        return []
    limit_us = min(attempt.wanted_limit_us or attempt.time_limit_us, full_us)
    hold_nanos = worst(attempt, max(limit_us, attempt.time_limit_us))
    cut = cut or limit_us < full_us
    return [LimitChanged(attempt.id, attempt.limit_order + 1, limit_us, hold_nanos, cut, full_us)]


def overhead_us(attempt: AttemptRecord) -> int:
    """What a hold pays for beside the time limit."""
    return attempt.grace_us + HOLD_MARGIN_US


def worst(attempt: AttemptRecord, limit_us: int) -> int:
    """What is held for it, in all, while it may live by a limit."""
    return cumulative(attempt.rate, limit_us + overhead_us(attempt))


def _paid_for(state: State, job: JobRecord, attempt: AttemptRecord, spec: JobSpec, limit_us: int) -> int:
    """What `max_cost` pays for, less what earlier attempts have cost. Raises `WrongState`."""
    if not attempt.priced:
        raise WrongState(
            f"job {job.display} runs where the price is not known, so max_cost cannot be kept; cancel the job"
            " and submit it with max_cost, to run where it is"
        )
    left = spec.max_cost_nanos - (job.settled_nanos - attempt.settled_nanos)
    hold_us = limit_us + overhead_us(attempt)
    paid_us = capped_time_limit_us(attempt.rate, limit_us, hold_us, max(left, 1))
    if paid_us < min(SECOND_US, limit_us):
        least = job.settled_nanos - attempt.settled_nanos + worst(attempt, SECOND_US)
        raise WrongState(
            f"max_cost {money(spec.max_cost_nanos, state.currency)} does not pay for job {job.display}, which"
            f" costs {at_least(least, state.currency)} at least; give it more, or end it:"
            f" `bursar cancel {job.display}`",
            {"max_cost": format_nanos(spec.max_cost_nanos), "needed": format_nanos(least)},
        )
    return paid_us


def _refuse_without_room(
    state: State, job: JobRecord, attempt: AttemptRecord, hold_nanos: int, limit_us: int
) -> None:
    """Every hard budget that it is placed with, and the cap of its array, must have room for what it may cost
    more. Raises `BudgetExceeded`.
    """
    more = hold_nanos - worst(attempt, attempt.time_limit_us)
    if more <= 0:
        return
    rooms = payers(state, job, attempt, more)
    cash = state.currency
    for name, room in rooms:
        if more > room:
            raise BudgetExceeded(
                f"{name} has no room for a time limit of {format_duration(limit_us)} for job {job.display}:"
                f" it may cost {at_least(more, cash)} more, {at_most(max(room, 0), cash)} are free; ask for a"
                " shorter limit, or raise the budget",
                {
                    **_named(name),
                    "needed": format_nanos(more),
                    "room": format_nanos(room),
                    "currency": cash,
                    "reason": "BudgetExhausted",
                },
            )


def _named(payer: str) -> dict[str, str]:
    """The fact that names a budget; the cap of an array is none."""
    is_budget = payer.startswith("budget ")
    return {"budget": payer.removeprefix("budget ").removesuffix(" as approved")} if is_budget else {}


def payers(state: State, job: JobRecord, attempt: AttemptRecord, more: int) -> list[tuple[str, int]]:
    """What of all that may refuse an attempt so much more has room for, as people call it, and how much."""
    rooms = []
    for hold in state.ledger.open_holds(attempt.id):
        record = state.budgets.records.get(hold.budget)
        if record is None:
            continue
        seen = state.budgets.room(record, state.ledger)
        if record.hard:
            rooms.append((f"budget {hold.budget}", seen.room_nanos))
        if seen.beyond(more):
            approved = seen.ceiling_nanos - seen.settled_nanos - seen.held_nanos
            rooms.append((f"budget {hold.budget} as approved", approved))
    if job.spec.caps_array:
        cap = state.cap_room(state.jobs[job.parent_id])
        rooms.append((f"max_cost of array {cap.array}", cap.room_nanos))
    return rooms


def taken(attempt: AttemptRecord, rank: int, order: int, ran_us: int) -> list[Event]:
    """A member lives by an order. Of what is not the newest, or known, nothing follows.

    Args:
        ran_us: how long it has run at most.
    """
    if order != attempt.limit_order or rank not in (one.alloc.rank for one in attempt.unlimited()):
        return []
    if len(attempt.unlimited()) > 1:
        return [LimitTaken(attempt.id, rank, order, ran_us)]
    return [_in_force(attempt, rank, ran_us)]


def left_behind(attempt: AttemptRecord, rank: int) -> list[Event]:
    """A member ended: what the others have all taken is in force."""
    if not attempt.wanted_limit_us or not attempt.live() or attempt.unlimited():
        return []
    first = attempt.live()[0].alloc.rank
    return [_in_force(attempt, first, attempt.taken[first])]


def _in_force(attempt: AttemptRecord, rank: int, ran_us: int) -> LimitTaken:
    """A limit that had passed when it was taken ends nobody earlier than then: so long it was held for."""
    wanted_us = max(attempt.wanted_limit_us, ran_us, *attempt.taken.values())
    limit_us = min(attempt.time_limit_us, wanted_us)
    return LimitTaken(attempt.id, rank, attempt.limit_order, ran_us, limit_us, worst(attempt, limit_us))


def refused(attempt: AttemptRecord, rank: int, order: int, problem: str) -> list[Event]:
    """A member does not live by an order: told once."""
    waits = rank in (one.alloc.rank for one in attempt.unlimited())
    if order != attempt.limit_order or not waits or rank in attempt.refused:
        return []
    return [LimitRefused(attempt.id, rank, order, problem)]
