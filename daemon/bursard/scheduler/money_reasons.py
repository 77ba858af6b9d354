"""Why money says no, and the change that would make it say yes.

Why     the remedy is computed from the room that is left, so that doing what it says works.
"""

from __future__ import annotations

from bursar.model import Reason, ReasonCode
from bursar.money import AMOUNT_MAX
from bursar_policies.decision import BudgetRoom, JobClass
from bursard.scheduler import stages, text
from bursard.scheduler.admit import Refusal, Rooms
from bursard.scheduler.pricing import SECOND_US, longest_hold_us

UNNUMBERED = "the array"
"""How an array is named that is not submitted yet."""


def refused(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    """The reason behind a refusal."""
    stage = stages.stopping(job_class, rooms.budgets)
    if stage is not None:
        return stages.reason(*stage)
    if refusal.code == ReasonCode.APPROVAL_REQUIRED:
        room = rooms.budgets[refusal.budget]
        promised = rooms.promised_nanos(refusal.budget)
        return stages.unapproved(room, refusal.needed_nanos, promised, job_class.endless)
    if refusal.code == ReasonCode.PRICE_CAP_EXCEEDED:
        return _price_cap(job_class, refusal, rooms)
    if refusal.code == ReasonCode.MISCONFIGURED and not refusal.budget:
        return _beyond(job_class, refusal, rooms)
    if refusal.code == ReasonCode.MISCONFIGURED:
        return Reason(
            refusal.code,
            f"budget {refusal.budget} is not in force",
            "apply it (bursar policy apply), or submit under another project",
            (("budget", refusal.budget),),
        )
    if not refusal.budget:
        return _own_cap(job_class, refusal, rooms)
    return _budget(job_class, refusal, rooms)


def _price_cap(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    currency = rooms.currency
    cap = job_class.max_price_nanos_per_hour
    rate = text.at_least(refusal.rate_nanos_per_hour, currency)
    return Reason(
        refusal.code,
        f"the cheapest place costs {rate}/h, your max_price is {text.at_most(cap, currency)}/h",
        f"raise max_price to {rate}/h, or ask for less",
        (("rate_nanos_per_hour", str(refusal.rate_nanos_per_hour)), ("max_price", str(cap))),
    )


def _beyond(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    currency = rooms.currency
    return Reason(
        refusal.code,
        f"its worst case is {text.at_least(refusal.needed_nanos, currency)} for"
        f" {text.duration(job_class.hold_us)}; the largest amount there is, is"
        f" {text.money(AMOUNT_MAX, currency)}",
        ("ask for less for each replica" if job_class.endless else "set a shorter --time-limit")
        + ", or mend the price of the nodes (bursar prices)",
        (
            ("needed", str(refusal.needed_nanos)),
            ("rate_nanos_per_hour", str(refusal.rate_nanos_per_hour)),
        ),
    )


def _own_cap(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    currency = rooms.currency
    left = job_class.max_cost_nanos  # below 0 when more was spent than it is
    rate = text.money(refusal.rate_nanos_per_hour, currency)
    overhead = text.duration(job_class.hold_us - job_class.time_limit_us)
    return Reason(
        refusal.code,
        f"max_cost has {text.at_most(max(left, 0), currency)} left, which at {rate}/h does not pay for one "
        f"second and the {overhead} of grace",
        f"raise max_cost by at least {text.at_least(refusal.needed_nanos - left, currency)}",
        (
            ("max_cost_left", str(max(left, 0))),
            ("needed", str(refusal.needed_nanos)),
            ("rate_nanos_per_hour", str(refusal.rate_nanos_per_hour)),
        ),
    )


def _budget(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    room = rooms.budgets[refusal.budget]
    if room.array:
        return _array_cap(job_class, refusal, rooms)
    held = room.held_nanos + rooms.promised_nanos(refusal.budget)
    left = rooms.room_nanos(refusal.budget)
    cash = room.currency
    needed, limit = refusal.needed_nanos, room.limit_nanos
    facts: tuple[tuple[str, str], ...] = (
        ("budget", room.name),
        ("currency", cash),
        ("limit", str(limit)),
        ("settled", str(room.settled_nanos)),
        ("held", str(held)),
        ("room", str(left)),
        ("needed", str(needed)),
        ("rate_nanos_per_hour", str(refusal.rate_nanos_per_hour)),
        ("renews_at", str(room.renews_at)),
    )
    ahead, aside = rooms.aside(room.name)
    if ahead:
        facts = (*facts, ("ahead", ahead), ("set_aside", str(aside)))
    others = [one for one in job_class.budgets if one in rooms.budgets and not rooms.budgets[one].array]
    short = [one for one in others if one != room.name and rooms.room_nanos(one) < needed]
    if short:
        facts = (*facts, ("also_short", ",".join(short)))
    message = (
        f"budget {room.name} has {text.at_most(left, cash)} left of {text.money(limit, cash)} "
        f"({text.money(room.settled_nanos, cash)} settled, {text.money(held, cash)} held); this job "
        f"needs {text.at_least(needed, cash)} for {_how_long(job_class)}"
        + (
            f"; of what is held {text.money(aside, cash)} is set aside for job {ahead}, which is ahead"
            if ahead
            else ""
        )
    )
    return Reason(refusal.code, message, _budget_remedy(job_class, refusal, rooms), facts)


def _how_long(job_class: JobClass) -> str:
    """What a hold is for."""
    held_us = job_class.start_hold_us
    return f"{text.duration(held_us)} at " + ("most" if held_us == job_class.hold_us else "first")


def _array_cap(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> Reason:
    cap = rooms.budgets[refusal.budget]
    held = cap.held_nanos + rooms.promised_nanos(cap.name)
    left, cash, needed = rooms.room_nanos(cap.name), cap.currency, refusal.needed_nanos
    stopped = refusal.code is ReasonCode.BUDGET_EXHAUSTED
    its = "replicas" if job_class.endless else "tasks"
    message = (
        f"{array_name(cap)} has {text.at_most(left, cash)} left of its max_cost"
        f" {text.money(cap.limit_nanos, cash)} ({text.money(cap.settled_nanos, cash)} settled,"
        f" {text.money(held, cash)} held); each {its[:-1]} needs {text.at_least(needed, cash)} for"
        f" {text.duration(job_class.hold_us)} at most" + (", so no more of it can start" if stopped else "")
    )
    wait = "" if stopped else f"wait until its running {its} give back what they do not use, or "
    enough = cap.limit_nanos + needed - left + rooms.short_ahead_nanos(cap.name)
    raised = f"raise it to {text.at_least(enough, cash)} or more"
    if cap.array != UNNUMBERED:
        raised += f" (bursar update {cap.array} --max-cost MONEY)"
    facts = (
        ("array", cap.array),
        ("currency", cash),
        ("max_cost", str(cap.limit_nanos)),
        ("settled", str(cap.settled_nanos)),
        ("held", str(held)),
        ("room", str(left)),
        ("needed", str(needed)),
        ("rate_nanos_per_hour", str(refusal.rate_nanos_per_hour)),
    )
    return Reason(refusal.code, message, wait + raised, facts)


def _budget_remedy(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> str:
    room = rooms.budgets[refusal.budget]
    cash = room.currency
    least = min(rooms.room_nanos(name) for name in job_class.budgets if name in rooms.budgets)
    ways = []
    if job_class.endless:
        ways.append("ask for less for each replica, or for fewer of them (bursar service scale)")
    elif least > 0 and refusal.rate_nanos_per_hour > 0:
        overhead = job_class.hold_us - job_class.time_limit_us
        limit_us = longest_hold_us(refusal.rate_nanos_per_hour, least) - overhead
        if SECOND_US <= limit_us < job_class.time_limit_us:
            left = text.at_most(least, cash)
            ways.append(f"set --time-limit {text.duration(limit_us)} or less to fit the {left} left")
    if refusal.code == ReasonCode.BUDGET_COMMITTED:
        ways.append("wait until running jobs give back what they do not use")
    elif room.renews_at:
        ways.append(f"wait until it renews at {text.instant(room.renews_at)}")
    ways.append(f"raise {_raises(job_class, refusal, rooms)}")
    return ", or ".join(ways)


def _raises(job_class: JobClass, refusal: Refusal, rooms: Rooms) -> str:
    """By how much each limit that is too low must rise: one that waits for two is helped by both alone."""
    found = []
    for name in job_class.budgets:
        room = rooms.budgets.get(name)
        missing = refusal.needed_nanos - rooms.room_nanos(name) if room is not None else 0
        if room is None or missing <= 0:
            continue
        missing += rooms.short_ahead_nanos(name)
        called = f"max_cost of {array_name(room)}" if room.array else f"budget {name}"
        called = "the budget" if name == refusal.budget else called
        found.append(f"{called} by {text.at_least(missing, room.currency)}")
    return " and ".join(found)


def array_name(cap: BudgetRoom) -> str:
    """The array whose own `max_cost` this is, as people call it."""
    return cap.array if cap.array == UNNUMBERED else f"array {cap.array}"
