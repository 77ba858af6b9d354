"""A supervisor that is lost before its job began: the mark says whether a process of it may have been."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.model import EndCause, JobState, RetrySpec
from bursar_agent.runner import spawning, truth
from bursar_agent.runner.layout import SPAWNING, START, STARTING, TAKEN_AT
from bursar_agent.runner.supervisor import Supervisor
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.state import JobRecord

STARTED = {"pid": 7, "pid_start_ticks": 3, "start_boot_us": 5}


def never_ran(directory: Path, mark: Any, start: dict[str, Any] | None = None) -> bool:
    (directory / STARTING).write_text(json.dumps(mark))
    if start is not None:
        (directory / START).write_text(json.dumps(start))
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return truth.never_ran(dir_fd)
    finally:
        os.close(dir_fd)


@pytest.mark.parametrize(
    ("mark", "start", "expected"),
    [
        ({"taken": 0}, None, True),
        ({"taken": 1}, None, True),
        ({"taken": 2}, None, False),
        ({"taken": 1}, STARTED, False),
        ({"taken": True}, None, False),
        ({}, None, False),
        ([], None, False),
    ],
)
def test_only_a_mark_that_says_so_says_that_nothing_ran(
    tmp_path: Path, mark: Any, start: dict[str, Any] | None, expected: bool
) -> None:
    assert never_ran(tmp_path, mark, start) is expected


def test_the_mark_is_changed_before_the_first_process_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The digit stands in the mark when a process is asked for. 2. The rest of the mark is as it was."""
    path = tmp_path / STARTING
    path.write_text(json.dumps({"taken": 1, "epoch": 4}))
    found: list[dict[str, Any]] = []

    def spawn(*_: Any) -> int:
        found.append(json.loads(path.read_text()))
        raise spawning.CannotStart("no")

    monkeypatch.setattr(spawning, "spawn", spawn)
    mark_fd = os.open(path, os.O_RDWR)
    request: dict[str, Any] = {"attempt_id": "att_1", "rank": 0, "log_cap_bytes": 1000}
    made = Supervisor(request, spawning.Host(), None, None, None, mark_fd)  # type: ignore[arg-type]
    made._attempt_dir_fd = -1
    monkeypatch.setattr(made, "_argv", lambda job: ["true"])
    monkeypatch.setattr(made._host, "job_cgroup", lambda request: None)
    assert not made._spawn(SimpleNamespace(argv=["true"], setup="", script=""))  # type: ignore[arg-type]
    os.close(mark_fd)
    assert found == [{"taken": 2, "epoch": 4}]
    assert (SPAWNING, path.read_bytes()[TAKEN_AT : TAKEN_AT + 1]) == (b"2", b"2")


def lost_unbegun(world: World, job: JobRecord) -> None:
    world.clock.advance(60 * SECOND_US)  # free tries in a row wait longer each time
    world.state.wake(world.engine.now())
    world.cycle()
    assert job.attempt is not None
    word = Exited(attempt_id=job.attempt.id, rank=0, cause=EndCause.NODE_LOST, message="gone")
    world.fleet.exited(world.node(), msgspec.structs.replace(word, started=True))
    world.writer.flush()


@pytest.mark.parametrize("retry", [RetrySpec(), RetrySpec(("start_failed",), 1)])
def test_what_a_node_lost_before_it_began_is_tried_again_for_free_and_not_for_ever(retry: RetrySpec) -> None:
    """1. Nothing of it ran, so the first two times cost it none of its retries, and nothing else.
    2. The third is a failure like others. The node is remembered for each.
    """
    world = World()
    world.backend.connect(FACTS)
    job = world.submit(retry=retry)
    for times in (1, 2):
        lost_unbegun(world, job)
        assert (job.state, job.retries, job.settled_nanos) == (JobState.PENDING, 0, 0)
        assert (job.attempts[-1].cause, len(job.attempts)) == (EndCause.START_FAILED, times)
        assert len(world.node().misbehaved["lost what ran there"]) == times
    lost_unbegun(world, job)
    assert (job.state, job.retries) == ((JobState.PENDING, 1) if retry.max else (JobState.FAILED, 0))


def test_what_was_heard_to_run_did_not_end_unbegun() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    assert job.state is JobState.RUNNING
    lost_unbegun(world, job)
    assert job.state is JobState.FAILED
