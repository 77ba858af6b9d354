"""What a fresh course of changed lines passed over: both sides of a pace, a key, a name, a command line."""

from __future__ import annotations

import pytest

from bursar.errors import KeyConflict
from bursar.local import processes
from bursar.local.processes import KEEPER_MODULE, Process
from bursar.model import JobSpec
from bursard.ahead import DEPTH_MAX, QUEUED_US, ROUND_US, SHORT_ENDS_MIN, SHORT_US, _Pace
from bursard.fleet.testing import World
from bursard.state.decide import jobs


def test_jobs_wait_behind_a_share_once_enough_in_a_row_were_short() -> None:
    """1. None before so many. 2. The mean is of late. 3. One that is not short ends the row."""
    pace = _Pace()
    for _ in range(SHORT_ENDS_MIN - 1):
        pace.add(SHORT_US)
    assert (pace.depth, pace.mean_us) == (0, SHORT_US)
    pace.add(SHORT_US)
    assert pace.depth == min(QUEUED_US // (SHORT_US + ROUND_US), DEPTH_MAX)
    pace.add(SHORT_US // 2)
    assert pace.mean_us == (3 * SHORT_US + SHORT_US // 2) // 4
    pace.add(SHORT_US + 1)
    assert (pace.depth, pace.short_ends) == (0, 0)
    pace.add(7)
    assert (pace.mean_us, pace.short_ends) == (7, 1)


def test_a_key_stands_for_one_job_word_for_word() -> None:
    jobs.check_same(JobSpec(name="a"), JobSpec(name="a"), "k", "job_1")
    with pytest.raises(KeyConflict, match="idempotency key 'k' already belongs to job_1, which was a differ"):
        jobs.check_same(JobSpec(name="a"), JobSpec(name="b"), "k", "job_1")


def test_a_job_that_is_called_otherwise_is_found_by_its_new_name_alone() -> None:
    world = World()
    job = world.submit(name="old")
    assert list(world.state.names["old"]) == [job.id]
    world.engine.commit(jobs.update(world.state, job, {"name": "new"}, world.engine.now()), "ann")
    assert not world.state.names.get("old")
    assert list(world.state.names["new"]) == [job.id]
    world.engine.commit(jobs.update(world.state, job, {"name": ""}, world.engine.now()), "ann")
    assert not world.state.names.get("new")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["python", "-P", "-m", KEEPER_MODULE, "/s"], True),
        (["-m", KEEPER_MODULE, "/s"], True),
        ([KEEPER_MODULE, "/s"], False),
        (["python", "-c", KEEPER_MODULE, "/s"], False),
        (["python", "-m", "other", "/s"], False),
        (["python", "-m", KEEPER_MODULE, "/t"], False),
    ],
)
def test_a_keeper_is_known_by_its_command_line(
    words: list[str], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_command_lines", lambda: [(7, words), (8, ["sh"])])
    monkeypatch.setattr(processes, "noted", lambda pid: Process(pid, 1))
    assert processes.keepers("/s") == ([Process(7, 1)] if found else [])
