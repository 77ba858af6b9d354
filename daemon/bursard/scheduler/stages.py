"""Stages of budgets, as a plan goes by them: who comes later, who may use spot machines alone, who waits.

Why     a stage changes nothing of a job, which is as it was asked for and comes back to that when the limit
        is raised; it changes how plans see its queue. So every reader of a snapshot (plan, reason, explain,
        what-if) looks at it through `staged`, and all say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from bursar.model import Reason, ReasonCode
from bursar_policies.decision import BudgetRoom, JobClass, PendingQueue, Snapshot, Stage
from bursar_policies.specs import STOPPING
from bursard.scheduler import text

LOWERED_BY: Final = 101
"""From priorities of 0 to 100: behind everybody whose budgets have no such stage, in the same order."""
_APPROVAL: Final = "approval"
_GENTLE: Final = {
    "lower-priority": "puts its jobs behind others",
    "spot-only": "lets its jobs use spot machines alone",
}
Found = tuple[BudgetRoom, Stage]


def staged(snapshot: Snapshot) -> Snapshot:
    """The same world with queues as stages let a plan see them. Done again, it changes nothing."""
    if not any(room.stages for room in snapshot.budgets.values()):
        return snapshot
    queues = tuple(_queue(queue, snapshot.budgets) for queue in snapshot.queues)
    return replace(snapshot, queues=queues)


def _queue(queue: PendingQueue, budgets: Mapping[str, BudgetRoom]) -> PendingQueue:
    job_class = queue.job_class
    if queue.priority >= 0 and found(job_class, budgets, "lower-priority"):
        queue = replace(queue, priority=queue.priority - LOWERED_BY)
    if job_class.spot_policy == "auto" and found(job_class, budgets, "spot-only"):
        queue = replace(queue, job_class=replace(job_class, spot_policy="spot"))
    return queue


def found(job_class: JobClass, budgets: Mapping[str, BudgetRoom], *actions: str) -> Found | None:
    """The first of a class's budgets that is in a stage of one of these actions, and the stage."""
    for name in job_class.payers:
        room = budgets.get(name)
        stage = room.stage(*actions) if room is not None else None
        if room is not None and stage is not None:
            return room, stage
    return None


def stopping(job_class: JobClass, budgets: Mapping[str, BudgetRoom]) -> Found | None:
    """The stage that keeps jobs of a class from starting at all."""
    actions = (*STOPPING, "spot-only") if job_class.spot_policy == "on-demand" else STOPPING
    return found(job_class, budgets, *actions)


def code_of(stage: Stage) -> ReasonCode:
    """Why jobs wait under a stage that stops them."""
    return ReasonCode.APPROVAL_REQUIRED if stage.action == _APPROVAL else ReasonCode.BUDGET_EXHAUSTED


def since(room: BudgetRoom, stage: Stage) -> str:
    """The threshold behind a stage, with the numbers of now."""
    cash, share = room.currency, f"{stage.at_ppm / 10_000:g} %"
    figures = f"{text.money(room.settled_nanos, cash)} settled, {text.money(room.held_nanos, cash)} held"
    return f"{share} of its limit {text.money(room.limit_nanos, cash)} on {stage.on} ({figures})"


def reason(room: BudgetRoom, stage: Stage) -> Reason:
    """Why nothing starts under a stage, and what ends it."""
    said = {
        _APPROVAL: "lets nothing start that nobody has approved",
        "spot-only": "lets jobs use spot machines alone, and this one asks for others,",
    }.get(stage.action, "lets nothing more start")
    facts = (
        ("budget", room.name),
        ("stage", stage.action),
        ("on", stage.on),
        ("at_ppm", str(stage.at_ppm)),
        ("currency", room.currency),
        ("limit", str(room.limit_nanos)),
        ("settled", str(room.settled_nanos)),
        ("held", str(room.held_nanos)),
        ("renews_at", str(room.renews_at)),
    )
    message = f"budget {room.name} {said} since it passed {since(room, stage)}"
    return Reason(code_of(stage), message, remedy(room, stage), facts)


def remedy(room: BudgetRoom, stage: Stage) -> str:
    """What ends a stage."""
    ways = []
    if stage.action == _APPROVAL:
        ways.append(
            f"ask a project-admin or an operator to approve it (bursar budget approve {room.name} --reason"
            " TEXT)"
        )
    if stage.action == "spot-only":
        ways.append("let the job use spot machines (spot_policy: auto)")
    if room.renews_at:
        ways.append(f"wait until it renews at {text.instant(room.renews_at)}")
    ways.append(f"give it more (bursar budget grant {room.name} AMOUNT --reason TEXT)")
    return ", or ".join(ways)


def unapproved(room: BudgetRoom, needed_nanos: int, promised_nanos: int, endless: bool = False) -> Reason:
    """Why a job does not start that goes beyond what was approved."""
    cash = room.currency
    less = "ask for less for each replica" if endless else "set a shorter --time-limit"
    left = room.ceiling_nanos - room.settled_nanos - room.held_nanos - promised_nanos
    facts = (
        ("budget", room.name),
        ("stage", _APPROVAL),
        ("currency", cash),
        ("approved_left", str(left)),
        ("needed", str(needed_nanos)),
    )
    return Reason(
        ReasonCode.APPROVAL_REQUIRED,
        f"of what is approved of budget {room.name} {text.at_most(max(left, 0), cash)} is left, and this job"
        f" needs {text.at_least(needed_nanos, cash)} at most",
        f"ask a project-admin or an operator to approve more (bursar budget approve {room.name} --amount"
        f" AMOUNT --reason TEXT), or {less}",
        facts,
    )


def told(why: Reason, job_class: JobClass, budgets: Mapping[str, BudgetRoom]) -> Reason:
    """A reason to wait, with the gentler stages that the job waits under for so long."""
    for action, does in _GENTLE.items():
        pair = found(job_class, budgets, action)
        applies = action != "spot-only" or job_class.spot_policy == "auto"
        if pair is not None and applies:
            more = f"; budget {pair[0].name} {does} since it passed {since(*pair)}"
            facts = (*why.facts, ("stage", action), ("stage_budget", pair[0].name))
            why = Reason(why.code, why.message + more, why.remedy, facts)
    return why
