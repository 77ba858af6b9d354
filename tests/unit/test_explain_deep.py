"""Why a job waits behind very many is told without looking at each of them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.resources import ResourceRequest
from bursar_policies.decision import AHEAD_SHOWN
from bursard.fleet.testing import FACTS, World

explain = importlib.import_module("bursard.scheduler.explain")  # the package has its function by this name
TOO_MUCH = (ResourceRequest(None, 64_000, 1 << 20),)


def test_of_many_jobs_ahead_those_that_are_named_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    real = explain._Place

    def place(*parts: Any) -> Any:
        looked.append(parts)
        return real(*parts)

    monkeypatch.setattr(explain, "_Place", place)
    world = World()
    world.backend.connect(FACTS)
    waiting = [
        world.submit(options=TOO_MUCH, priority=priority) for priority in (50, 60, 50) for _ in range(40)
    ]
    last = world.submit(options=TOO_MUCH)
    snapshot = world.state.snapshot(last.id)
    index = next(row for row, queue in enumerate(snapshot.queues) if queue.position_of(last.id) >= 0)
    found = explain.explain(snapshot, index, world.engine.now(), last.id)
    assert found.ahead_total == 120
    assert [one.job_id for one in found.ahead] == [job.id for job in waiting[40 : 40 + AHEAD_SHOWN]]
    assert {one.why for one in found.ahead} == {"priority 60"}
    assert len(looked) == 2 * AHEAD_SHOWN


def test_what_starts_before_it_is_not_ahead() -> None:
    world = World()
    world.backend.connect(FACTS)
    starts = world.submit(options=(ResourceRequest(None, 1_000, 1 << 20),), priority=60)
    first, last = world.submit(options=TOO_MUCH), world.submit(options=TOO_MUCH)
    snapshot = world.state.snapshot(last.id)
    index = next(row for row, queue in enumerate(snapshot.queues) if queue.position_of(last.id) >= 0)
    found = explain.explain(snapshot, index, world.engine.now(), last.id)
    assert ([one.job_id for one in found.ahead], found.ahead_total) == ([first.id], 1)
    assert starts.id not in {one.job_id for one in found.ahead}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=60))
def test_the_first_are_those_of_the_lowest_key_and_then_the_earliest(keys: list[int]) -> None:
    key = np.array(keys, dtype=np.int64)
    rows = np.flatnonzero(key < 5)
    expected = sorted(rows.tolist(), key=lambda row: (keys[row], row))[:AHEAD_SHOWN]
    assert set(explain._first(rows, key).tolist()) == set(expected)
