"""How long a job that is asked to end keeps others waiting for its place is the site's to bound."""

from __future__ import annotations

import pytest

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.model import CheckpointSpec
from bursard.fleet.testing import FACTS, World
from bursard.state import Limits, State
from bursard.state.decide import jobs


def asking(hours: int) -> CheckpointSpec:
    return CheckpointSpec("USR1", hours * HOUR_US)


def test_a_longer_grace_than_the_site_allows_is_refused_with_the_most_there_is() -> None:
    world = World()
    with pytest.raises(InvalidRequest, match="is longer than this site lets a job"):
        world.submit(checkpoint=asking(24))
    job = world.submit(checkpoint=asking(1))
    with pytest.raises(InvalidRequest, match="at most 1h00m"):
        jobs.update(world.state, job, {"checkpoint": asking(2)})


def test_what_came_before_the_bound_keeps_its_grace_and_may_be_changed_otherwise() -> None:
    world = World(State(Limits(grace_max_us=24 * HOUR_US)))
    world.backend.connect(FACTS)
    job = world.submit(checkpoint=asking(24))
    world.state.limits = Limits()
    assert jobs.update(world.state, job, {"time_limit_us": 3 * HOUR_US})
