"""What projects have cost of late: by day, for as long as a policy can look back, and through an image."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US
from bursar_policies.decision import JobColumns
from bursar_policies.document import parse_documents
from bursard.fleet.testing import World
from bursard.state import image
from bursard.state.compare import differences
from bursard.state.decide import policies
from bursard.state.projects import DAYS_MAX, DayCosts, ProjectCosts, ProjectNumbers


def test_costs_are_summed_over_the_last_days_up_to_the_newest():
    costs = ProjectCosts()
    costs.add(10 * DAY_US, "a", 5)
    costs.add(11 * DAY_US, "a", 7)
    costs.add(12 * DAY_US - 1, "b", 1)
    assert costs.of_last(1) == {"a": 7, "b": 1}
    assert costs.of_last(2) == {"a": 12, "b": 1}
    costs.add(13 * DAY_US, "b", 2)
    assert costs.of_last(1) == {"b": 2}
    assert costs.of_last(3) == {"a": 7, "b": 3}
    costs.add(11 * DAY_US, "a", -7)
    assert costs.of_last(3) == {"a": 0, "b": 3}


def test_days_that_no_policy_can_look_back_on_are_forgotten():
    costs = ProjectCosts()
    costs.add(DAY_US, "a", 5)
    costs.add(DAYS_MAX * DAY_US, "b", 1)
    assert costs.of_last(DAYS_MAX) == {"a": 5, "b": 1}
    costs.add((DAYS_MAX + 1) * DAY_US, "b", 1)
    assert [one.day for one in costs.image()] == [DAYS_MAX, DAYS_MAX + 1]
    costs.add(DAY_US, "a", 5)
    assert costs.of_last(DAYS_MAX) == {"b": 2}


def test_an_image_of_costs_goes_on_exactly_from_there():
    costs = ProjectCosts()
    for at, project, nanos in ((3 * DAY_US, "b", 2), (3 * DAY_US, "a", 1), (DAY_US, "a", 4)):
        costs.add(at, project, nanos)
    assert costs.image() == [DayCosts(1, {"a": 4}), DayCosts(3, {"a": 1, "b": 2})]
    again = ProjectCosts.from_image(costs.image(), whole=False)
    assert (costs.whole, again.whole) == (True, False)
    assert again.image() == costs.image()
    again.add(2 * DAY_US, "c", 1)
    assert again.of_last(2) == {"a": 1, "b": 2, "c": 1}
    assert costs.of_last(2) == {"a": 1, "b": 2}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=40))
def test_a_number_names_the_project_that_waits_and_no_more_are_kept_than_wait(steps):
    numbers, here = ProjectNumbers(), []
    most = 0
    for comes, project in steps:
        if comes:
            here.append((numbers.join(project), project))
        elif here:
            numbers.leave(here.pop(0)[0])
        most = max(most, len({project for _, project in here}))
        names = numbers.names()
        assert all(names[number] == project for number, project in here)
        assert len(names) == most


def test_the_state_gives_a_plan_the_policy_in_force_and_what_projects_cost():
    world = World()
    job = world.submit(project="research/vision")
    shot = world.state.snapshot()
    assert (shot.priority, shot.spent) == (None, {})
    (queue,) = shot.queues
    assert queue.jobs == JobColumns.of(
        [(job.order, job.id, queue.jobs.limits_us.item(0), job.submitted_at, 0)]
    )
    assert shot.projects == ("research/vision",)
    text = "kind: PriorityPolicy\nname: {}\nspec: {{weights: {{{}: 1}}}}\n"
    for name, factor in (("one", "age"), ("two", "fair_share")):
        documents = parse_documents(text.format(name, factor), "p.yaml")
        world.engine.commit(policies.apply_documents(world.state, documents, world.engine.now()), "t")
    world.state.costs.add(world.engine.now(), "research/vision", 7)
    shot = world.state.snapshot()
    assert shot.priority is not None
    assert shot.priority.weights == (("fair_share", 1_000),)
    assert shot.spent == {"research/vision": 7}
    again = image.decode(image.encode(world.state, world.engine.now()))
    assert again.priority == shot.priority
    assert again.costs.image() == world.state.costs.image()
    assert again.costs.whole
    assert again.snapshot().queues == shot.queues
    world.engine.commit(policies.remove(world.state, "PriorityPolicy", "two"), "t")
    assert world.state.snapshot().priority is not None
    assert world.state.snapshot().priority.weights == (("age", 1_000),)
    world.engine.commit(policies.remove(world.state, "PriorityPolicy", "one"), "t")
    assert world.state.snapshot().priority is None


def test_a_job_that_may_not_begin_yet_waits_from_its_begin_time():
    world = World()
    begins = world.engine.now() + DAY_US
    job = world.submit(begin_after=begins)
    assert job.id not in world.state.pending
    world.state.wake(begins)
    (queue,) = world.state.snapshot().queues
    assert queue.jobs.since_us.tolist() == [begins]


def test_an_audit_compares_what_projects_cost_unless_an_image_never_counted_it_all():
    world = World()
    world.state.costs.add(DAY_US, "a", 5)
    other = json.loads(image.encode(world.state, 1))
    other["costs"][0]["nanos"]["a"] = 6
    (found,) = differences(json.dumps(other).encode(), world.state)
    assert found == "costs[0].nanos.a is 6, the log says 5"
    del other["costs_whole"]
    assert differences(json.dumps(other).encode(), world.state) == []


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_project_keeps_its_name_in_a_snapshot_whatever_waits_later(name):
    numbers = ProjectNumbers()
    kept = numbers.join("a")
    frozen = numbers.names()
    numbers.leave(kept)
    numbers.join(name)
    assert frozen == ("a",)
