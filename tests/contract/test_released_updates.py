"""Schema 2 wrote the whole description with every change of a job: such logs open and say the same (P1).

Two jobs: one with a script, changed in its priority, there and back, its labels, comment and name; and an
array that moved to another project and asks for more. `killed`: a write-ahead log and no image; `stopped`: an
image.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from released import unpacked, without_images

from bursar.model import ArraySpec, JobSpec
from bursar.resources import ResourceRequest
from bursard.backup import inspect
from bursard.events import JobUpdated, decode, encode
from bursard.events.codec import schema_of
from bursard.replay import restore
from bursard.state import Limits
from bursard.store import SqliteStore

HOUR_US = 3_600_000_000
GIB = 1 << 30
TRAIN = JobSpec(
    name="train-b",
    project="nlp",
    options=(ResourceRequest(None, 1_000, GIB),),
    time_limit_us=HOUR_US,
    labels=(("stage", "2"), ("team", "a")),
    env=(("K", "v"),),
    script="#!/bin/bash\n" + "echo a line of a script\n" * 20,
    comment="once more",
)
SWEEP = JobSpec(
    name="sweep",
    project="vision",
    options=(ResourceRequest(None, 2_000, GIB),),
    time_limit_us=HOUR_US,
    array=ArraySpec(((0, 4, 1),), 2),
    command=("sweep",),
)


@pytest.mark.parametrize("name", ["killed", "stopped"])
@pytest.mark.parametrize("replayed", [True, False])
def test_jobs_that_were_changed_are_what_they_were(name: str, replayed: bool, tmp_path: Path) -> None:
    directory = unpacked("updates-2", name, tmp_path)
    if replayed:
        without_images(directory)
    store = SqliteStore(directory)
    state = restore(store, Limits())
    store.close()
    assert {job.number: job.spec for job in state.jobs.values() if not job.parent_id} == {1: TRAIN, 2: SWEEP}
    assert [task.spec for task in state.tasks["job_0000000002"].values()] == [SWEEP] * 2
    assert state.names == {"train-b": {"job_0000000001": None}, "sweep": {"job_0000000002": None}}
    assert inspect(directory).problems == ()


def test_a_change_of_then_is_read_as_all_that_the_job_was_and_survives_being_written_anew(
    tmp_path: Path,
) -> None:
    store = SqliteStore(unpacked("updates-2", "killed", tmp_path))
    rows = store.events(limit=100)
    store.close()
    assert {schema_of(row.payload) for row in rows} == {2}
    events = [decode(row.payload) for row in rows]
    assert [decode(encode(event)) for event in events] == events
    changes = [event for event in events if isinstance(event, JobUpdated)]
    assert [event.whole for event in changes] == [True] * 5
    assert changes[2].changed == (("name", "train", "train-b"), ("priority", "80", "50"))
    assert "priority" not in changes[2].fields, "its default was left out then too"
