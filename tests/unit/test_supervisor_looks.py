"""Whoever comes to handle the signal late is told, until the limit is there or the grace is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import MAIN, NOW, Job, World, worlds

from bursar_agent.runner.supervisor import WARN_AGAIN_US


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    yield from worlds(monkeypatch, tmp_path)


def test_until_the_limit_each_process_is_told_once_when_it_has_a_handler(world: World) -> None:
    made = world.job(Job(warn_us=9_000_000), time_limit_us=10_000_000, checkpoint_signal=10, grace_us=5)
    made._limit_at, made._warn_at = NOW + 10_000_000, NOW + 1_000_000
    world.at(made, NOW + 999_999)
    assert world.sent == []
    world.at(made, NOW + 1_000_000)
    assert (world.sent, made._warned, made._warn_at) == ([], False, NOW + 1_000_000 + WARN_AGAIN_US)
    world.heeds = {MAIN}
    world.at(made, NOW + 2_000_000)
    world.heeds = {MAIN, 71}  # the script had its trap; its trainer has loaded its libraries by now
    world.at(made, NOW + 3_000_000)
    world.at(made, NOW + 4_000_000)
    assert (world.sent, made._warned) == ([(MAIN, 10), (71, 10)], True)
    world.sent = []
    world.at(made, NOW + 10_000_000)  # who was warned is not asked again
    assert (made._stop_cause, world.sent) == ("time_limit", [(-MAIN, 15)])


def test_one_whose_script_alone_is_told_looks_at_nothing_else(world: World) -> None:
    made = world.job(Job(script_only=True), checkpoint_signal=10, grace_us=5)
    world.heeds = {MAIN, 71}
    for at in (1, 2, 3):
        made._warn(NOW + at)
    assert world.sent == [(MAIN, 10)]


def test_within_the_grace_of_a_stop_too(world: World) -> None:
    made = world.job(Job())
    world.heeds = {MAIN}
    made._stop("preempted", 10, 5_000_000)
    assert (world.sent, made._look_at) == ([(MAIN, 10)], NOW + WARN_AGAIN_US)
    world.heeds = {MAIN, 71}
    world.at(made, NOW + WARN_AGAIN_US)
    assert (world.sent, made._look_at) == ([(MAIN, 10), (71, 10)], NOW + 2 * WARN_AGAIN_US)
    world.at(made, NOW + 5_000_000)
    world.heeds = {MAIN, 71, 72}
    world.at(made, NOW + 6_000_000)
    assert world.sent[2:] == [(-MAIN, 15)]
    assert made._look_at is None
