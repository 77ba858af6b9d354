"""Nodes come and go: one that is gone for good leaves the columns, and stays in the books."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.errors import WrongState
from bursar.model import EndCause, JobState, NodeFacts
from bursard import doctor
from bursard.access.identity import Identity, Role
from bursard.events import NodeBooted, NodeConnected, NodeRegistered, NodeRemoved, NodeSilent
from bursard.fleet.testing import FACTS, World
from bursard.scheduler import plan
from bursard.services.views import job_view
from bursard.sim.checks import node_cost
from bursard.state import Applied, State
from bursard.state import image as state_image

ANN = Identity("ann", Role.ADMIN)


def facts(name: str) -> NodeFacts:
    return msgspec.structs.replace(FACTS, name=name)


def remove(world: World, name: str) -> None:
    world.engine.commit(world.fleet.remove(world.node(name)), "root")
    world.writer.flush()


def refusal(world: World, name: str) -> str:
    with pytest.raises(WrongState) as caught:
        world.fleet.remove(world.node(name))
    return caught.value.message


def test_a_node_in_contact_or_with_work_is_not_removed_and_all_reasons_are_told() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    message = refusal(world, "n-1")
    assert "its agent is in contact" in message
    assert f"job {job.display} holds it" in message
    world.backend.disconnect("n-1")
    message = refusal(world, "n-1")
    assert "in contact" not in message
    assert "--confirm-dead" in message
    assert world.node("n-1").live


def test_a_node_where_one_rank_of_a_running_gang_has_ended_stays() -> None:
    world = World()
    world.backend.connect(facts("n-1"))
    world.backend.connect(facts("n-2"))
    job = world.submit(nodes=2)
    world.cycle()
    world.backend.report()
    assert job.attempt is not None
    for member in job.attempt.members:
        if member.alloc.node_id == world.node("n-1").id:
            world.backend.finish(job.attempt.id, member.alloc.rank)
    world.backend.report()
    assert not world.node("n-1").live
    world.backend.disconnect("n-1")
    assert "its gang runs" in refusal(world, "n-1")


def test_what_it_cost_is_closed_to_the_nano_and_its_name_is_free() -> None:
    world = World()
    node = world.backend.connect(FACTS)
    start = node.axis_start
    world.clock.advance(HOUR_US)
    world.backend.report()
    world.backend.disconnect("n-1")
    world.clock.advance(2 * HOUR_US + 7)
    remove(world, "n-1")
    assert world.state.node_by_name("n-1") is None
    assert world.events[-1] == NodeRemoved(node.id, "n-1")
    paid = sum(row.nanos for row in world.writer.charges if row.node_id == node.id)
    assert paid == node_cost(node.cost_rates, start, start + 3 * HOUR_US + 7)
    assert world.state.ledger.violations() == []
    again = world.backend.connect(facts("n-1"))
    assert again.id != node.id


def test_a_usage_that_was_not_metered_yet_is_in_the_closing_bill() -> None:
    world = World()
    node = world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    world.clock.advance(90 * SECOND_US)
    assert job.attempt is not None
    world.backend.finish(job.attempt.id, 0)
    for word in [world.backend._machines["n-1"].members[job.attempt.id, 0].end]:
        assert word is not None
        world.fleet.exited(node, word)
    assert node.ended
    world.backend.disconnect("n-1")
    remove(world, "n-1")
    paid = sum(row.nanos for row in world.writer.charges if row.node_id == node.id)
    assert paid == node_cost(node.cost_rates, node.axis_start, node.axis_start + 90 * SECOND_US)


def test_history_still_knows_its_name() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    assert job.attempt is not None
    world.clock.advance(60 * SECOND_US)
    world.backend.finish(job.attempt.id, 0)
    world.backend.report()
    world.backend.disconnect("n-1")
    remove(world, "n-1")
    assert job.state is JobState.SUCCEEDED
    kept = msgspec.json.decode(msgspec.json.encode(job), type=type(job))
    shown = job_view(world.state, kept, seen_by=ANN, now=0)
    assert [member.node for attempt in shown.attempts for member in attempt.members] == ["n-1"]
    assert {row.node_name for row in world.writer.charges} == {"n-1"}


def test_the_last_row_takes_the_free_place_with_all_it_holds() -> None:
    world = World()
    for name in ("n-1", "n-2", "n-3"):
        world.backend.connect(facts(name))
    for name in ("n-1", "n-2"):
        world.engine.commit([NodeSilent(world.node(name).id)], "test")
    job = world.submit()
    world.cycle()
    assert job.attempt is not None
    holder = world.node("n-3")
    assert holder.live
    world.backend.disconnect("n-1")
    remove(world, "n-1")
    columns = world.state.snapshot().nodes
    assert (columns.ids[holder.row], columns.names[holder.row]) == (holder.id, "n-3")
    assert columns.cpu_free[holder.row] == FACTS.cpu_milli - 1_000
    assert (len(columns.ids), len(columns.cpu_free), list(columns.ready)) == (2, 2, [True, False])
    assert world.state.members.columns().node.tolist() == [holder.row]
    assert [found for found in doctor.check_state(world.state) if not found.ok and "R1" in found.check] == []
    world.stop(job.attempt, EndCause.CANCELLED)
    world.backend.report()
    assert world.state.snapshot().nodes.cpu_free[holder.row] == FACTS.cpu_milli
    assert world.state.members.columns().node.tolist() == []
    read = state_image.decode(state_image.encode(world.state, 1), world.state.limits)
    assert list(read.snapshot().nodes.ids) == list(columns.ids)


def test_a_snapshot_that_was_taken_before_does_not_change() -> None:
    world = World()
    for name in ("n-1", "n-2"):
        world.backend.connect(facts(name))
    before = world.state.snapshot().nodes
    world.backend.disconnect("n-1")
    remove(world, "n-1")
    assert list(before.names) == ["n-1", "n-2"]
    assert list(before.cpu_free) == [FACTS.cpu_milli] * 2


def test_many_nodes_that_came_and_went_leave_columns_and_plans_as_short_as_before() -> None:
    """Of 3,000 nodes that pass through a cluster of 50, nothing is left but their lines in the log."""
    state, applied = State(), Applied()

    def come(number: int) -> None:
        node_id = f"node_{number}"
        for event in (
            NodeRegistered(node_id, facts(f"n-{number}")),
            NodeBooted(node_id, "b", 1, 1),
            NodeConnected(node_id),
        ):
            state.apply(event, 1, applied)

    for number in range(50):
        come(number)
    rows, room = len(state.cluster.ids), len(state.cluster.cpu_free)
    for number in range(50, 3_050):
        come(number)
        state.apply(NodeRemoved(f"node_{number - 25}", f"n-{number - 25}"), 1, applied)
    assert len(state.cluster.ids) == len(state.nodes) == len(state.node_names) == rows
    assert len(state.cluster.cpu_free) <= 2 * room
    assert sorted(node.row for node in state.nodes.values()) == list(range(rows))
    assert all(state.cluster.ids[node.row] == node.id for node in state.nodes.values())
    assert len(plan(state.snapshot(), 1).starts) == 0


def test_a_day_of_silence_is_unknown_by_the_daemons_clock_and_not_by_a_wall_that_jumped() -> None:
    world = World()
    node = world.backend.connect(FACTS)
    world.backend.disconnect("n-1")
    world.clock.advance(DAY_US)
    world.clock.step_wall(400 * DAY_US)
    remove(world, "n-1")
    unknown = sum(row.nanos for row in world.writer.charges if row.kind == "unknown")
    assert unknown == node_cost(node.cost_rates, node.axis_start, node.axis_start + DAY_US)
