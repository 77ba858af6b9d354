"""What of a job may be changed, when, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bursar import errors
from bursar.cli.jobs import update
from bursar.client.asked import UPDATED_BY
from bursar.clock import HOUR_US
from bursar.model.check import SPOT_POLICIES
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursard.access.identity import Grant, Identity, Role, set_caller
from bursard.events import JobUpdated
from bursard.events.changes import with_changes

GIB = 1 << 30
DEADLINE = 1_900_000_000_000_000
CHANGES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "name": ({"name": "b"}, {"name": "b"}),
    "project": ({"project": "NLP/deep"}, {"project": "nlp/deep"}),
    "experiment": ({"experiment": "e2"}, {"experiment": "e2"}),
    "model": ({"model": "m"}, {"model": "m"}),
    "model version": ({"model_version": "v2"}, {"model_version": "v2"}),
    "labels are merged": ({"labels": {"b": "2"}}, {"labels": (("a", "1"), ("b", "2"))}),
    "nodes": ({"nodes": 3}, {"nodes": 3}),
    "a range of nodes": ({"nodes": 2, "max_nodes": 4}, {"nodes": 2, "max_nodes": 4}),
    "throughput": (
        {"throughput": [types_pb2.Throughput(gpu_type="H100", gpus=4, micro=2_000_000)]},
        {"throughput": (("H100", 4, 2_000_000),)},
    ),
    "deadline": (
        {"deadline_at": DEADLINE, "deadline_policy": "best-effort"},
        {"deadline_at": DEADLINE, "deadline_policy": "best-effort"},
    ),
    "a range of gpus": (
        {"gpus": types_pb2.GpuRequest(count=2), "gpus_least": 1},
        {
            "options": tuple(ResourceRequest(GpuRequest(count), 1_000, GIB) for count in (2, 1)),
            "ordered": True,
        },
    ),
    "gpus": (
        {"gpus": types_pb2.GpuRequest(count=2, types=["h100"])},
        {"options": (ResourceRequest(GpuRequest(2, ("H100",)), 1_000, GIB),)},
    ),
    "cpus and memory": (
        {"cpu_milli": 2_000, "memory_bytes": 2 * GIB},
        {"options": (ResourceRequest(None, 2_000, 2 * GIB),)},
    ),
    "time limit": ({"time_limit_us": 2 * HOUR_US}, {"time_limit_us": 2 * HOUR_US}),
    "priority": ({"priority": 0}, {"priority": 0}),
    "max cost": ({"max_cost_nanos": 5, "currency": "USD"}, {"max_cost_nanos": 5, "currency": "USD"}),
    "a large max cost": (
        {"max_cost_nanos_wide": types_pb2.Amount(nanos=str(12 * 10**18)), "currency": "USD"},
        {"max_cost_nanos": 12 * 10**18, "currency": "USD"},
    ),
    "max price": (
        {"max_price_nanos_per_hour": 7, "currency": "USD"},
        {"max_price_nanos_per_hour": 7, "currency": "USD"},
    ),
    "spot policy": ({"spot_policy": "on-demand"}, {"spot_policy": "on-demand"}),
    "preemptible": ({"preemptible": False}, {"preemptible": False}),
    "comment": ({"comment": "see #4"}, {"comment": "see #4"}),
}


async def changed(desk: Any, ref: str, **changes: Any) -> Any:
    return await desk.service.Update(pb.UpdateRequest(job=ref, **changes), None)


@pytest.mark.parametrize("case", CHANGES)
def test_of_a_pending_job_this_can_be_changed_and_is_written_down(at_a_desk: Any, case: str) -> None:
    asked, expected = CHANGES[case]

    async def story(desk: Any) -> None:
        ref = await desk.submit(labels=(("a", "1"),))
        order, before, old = desk.job(ref).order, desk.state.version, desk.job(ref).spec
        await changed(desk, ref, **asked)
        job = desk.job(ref)
        assert {name: getattr(job.spec, name) for name in expected} == expected
        assert job.order == order
        [(event, _)] = desk.log(before)
        assert isinstance(event, JobUpdated)
        assert set(event.fields) == {name for name in expected if getattr(old, name) != expected[name]}
        assert with_changes(old, event.fields) == job.spec

    at_a_desk(story)


def test_every_field_that_a_call_can_change_is_held_by_these_tests() -> None:
    asked = {name for given, _ in CHANGES.values() for name in given}
    snoozed = {"idle_snooze_us"}  # of test_idle_policy.py
    assert asked == {field.name for field in pb.UpdateRequest.DESCRIPTOR.fields} - {"job"} - snoozed


def test_gpus_change_in_each_alternative_and_those_that_became_equal_are_one(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        options = (
            ResourceRequest(GpuRequest(8), 1_000, GIB),
            ResourceRequest(GpuRequest(4), 1_000, GIB),
            ResourceRequest(GpuRequest(4), 2_000, GIB),
        )
        ref = await desk.submit(options=options)
        await changed(desk, ref, gpus=types_pb2.GpuRequest(count=0))
        assert desk.job(ref).spec.options == (
            ResourceRequest(None, 1_000, GIB),
            ResourceRequest(None, 2_000, GIB),
        )

    at_a_desk(story)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"nodes": 10_001}, "nodes: "),
        ({"gpus": types_pb2.GpuRequest(count=17)}, "resources.gpus"),
        ({"cpu_milli": 10**9}, "resources.cpus"),
        ({"project": "a//b"}, "project: "),
        ({"spot_policy": "cheap"}, "spot_policy: "),
        ({"max_cost_nanos": 5, "currency": "EUR"}, "USD"),
        ({"comment": "x" * 2_000}, "comment: "),
    ],
)
def test_a_change_has_the_bounds_of_a_submit(at_a_desk: Any, asked: dict[str, Any], words: str) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        before = desk.state.version
        with pytest.raises(errors.InvalidRequest) as refused:
            await changed(desk, ref, **asked)
        assert words in refused.value.message
        assert desk.state.version == before

    at_a_desk(story)


def test_a_running_job_takes_priority_and_comment_and_keeps_what_it_was_promised(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        desk.plan()
        desk.start_all()
        await changed(desk, ref, priority=90, comment="soon")
        assert (desk.job(ref).spec.priority, desk.job(ref).spec.comment) == (90, "soon")
        before = desk.state.version
        with pytest.raises(errors.WrongState) as refused:
            await changed(desk, ref, priority=80, time_limit_us=HOUR_US, cpu_milli=4_000)
        assert refused.value.message == (
            "job 1 is RUNNING: its resources cannot change, since nodes, limits and money were promised when"
            " it was placed; only priority, comment, idle snooze, time limit and max cost can. To run it"
            " otherwise:"
            " `bursar cancel 1`, then submit the changed job"
        )
        assert refused.value.facts == {"fields": "resources"}
        assert (desk.state.version, desk.job(ref).spec.priority) == (before, 90)
        await changed(desk, ref, priority=90)  # what is so already is no change
        assert desk.state.version == before

    at_a_desk(story)


def test_an_ended_job_is_not_changed(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        await desk.verb("cancel", ref)
        with pytest.raises(errors.WrongState, match="job 1 is CANCELLED, which nothing changes any more"):
            await changed(desk, ref, priority=1)

    at_a_desk(story)


def test_a_job_moves_only_to_a_project_in_which_its_owner_may_submit(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        set_caller(Identity("ann", None, grants=(Grant(Role.SUBMITTER, "default"),)))
        with pytest.raises(errors.Forbidden):
            await changed(desk, ref, project="vision")
        assert desk.job(ref).spec.project == "default"

    at_a_desk(story)


def test_the_verb_has_a_flag_for_each_change_and_the_words_of_the_rules() -> None:
    flags = {param.name for param in update.params if param.name}
    assert flags >= {*UPDATED_BY, "label", "gpus", "cpus", "memory"}
    [spot] = [param for param in update.params if param.name == "spot_policy"]
    assert tuple(spot.type.choices) == SPOT_POLICIES  # type: ignore[attr-defined]


def test_a_promise_that_was_asked_for_on_hold_is_made_when_it_is_released(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(time_limit_us=HOUR_US)
        await desk.service.Hold(pb.JobsRequest(jobs=[ref]), None)
        by = desk.clock.now() + 9 * HOUR_US
        await changed(desk, ref, deadline_at=by)
        assert desk.job(ref).promise is None
        await desk.service.Release(pb.JobsRequest(jobs=[ref]), None)
        assert desk.job(ref).promise.by == by

    at_a_desk(story)
