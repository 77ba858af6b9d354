"""Whatever is asked for, a deadline that a refusal names is promised when it is asked for; and what was
promised is kept on nodes that are there, or said to be broken, and why.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.test_promises import FACTS, HALF, HOUR_US, WHOLE, broken, budget, promised, site, submit, told

from bursar.clock import parse_instant
from bursar.errors import BudgetExceeded, DeadlineRefused
from bursar.model import JobState
from bursar.resources import ResourceRequest
from bursard.state.decide.nodes import scheduling

QUARTER = (ResourceRequest(None, FACTS.cpu_milli // 4, 0),)
ASKS = st.tuples(
    st.sampled_from([WHOLE, WHOLE, HALF, QUARTER]),
    st.integers(1, 2),
    st.integers(1, 240),  # minutes that it may run
    st.integers(1, 600),  # minutes until its deadline
    st.sampled_from(["ann", "bob"]),
)
POLICIES = st.sampled_from(
    [
        "",
        "",
        "kind: PriorityPolicy\nname: fair\nspec: {promises: {share: 60%}}\n",
        "kind: PriorityPolicy\nname: fair\nspec: {promises: {horizon: 4h}}\n",
        budget(40 * 10**9),
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ASKS, min_size=1, max_size=10), POLICIES, st.booleans(), st.integers(0, 2))
def test_a_deadline_that_is_named_is_promised_and_each_promise_is_kept_or_broken_with_its_cause(
    asks: list[tuple[tuple[ResourceRequest, ...], int, int, int, str]], policy: str, busy: bool, gone: int
) -> None:
    names = ("n-1", "n-2", "n-3")
    world = site(*names)
    if policy:
        world.apply(policy)
    if busy:
        world.submit(options=WHOLE, time_limit_us=2 * HOUR_US)
        told(world)
    for options, nodes, runs, by, user in asks:
        hours = {"hours": runs / 60, "user": user, "options": options, "nodes": nodes}
        try:
            job = submit(world, by / 60, **hours)  # type: ignore[arg-type]
        except BudgetExceeded:
            continue  # the budget could never pay for it
        except DeadlineRefused as error:
            before = len(promised(world))
            if "earliest_deadline" not in error.facts:
                continue
            named = parse_instant(error.facts["earliest_deadline"])
            assert named > world.engine.now() + by * HOUR_US // 60
            job = submit(world, 0, deadline_at=named, **hours)  # type: ignore[arg-type]
            assert len(promised(world)) == before + 1
        event = promised(world)[-1]
        assert event.until <= job.spec.deadline_at
        assert event.until - event.start >= runs * HOUR_US // 60
        for _ in range(2):
            told(world)
    assert broken(world) == []
    for name in names[:gone]:
        world.engine.commit(scheduling(world.node(name), "drain", "firmware"), "op")
    for _ in range(2 * len(asks) + 1):  # the look of a second sees to one lost place
        world.clock.advance(1_000_000)
        told(world)
    said = {one.job_id: one.cause for one in broken(world)}
    for job in list(world.state.jobs.values()):
        if job.promise is None or job.state is not JobState.PENDING:
            continue
        if job.promise.broken_at:
            assert said[job.id] == "node"
        else:
            on = [world.state.nodes[member.node_id] for member in job.promise.members]
            assert all(world.state.cluster.ready[node.row] for node in on)
            assert job.promise.until <= job.promise.by
