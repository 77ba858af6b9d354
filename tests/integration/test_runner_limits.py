"""Another time limit for a member that runs: real processes, each step held by a gate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar.errors import NotFound, WrongState
from bursar_agent.runner import pulse, truth
from bursar_agent.runner.testing import Bench, bench, play, until

HOUR_US = 3_600_000_000
RUNS = "echo runs; while :; do sleep 0.02; done"


def due_us(made: Bench, attempt: str) -> int:
    """When its job is over at the latest, counted from its start."""
    dir_fd = os.open(made.dir(attempt), os.O_RDONLY)
    try:
        start, due = truth.read_start(dir_fd), pulse.due_us(dir_fd)
        assert start is not None
        assert due is not None
        return due - int(start["start_boot_us"])
    finally:
        os.close(dir_fd)


def test_a_limit_given_while_it_runs_is_the_one_that_ends_it_whoever_was_killed(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", RUNS, time_limit_us=HOUR_US, grace_us=0)
        await made.log_has("att_1", b"runs")
        await made.runner.limit("att_1", 0, 3 * HOUR_US)
        assert due_us(made, "att_1") == 3 * HOUR_US + pulse.TERM_TO_KILL_US
        await made.runner.shutdown_launcher()
        async with bench(made.directory) as after:  # another agent, after the first one's end
            (found,) = await after.runner.adopt()
            assert (found.state, due_us(after, "att_1")) == ("running", 3 * HOUR_US + pulse.TERM_TO_KILL_US)
            await after.runner.limit("att_1", 0, 1)
            report = await after.ended("att_1")
        assert (report.end_cause, report.signal) == ("time_limit", 9)
        with pytest.raises(NotFound):
            await made.runner.limit("att_2", 0, HOUR_US)
        await made.runner.limit("att_1", 0, HOUR_US)  # over: its end is told

    play(tmp_path / "run", story)


def test_a_supervisor_of_an_older_release_keeps_its_limit_and_that_is_said(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", RUNS, time_limit_us=HOUR_US)
        await made.log_has("att_1", b"runs")
        await until(lambda: made.recorded("att_1"))
        record = made.dir("att_1") / "start.json"
        older = record.read_text().replace('"takes_limits": true', '"x": 0')
        record.write_text(older)
        with pytest.raises(WrongState, match="its supervisor is of an older release"):
            await made.runner.limit("att_1", 0, 1)
        assert not (made.dir("att_1") / "limit").is_symlink()

    play(tmp_path / "run", story)
