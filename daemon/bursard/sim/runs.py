"""What a simulation remembers beside the state: what became of each row, what lives, and its sums."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import msgspec

from bursar_policies.idleness import Rule, Spell
from bursard.sim.rows import JobRow, Pace


class JobRun(msgspec.Struct):
    """What became of one row of JOBS. Times are microseconds from the start; -1 for not yet.

    Attributes:
        work_us: how much of its duration is saved, at speed 1.
        wasted_nanos: cost of work that was lost with a node.
        held_idle_nanos: cost of what it held and did not use.
        state: a `JobState`, DROPPED (could not start when it arrived) or REFUSED (no budget can ever pay).
    """

    row: JobRow
    state: str = ""
    start_us: int = -1
    end_us: int = -1
    nodes: tuple[str, ...] = ()
    cost_nanos: int = 0
    priced: bool = True
    attempts: int = 0
    work_us: Fraction = Fraction(0)
    wasted_nanos: int = 0
    never_fits: bool = False
    held_idle_nanos: int = 0


class Running(NamedTuple):
    """A live attempt: since when, how its slowest member gets on, and how long it restarts before that."""

    run: JobRun
    since_us: int
    pace: Pace
    restart_us: int = 0

    def needs_us(self, duration_us: int) -> int:
        """How long it is held until the job is done."""
        return self.restart_us + self.pace.needs_us(self.run.work_us, duration_us)


class IdleCourse(NamedTuple):
    """An attempt that does nothing, under one rule of an idle policy, as far as that is."""

    attempt_id: str
    rule: Rule
    spell: Spell


class Totals(msgspec.Struct):
    """Sums over the run. `*_milli_us`: thousandths of a GPU times microseconds."""

    used_nanos: int = 0
    idle_nanos: int = 0
    startup_nanos: int = 0
    on_demand_nanos: int = 0
    spot_nanos: int = 0
    absorbed_nanos: int = 0
    capacity_milli_us: int = 0
    allocated_milli_us: int = 0
    peak_allocated: int = 0
    peak_capacity: int = 1
    node_us: int = 0
    priced_node_us: int = 0
    preemptions: int = 0
    idle_told: int = 0
    idle_acted: int = 0
    cycles: int = 0
    decisions: int = 0
    cpu_ns: int = 0
