"""The steps of a member that has ended, from the records that its processes left.

Owns    what of them is believed. Input: a file that anybody in the job may have written.
Why     no money, no state and no budget rests on them: they say of themselves how they ended, and the end of
        their job tells of it.
"""

from __future__ import annotations

from typing import Protocol

from bursar.errors import BursarError
from bursar.model import Exit, Step, Steps
from bursar.model.steps import HELD_US_MAX, STEP_STATES, told_of
from bursar.steps import records
from bursar_agent.stimuli import Key


class Reads(Protocol):
    """As much of a `Runner` as is needed."""

    def read_steps(self, attempt_id: str, rank: int) -> bytes | None:
        """See `Runner.read_steps`."""
        ...


def told_steps(runner: Reads, key: Key, exit: Exit) -> Steps | None:
    """All steps of a member; None where there were none that can be told of."""
    try:
        data = runner.read_steps(*key)
    except (BursarError, OSError):
        return None
    return told_of(_step(one, exit) for one in records.read(data)) if data else None


def _step(one: records.Told, exit: Exit) -> Step:
    """Times are of the member's own: a record that lies outside of it is cut to it."""
    held_us = min(max(exit.held_us, 0), HELD_US_MAX)
    after_us = min(max(one.begun_us - exit.started_boot_us, 0), held_us) if exit.started_boot_us else 0
    ran_us = one.ended_us - one.begun_us if one.ended_us else held_us
    state = next(state for state in STEP_STATES if state == one.state)
    return Step(
        number=one.number,
        state=state,
        name=one.name,
        tasks=one.tasks,
        nodes=one.nodes,
        exit_code=one.exit_code,
        signal=one.signal,
        rank=one.rank,
        after_us=after_us,
        elapsed_us=min(max(ran_us, 0), held_us - after_us),
    )
