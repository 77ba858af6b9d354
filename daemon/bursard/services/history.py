"""What a job may be expected to cost: what past runs of its name and size cost. Without them nobody knows.

Why     of its size: what a run on one CPU cost says nothing of the same script on two nodes with GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bursar.codec.amounts import exact, put_amounts
from bursar.model import JobSpec, JobState
from bursar.money import cumulative
from bursar.v1 import types_pb2 as pb
from bursard.engine import Engine
from bursard.forecast.completion import steps_left_us
from bursard.services.lookup import records_of
from bursard.state import JobRecord, State
from bursard.state.admission import cheapest_rate
from bursard.state.arrays import size_of
from bursard.store import JobFilter

HISTORY: Final = 20
"""Past runs of the same name and project that an expected cost rests on."""
HISTORY_MIN: Final = 3
UNKNOWN: Final = -1
PACE_MAX: Final = 1e12
"""Steps a second that are believed."""


class Expected(NamedTuple):
    """What one run costs, of an array one task, in nanos, and what that rests on. `UNKNOWN`: too few runs.

    Attributes:
        p90_nanos: nine of ten of `runs` runs cost no more; 0 of both: not known.
    """

    nanos: int
    basis: str
    p90_nanos: int = 0
    runs: int = 0


async def expected_cost(engine: Engine, spec: JobSpec, rate: int) -> Expected:
    """What it costs, at so many nanos an hour, to run for as long as runs like it did (`state/runs`). Of what
    ended before those were kept: the median cost of the last runs of this name and project that succeeded,
    of those that asked for as many nodes with as much on each.
    """
    found = engine.state.runs.expected(spec)
    if found is not None and rate >= 0:
        nanos, p90_nanos = cumulative(rate, found.p50_us), cumulative(rate, found.p90_us)
        return Expected(nanos, f"the median of {found.runs} runs like it", p90_nanos, found.runs)
    if not spec.name:
        return Expected(UNKNOWN, "a job without a name has no past runs to go by")
    query = JobFilter(states=(JobState.SUCCEEDED.value,), project=spec.project, name=spec.name, limit=HISTORY)
    page = await engine.read(lambda views: views.jobs(query))
    runs = await records_of(engine, page.rows)
    alike = (run for run in runs if _size(run.spec) == _size(spec))
    costs = sorted(run.settled_nanos // size_of(run) for run in alike)
    if len(costs) < HISTORY_MIN:
        return Expected(UNKNOWN, f"fewer than {HISTORY_MIN} past runs of this name and size to go by")
    return Expected(_median(costs), f"the median of {len(costs)} past runs of this name and size")


def _median(ordered: Sequence[int]) -> int:
    """The middle one, or the mean of the two in the middle, in whole nanos."""
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def _size(spec: JobSpec) -> tuple[object, ...]:
    """What a run holds while it runs, as it was asked for."""
    return spec.nodes, spec.max_nodes, spec.options, spec.ordered, spec.constraints, spec.spot_policy


async def add_expected(engine: Engine, wire: pb.Job, job: JobRecord) -> None:
    """Say it of a job that waits or runs: no less than it has cost, no more than it can cost at most. Of one
    that tells how far it has come, by that; else by runs like it.
    """
    if job.state.terminal or wire.estimate_max_nanos < 0:
        return
    if (nanos := _at_completion(wire, job)) is not None:
        settled, most = exact(wire, "settled_nanos"), exact(wire, "estimate_max_nanos")
        put_amounts(wire, estimate_expected_nanos=min(max(nanos, settled), most))
        return
    found = await expected_cost(engine, job.spec, _rate_of(engine.state, job))
    if found.nanos != UNKNOWN:
        settled, most = exact(wire, "settled_nanos"), exact(wire, "estimate_max_nanos")
        put_amounts(wire, estimate_expected_nanos=min(max(found.nanos * size_of(job), settled), most))


def _at_completion(wire: pb.Job, job: JobRecord) -> int | None:
    """What it will have cost when it has made all its steps at its pace; None where it does not tell."""
    attempt, told = job.attempt, wire.progress
    if attempt is None or not attempt.priced or not told.HasField("steps_per_second"):
        return None
    if not 0 < told.steps_per_second < PACE_MAX:  # nor what is no number
        return None
    left_us = steps_left_us(told.step, told.total, int(told.steps_per_second * 1_000_000))
    return None if left_us is None else exact(wire, "accrued_nanos") + cumulative(attempt.rate, left_us)


def _rate_of(state: State, job: JobRecord) -> int:
    """Of one run, where it is or where it is cheapest; -1: no price tells."""
    if job.attempt is not None:
        return job.attempt.rate if job.attempt.priced else -1
    rate = cheapest_rate(state, state.class_of_spec(job.spec, (), state.time_limit_of(job.spec)))
    return -1 if rate is None else rate
