"""What a change of a job leaves in the log: the fields that differ, which make its description anew."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.model import ArraySpec, CheckpointSpec, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursard.events import JobUpdated, decode, encode
from bursard.events.changes import difference, with_changes
from bursard.fleet.testing import World
from bursard.state.decide import jobs

SCRIPT = "echo a line of a script\n" * 1_800
TEXT = st.text(max_size=8)
SPECS = st.builds(
    JobSpec,
    name=TEXT,
    priority=st.integers(0, 100),
    preemptible=st.booleans(),
    labels=st.dictionaries(TEXT, TEXT, max_size=4).map(lambda one: tuple(sorted(one.items()))),
    options=st.lists(
        st.builds(
            ResourceRequest,
            st.none() | st.builds(GpuRequest, st.integers(1, 16), st.tuples(TEXT)),
            st.integers(0, 10_000),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_cost_nanos=st.integers(0, 2**100),
    currency=st.sampled_from(["", "USD"]),
    array=st.none() | st.just(ArraySpec(((0, 4, 1),), 2)),
    checkpoint=st.just(CheckpointSpec()) | st.just(CheckpointSpec("USR1", 5)),
    retry=st.just(RetrySpec()) | st.just(RetrySpec(("failed",), 2)),
    env=st.dictionaries(TEXT, TEXT, max_size=2).map(lambda one: tuple(sorted(one.items()))),
    script=TEXT,
)


@given(old=SPECS, new=SPECS)
@settings(max_examples=50)
def test_any_description_is_made_of_any_other_and_the_event_of_the_change(old: JobSpec, new: JobSpec) -> None:
    event = JobUpdated("job_1", difference(old, new))
    read = decode(encode(event))
    assert isinstance(read, JobUpdated)
    assert with_changes(old, read.fields) == new
    assert set(read.fields) == {
        name for name in JobSpec.__struct_fields__ if getattr(old, name) != getattr(new, name)
    }


def test_of_labels_only_those_that_changed_are_told() -> None:
    old = JobSpec(labels=(("a", "1"), ("b", "2"), ("c", "3")))
    new = JobSpec(labels=(("a", "1"), ("b", "4"), ("d", "5")))
    assert difference(old, new) == {"labels": {"b": "4", "c": None, "d": "5"}}


def test_a_field_that_returns_to_its_default_is_told() -> None:
    assert difference(JobSpec(priority=80), JobSpec()) == {"priority": 50}
    assert with_changes(JobSpec(priority=80), {"priority": 50}) == JobSpec()


def test_what_is_no_value_of_a_field_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        with_changes(JobSpec(), {"priority": "high"})


@pytest.mark.parametrize("tasks", [0, 50])
def test_a_change_of_a_job_with_a_long_script_writes_one_small_event(tasks: int) -> None:
    world = World()
    array = ArraySpec(((0, tasks, 1),), 0) if tasks else None
    job = world.submit(script=SCRIPT, command=(), array=array)
    [event] = jobs.update(world.state, job, {"priority": 70})
    assert encode(event) == (
        b'{"type":"job-updated","job_id":"%s","fields":{"priority":70},"changed":[["priority","50","70"]],"v":3}'
        % job.id.encode()
    )
    world.engine.commit([event], "ann")
    assert (job.spec.priority, job.spec.script) == (70, SCRIPT)
    assert all(task.spec is job.spec for task in world.state.tasks.get(job.id, {}).values())
    assert len(world.state.tasks.get(job.id, {})) == tasks


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    world = World()
    job = world.submit(priority=70, labels=(("a", "1"),))
    same = {"priority": 70, "labels": (("a", "1"),), "name": "", "options": job.spec.options}
    assert jobs.update(world.state, job, same) == []
