"""What a job that tells its steps is expected to cost: what it has cost, and its other steps at its pace."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from bursar.clock import HOUR_US
from bursar.model import NodeFacts
from bursar.v1 import types_pb2 as pb
from bursard.engine import Engine
from bursard.fleet.testing import World
from bursard.services.history import add_expected

USD = 10**9


@pytest.mark.parametrize(
    ("told", "share_of_an_hour"),
    [
        ({"step": 100, "total": 1_000, "steps_per_second": 0.5}, 0.5),  # 900 steps in 1,800 s
        ({"step": 1_000, "total": 1_000, "steps_per_second": 9.0}, 0.0),
        ({"step": 1, "total": 10**9, "steps_per_second": 1.0}, None),  # no more than it can cost at most
        ({"step": 100, "steps_per_second": 0.5}, -1),  # of no total nothing is known
        ({"step": 100, "total": 1_000}, -1),
        ({"step": 100, "total": 1_000, "steps_per_second": float("inf")}, -1),
        ({"step": 100, "total": 1_000, "steps_per_second": float("nan")}, -1),
        ({"step": 100, "total": 1_000, "steps_per_second": -2.0}, -1),
    ],
    ids=str,
)
def test_a_job_costs_what_it_has_cost_and_its_other_steps_at_its_pace(
    told: dict[str, Any], share_of_an_hour: float | None
) -> None:
    world = World()
    world.backend.serve(world.fleet)
    world.backend.connect(NodeFacts(name="n-1", cpu_milli=4_000, memory_bytes=1 << 34))
    world.apply(
        "kind: CostModel\nname: local\nspec:\n  pool: local\n  node_capex: 1000000 USD\n  useful_life: 5y\n"
    )
    job = world.submit(time_limit_us=10 * HOUR_US)
    world.cycle()
    world.backend.report()
    assert job.attempt is not None
    rate, spent, most = job.attempt.rate, 3 * USD, 90 * USD
    wire = pb.Job(settled_nanos=2 * USD, accrued_nanos=spent, estimate_max_nanos=most)
    wire.estimate_expected_nanos = -1
    wire.progress.MergeFrom(pb.Progress(**told))
    asyncio.run(add_expected(cast(Engine, world.engine), wire, job))
    if share_of_an_hour is None:
        assert wire.estimate_expected_nanos == most
    elif share_of_an_hour < 0:
        assert wire.estimate_expected_nanos == -1
    else:
        assert rate > 0
        assert wire.estimate_expected_nanos == pytest.approx(spent + rate * share_of_an_hour, rel=1e-6)
