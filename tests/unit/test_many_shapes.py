"""One user's jobs of very many shapes: what plans look at is bounded, and each job is told the truth."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from bursar.model import JobState, ReasonCode
from bursar.resources import ResourceRequest
from bursard import cycle as room
from bursard.access.identity import Identity, Role, set_caller
from bursard.cycle import Cycle, reason_of
from bursard.fleet.testing import FACTS, World
from bursard.place import one_pass
from bursard.services import planning
from bursard.state import JobRecord, pending
from bursard.state.crowd import FIRST, IN_TURN
from bursard.state.decide import jobs
from bursard.state.pending import OWN_MAX, PendingIndex


def request(cpu_milli: int) -> tuple[ResourceRequest, ...]:
    return (ResourceRequest(None, cpu_milli, 1 << 20),)


class Site(World):
    """One node of 8 CPUs."""

    def __init__(self, **bounds: int) -> None:
        super().__init__()
        self.state.pending = PendingIndex(**bounds)
        self.backend.connect(msgspec.structs.replace(FACTS))
        self.passes = Cycle(self.engine)

    def fill(self) -> None:
        self.submit(options=request(8_000))
        self.passes.once()

    def of(self, user: str, **spec: Any) -> JobRecord:
        like = self.submit(**spec)
        events = jobs.submit(self.state, self.ids, user=user, spec=like.spec)
        self.engine.commit(jobs.cancel(self.state, like, None, ""), "ann")
        self.engine.commit(events, user)
        return self.state.jobs[events[0].job_id]  # type: ignore[union-attr]

    def why(self, job: JobRecord) -> Any:
        return reason_of(self.state, self.passes, job, self.engine.now())


def test_queues_that_a_pass_looks_at_do_not_grow_with_the_shapes_of_one_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    site.fill()
    looked: list[int] = []
    real = room.plan

    def counted(snapshot: Any, now: int, cache: Any) -> Any:
        looked.append(len(snapshot.queues))
        return real(snapshot, now, cache)

    site.passes._planner = counted
    for number in range(OWN_MAX + FIRST + IN_TURN + 200):
        site.submit(options=request(1_000 + number), priority=number % 101)
    site.passes.once()
    assert looked == [OWN_MAX + FIRST + IN_TURN]
    other = site.of("bob", options=request(7_777), priority=0)
    site.passes.once()
    assert looked == [OWN_MAX + FIRST + IN_TURN, OWN_MAX + FIRST + IN_TURN + 1]
    assert site.why(other).code is ReasonCode.WAITING_FOR_RESOURCES
    assert len(site.state.pending) == OWN_MAX + FIRST + IN_TURN + 201


def test_a_job_of_somebody_else_starts_at_once_whatever_waits_before_it() -> None:
    site = Site(own_max=2, first=1, in_turn=1)
    for number in range(9):
        site.submit(options=request(9_000 + number), priority=100)
    other = site.of("bob", options=request(8_000), priority=0)
    site.passes.once()
    assert other.state is JobState.STARTING


def test_what_could_start_behind_what_never_can_starts_within_so_many_passes_as_it_was_told() -> None:
    site = Site(own_max=2, first=1, in_turn=2)
    for number in range(9):
        site.submit(options=request(9_000 + number), priority=100)
    last = site.submit(options=request(8_000), priority=0)
    site.passes.once()
    told = site.why(last)
    assert told.code is ReasonCode.BEHIND_OWN_JOBS
    assert told.facts == (("kinds", "10"), ("plans", "2"))
    assert told.message == (
        "ann has 10 kinds of jobs waiting, more than every plan looks at:"
        " this one is looked at within 3 plans"
    )
    for _ in range(2):
        site.passes.once()
        assert last.state is JobState.PENDING
    assert site.why(last).message.endswith("this one is looked at by the next plan")
    site.passes.once()
    assert last.state is JobState.STARTING


def test_explain_says_whose_turn_it_is_and_what_a_look_would_say_now() -> None:
    async def story() -> None:
        set_caller(Identity("ann", Role.ADMIN))
        site = Site(own_max=1, first=1, in_turn=1)
        for number in range(6):
            site.submit(options=request(9_000 + number))
        fits, large = site.submit(options=request(4_000)), site.submit(options=request(9_999))
        for job, then in ((fits, "it would start"), (large, "largest node has 8 CPUs, you ask 9.999")):
            said = await planning.explain_view(site.engine, site.passes, job)
            assert said.reason.code == "BehindOwnJobs"
            assert said.reason.message.endswith(f"; if it were looked at now: {then}")
        shown = await planning.explain_view(site.engine, site.passes, site.state.jobs[site.state.numbers[1]])
        assert shown.reason.code == "ExceedsNodeCapacity"

    asyncio.run(story())


def test_what_if_says_that_a_job_would_wait_for_its_turn() -> None:
    async def story() -> None:
        set_caller(Identity("ann", Role.ADMIN))
        site = Site(own_max=1, first=1, in_turn=1)
        spec = site.submit(options=request(9_000)).spec
        for number in range(1, 6):
            site.submit(options=request(9_000 + number))
        small = msgspec.structs.replace(spec, options=request(4_000))
        said = await planning.plan_view(site.engine, "ann", small)
        assert (said.starts_now, said.reason.code) == (False, "BehindOwnJobs")
        urgent = msgspec.structs.replace(small, priority=100)
        assert (await planning.plan_view(site.engine, "ann", urgent)).starts_now
        assert (await planning.plan_view(site.engine, "bob", small)).starts_now

    asyncio.run(story())


def test_every_pass_shows_others_whoever_makes_it() -> None:
    site = Site(own_max=1, first=1, in_turn=1)
    for number in range(6):
        site.submit(options=request(9_000 + number))
    seen = []
    for _ in range(4):
        snapshot, _, _ = one_pass(site.state, site.ids, site.engine.now(), lambda what, events: True)
        seen.append([queue.job_class.options[0].cpu_milli - 9_000 for queue in snapshot.queues])
    assert seen == [[0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 1, 5]]


def test_jobs_that_are_of_nobody_are_not_counted() -> None:
    index = PendingIndex()
    assert (pending.OWN_MAX, index.plans_for_all) == (512, 0)
