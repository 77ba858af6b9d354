"""What an update says that it changed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from bursar.model import JobSpec
from bursar.resources import ResourceRequest
from bursard.events import JobUpdated
from bursard.fleet.testing import World
from bursard.state.decide import jobs
from bursard.state.decide.changed import changed

SPEC = JobSpec(
    project="p",
    command=("true",),
    options=(ResourceRequest(None, 1_000, 1 << 30),),
    time_limit_us=3_600_000_000,
)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, ()),
        ({"time_limit_us": 5_400_000_000}, (("time limit", "1h00m", "1h30m"),)),
        ({"priority": 70, "name": "b"}, (("name", "", "b"), ("priority", "50", "70"))),
        (
            {"max_cost_nanos": 1_500_000_000, "currency": "EUR"},
            (("max cost", "", "1.500000000 EUR"), ("currency", "", "EUR")),
        ),
        ({"max_price_nanos_per_hour": 2_000_000_000}, (("max price", "", "2.000000000/h"),)),
        ({"labels": (("a", "1"), ("b", "2"))}, (("labels", "", "a=1 b=2"),)),
        ({"preemptible": False}, (("preemptible", "yes", "no"),)),
        ({"name": "x" * 101}, (("name", "", "x" * 99 + "…"),)),
        ({"name": "x" * 100}, (("name", "", "x" * 100),)),
    ],
)
def test_each_field_that_differs_is_told_in_words(fields: dict[str, Any], told: Any) -> None:
    assert changed(SPEC, replace(SPEC, **fields)) == told


@pytest.mark.parametrize(
    "fields", [{"command": ("hunter2",)}, {"env": (("KEY", "hunter2"),)}, {"comment": "hunter2"}]
)
def test_of_what_is_private_nothing_but_the_field_is_told(fields: dict[str, Any]) -> None:
    assert changed(SPEC, replace(SPEC, **fields)) == ((next(iter(fields)), "", ""),)


def test_resources_are_told_as_they_are_asked_for() -> None:
    more = (ResourceRequest(None, 2_000, 1 << 30),)
    [(field, old, new)] = changed(SPEC, replace(SPEC, options=more))
    assert (field, old, new) == ("resources", str(SPEC.options[0]), str(more[0]))


def test_the_event_of_an_update_says_what_changed() -> None:
    world = World()
    job = world.submit()
    [event] = jobs.update(world.state, job, {"priority": 70})
    assert event == JobUpdated(job.id, {"priority": 70}, (("priority", "50", "70"),))
