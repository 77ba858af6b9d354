"""What a policy costs is what it touches: counted in look-ups of classes and budgets, never in seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from findings import of_jobs
from msgspec.structs import replace

from bursar.model import ArraySpec, Dependency, EndCause, JobState
from bursard.cycle import reason_of
from bursard.events import Event
from bursard.fleet.testing import FACTS, World
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.state import Limits, image
from bursard.state.budgets import BudgetTable
from bursard.state.decide import jobs, policies
from bursard.state.pending import PendingIndex
from bursard.state.tables import Tables

BUDGET = (
    "kind: Budget\nname: {name}\nspec: {{scope: {{project: {project}}}, limit: 9000 USD, period: month}}\n"
)
MODEL = "kind: CostModel\nname: m\nspec: {pool: p, node_capex: 400003 USD, useful_life: 5y}\n"
JOBS = 300


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often jobs were put into the queue, classes made, and budgets matched."""
    calls: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def counting(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*args, **more)

        monkeypatch.setattr(owner, name, counting)

    count(PendingIndex, "add")
    count(PendingIndex, "remove")
    count(PendingIndex, "move")
    count(Tables, "class_of")
    count(BudgetTable, "matching")
    return calls


def site() -> World:
    """Two projects, two classes in each, many jobs; and an array with a cap of its own."""
    world = World()
    for number in range(JOBS):
        project = ("research/a", "research/b")[number % 2]
        world.submit(project=project, priority=50 + number % 3 // 2, time_limit_us=3_600_000_000)
    cap = {"max_cost_nanos": 10**12, "max_cost_per": "job", "currency": "USD"}
    world.submit(project="research/a", array=ArraySpec(((0, 20, 1),)), **cap)
    return world


def queues(world: World) -> list[tuple[Any, ...]]:
    return [(one.job_class, one.priority, tuple(one.jobs)) for one in world.state.pending.queues()]


def agrees_with_an_image(world: World) -> None:
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert queues(world) == [(one.job_class, one.priority, tuple(one.jobs)) for one in again.pending.queues()]


def test_a_new_budget_moves_queues_and_not_job_by_job(counted: Counter[str]) -> None:
    world = site()
    before = queues(world)
    counted.clear()
    world.apply(BUDGET.format(name="a", project="research/a"))
    # Two priorities of plain jobs and the array; what a budget goes by is the same in each project.
    assert counted == {"move": 3, "matching": 2}
    assert sorted(len(one[2]) for one in queues(world)) == [20, 50, 50, 100, 100]
    assert [one[0].budgets for one in queues(world)].count(("a",)) == 2
    array = next(one[0] for one in queues(world) if len(one[0].budgets) == 2)
    assert array.budgets[0] == "a"
    agrees_with_an_image(world)
    counted.clear()
    world.engine.commit(policies.remove(world.state, "Budget", "a"), "ann")
    assert counted == {"move": 3, "matching": 2}
    assert queues(world) == before
    agrees_with_an_image(world)


# --- more of it than one turn of the loop can bear


@pytest.fixture
def small_turns(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("bursard.state.fold.policies.MATCHED_MAX", 50)
    monkeypatch.setattr("bursard.housekeeping.MATCHED_MAX", 50)
    return 50


def keeping(world: World) -> Housekeeping:
    def make_true(what: str, events: Sequence[Event]) -> bool:
        return bool(world.engine.commit(events, "bursard"))

    return Housekeeping(world.state, lambda: world.engine.prices, make_true)


def test_a_budget_over_many_jobs_looks_at_so_many_in_each_turn(
    small_turns: int, counted: Counter[str]
) -> None:
    """1. Of 321 jobs 50 are looked at with the event, and 50 with each turn; the oldest first.
    2. In the end all stand where they would have stood at once, and nobody looks at them again.
    """
    world, other = site(), site()
    house = keeping(world)
    world.apply(BUDGET.format(name="a", project="research/a"))
    assert len(world.state.unmatched) == len(world.state.jobs) - small_turns
    assert [bool(job.budgets) for job in world.state.jobs.values()][:4] == [True, False, True, False]
    turns = 1
    counted.clear()
    while house.turn(world.engine.now()):
        assert counted["matching"] <= 2 * turns
        turns += 1
    assert (turns, len(world.state.unmatched)) == (-(-len(world.state.jobs) // small_turns) - 1, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bursard.state.fold.policies.MATCHED_MAX", 10**6)
        other.apply(BUDGET.format(name="a", project="research/a"))
    assert queues(world) == queues(other)
    counted.clear()
    assert not house.turn(world.engine.now())
    assert counted["matching"] == 0


def test_a_job_that_nobody_has_looked_at_yet_does_not_start_without_its_budget(small_turns: int) -> None:
    """1. All jobs fit on the node, and the newest is not looked at with the event of the budget.
    2. It does not start with what it had before: it holds money in the budget once it starts.
    """
    world = World()
    world.backend.connect(FACTS)
    for number in range(small_turns):
        world.submit(project="other", held=True, name=f"job-{number}")
    job = world.submit(project="research/a")
    world.apply(BUDGET.format(name="a", project="research/a"))
    made = one_pass(world.state, world.ids, world.engine.now(), world._commit)
    assert (made.outcome.done, made.outcome.stale, job.state) == (0, True, JobState.PENDING)
    (dropped,) = made.outcome.dropped
    assert dropped.reason.message == f"job {job.id} is covered by other budgets by now"
    assert not keeping(world).turn(world.engine.now())
    world.cycle()
    assert job.attempt is not None
    assert [hold.budget for hold in job.attempt.holds] == ["a"]


def test_the_newest_budget_counts_where_two_came_within_a_turn(small_turns: int) -> None:
    world = site()
    world.apply(BUDGET.format(name="a", project="research/a"))
    world.apply(BUDGET.format(name="all", project="research"))
    world.engine.commit(policies.remove(world.state, "Budget", "a"), "ann")
    house = keeping(world)
    while house.turn(world.engine.now()):
        pass
    assert {job.budgets for job in world.state.jobs.values()} == {("all",)}


def test_an_image_has_what_was_left_for_later_turns(small_turns: int) -> None:
    world = site()
    world.apply(BUDGET.format(name="a", project="research/a"))
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert all(job.budgets == (("a",) if "/a" in job.spec.project else ()) for job in again.jobs.values())
    agrees_with_an_image(world)


def test_jobs_whose_time_has_come_are_queued_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.housekeeping.WOKEN_MAX", 7)
    world = World()
    begin = world.engine.now() + 1_000_000
    for number in range(20):
        world.submit(begin_after=begin - number % 2)
    house = keeping(world)
    assert not house.turn(begin - 2)
    found = []
    more = True
    while more:
        more = house.turn(begin)
        found.append(len(world.state.pending))
    assert found == [7, 14, 20]
    orders = [order for order, _ in queues(world)[0][2]]
    assert orders == sorted(orders)


# --- what waited for one job, or for many that end in one turn


@pytest.fixture
def five_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.state.fold.jobs.MET_MAX", 5)
    monkeypatch.setattr("bursard.housekeeping.MET_MAX", 5)


def tell_all(world: World) -> list[int]:
    """How many jobs are in the queue after each turn, until nothing is left for another."""
    house, found = keeping(world), []
    more = True
    while more:
        more = house.turn(world.engine.now())
        found.append(len(world.state.pending))
    return found


def test_what_waited_for_one_job_is_queued_turn_by_turn(five_a_turn: None) -> None:
    """1. Of twelve that wait five are queued with the end, and five with each turn; the oldest first.
    2. Until its own a job waits as before, and says for what, also once that is forgotten.
    """
    world = World()
    first = world.submit(held=True)
    waiting = [world.submit(depends_on=(Dependency(first.id, "finished"),)) for _ in range(12)]
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    world.writer.flush()
    assert first.id not in world.state.jobs
    assert [job.id in world.state.pending for job in waiting] == [True] * 5 + [False] * 7
    assert [bool(job.waiting_on) for job in waiting] == [False] * 5 + [True] * 7
    reason = reason_of(world.state, None, waiting[-1], world.engine.now())
    assert reason is not None
    assert reason.message == f"waits for job {first.display} (finished)"
    assert of_jobs(world.state).ok
    assert tell_all(world) == [10, 12]
    assert not any(job.waiting_on for job in waiting)
    assert (world.state.met, tell_all(world)) == ({}, [12])


def test_many_ends_of_one_turn_share_what_it_can_bear(five_a_turn: None) -> None:
    world = World()
    firsts = [world.submit(held=True) for _ in range(4)]
    for first in firsts:
        for _ in range(3):
            world.submit(depends_on=(Dependency(first.id, "finished"),))
    for first in firsts:
        world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    assert len(world.state.pending) == 5
    assert tell_all(world) == [10, 12]


def test_those_whom_an_end_disappoints_end_turn_by_turn(five_a_turn: None) -> None:
    world = World()
    first = world.submit(held=True)
    waiting = [world.submit(depends_on=(Dependency(first.id, "succeeded"),)) for _ in range(12)]
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    assert sum(job.state is JobState.CANCELLED for job in waiting) == 5
    assert tell_all(world) == [0, 0]
    assert {(job.state, job.message) for job in waiting} == {
        (JobState.CANCELLED, f"it depends on job {first.display} (succeeded), which ended CANCELLED")
    }


def test_arrays_that_waited_open_their_tasks_turn_by_turn(five_a_turn: None) -> None:
    """Each counts with the tasks that it lets into the queue: the second comes a turn later."""
    world = World()
    first = world.submit(held=True)
    for _ in range(3):
        world.submit(array=ArraySpec(((0, 4, 1),)), depends_on=(Dependency(first.id, "finished"),))
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    assert len(world.state.pending) == 4
    assert tell_all(world) == [8, 12]


def test_those_that_wait_for_a_start_are_told_turn_by_turn_and_the_others_with_the_end(
    five_a_turn: None,
) -> None:
    world = World()
    world.backend.connect(FACTS)
    first = world.submit()
    starters = [world.submit(held=True, depends_on=(Dependency(first.id, "started"),)) for _ in range(7)]
    later = world.submit(held=True, depends_on=(Dependency(first.id, "succeeded"),))
    world.cycle()
    world.backend.report()
    assert first.state is JobState.RUNNING
    assert sum(not job.waiting_on for job in starters) == 5
    world.engine.commit(jobs.cancel(world.state, first, 0), "ann")
    world.exited_of(first.attempts[0], EndCause.CANCELLED, started_boot_us=1, held_us=1)
    assert first.state is JobState.CANCELLED
    tell_all(world)
    assert not any(job.waiting_on for job in starters)
    assert {job.state for job in starters} == {JobState.PENDING}
    assert later.state is JobState.CANCELLED


@pytest.mark.parametrize("deed", ["cancel", "hold", "update"])
def test_a_job_is_told_before_anything_else_happens_to_it(five_a_turn: None, deed: str) -> None:
    """So a replay, which has no turns, makes the same of an array that had been told as one that had not."""
    world, other = World(), World()
    for site in (world, other):
        first = site.submit(held=True)
        for _ in range(5):
            site.submit(depends_on=(Dependency(first.id, "finished"),))
        array = site.submit(array=ArraySpec(((0, 9, 1),), 4), depends_on=(Dependency(first.id, "finished"),))
        site.engine.commit(jobs.cancel(site.state, first, None), "ann")
        assert (array.waiting_on, site.state.tasks[array.id]) == ({first.id: "finished"}, {})
        if site is other:
            tell_all(site)
        events = {
            "cancel": lambda site=site, job=array: jobs.cancel(site.state, job, None),
            "hold": lambda site=site, job=array: jobs.hold(site.state, job),
            "update": lambda site=site, job=array: jobs.update(site.state, job, {"priority": 9}),
        }[deed]()
        site.engine.commit(events, "ann")
        assert len(site.state.tasks[array.id]) == 4
    now = world.engine.now()
    assert image.encode(world.state, now) == image.encode(other.state, now)


def test_an_image_has_told_everybody(five_a_turn: None) -> None:
    world = World()
    first = world.submit(held=True)
    for _ in range(12):
        world.submit(depends_on=(Dependency(first.id, "finished"),))
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert len(again.pending) == 12


def test_no_image_is_due_while_somebody_is_to_be_told(
    five_a_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursard.engine.SNAPSHOT_EVERY", 1)
    world = World()
    first = world.submit(held=True)
    for _ in range(6):
        world.submit(depends_on=(Dependency(first.id, "finished"),))
    assert world.engine.snapshot_due()
    world.engine.commit(jobs.cancel(world.state, first, None), "ann")
    assert not world.engine.snapshot_due()
    tell_all(world)
    assert world.engine.snapshot_due()


@pytest.mark.parametrize(("many", "after"), [(0, 4), (8, 4), (9, 5), (30, 15)])
def test_images_come_less_often_the_more_jobs_there_are(
    monkeypatch: pytest.MonkeyPatch, many: int, after: int
) -> None:
    """Of few after a fixed number of events; of many, one event for each two of them."""
    monkeypatch.setattr("bursard.engine.SNAPSHOT_EVERY", 4)
    monkeypatch.setattr("bursard.engine.SNAPSHOT_JOBS", 2)
    world = World()
    for _ in range(many):
        world.submit()
    job = world.submit()
    world.engine._snapshot_seq = world.state.version
    events = 0
    while not world.engine.snapshot_due():
        verb = jobs.release if job.held else jobs.hold
        world.engine.commit(verb(world.state, job), "ann")
        events += 1
    assert events == after


def test_prices_of_many_nodes_are_looked_at_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.housekeeping.REPRICED_MAX", 2)
    world = World()
    for number in range(5):
        world.backend.connect(replace(FACTS, name=f"n-{number}"))
    house = keeping(world)
    while house.turn(world.engine.now()):
        pass
    world.apply(MODEL.replace("pool: p", "pool: local"))
    world.writer.flush()
    found = []
    for _ in range(4):
        before = len(world.events)
        found.append((house.turn(world.engine.now()), len(world.events) - before))
        world.writer.flush()
    prices = {node.price_id for node in world.state.nodes.values()}
    assert [more for more, _ in found] == [True, True, False, False]
    assert len(prices) == 1
    assert prices.pop().startswith("costmodel/m@")


def test_a_budget_that_covers_nobody_moves_nothing(counted: Counter[str]) -> None:
    world = site()
    before = queues(world)
    counted.clear()
    world.apply(BUDGET.format(name="x", project="elsewhere"))
    assert counted == {"matching": 2}
    assert queues(world) == before


def test_prices_and_strategies_look_at_no_job(counted: Counter[str]) -> None:
    world = site()
    counted.clear()
    world.apply(MODEL)
    world.engine.commit(policies.remove(world.state, "CostModel", "m"), "ann")
    assert counted == {}


def test_jobs_that_come_back_into_a_queue_stand_in_their_order(counted: Counter[str]) -> None:
    world = site()
    world.apply(BUDGET.format(name="a", project="research/a"))
    world.apply(BUDGET.format(name="b", project="research/b"))
    world.apply(BUDGET.format(name="all", project="research"))
    agrees_with_an_image(world)
    for name in ("a", "b"):
        world.engine.commit(policies.remove(world.state, "Budget", name), "ann")
    agrees_with_an_image(world)
    orders = [[order for order, _ in one[2]] for one in queues(world)]
    assert all(each == sorted(each) for each in orders)
    assert sorted(map(len, orders)) == [20, 100, 200]
