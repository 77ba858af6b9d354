"""What a PriorityPolicy lets promises of deadlines have, and what a refusal says is in the way."""

from __future__ import annotations

import pytest
from tests.unit.test_promises import HALF, HOUR_US, WHOLE, broken, budget, promised, site, submit, told

from bursar.clock import Instant
from bursar.errors import DeadlineRefused, PolicyInvalid, RateLimited
from bursar.model import JobState
from bursar_policies.document import parse_documents
from bursar_policies.specs import PPM, PROMISE_HORIZON_US, PROMISE_USER_MAX, PriorityPolicySpec
from bursard.scheduler.text import instant
from bursard.state.decide.nodes import scheduling

POLICY = "kind: PriorityPolicy\nname: fair\nspec: {{promises: {{{}}}}}\n"


def bounded(said: str, *names: str):
    world = site(*names)
    world.apply(POLICY.format(said))
    return world


def spec_of(said: str) -> PriorityPolicySpec:
    [document] = parse_documents(POLICY.format(said), "test")
    assert isinstance(document.spec, PriorityPolicySpec)
    return document.spec


def test_what_bounds_promises_is_read_and_is_as_everywhere_where_nothing_is_said():
    spec = spec_of("horizon: 7d, share: 50%, per_user: 20")
    assert spec.promise_horizon_us == 7 * 24 * HOUR_US
    assert (spec.promise_share_ppm, spec.promise_user_max) == (PPM // 2, 20)
    plain = PriorityPolicySpec()
    assert not plain.bounds_promises
    assert (plain.promise_horizon_us, plain.promise_user_max) == (PROMISE_HORIZON_US, PROMISE_USER_MAX)
    assert spec_of("share: 100%") == spec_of("user_share: 100%") == plain
    assert spec_of("user_share: 25%").promise_user_ppm == PPM // 4
    assert spec_of("user_share: 25%").bounds_promises


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("horizon: 31d", "at most 30d"),
        ("share: 0%", "0.0001"),
        ("share: 101%", "100"),
        ("user_share: 0%", "0.0001"),
        ("user_share: 101%", "100"),
        ("per_user: -1", "0"),
        ("per_user: 1001", "1000"),
        ("per_person: 3", "per_user"),
    ],
)
def test_bounds_that_cannot_be_are_refused(said, why):
    with pytest.raises(PolicyInvalid, match=why):
        spec_of(said)


def test_a_user_has_no_more_promises_than_the_policy_lets_and_nobody_has_any_where_it_lets_none():
    world = bounded("per_user: 1", "n-1", "n-2", "n-3")
    submit(world, by_h=9)
    with pytest.raises(RateLimited, match=r"and 1 of one user \(`promises` of PriorityPolicy fair\)"):
        submit(world, by_h=9)
    submit(world, by_h=9, user="bob")
    world.apply(POLICY.format("per_user: 0"))
    with pytest.raises(DeadlineRefused, match="promised to nobody here"):
        submit(world, by_h=9, user="eve")
    assert len(world.state.promises.given) == 2  # what was promised before is kept


def test_a_place_is_no_further_ahead_than_the_policy_lets():
    world = bounded("horizon: 2d")
    submit(world, by_h=24 * 9)
    assert promised(world)[-1].start == world.engine.now() + 48 * HOUR_US
    with pytest.raises(DeadlineRefused, match=r"at most 2 days ahead \(`promises` of PriorityPolicy fair\)"):
        submit(world, by_h=24 * 9, begin_after=world.engine.now() + 49 * HOUR_US)


def test_promises_have_no_more_of_the_cluster_at_a_time_than_the_policy_lets():
    world = bounded("share: 50%", "n-1", "n-2")
    first = submit(world, by_h=1.1)
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=1.1)
    assert "by then promises have 50% of the cluster, all that they may (`prom" in caught.value.message
    told(world)
    assert first.state is JobState.RUNNING
    with pytest.raises(DeadlineRefused):  # what runs by its promise is part of that
        submit(world, by_h=1.1, options=HALF)
    other = world.submit(options=WHOLE, time_limit_us=HOUR_US // 60, priority=100)
    told(world)
    assert other.state is JobState.RUNNING  # who was promised nothing has the rest
    submit(world, by_h=2.2)  # the first has ended by then
    assert broken(world) == []


def test_what_is_more_than_promises_may_have_is_refused_with_both_numbers():
    world = bounded("share: 50%")
    with pytest.raises(DeadlineRefused, match=r"it asks for \d+ CPUs, and promises may have \d+ CPUs"):
        submit(world, by_h=9)
    submit(world, by_h=9, options=HALF)


def test_a_place_that_is_lost_is_found_again_whatever_the_policy_lets_by_then():
    world = bounded("share: 50%", "n-1", "n-2")
    mine = submit(world, by_h=9)
    world.apply(POLICY.format("share: 1%"))
    [at] = mine.promise.members
    node = world.state.nodes[at.node_id]
    world.engine.commit(scheduling(node, "drain", "repair"), "ops")
    told(world)
    assert broken(world) == []
    assert [member.node_id for member in mine.promise.members] != [at.node_id]


def test_a_refusal_names_the_promise_that_has_the_room_and_when_it_ends():
    world = site()
    mine = submit(world, by_h=1.1)
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=1.2, user="bob")
    until = instant(Instant(mine.promise.until))
    assert f"its room then is promised to job {mine.display} until {until}" in caught.value.message
    assert caught.value.facts["promised_to"] == mine.id


def test_a_refusal_names_the_promise_that_has_the_money():
    world = site("n-1", "n-2")
    submit(world, by_h=9)
    nanos = promised(world)[-1].nanos
    world = site("n-1", "n-2")
    world.apply(budget(nanos * 3 // 2))
    mine = submit(world, by_h=9)
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=9)
    assert f"its money is set aside for job {mine.display} until" in caught.value.message


def test_a_refusal_names_no_promise_where_none_is_in_the_way():
    world = site()
    running = world.submit(options=WHOLE, time_limit_us=3 * HOUR_US)
    told(world)
    assert running.state is JobState.RUNNING
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=2)
    assert "promised to" not in caught.value.message
    assert "promised_to" not in caught.value.facts


def test_promises_of_one_user_have_no_more_than_their_part_while_jobs_of_others_wait():
    world = bounded("user_share: 50%", "n-1", "n-2")
    submit(world, by_h=1.1)
    waits = world.submit(options=WHOLE, time_limit_us=HOUR_US, user="eve")
    with pytest.raises(DeadlineRefused) as caught:
        submit(world, by_h=1.15)
    assert (
        "by then promises to ann have 50% of what may be promised, all that they may while jobs of others"
        " wait (`promises` of PriorityPolicy fair)"
    ) in caught.value.message
    submit(world, by_h=2.3)  # the first has ended by then
    submit(world, by_h=1.15, user="bob")  # another's part is his own
    assert waits.state is JobState.PENDING


def test_where_nobody_waits_promises_of_one_user_have_all_that_may_be_promised():
    world = bounded("user_share: 50%", "n-1", "n-2")
    submit(world, by_h=9)
    submit(world, by_h=9, user="bob")  # he waits, and has his place
    world = bounded("user_share: 50%", "n-1", "n-2")
    mine = [submit(world, by_h=1.1) for _ in range(2)]
    assert all(one.promise.members for one in mine)


def test_a_job_that_is_more_than_the_part_of_one_user_is_told_both_numbers_while_others_wait():
    world = bounded("user_share: 50%")
    submit(world, by_h=9)
    world = bounded("user_share: 50%")
    world.submit(options=HALF, time_limit_us=HOUR_US, user="eve")
    with pytest.raises(DeadlineRefused, match=r"those to ann may, while jobs of others wait, have \d+ CPUs"):
        submit(world, by_h=9)
    submit(world, by_h=9, options=HALF)
