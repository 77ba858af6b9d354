"""How long a job was held is one figure, whatever its attempts are and whenever their ends were told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bursar.codec import results, view
from bursar.model import EndCause, JobSpec
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursard.events import ExitReport
from bursard.services.elapsed import OVERRUN_US, attempt_elapsed_us, held_us, job_elapsed_us
from bursard.state import AttemptRecord, JobRecord, MemberRecord
from bursard.state.records import ArrayRecord

S = 1_000_000
BEGAN = 1_700_000_000 * S


def member(started_at: int = 0, charged_us: int = 0, ended: bool = False) -> MemberRecord:
    report = ExitReport(cause=EndCause.COMPLETED, held_us=charged_us) if ended else None
    return MemberRecord(
        alloc=None,
        boot_id="b",
        started_at=started_at,
        charged_us=charged_us,
        report=report,  # type: ignore[arg-type]
    )


def attempt(*members: MemberRecord, limit_s: int = 600, **known: Any) -> AttemptRecord:
    return AttemptRecord(
        id="a", job_id="j", number=1, option=0, members=list(members), time_limit_us=limit_s * S,
        grace_us=10 * S, holds=(), placed_at=BEGAN, **known,
    )  # fmt: skip


def job(*attempts: AttemptRecord, **known: Any) -> JobRecord:
    return JobRecord(
        id="j",
        number=1,
        user="u",
        spec=JobSpec(),
        order=1,
        submitted_at=BEGAN,
        attempts=list(attempts),
        **known,
    )


def test_what_has_ended_was_held_as_long_as_it_is_charged_whenever_its_end_was_told() -> None:
    told_late = attempt(member(BEGAN, 270 * S, ended=True), started_at=BEGAN, finished_at=BEGAN + 337 * S)
    assert attempt_elapsed_us(told_late, BEGAN + 999 * S) == 270 * S
    ended = job(told_late, started_at=BEGAN, finished_at=BEGAN + 337 * S)
    assert job_elapsed_us(ended, BEGAN + 999 * S) == 270 * S


def test_a_gang_is_held_as_long_as_its_member_that_was_held_longest() -> None:
    gang = attempt(member(BEGAN, 270 * S, ended=True), member(BEGAN, 271 * S + 4, ended=True), member())
    assert attempt_elapsed_us(gang, BEGAN) == 271 * S + 4


def test_several_attempts_are_held_for_their_times_together_not_for_the_pauses_between_them() -> None:
    first = attempt(member(BEGAN, 100 * S, ended=True), finished_at=BEGAN + 130 * S)
    never = attempt(member(0, 0, ended=True), finished_at=BEGAN + 140 * S)
    last = attempt(member(BEGAN + 500 * S, 20 * S))
    assert job_elapsed_us(job(first, never, last), BEGAN + 560 * S) == 160 * S
    assert job_elapsed_us(job(first), BEGAN + 560 * S) == 100 * S  # it waits again


def test_what_never_began_has_no_elapsed_time_and_what_ended_at_once_has_none_of_it() -> None:
    assert job_elapsed_us(job(), BEGAN) is None
    assert job_elapsed_us(job(attempt(member())), BEGAN) is None
    assert job_elapsed_us(job(attempt(member(BEGAN, 0, ended=True))), BEGAN + S) == 0


@pytest.mark.parametrize(
    ("now_s", "charged_s", "held_s"),
    [(0, 0, 0), (5, 0, 5), (5, 7, 7), (614, 0, 614), (99_999, 0, 615), (99_999, 620, 620)],
)
def test_what_runs_is_held_until_now_but_no_longer_than_it_may_run(
    now_s: int, charged_s: int, held_s: int
) -> None:
    one = member(BEGAN, charged_s * S)
    assert OVERRUN_US == 5 * S
    assert held_us(attempt(one), one, BEGAN + now_s * S) == held_s * S


def test_an_array_has_elapsed_since_its_first_task_began() -> None:
    array = {"array": ArrayRecord()}
    assert job_elapsed_us(job(**array), BEGAN) is None
    assert job_elapsed_us(job(**array, started_at=BEGAN), BEGAN + 7 * S) == 7 * S
    assert job_elapsed_us(job(**array, started_at=BEGAN), BEGAN - 7 * S) == 0
    assert job_elapsed_us(job(**array, started_at=BEGAN, finished_at=BEGAN + 3 * S), BEGAN + 7 * S) == 3 * S


def test_a_running_and_an_ended_job_say_how_long_they_were_held_wherever_they_are_shown(
    at_a_desk: Any,
) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        assert not (await desk.service.Get(pb.GetJobRequest(job=ref), None)).HasField("elapsed_us")
        desk.plan()
        desk.start_all()
        desk.clock.advance(30 * S)
        running = await desk.service.Get(pb.GetJobRequest(job=ref), None)
        assert (running.elapsed_us, running.attempts[0].elapsed_us) == (30 * S, 30 * S)
        desk.end_all()
        [ended] = (await desk.service.List(pb.ListJobsRequest(states=["SUCCEEDED"]), None)).jobs
        assert ended.elapsed_us == ended.attempts[0].members[0].held_us == S

    at_a_desk(story)


@pytest.mark.parametrize(("us", "seconds"), [(None, None), (0, 0), (1_500_000, 1.5), (3 * S, 3)])
def test_json_and_the_sdk_tell_the_same_elapsed_time(us: int | None, seconds: float | None) -> None:
    tried = types_pb2.Attempt(elapsed_us=us, state="ENDED")
    wire = types_pb2.Job(elapsed_us=us, attempts=[tried])
    shown, told = view.job(wire), results.job(wire)
    assert (shown["elapsed_s"], shown["attempts"][0]["elapsed_s"]) == (seconds, seconds)
    span = None if seconds is None else timedelta(seconds=seconds)
    assert (told.elapsed, told.attempts[0].elapsed) == (span, span)
