"""Rounds in the daemon: what an allocator gives is what jobs ask for, and who is moved ends as any other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from turning import MINUTE_US, Turning

from bursar.model import CheckpointSpec, Device, EndCause, JobState, NodeFacts, ReasonCode
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies import allocators
from bursar_policies.allocators import Allotment, Problem, Size, Weight
from bursard.cycle import Cycle, reason_of
from bursard.events import AttemptEnded, StopRequested
from bursard.state import AttemptRecord, JobRecord
from bursard.state.decide import jobs, nodes

POLICY = "kind: PlacementPolicy\nname: p\nspec: {strategy: pack, allocator: {name: told, round: 6m}}\n"
NONE = "kind: PlacementPolicy\nname: p\nspec: {strategy: pack}\n"
GPU = (ResourceRequest(GpuRequest(1, ("V100", "K80")), 1_000, 1 << 20),)


class Told:
    """Gives what the test says."""

    name = "told"
    weights: dict[str, Weight] = {}

    def __init__(self) -> None:
        self.answer: list[Allotment] = []
        self.asked: list[Problem] = []

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        self.asked.append(problem)
        known = {one.job_id for one in problem.contenders}
        return [one for one in self.answer if one.job_id in known]


class Site(Turning):
    """Nodes of one GPU each: `v` has a V100, `k` a K80."""

    def __init__(self, allocator: Told, policy: str = POLICY) -> None:
        super().__init__()
        self.told = allocator
        self.facts: dict[str, NodeFacts] = {}
        for name, kind in (("v", "V100"), ("k", "K80")):
            device = Device(0, f"{name}-0", kind, 1 << 34)
            self.facts[name] = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=1 << 34, devices=(device,))
            self.backend.connect(self.facts[name])
        self.apply(policy)

    def contender(self, **spec: object) -> JobRecord:
        wanted: dict[str, object] = {
            "options": GPU,
            "throughput": (("V100", 0, 1_000_000), ("K80", 0, 200_000)),
        }
        return self.submit(**(wanted | {"time_limit_us": 6_000 * MINUTE_US} | spec))

    def give(self, *given: tuple[JobRecord, str]) -> None:
        self.told.answer = [Allotment(job.id, kind, 1, 1) for job, kind in given]

    def on(self, job: JobRecord) -> str:
        attempt: AttemptRecord | None = job.attempt
        return attempt.members[0].node if attempt is not None else ""

    def stops(self) -> list[StopRequested]:
        return [event for event in self.events if isinstance(event, StopRequested)]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    made = Told()
    monkeypatch.setattr(allocators.registry, "SHIPPED", (*allocators.SHIPPED, made))
    return made


def test_a_job_runs_on_what_it_was_given_and_waits_for_its_turn_otherwise(told):
    site = Site(told)
    first, second = site.contender(), site.contender()
    site.give((first, "K80"))
    site.turn()
    assert (site.on(first), site.on(second)) == ("k", "")
    why = reason_of(site.state, site.passes, second, site.engine.now())
    assert why is not None
    assert why.code is ReasonCode.WAITING_FOR_RESOURCES
    assert why.message == "waits for its turn: allocator told shares the GPUs out anew in 360 s"
    assert second.id not in site.state.pending, "though a V100 is idle, which nobody gave it"


def test_who_is_moved_is_asked_to_end_with_its_grace_and_starts_anew_where_it_was_given(told):
    site = Site(told)
    job = site.contender(checkpoint=CheckpointSpec("USR1", MINUTE_US))
    site.give((job, "K80"))
    site.turn()
    site.give((job, "V100"))
    site.turn(5)
    assert site.stops() == [], "no round is due"
    site.turn(1)
    first = job.attempts[0]
    assert site.stops() == [
        StopRequested(first.id, EndCause.PREEMPTED, MINUTE_US, "moved from 1 K80 to 1 V100")
    ]
    site.turn()
    (end,) = [event for event in site.events if isinstance(event, AttemptEnded)]
    assert (end.requeue, end.counts) == (True, False), "it uses up no retry"
    site.turn()
    assert site.on(job) == "v"
    assert len(site.stops()) == 1


def test_who_has_to_wait_gives_its_place_to_another(told):
    site = Site(told)
    first, second = site.contender(), site.contender()
    site.give((first, "V100"))
    site.turn()
    site.give((second, "V100"))
    for _ in range(4):
        site.turn(2)
    assert (site.on(first), site.on(second)) == ("", "v")
    assert [stop.message for stop in site.stops()] == ["others have their turn until the next round"]
    assert first.state is JobState.PENDING
    assert first.id in site.state.pending.aside


def test_what_becomes_free_between_rounds_is_given_to_who_waits(told):
    site = Site(told)
    first, second = site.contender(), site.contender()
    site.give((first, "V100"), (second, "V100"))
    site.turn()
    assert (site.on(first), site.on(second)) == ("v", "")
    site.backend.finish(first.attempts[0].id, 0)
    site.turn(1)
    site.turn()
    assert site.on(second) == "v"
    assert [one.job_id for one in told.asked[-1].contenders] == [second.id]
    assert [(one.gpu_type, one.gpus) for one in told.asked[-1].supply] == [("K80", 1), ("V100", 1)]


def test_jobs_that_do_not_contend_are_placed_as_ever(told):
    site = Site(told)
    plain = site.submit(options=GPU)
    fixed = site.contender(preemptible=False)
    site.turn()
    assert {site.on(plain), site.on(fixed)} == {"v", "k"}
    assert all(not problem.contenders for problem in told.asked)


def test_without_the_document_those_that_waited_are_placed_as_all_others(told):
    site = Site(told)
    job = site.contender()
    site.turn()
    assert site.on(job) == ""
    site.apply(NONE)
    site.turn()
    assert site.on(job) != ""


def test_when_the_package_of_an_allocator_is_gone_nobody_waits_for_it(told, monkeypatch):
    site = Site(told)
    job = site.contender()
    site.turn()
    monkeypatch.setattr(allocators.registry, "SHIPPED", allocators.SHIPPED)
    site.turn(6)
    site.turn()
    assert site.on(job) != ""


def test_a_daemon_that_starts_asks_at_once_and_moves_nobody_for_it(told):
    site = Site(told)
    runs, waits = site.contender(), site.contender()
    site.give((runs, "K80"))
    site.turn()
    after = site.killed()
    again = Cycle(after.engine)
    again.once()
    assert [one.job_id for one in told.asked[-1].contenders] == [waits.id], "its node is out of contact yet"
    assert not after.state.allotments.moves
    after.backend.connect(site.facts["k"])
    after.clock.advance(6 * MINUTE_US)
    again.once()
    problem = told.asked[-1]
    assert [one.job_id for one in problem.contenders] == [runs.id, waits.id]
    assert problem.contenders[0].holds == Size("K80", 1, 1, 200_000)


def test_what_runs_on_a_node_that_is_cordoned_goes_on(told):
    site = Site(told)
    job = site.contender()
    site.give((job, "K80"))
    site.turn()
    node = site.node("k")
    site.engine.commit(nodes.scheduling(node, "cordon", "by hand"), "ann")
    site.give((job, "V100"))
    site.turn(6)
    assert site.stops() == []
    assert site.on(job) == "k"


def test_a_job_that_is_held_or_cancelled_while_it_waits_for_its_turn_is_not_asked_about(told):
    site = Site(told)
    held, gone, waits = site.contender(), site.contender(), site.contender()
    site.turn()
    site.engine.commit(jobs.hold(site.state, held), "ann")
    site.engine.commit(jobs.cancel(site.state, gone, None), "ann")
    site.turn(6)
    assert [one.job_id for one in told.asked[-1].contenders] == [waits.id]
    site.engine.commit(jobs.release(site.state, held), "ann")
    site.turn(6)
    assert [one.job_id for one in told.asked[-1].contenders] == [held.id, waits.id]


def test_a_job_that_is_updated_is_asked_about_as_it_is_now(told):
    site = Site(told)
    job = site.contender()
    site.give((job, "V100"))
    site.turn()
    other = site.contender()
    site.turn()
    only = (ResourceRequest(GpuRequest(1, ("K80",)), 1_000, 1 << 20),)
    site.engine.commit(jobs.update(site.state, other, {"options": only}), "ann")
    site.turn(6)
    (now,) = [one for one in told.asked[-1].contenders if one.job_id == other.id]
    assert [size.gpu_type for size in now.sizes] == ["K80"]


def test_an_allocator_is_told_how_long_a_job_has_until_its_deadline(told):
    site = Site(told)
    by = site.engine.now() + 10 * MINUTE_US
    site.contender(deadline_at=by, deadline_policy="best-effort")
    site.contender()
    site.turn()
    site.turn(10)
    site.turn(10)
    said = [[one.deadline_us for one in asked.contenders] for asked in told.asked]
    assert said == [[10 * MINUTE_US, 0], [-1, 0], [-10 * MINUTE_US, 0]]
    assert {(one.left_us, one.promised) for asked in told.asked for one in asked.contenders} == {(-1, False)}


RELATIVE = (
    "kind: PlacementPolicy\nname: p\n"
    "spec: {strategy: pack, allocator: {name: relative-speed, round: 6m, restart: 1m}}\n"
)


def test_by_relative_speed_who_gains_least_by_the_fast_gpu_leaves_it_to_who_gains_most(told):
    site = Site(told, RELATIVE)
    save = CheckpointSpec("USR1", MINUTE_US)
    hardly = site.contender(throughput=(("V100", 0, 1_000_000), ("K80", 0, 900_000)), checkpoint=save)
    site.turn()
    assert site.on(hardly) == "v", "alone it has what is fastest"
    much = site.contender(throughput=(("V100", 0, 1_000_000), ("K80", 0, 100_000)), checkpoint=save)
    site.turn(1)
    assert site.on(much) == "k", "between rounds nothing that runs is touched"
    site.turn(6)
    assert sorted(stop.message for stop in site.stops()) == [
        "moved from 1 K80 to 1 V100",
        "moved from 1 V100 to 1 K80",
    ]
    site.turn()
    site.turn()
    assert (site.on(hardly), site.on(much)) == ("k", "v")
    site.turn(6)
    site.turn(6)
    assert len(site.stops()) == 2, "nothing is gained by another move"


def test_by_relative_speed_nobody_moves_for_less_than_a_restart_costs(told):
    site = Site(told, RELATIVE.replace("restart: 1m", "restart: 1h"))
    first = site.contender(throughput=(("V100", 0, 1_000_000), ("K80", 0, 900_000)))
    site.turn()
    second = site.contender(throughput=(("V100", 0, 1_000_000), ("K80", 0, 800_000)))
    for _ in range(5):
        site.turn(6)
    assert (site.on(first), site.on(second)) == ("v", "k")
    assert site.stops() == []


def test_by_relative_speed_three_jobs_take_turns_on_two_gpus_and_each_is_told_why_it_waits(told):
    site = Site(told, RELATIVE)
    three = [site.contender(checkpoint=CheckpointSpec("USR1", MINUTE_US)) for _ in range(3)]
    ran = {job.id: 0 for job in three}
    for _ in range(90):
        site.turn(6)
        waiting = [job for job in three if not site.on(job)]
        for job in three:
            ran[job.id] += bool(site.on(job))
        for job in waiting:
            why = reason_of(site.state, site.passes, job, site.engine.now())
            if job.state is JobState.PENDING and why is not None:
                assert why.code is ReasonCode.WAITING_FOR_RESOURCES
    assert min(ran.values()) >= 15, "a quarter of an equal share, which is 60 of the 90 rounds"
