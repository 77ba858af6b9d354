"""What an idle policy tells of an attempt and does with it, with what was seen and what it cost."""

from __future__ import annotations

from typing import Final

from bursar.clock import HOUR_US, SECOND_US, format_duration
from bursar.model import EndCause
from bursar.model.ends import UNUSED
from bursar_policies.idleness import ATTENDANCE, GPU, OWN, Rule, Sight, Spell, left_us
from bursard.events import AttemptIdle, Event, IdleActed, JobHeld, JobRequeued, StopRequested
from bursard.state.core import State
from bursard.state.records import AttemptRecord

_BY: Final = {"sm": "of their multiprocessors", "utilization": "of utilization"}


def _evidence(
    attempt: AttemptRecord, rule: Rule, spell: Spell, sight: Sight
) -> tuple[str, str, str, str, int, int, int]:
    """By which policy, on what ground, what is done, what was looked at, and what that said and cost."""
    memory_bytes = -1 if sight.memory_bytes is None else sight.memory_bytes
    cost = cost_nanos(attempt, spell.idle_us)
    return rule.policy, rule.ground, rule.action, sight.by, most_ppm(spell), memory_bytes, cost


def warned(attempt: AttemptRecord, rule: Rule, spell: Spell, sight: Sight) -> AttemptIdle:
    """That it is idle, and what follows."""
    left = left_us(rule, spell)
    return AttemptIdle(attempt.id, spell.idle_us, left, *_evidence(attempt, rule, spell, sight))


def acted(state: State, attempt: AttemptRecord, rule: Rule, spell: Spell, sight: Sight) -> list[Event]:
    """That it is ended, and as what."""
    told = IdleActed(attempt.id, spell.idle_us, *_evidence(attempt, rule, spell, sight))
    cause = EndCause.CANCELLED if rule.action == "cancel" else EndCause.IDLE
    stop = StopRequested(attempt.id, cause, attempt.grace_us, _why(rule, spell, sight))
    if rule.action not in ("hold", "requeue"):
        return [told, stop]
    job = state.jobs[attempt.job_id]
    again: list[Event] = [JobRequeued(job.id)]
    if rule.action == "hold" and not job.held:
        again.append(JobHeld(job.id))
    return [told, *again, stop]


def cost_nanos(attempt: AttemptRecord, idle_us: int) -> int:
    """What it cost to hold all of it so long, at its rate; -1 where some node of it has no price."""
    return attempt.rate * idle_us // HOUR_US if attempt.priced else -1


def most_ppm(spell: Spell) -> int:
    """The largest share of work in it."""
    return min(round(spell.most * 1_000_000), 1_000_000)


def _why(rule: Rule, spell: Spell, sight: Sight) -> str:
    """For people; whoever may see the job may see it."""
    held = format_duration(spell.idle_us // SECOND_US * SECOND_US)
    whose = f" (idle policy {rule.policy})" if rule.policy != OWN else ""
    if rule.ground == ATTENDANCE:
        return f"{UNUSED} for {held}{whose}"
    below = f"{100 * rule.below:.0f} %"
    if rule.ground == GPU:
        what = f"all its GPUs were below {below} {_BY.get(sight.by, '')}".rstrip()
    else:
        what = f"it used less than {below} of its CPUs"
    return f"{what} for {held}, {100 * spell.most:.2g} % at most{whose}"
