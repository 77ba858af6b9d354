"""What a job may be expected to cost: what past runs of its name and size cost. Without them nobody knows.

Why     of its size: what a run on one CPU cost says nothing of the same script on two nodes with GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bursar.codec.amounts import exact, put_amounts
from bursar.model import JobSpec, JobState
from bursar.v1 import types_pb2 as pb
from bursard.engine import Engine
from bursard.services.lookup import records_of
from bursard.state import JobRecord
from bursard.state.arrays import size_of
from bursard.store import JobFilter

HISTORY: Final = 20
"""Past runs of the same name and project that an expected cost rests on."""
HISTORY_MIN: Final = 3
UNKNOWN: Final = -1


class Expected(NamedTuple):
    """What one run costs, of an array one task, in nanos, and what that rests on. `UNKNOWN`: too few runs."""

    nanos: int
    basis: str


async def expected_cost(engine: Engine, spec: JobSpec) -> Expected:
    """The median cost of the last runs of this name and project that succeeded, of those that asked for
    as many nodes with as much on each.
    """
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
    return spec.nodes, spec.options, spec.ordered, spec.constraints, spec.spot_policy


async def add_expected(engine: Engine, wire: pb.Job, job: JobRecord) -> None:
    """Say it of a job that waits or runs: no less than it has cost, no more than it can cost at most."""
    if job.state.terminal or wire.estimate_max_nanos < 0:
        return
    found = await expected_cost(engine, job.spec)
    if found.nanos != UNKNOWN:
        settled, most = exact(wire, "settled_nanos"), exact(wire, "estimate_max_nanos")
        put_amounts(wire, estimate_expected_nanos=min(max(found.nanos * size_of(job), settled), most))
