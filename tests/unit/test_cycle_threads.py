"""Large plans are made in a thread: calls go on meanwhile, and what they take away is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from bursar.model import JobSpec, NodeFacts, ReasonCode
from bursar.resources import ResourceRequest
from bursar_policies.decision import Plan, Snapshot
from bursard.access.identity import Identity, Role, set_caller
from bursard.cycle import Cycle, aside, reason_of
from bursard.fleet.testing import World
from bursard.scheduler import PlanCache, plan
from bursard.services import planning
from bursard.state.decide import jobs, nodes

GATE_S = 120
"""Longest a test waits at its own gate before it fails."""


class Gate:
    """A planner that waits, after its plan is made, until the test lets it go on."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.thread = ""
        self.plans: list[Plan] = []

    def __call__(self, snapshot: Snapshot, now: int, cache: PlanCache) -> Plan:
        self.thread = threading.current_thread().name
        self.plans.append(plan(snapshot, now, cache))
        self.inside.set()
        assert self.go_on.wait(GATE_S)
        return self.plans[-1]

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.inside.wait, GATE_S)


def site() -> World:
    world = World()
    facts = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34, pool="local")
    hello = nodes.hello(
        world.state,
        world.ids,
        world.engine.prices,
        facts=facts,
        boot_id="b",
        boot_us=0,
        now=world.engine.now(),
    )
    world.engine.commit(hello, "test")
    return world


def ask(world: World, cpus: int, **spec: Any) -> str:
    return world.submit(options=(ResourceRequest(None, cpus * 1_000, 1 << 20),), **spec).id


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


def test_commands_are_served_while_a_large_plan_is_made_and_win_over_it() -> None:
    async def story() -> None:
        world, gate = site(), Gate()
        cycle = Cycle(world.engine, gate, thread_work=0)
        kept, cancelled = ask(world, 4), ask(world, 3)
        turn = asyncio.create_task(cycle.turn())
        await gate.reached()
        late = ask(world, 1)
        world.engine.commit(jobs.cancel(world.state, world.state.jobs[cancelled], None), "ann")
        assert not turn.done()
        gate.go_on.set()
        assert await turn is True
        assert [start.job_id for start in gate.plans[0].starts] == [kept, cancelled]
        assert world.state.jobs[kept].attempt is not None
        assert world.state.jobs[late].attempt is None
        assert (cycle.stats.placed, cycle.stats.dropped) == (1, 1)
        assert await cycle.turn() is False
        assert world.state.jobs[late].attempt is not None

    play(story)


def test_a_start_that_lost_its_room_meanwhile_is_dropped() -> None:
    async def story() -> None:
        world, gate = site(), Gate()
        slow, other = Cycle(world.engine, gate, thread_work=0), Cycle(world.engine)
        first = ask(world, 6)
        turn = asyncio.create_task(slow.turn())
        await gate.reached()
        urgent = ask(world, 8, priority=90)
        other.once()
        gate.go_on.set()
        assert await turn is True
        assert world.state.jobs[urgent].attempt is not None
        assert world.state.jobs[first].attempt is None
        assert world.state.cluster.cpu_free[0] == 0

    play(story)


def test_only_large_plans_leave_the_loop() -> None:
    """One node times one queue is one: below two there is no thread, from one on there is."""

    async def story() -> None:
        for thread_work, in_a_thread in ((2, False), (1, True)):
            world, gate = site(), Gate()
            gate.go_on.set()
            cycle = Cycle(world.engine, gate, thread_work=thread_work)
            job_id = ask(world, 1)
            assert await cycle.turn() is False
            assert world.state.jobs[job_id].attempt is not None
            assert (gate.thread != threading.main_thread().name) is in_a_thread

    play(story)


def test_a_plan_that_fails_changes_nothing_and_the_next_turn_looks_again(caplog) -> None:
    world = site()
    job_id = ask(world, 1)
    faults = [ZeroDivisionError("planted")]

    def planner(snapshot: Snapshot, now: int, cache: PlanCache) -> Plan:
        if faults:
            raise faults.pop()
        return plan(snapshot, now, cache)

    cycle = Cycle(world.engine, planner)
    assert cycle.once() is False
    assert "planning failed" in caplog.text
    assert world.state.jobs[job_id].attempt is None
    cycle.once()
    assert world.state.jobs[job_id].attempt is not None


def test_one_cache_serves_one_plan_at_a_time_and_both_answers_are_right() -> None:
    world = site()
    ask(world, 5), ask(world, 5)
    shot, cache = world.state.snapshot(), PlanCache()
    expected = plan(shot, 0)
    with cache.world(shot) as outer:
        assert plan(shot, 0, cache) == expected
        with cache.world(shot) as inner:
            assert inner is not outer
    with cache.world(shot) as again:
        assert again is outer


def test_reasons_are_those_of_the_plan_made_last() -> None:
    world = site()
    cycle = Cycle(world.engine)
    ask(world, 8)
    waiting = world.state.jobs[ask(world, 7)]
    now = world.engine.now()
    before = reason_of(world.state, cycle, waiting, now)
    assert before is not None
    assert before.message == "is about to be looked at by the scheduler"
    cycle.once()
    after = reason_of(world.state, cycle, waiting, now)
    assert after is not None
    assert (after.code, dict(after.facts)["lack_cpus"]) == (ReasonCode.WAITING_FOR_RESOURCES, "1")
    world.engine.commit(jobs.cancel(world.state, waiting, None), "ann")
    cycle.once()
    assert cycle.last is None


def test_work_on_a_snapshot_is_done_here_or_in_a_thread_by_its_size() -> None:
    async def story() -> None:
        world = site()
        ask(world, 1)
        shot = world.state.snapshot()
        here = threading.current_thread().name
        assert await aside(shot, lambda: threading.current_thread().name, thread_work=2) == here
        assert await aside(shot, lambda: threading.current_thread().name, thread_work=1) != here

    play(story)


def test_a_node_that_leaves_while_a_plan_is_worked_out_is_not_named_in_the_answer(monkeypatch) -> None:
    async def story(gone: bool) -> None:
        world = site()
        set_caller(Identity("ann", Role.ADMIN))

        async def meanwhile(_shot: Snapshot, work: Callable[[], Any], **_: Any) -> Any:
            answer = work()
            if gone:
                world.state.nodes.clear()
            return answer

        monkeypatch.setattr(planning, "aside", meanwhile)
        spec = JobSpec(command=("x",), project="p", options=(ResourceRequest(None, 1_000, 1 << 20),))
        answer = await planning.plan_view(world.engine, "ann", spec)
        assert answer.starts_now
        assert [member.node for member in answer.members] == ([] if gone else ["n-1"])

    for gone in (False, True):
        play(lambda gone=gone: story(gone))  # type: ignore[misc]
