"""The warning before the limit, by a clock that the test moves: the supervisor's own decisions."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import spawning, supervisor, tree
from bursar_agent.runner.supervisor import AFTER_WARNING_US, TERM_TO_KILL_US, WARN_AGAIN_US, Supervisor

LIMIT_US = 3_600_000_000
WARN_US = 60_000_000
GRACE_US = 90_000_000


class World:
    """Who heeds a signal, and what was sent."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.heeds: set[int] = set()
        self.sent: list[tuple[int, int]] = []

    def send(self, pids: list[int], number: int) -> int:
        self.sent += [(pid, number) for pid in pids]
        return len(pids)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    made = World()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "boot_us", lambda: made.now)
    monkeypatch.setattr(tree, "descendants", lambda pid: [70, 71])
    monkeypatch.setattr(tree, "catches", lambda pid, number: pid in made.heeds)
    monkeypatch.setattr(tree, "lineage", lambda pid, root: [(pid, pid)])
    monkeypatch.setattr(tree, "send", made.send)
    monkeypatch.setattr(os, "killpg", lambda pid, number: made.sent.append((-pid, number)))
    return made


@pytest.fixture
def job(world: World) -> Supervisor:
    request: dict[str, Any] = {
        "attempt_id": "att_1", "rank": 0, "time_limit_us": LIMIT_US, "grace_us": GRACE_US,
        "checkpoint_signal": int(signal.SIGUSR1), "log_cap_bytes": 1000,
    }  # fmt: skip
    made = Supervisor(request, spawning.Host(), None, None, None, -1)  # type: ignore[arg-type]
    made._main_pid = 70
    made._warn_at = world.now + LIMIT_US - WARN_US
    return made


def at(world: World, job: Supervisor, now: int) -> None:
    world.now = now
    job._act_on_time(now)


def test_it_is_warned_once_and_ended_at_its_limit_with_the_time_of_one_that_was_warned(
    world: World, job: Supervisor
) -> None:
    world.heeds = {71}
    start, warned = world.now, world.now + LIMIT_US - WARN_US
    at(world, job, warned - 1)
    assert world.sent == []
    at(world, job, warned)
    at(world, job, start + LIMIT_US - 1)
    assert world.sent == [(71, signal.SIGUSR1)]
    assert (job._report["signal_sent_at"], job._stop_cause, job._timeout_ms()) == (warned, None, 1)
    at(world, job, start + LIMIT_US)
    assert job._stop_cause == "time_limit"
    assert world.sent[1:] == [(-70, signal.SIGTERM)]
    assert job._kill_at == start + LIMIT_US + AFTER_WARNING_US


def test_one_that_does_not_heed_it_yet_is_warned_again_until_it_does(world: World, job: Supervisor) -> None:
    warned = world.now + LIMIT_US - WARN_US
    at(world, job, warned)
    assert (world.sent, job._warn_at) == ([], warned + WARN_AGAIN_US)
    assert job._timeout_ms() == WARN_AGAIN_US // 1000 + 1
    world.heeds = {70}
    at(world, job, warned + WARN_AGAIN_US - 1)
    assert world.sent == []
    at(world, job, warned + WARN_AGAIN_US)
    at(world, job, warned + 2 * WARN_AGAIN_US)
    assert world.sent == [(70, signal.SIGUSR1)]


def test_one_that_never_heeds_it_is_asked_at_its_limit_as_if_there_were_no_warning(
    world: World, job: Supervisor
) -> None:
    start = world.now
    at(world, job, start + LIMIT_US - WARN_US)
    at(world, job, start + LIMIT_US - 1)
    world.heeds = {70, 71}
    at(world, job, start + LIMIT_US)
    assert world.sent == [(70, signal.SIGUSR1), (71, signal.SIGUSR1)]
    assert (job._stop_cause, job._term_at) == ("time_limit", start + LIMIT_US + GRACE_US)


def test_one_that_was_warned_is_not_asked_again_when_it_is_stopped_then_and_has_its_grace(
    world: World, job: Supervisor
) -> None:
    # As a script does that requeues itself when it is warned.
    world.heeds = {70}
    stopped = world.now + LIMIT_US - WARN_US
    at(world, job, stopped)
    job._stop("preempted", signal.SIGUSR1, GRACE_US)
    at(world, job, stopped + GRACE_US - 1)
    assert world.sent == [(70, signal.SIGUSR1)]
    assert (job._stop_cause, job._kill_at) == ("preempted", stopped + GRACE_US + TERM_TO_KILL_US)
    at(world, job, stopped + GRACE_US)
    assert world.sent[1:] == [(-70, signal.SIGTERM)]


def test_one_whose_limit_was_moved_since_it_was_warned_is_asked_when_it_is_stopped(
    world: World, job: Supervisor
) -> None:
    world.heeds = {70}
    at(world, job, world.now + LIMIT_US - WARN_US)
    job._warn_before_limit()
    job._stop("preempted", signal.SIGUSR1, GRACE_US)
    assert world.sent == [(70, signal.SIGUSR1), (70, signal.SIGUSR1)]


def test_one_that_was_warned_and_is_stopped_without_grace_is_ended_at_once(
    world: World, job: Supervisor
) -> None:
    world.heeds = {70}
    at(world, job, world.now + LIMIT_US - WARN_US)
    job._stop("cancelled", signal.SIGUSR1, 0)
    assert world.sent[0] == (70, signal.SIGUSR1)
    assert {(70, signal.SIGKILL), (71, signal.SIGKILL)} == {*world.sent[1:]}
