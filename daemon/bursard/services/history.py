"""What a job may be expected to cost: what past runs of its name cost. Without them nobody knows."""

from __future__ import annotations

from typing import Final, NamedTuple

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
    """The median of what those runs of this name and project have cost that succeeded."""
    if not spec.name:
        return Expected(UNKNOWN, "a job without a name has no past runs to go by")
    query = JobFilter(states=(JobState.SUCCEEDED.value,), project=spec.project, name=spec.name, limit=HISTORY)
    page = await engine.read(lambda views: views.jobs(query))
    runs = await records_of(engine, page.rows)
    costs = sorted(run.settled_nanos // size_of(run) for run in runs)
    if len(costs) < HISTORY_MIN:
        return Expected(UNKNOWN, f"fewer than {HISTORY_MIN} past runs of this name to go by")
    return Expected(costs[len(costs) // 2], f"the median of {len(costs)} past runs of this name")


async def add_expected(engine: Engine, wire: pb.Job, job: JobRecord) -> None:
    """Say it of a job that waits or runs, no more than it can cost at most."""
    if job.state.terminal or wire.estimate_max_nanos < 0:
        return
    found = await expected_cost(engine, job.spec)
    if found.nanos != UNKNOWN:
        wire.estimate_expected_nanos = min(found.nanos * size_of(job), wire.estimate_max_nanos)
