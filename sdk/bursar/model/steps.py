"""The steps that a member of an attempt has started, and how they ended.

Owns    the values from the agent to the ledger, how many are told of, and what is said of those that failed.
Why     a job whose script goes on after `srun` has failed ends well, with nothing done; its record says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

import msgspec

from bursar.clock import SECOND_US
from bursar.words import plural

StepState = Literal["completed", "failed", "cancelled", "time_limit", "cut_off"]
"""Cut off: it still ran when its job ended, or was killed from outside."""
STEP_STATES: Final[tuple[StepState, ...]] = get_args(StepState)
STEPS_TOLD_MAX: Final = 16
"""Of one member; those that failed come before the others."""
STEPS_COUNTED_MAX: Final = 16_384
NAME_CHARS_MAX: Final = 28
HELD_US_MAX: Final = 2**53
"""What every reader of JSON can hold exactly."""
FAILED_STATES: Final = ("failed", "time_limit")
_NAMED_MAX: Final = 3
_SOON_US: Final = 30 * SECOND_US
"""One that was cut off so soon was left in the background by mistake; a server that ran beside the script's
own work was meant to end with it.
"""
_ORDER: Final = ("failed", "time_limit", "cut_off", "cancelled", "completed")


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. Durations are microseconds of boot time.

    Attributes:
        number: of the member that started it, from 0. member: its rank in the attempt.
        name: of its program, without a path.
        exit_code: the highest of its tasks; -1: a signal ended it, or it has not ended. signal: 0: none.
        rank: of the task that failed first; None: none did.
        after_us: since its member began. elapsed_us: that it ran.
    """

    number: int
    state: StepState
    name: str = ""
    tasks: int = 1
    nodes: int = 1
    exit_code: int = -1
    signal: int = 0
    rank: int | None = None
    after_us: int = 0
    elapsed_us: int = 0
    member: int = 0


class Steps(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of one member, or of an attempt.

    Attributes:
        failed: of them that ended badly by themselves. cut_off: that had not ended.
        told: by number, as many as are told of.
    """

    total: int
    failed: int = 0
    cut_off: int = 0
    told: tuple[Step, ...] = ()


def told_of(steps: Iterable[Step]) -> Steps | None:
    """All of one member in the form that is kept; None where there were none."""
    found = list(steps)
    if not found:
        return None
    first = sorted(found, key=lambda step: _ORDER.index(step.state))[:STEPS_TOLD_MAX]
    return Steps(
        total=len(found),
        failed=sum(step.state in FAILED_STATES for step in found),
        cut_off=sum(step.state == "cut_off" for step in found),
        told=tuple(sorted(first, key=lambda step: step.number)),
    )


def together(members: Iterable[tuple[int, Steps | None]]) -> Steps | None:
    """Of an attempt, by the ranks of its members."""
    found = [(rank, steps) for rank, steps in members if steps is not None]
    if not found:
        return None
    return Steps(
        total=sum(steps.total for _, steps in found),
        failed=sum(steps.failed for _, steps in found),
        cut_off=sum(steps.cut_off for _, steps in found),
        told=tuple(
            msgspec.structs.replace(step, member=rank) if rank else step
            for rank, steps in found
            for step in steps.told
        ),
    )


def unnamed(steps: Steps | None) -> Steps | None:
    """Without what was run, for whoever may not see that."""
    if steps is None:
        return None
    told = tuple(msgspec.structs.replace(step, name="") for step in steps.told)
    return msgspec.structs.replace(steps, told=told)


def failures_of(steps: Steps | None, *, ended_well: bool) -> str:
    """What failed of them, in words for a sentence: `1 of 3 steps failed: step 1 (python), exit code 1`.

    Args:
        ended_well: its job did, so that a step that had just begun then was lost with it.
    """
    if steps is None:
        return ""
    failed = [step for step in steps.told if step.state in FAILED_STATES]
    lost = [step for step in steps.told if step.state == "cut_off" and step.elapsed_us <= _SOON_US]
    parts = []
    if steps.failed:
        parts.append(_told(steps, steps.failed, "failed", failed))
    if lost and ended_well:
        parts.append(_told(steps, len(lost), "still ran when the script ended", lost))
    return "; ".join(parts)


def _told(steps: Steps, count: int, words: str, shown: Sequence[Step]) -> str:
    whole = "the only step" if steps.total == 1 else f"{count} of {plural(steps.total, 'step')}"
    return f"{whole} {words}{_named(shown, count)}"


def _named(steps: Sequence[Step], count: int) -> str:
    shown = [_one(step) for step in steps[:_NAMED_MAX]]
    more = count - len(shown)
    words = [*shown, *([f"and {more} more"] if more > 0 and shown else [])]
    return f": {', '.join(words)}" if words else ""


def _one(step: Step) -> str:
    name = f" ({step.name})" if step.name else ""
    how = {"time_limit": " at its time limit", "cut_off": ""}.get(step.state)
    if how is None:
        how = f" with exit code {step.exit_code}" if step.exit_code >= 0 else f" by signal {step.signal}"
    where = f" of rank {step.member}" if step.member else ""
    return f"step {step.number}{where}{name}{how}"
