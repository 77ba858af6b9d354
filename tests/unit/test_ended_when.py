"""When a job ended: as its nodes measured it, whenever its daemon heard of it, and never beyond that (A1)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from whole_site import Site, play

from bursar.clock import DAY_US, HOUR_US
from bursar.clock import SECOND_US as S
from bursar.model import ArraySpec, EndCause, JobSpec, JobState
from bursar.v1 import jobs_pb2 as pb
from bursard.events import ExitReport, TasksEnded
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.state import AttemptRecord, JobRecord, MemberRecord, compare, image
from bursard.state.decide import attempts, jobs
from bursard.state.ends import attempt_ended_at, began_at, job_ended_at
from bursard.state.records import ArrayRecord

BEGAN = 1_700_000_000 * S
HEARD = BEGAN + 3_600 * S


def member(started_at: int, held_us: int) -> MemberRecord:
    """One whose end is known."""
    report = ExitReport(cause=EndCause.COMPLETED, held_us=held_us)
    return MemberRecord(alloc=None, boot_id="b", started_at=started_at, charged_us=held_us, report=report)  # type: ignore[arg-type]


def attempt(*members: MemberRecord, **known: Any) -> AttemptRecord:
    return AttemptRecord(
        id="a", job_id="j", number=1, option=0, members=list(members), time_limit_us=600 * S,
        grace_us=10 * S, holds=(), placed_at=BEGAN, **known,
    )  # fmt: skip


def job(*tried: AttemptRecord, **known: Any) -> JobRecord:
    return JobRecord(
        id="j", number=1, user="u", spec=JobSpec(), order=1, submitted_at=BEGAN, attempts=list(tried), **known
    )


def started(site: Site, placed: AttemptRecord, rank: int = 0) -> int:
    """Its agent says that it runs; the reading of the node's clock."""
    state, boot_us = site.engine.state, site.clock.boot_us()
    node = state.nodes[placed.members[rank].alloc.node_id]
    site.engine.commit(attempts.started(state, node, placed.id, rank, boot_us, 1), "node:n1")
    return boot_us


def ended(site: Site, placed: AttemptRecord, held_us: int, began_boot_us: int = 0, rank: int = 0) -> None:
    """Its agent says that it ended, which the daemon hears now."""
    state = site.engine.state
    node = state.nodes[placed.members[rank].alloc.node_id]
    report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=held_us)
    site.engine.commit(attempts.exited(state, node, placed.id, rank, report, began_boot_us), "node:n1")


async def shown(site: Site, ref: str) -> Any:
    _, [wire] = await site.ask("Jobs.Get", pb.GetJobRequest(job=ref), token=site.token("ann", "admin"))
    return wire


@pytest.mark.parametrize("told_of_start", [True, False])
def test_a_daemon_that_is_deaf_for_an_hour_shifts_no_end(told_of_start: bool) -> None:
    async def story(site: Site) -> None:
        ref, began = site.job("ann", "p"), site.engine.now()
        placed, boot_us = site.place(ref), site.clock.boot_us()
        if told_of_start:
            started(site, placed)
        site.clock.advance(HOUR_US)
        ended(site, placed, 45 * S, boot_us)
        for wire in (await shown(site, ref), (await shown(site, ref)).attempts[0]):
            assert (wire.started_at, wire.elapsed_us) == (began, 45 * S)
            assert wire.finished_at == began + 45 * S
        _, [page] = await site.ask(
            "Jobs.List", pb.ListJobsRequest(states=["SUCCEEDED"]), token=site.token("ann", "admin")
        )
        assert [row.finished_at for row in page.jobs] == [began + 45 * S]

    play(story)


def test_a_gang_ends_with_the_last_of_its_members_whoever_is_heard_last() -> None:
    gang = attempt(
        member(BEGAN + 2 * S, 50 * S), member(BEGAN, 60 * S),
        started_at=BEGAN + 2 * S, finished_at=HEARD,
    )  # fmt: skip
    assert attempt_ended_at(gang) == BEGAN + 60 * S
    gang.members[0].charged_us = 70 * S
    assert attempt_ended_at(gang) == BEGAN + 72 * S
    assert [began_at(gang, one) for one in gang.members] == [BEGAN + 2 * S, BEGAN]
    gang.members.append(member(0, 0))
    assert attempt_ended_at(gang) == BEGAN + 72 * S
    assert began_at(gang, gang.members[2]) == 0


def test_an_end_is_neither_before_the_start_nor_after_it_was_heard() -> None:
    ahead = attempt(member(HEARD + 15_000, 3 * S), started_at=HEARD, finished_at=HEARD)
    assert (began_at(ahead, ahead.members[0]), attempt_ended_at(ahead)) == (HEARD, HEARD)
    long = attempt(member(BEGAN, 7_200 * S), started_at=BEGAN, finished_at=HEARD)
    assert attempt_ended_at(long) == HEARD
    early = attempt(member(BEGAN - 9 * S, 4 * S), started_at=BEGAN, finished_at=HEARD)
    assert attempt_ended_at(early) == BEGAN + 4 * S
    late = attempt(member(BEGAN, S), member(BEGAN, S), started_at=BEGAN + 5 * S, finished_at=HEARD)
    assert attempt_ended_at(late) == BEGAN + 5 * S  # of a log that knew when a start was heard alone


def test_what_began_while_it_was_stopped_ended_when_it_was_held_no_more() -> None:
    stopped = attempt(member(BEGAN - S, 4 * S), finished_at=HEARD)
    assert (began_at(stopped, stopped.members[0]), attempt_ended_at(stopped)) == (BEGAN, BEGAN + 4 * S)


def test_an_attempt_that_lives_has_no_end_and_one_that_never_began_ended_when_that_was_heard() -> None:
    assert attempt_ended_at(attempt(member(BEGAN, 9 * S), started_at=BEGAN)) == 0
    never = attempt(member(0, 0), finished_at=HEARD)
    assert attempt_ended_at(never) == HEARD
    never.cause = EndCause.START_FAILED
    assert job_ended_at(job(never, finished_at=HEARD)) == HEARD


def test_a_job_that_is_cancelled_while_it_waits_again_ended_then() -> None:
    first = attempt(member(BEGAN, 9 * S), started_at=BEGAN, finished_at=HEARD)
    first.cause = EndCause.PREEMPTED
    assert job_ended_at(job(first)) == 0
    assert job_ended_at(job(first, finished_at=HEARD + S)) == HEARD + S
    assert job_ended_at(job(first, finished_at=HEARD)) == BEGAN + 9 * S
    assert job_ended_at(job(finished_at=HEARD)) == HEARD


def test_a_member_of_a_gang_is_shown_as_begun_no_later_than_now_and_than_the_end_was_heard() -> None:
    async def story(site: Site) -> None:
        site.node("n2")
        ref = site.job("ann", "p", nodes=2)
        placed, state = site.place(ref), site.engine.state
        for rank in (0, 1):
            node = state.nodes[placed.members[rank].alloc.node_id]
            ahead_us = site.clock.boot_us() + 15_000
            site.engine.commit(attempts.started(state, node, placed.id, rank, ahead_us, 1), "node:n1")
        now = site.engine.now()
        assert [one.started_at for one in (await shown(site, ref)).attempts[0].members] == [now, now]
        for rank in (0, 1):
            ended(site, placed, 0, rank=rank)
        tried = (await shown(site, ref)).attempts[0]
        assert [one.started_at for one in tried.members] == [now, now]
        assert (tried.started_at, tried.finished_at) == (now, now)

    play(story)


def test_an_end_that_lies_is_believed_no_further_than_it_is_billed() -> None:
    world = World()
    world.backend.connect(FACTS)
    told = world.submit(time_limit_us=1200 * S)
    world.cycle()
    world.backend.report()
    world.clock.advance(300_000)
    tried = told.attempt
    assert tried is not None
    lie = Exited(attempt_id=tried.id, rank=0, cause=EndCause.COMPLETED, exit_code=0, held_us=DAY_US)
    world.fleet.exited(world.node(), lie)
    assert world.node().mode == "quarantine"
    assert tried.members[0].charged_us == 300_000
    assert job_ended_at(told) == attempt_ended_at(tried) == tried.started_at + 300_000 == world.engine.now()


def test_an_array_ends_with_the_last_of_its_tasks_and_an_image_keeps_which_that_was() -> None:
    async def story(site: Site) -> None:
        ref, began = site.job("ann", "p", array=ArraySpec((0, 1, 2))), site.engine.now()
        placed = [site.place(f"{ref}.{index}") for index in (0, 1)]
        for one in placed:
            started(site, one)
        assert (await shown(site, ref)).finished_at == 0
        site.clock.advance(HOUR_US)
        ended(site, placed[0], 90 * S)
        ended(site, placed[1], 60 * S)
        array = site.engine.state.jobs[ref].array
        assert array is not None
        assert array.ended_at == began + 90 * S
        written = image.encode(site.engine.state, site.engine.now())
        assert image.decode(written).jobs[ref].array == array
        document = json.loads(written)
        del next(one for one in document["jobs"] if one["id"] == ref)["array"]["ended_at"]
        older = json.dumps(document).encode()
        assert image.decode(older).jobs[ref].array.ended_at == -1  # type: ignore[union-attr]
        assert compare.differences(older, site.engine.state) == []
        last = site.place(f"{ref}.2")
        boot_us = started(site, last)
        site.clock.advance(HOUR_US)
        ended(site, last, 5 * S, boot_us)
        wire = await shown(site, ref)
        assert wire.finished_at == began + HOUR_US + 5 * S
        assert wire.elapsed_us == HOUR_US + 5 * S

    play(story)


def test_tasks_that_were_cancelled_while_they_waited_ended_then() -> None:
    async def story(site: Site) -> None:
        ref = site.job("ann", "p", array=ArraySpec((0, 1, 2)))
        first = site.place(f"{ref}.0")
        started(site, first)
        site.clock.advance(60 * S)
        state, cancelled = site.engine.state, site.engine.now()
        site.engine.commit(jobs.cancel(state, state.jobs[f"{ref}.1"], None), "ann")
        assert state.jobs[ref].array.ended_at == cancelled  # type: ignore[union-attr]
        site.clock.advance(S)
        site.engine.commit([TasksEnded(ref, JobState.CANCELLED)], "ann")
        assert state.jobs[ref].array.ended_at == cancelled + S  # type: ignore[union-attr]
        site.clock.advance(60 * S)
        ended(site, first, 3 * S)
        wire = await shown(site, ref)
        assert (wire.state, wire.finished_at) == ("CANCELLED", cancelled + S)

    play(story)


@pytest.mark.parametrize(("ended_at", "told"), [(-1, HEARD), (0, HEARD), (BEGAN, BEGAN), (HEARD + 1, HEARD)])
def test_an_array_of_before_ends_were_kept_ended_when_that_was_heard(ended_at: int, told: int) -> None:
    old = job(array=ArrayRecord(ended_at=ended_at), finished_at=HEARD, state=JobState.SUCCEEDED)
    assert job_ended_at(old) == told
    assert ArrayRecord().ended_at == -1
    assert job_ended_at(job(array=ArrayRecord(ended_at=BEGAN))) == 0
