"""Short jobs placed ahead of need: behind one that has the place they get, and back if that is not short."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import msgspec
import pytest

from bursar.clock import Instant, format_instant
from bursar.errors import InvariantViolation, WrongState
from bursar.model import ArraySpec, EndCause, JobState, RetrySpec
from bursar.resources import ResourceRequest
from bursard import ahead
from bursard.access.identity import Identity, Role
from bursard.doctor import check_state
from bursard.events import AttemptEnded, AttemptPlaced, JobUpdated, MemberStarted, SecretSet, StopRequested
from bursard.events.changes import difference
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Exited, Started
from bursard.scheduler import plan
from bursard.services.views import node_view
from bursard.state import Applied, AttemptRecord, JobRecord
from bursard.state import image as state_image
from bursard.state.decide import jobs as decide_jobs
from bursard.state.decide import nodes

SECOND = 1_000_000
WHOLE = (ResourceRequest(None, 8_000, 1 << 20),)
"""All CPUs of the node: one place."""


def world(hold: int = 64, short: int = ahead.SHORT_ENDS_MIN) -> World:
    """A node with one place for jobs of `WHOLE`, of which so many have just been short."""
    made = World(ahead=hold)
    made.backend.connect(FACTS)
    for _ in range(short):
        one = made.submit(options=WHOLE)
        made.cycle()
        run(made, one)
    return made


def run(made: World, job: JobRecord, held_us: int = 10_000) -> None:
    """A job that has its place ends after so long; the daemon hears of it."""
    assert job.attempt is not None
    made.clock.advance(held_us)
    made.backend.finish(job.attempt.id, 0)
    made.backend.report()
    made.writer.flush()


def attempt(job: JobRecord) -> AttemptRecord:
    assert job.attempt is not None, job.state
    return job.attempt


def content(made: World) -> None:
    made.writer.flush()
    bad = [finding.message for finding in check_state(made.state) if not finding.ok]
    assert not [text for text in bad if "contact" not in text and "no price" not in text], bad


def line(made: World, count: int, **spec: object) -> list[JobRecord]:
    """So many jobs: the first has the place, the rest wait for it, one behind the other."""
    jobs = [made.submit(options=WHOLE, **spec) for _ in range(count)]
    made.cycle()
    return jobs


def afters(jobs: list[JobRecord]) -> list[str]:
    return [attempt(job).after for job in jobs]


# --- when


def test_nothing_is_placed_ahead_before_a_class_is_known_to_be_short() -> None:
    made = world(short=ahead.SHORT_ENDS_MIN - 1)
    jobs = line(made, 3)
    assert [job.state for job in jobs] == [JobState.STARTING, JobState.PENDING, JobState.PENDING]


def test_short_jobs_wait_behind_each_other_for_one_place() -> None:
    made = world()
    jobs = line(made, 3)
    ids = [attempt(job).id for job in jobs]
    assert afters(jobs) == ["", ids[0], ids[1]]
    assert made.state.behind == {ids[0]: ids[1], ids[1]: ids[2]}
    assert [job.state for job in jobs] == [JobState.STARTING] * 3
    assert made.backend.running("n-1") == [(ids[0], 0)]
    assert attempt(jobs[1]).why == f"ahead of need: it starts on n-1 when job {jobs[0].display} ends there"
    content(made)


@pytest.mark.parametrize(("held_us", "depth"), [(1_000, 32), (60_000, 4), (120_000, 2), (248_001, 0)])
def test_a_line_is_no_longer_than_a_quarter_of_a_second_of_work(held_us: int, depth: int) -> None:
    made = world(short=0)
    for _ in range(ahead.SHORT_ENDS_MIN):
        job = made.submit(options=WHOLE)
        made.cycle()
        run(made, job, held_us)
    jobs = line(made, 40)
    assert sum(job.state is JobState.STARTING for job in jobs) == 1 + depth


def test_one_long_job_makes_its_class_a_long_one() -> None:
    made = world()
    (job,) = line(made, 1)
    run(made, job, ahead.SHORT_US + 1)
    assert [job.state for job in line(made, 2)] == [JobState.STARTING, JobState.PENDING]


def test_a_node_gets_no_more_than_it_holds_and_one_of_an_older_release_nothing() -> None:
    assert [job.state for job in line(world(hold=2), 5)] == [JobState.STARTING] * 3 + [JobState.PENDING] * 2
    assert [job.state for job in line(world(hold=0), 2)] == [JobState.STARTING, JobState.PENDING]


def test_places_are_filled_evenly_and_no_more_wait_than_is_good() -> None:
    made = World(ahead=64)
    made.backend.connect(FACTS)
    for _ in range(ahead.SHORT_ENDS_MIN):
        job = made.submit()
        made.cycle()
        run(made, job)
    jobs = [made.submit() for _ in range(80)]
    made.cycle()
    heads = [attempt(job).id for job in jobs[:8]]
    assert afters(jobs[8:16]) == heads
    assert sum(job.state is JobState.STARTING for job in jobs) == 8 + ahead.WAITING_MAX


def test_what_another_queue_has_in_front_keeps_its_turn() -> None:
    made = world()
    first = made.submit(options=WHOLE)
    made.cycle()
    mine = made.submit(options=WHOLE)
    other = made.submit(options=WHOLE, time_limit_us=SECOND)
    later = made.submit(options=WHOLE)
    made.cycle()
    assert attempt(mine).after == attempt(first).id
    assert (other.state, later.state) == (JobState.PENDING, JobState.PENDING)


def test_the_first_queue_that_waits_decides_whether_anything_goes_ahead() -> None:
    made = world()
    made.submit(options=WHOLE)
    made.cycle()
    urgent = made.submit(options=WHOLE, time_limit_us=SECOND, priority=90)
    short = made.submit(options=WHOLE)
    made.cycle()
    assert (urgent.state, short.state) == (JobState.PENDING, JobState.PENDING)


@pytest.mark.parametrize(
    "spec",
    [
        {"nodes": 2, "options": WHOLE},
        {"options": (WHOLE[0], ResourceRequest(None, 7_000, 1 << 20))},
        {"options": WHOLE, "secrets": ("TOKEN",)},
    ],
    ids=["gang", "alternatives", "secrets"],
)
def test_what_is_not_one_exact_share_waits_for_its_own_turn(spec: dict[str, object]) -> None:
    made = world()
    made.engine.commit([SecretSet("p", "TOKEN", "sealed")], "ann")
    made.submit(options=WHOLE)
    made.cycle()
    job = made.submit(**spec)
    made.cycle()
    assert job.state is JobState.PENDING


def test_a_node_that_has_changed_gets_nothing_ahead() -> None:
    made = world()
    (first,) = line(made, 1)
    made.state.cluster.set_price(made.node().row, "another", made.node().rates)
    job = made.submit(options=WHOLE)
    made.cycle()
    assert (first.state, job.state) == (JobState.STARTING, JobState.PENDING)


def test_what_asks_for_something_else_since_the_plan_is_not_placed_by_it() -> None:
    made = world()
    made.submit(options=WHOLE)
    made.cycle()
    changed, same = made.submit(options=WHOLE), made.submit(options=WHOLE)
    snapshot = made.state.snapshot()
    wanted = plan(snapshot, made.engine.now())
    spec = msgspec.structs.replace(changed.spec, time_limit_us=SECOND)
    made.engine.commit([JobUpdated(changed.id, difference(changed.spec, spec))], "ann")
    placed = made.ahead.turn(snapshot, wanted, made.engine.now(), made._commit)
    assert (placed, changed.state, same.state) == (1, JobState.PENDING, JobState.STARTING)


def test_an_array_never_has_more_tasks_alive_than_it_may() -> None:
    made = world()
    parent = made.submit(options=WHOLE, array=ArraySpec(tuple(range(10)), max_parallel=2))
    made.cycle()
    alive = [task for task in made.state.tasks[parent.id].values() if task.attempt is not None]
    assert len(alive) == 2
    content(made)


# --- the place is handed over


def test_the_place_goes_from_one_to_the_next_and_is_never_free_or_taken_twice() -> None:
    made = world()
    jobs = line(made, 3)
    ids = [attempt(job).id for job in jobs]
    run(made, jobs[0])
    assert jobs[0].state is JobState.SUCCEEDED
    assert afters(jobs[1:]) == ["", ids[1]]
    assert int(made.state.cluster.cpu_free[made.node().row]) == 0
    assert made.backend.running("n-1") == [(ids[1], 0)]
    content(made)
    run(made, jobs[1])
    run(made, jobs[2])
    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 3
    assert int(made.state.cluster.cpu_free[made.node().row]) == 8_000
    assert made.state.behind == {}


def test_it_is_billed_from_its_own_start() -> None:
    made = world()
    first, second = line(made, 2)
    run(made, first, 400_000)
    run(made, second, 10_000)
    ends = [event for event in made.events if isinstance(event, MemberStarted)][-2:]
    assert ends[1].at - ends[0].at == 400_000
    assert second.settled_nanos > 0
    assert first.settled_nanos // second.settled_nanos == 40


def test_a_node_cannot_bill_two_for_the_same_time() -> None:
    """1. The first has run for 0.3 s, and its node says that it ran 0.2 s and the second 5 s.
    2. Together they held the place for no longer than passed since the first was ordered.
    """
    made = world()
    first, second = line(made, 2)
    ids = [attempt(job).id for job in (first, second)]
    boot_us = made.clock.boot_us()
    made.clock.advance(300_000)
    made.fleet.started(made.node(), Started(ids[0], 0, 7, boot_us))
    made.fleet.exited(made.node(), said(ids[0], boot_us, 200_000))
    made.fleet.exited(made.node(), said(ids[1], boot_us + 200_000, 300_000))
    made.writer.flush()
    held = [end.report.held_us for end in made.events if type(end).__name__ == "MemberEnded"][-2:]
    assert held == [200_000, 100_100]
    assert made.node().mode == "open"


def test_a_share_whose_holder_left_no_trace_is_not_billed_twice_either() -> None:
    """1. The first has run for 0.3 s, of which its node told 0.2 s; then it has no trace of it any more.
    2. What it says of the second is held to what the first left.
    """
    made = world()
    first, second = line(made, 2, retry=RetrySpec(never=True))
    ids = [attempt(job).id for job in (first, second)]
    made.backend.report()
    made.clock.advance(200_000)
    made.backend.report()
    made.clock.advance(100_000)
    made.backend.disconnect("n-1")
    del made.backend._machines["n-1"].members[ids[0], 0]
    made.backend.connect(FACTS)
    made.writer.flush()
    assert first.state is JobState.FAILED
    began_us = made.clock.boot_us() - 100_000
    made.fleet.exited(made.node(), said(ids[1], began_us, 300_000))
    made.writer.flush()
    held = [end.report.held_us for end in made.events if type(end).__name__ == "MemberEnded"][-2:]
    assert held == [200_000, 100_100]


def said(attempt_id: str, started_boot_us: int, held_us: int) -> Exited:
    return Exited(
        attempt_id=attempt_id, rank=0, cause=EndCause.COMPLETED, exit_code=0,
        started=True, started_boot_us=started_boot_us, held_us=held_us,
    )  # fmt: skip


def test_what_runs_before_its_place_is_free_is_not_billed_and_its_node_is_quarantined() -> None:
    made = world()
    first, second = line(made, 2)
    boot_us = made.clock.boot_us()
    made.clock.advance(50_000)
    made.fleet.started(made.node(), Started(attempt(second).id, 0, 7, boot_us))
    assert attempt(second).members[0].started_at == 0
    made.fleet.exited(made.node(), said(attempt(second).id, boot_us, 40_000))
    made.writer.flush()
    assert second.settled_nanos == 0
    assert made.node().mode == "quarantine"
    assert made.node().reason == "it ran an attempt before the share that this waits for was free"
    assert attempt(first).after == ""
    assert made.state.behind == {}


# --- and taken back


def test_what_is_placed_behind_one_that_is_leaving_waits_for_who_has_the_share() -> None:
    """1. The last of a line is cancelled, and before its node has said so two more are placed behind it.
    2. They do not start beside the first, whose share they get.
    """
    made = world()
    jobs = line(made, 3)
    made.stop(attempt(jobs[2]))
    late = line(made, 2)
    assert made.backend.running("n-1") == [(attempt(jobs[0]).id, 0)]
    made.backend.report()
    made.writer.flush()
    assert jobs[2].state is JobState.CANCELLED
    assert afters([*jobs[:2], *late]) == ["", *(attempt(job).id for job in (*jobs[:2], late[0]))]
    for job in (*jobs[:2], *late):
        run(made, job)
        assert job.state is JobState.SUCCEEDED
    assert made.node().mode == "open"
    content(made)


def test_what_waits_behind_a_long_job_comes_back_untouched_and_keeps_its_turn() -> None:
    made = world()
    first, second, third = line(made, 3, retry=RetrySpec(never=True))
    made.clock.advance(ahead.WAIT_MAX_US + 1)
    made.cycle()
    made.backend.report()
    made.writer.flush()
    assert (second.state, third.state) == (JobState.PENDING, JobState.PENDING)
    assert (second.attempts, second.retries, second.free_retries, second.retry_at) == ([], 0, 0, 0)
    ends = [event for event in made.events if isinstance(event, AttemptEnded)][-2:]
    assert [(end.cause, end.requeue, end.counts) for end in ends] == [(EndCause.PREEMPTED, True, False)] * 2
    made.cycle()
    assert second.state is JobState.PENDING, "the class is not short any more"
    run(made, first)
    made.cycle()
    assert (attempt(second).after, third.state) == ("", JobState.PENDING)
    content(made)


def test_a_more_urgent_job_has_the_line_taken_back() -> None:
    made = world()
    first, second = line(made, 2)
    urgent = made.submit(options=WHOLE, priority=90)
    made.cycle()
    made.backend.report()
    assert second.state is JobState.PENDING
    run(made, first)
    made.cycle()
    assert second.state is JobState.PENDING
    assert made.backend.running("n-1") == [(attempt(urgent).id, 0)]
    assert made.node().mode == "open"


def test_a_drained_node_gives_back_what_waits_there() -> None:
    made = world()
    first, second = line(made, 2)
    made.engine.commit(nodes.scheduling(made.node(), "drain", "repair"), "ann")
    made.cycle()
    made.backend.report()
    assert attempt(first).stop_cause is None
    assert second.state is JobState.PENDING
    content(made)


def test_taking_back_what_has_its_turn_already_changes_nothing() -> None:
    made = world()
    first, second = line(made, 2)
    made.backend.finish(attempt(first).id, 0)
    made.fleet.take_back(attempt(second))
    made.backend.report()
    made.writer.flush()
    assert first.state is JobState.SUCCEEDED
    assert second.state in (JobState.STARTING, JobState.RUNNING)
    assert made.backend.running("n-1") == [(attempt(second).id, 0)]


@pytest.mark.parametrize("middle", [1, 2, 3])
def test_one_of_a_line_is_cancelled_and_the_others_close_up(middle: int) -> None:
    made = world()
    jobs = line(made, 4)
    ids = [attempt(job).id for job in jobs]
    made.stop(attempt(jobs[middle]))
    made.backend.report()
    made.writer.flush()
    assert jobs[middle].state is JobState.CANCELLED
    left = [one for number, one in enumerate(ids) if number != middle]
    assert made.state.behind == dict(pairwise(left))
    content(made)
    for job in jobs:
        if job.attempt is not None:
            run(made, job)
    assert [job.state for job in jobs].count(JobState.SUCCEEDED) == 3


def test_a_requeued_one_that_waits_is_pending_again() -> None:
    made = world()
    first, second = line(made, 2)
    made.stop(attempt(second), EndCause.PREEMPTED)
    made.backend.report()
    made.writer.flush()
    assert (second.state, second.attempts) == (JobState.PENDING, [])
    assert attempt(first).stop_cause is None


# --- what happens to machines and daemons


@pytest.mark.parametrize("how", ["connection", "daemon", "both"])
def test_what_waits_is_given_again_after_a_connection_or_a_daemon_was_lost(how: str) -> None:
    made = world()
    first, second, third = line(made, 3)
    if how != "daemon":
        made.backend.disconnect("n-1")
    if how != "connection":
        made.restart()
    made.backend.connect(FACTS)
    made.writer.flush()
    content(made)
    for job in (first, second, third):
        run(made, job)
    assert [job.state for job in (first, second, third)] == [JobState.SUCCEEDED] * 3
    assert [len(job.attempts) for job in (first, second, third)] == [1, 1, 1]


def test_ends_that_were_not_told_are_heard_in_the_order_of_their_place() -> None:
    """1. The first ends and the second starts and ends; then the connection goes before either is told.
    2. Its machine tells them in another order than they came in.
    """
    made = world()
    first, second = line(made, 2)
    for job in (first, second):
        made.clock.advance(10_000)
        made.backend.finish(attempt(job).id, 0)
    made.backend.disconnect("n-1")
    machine = made.backend._machines["n-1"]
    machine.members = dict(reversed(machine.members.items()))
    made.backend.connect(FACTS)
    made.writer.flush()
    assert (first.state, second.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert made.node().mode == "open"


def test_a_reboot_sends_back_who_waits_without_using_a_retry() -> None:
    made = world()
    _first, second, third = line(made, 3)
    made.backend.disconnect("n-1")
    made.backend.connect(FACTS, boot_id="boot-2")
    made.writer.flush()
    for job in (second, third):
        assert (job.state, job.retries) == (JobState.PENDING, 0)
    assert made.state.behind == {}
    content(made)


def test_a_node_that_comes_back_with_an_older_agent_gives_back_who_waits() -> None:
    made = world()
    first, second = line(made, 2)

    async def swap() -> None:
        made.backend.disconnect("n-1")
        made.backend._ahead = 0
        made.backend.connect(FACTS)
        await asyncio.sleep(0)

    asyncio.run(swap())
    made.writer.flush()
    assert second.state is JobState.PENDING
    assert made.backend.running("n-1") == [(attempt(first).id, 0)]
    content(made)


def test_one_that_is_cancelled_while_its_node_gives_it_back_does_not_come_back() -> None:
    made = world()
    first, second = line(made, 2)
    made.engine.commit(decide_jobs.cancel(made.state, second, None), "ann")
    made.fleet._comes_back(attempt(second).id)
    made.writer.flush()
    assert (first.state, second.state) == (JobState.STARTING, JobState.CANCELLED)
    content(made)


def test_an_image_and_the_log_give_the_same_line() -> None:
    made = world()
    line(made, 4)
    again = state_image.decode(state_image.encode(made.state, made.engine.now()))
    assert again.behind == made.state.behind
    assert again.cluster.cpu_free.tolist() == made.state.cluster.cpu_free.tolist()
    assert not [finding.message for finding in check_state(again) if "R1" in finding.message]


def test_logs_without_the_field_are_read_as_before() -> None:
    made = world(hold=0)
    line(made, 1)
    placed = [event for event in made.events if isinstance(event, AttemptPlaced)]
    assert {event.after for event in placed} == {""}


def test_a_start_before_the_share_was_free_is_cut_and_its_node_quarantined() -> None:
    made = world()
    first, second = line(made, 2)
    ids = [attempt(job).id for job in (first, second)]
    boot_us = made.clock.boot_us()
    made.clock.advance(300_000)
    made.fleet.exited(made.node(), said(ids[0], boot_us, 200_000))
    made.fleet.started(made.node(), Started(ids[1], 0, 7, boot_us + 150_000))
    made.writer.flush()
    start = [event for event in made.events if isinstance(event, MemberStarted)][-1]
    assert (start.attempt_id, start.boot_us) == (ids[1], boot_us + 200_000)
    assert made.node().mode == "quarantine"


def test_what_waits_counts_over_passes_and_not_as_a_job_of_its_node() -> None:
    made = world(hold=3)
    line(made, 3)
    late = line(made, 3)
    assert [job.state for job in late] == [JobState.STARTING, JobState.PENDING, JobState.PENDING]
    assert node_view(made.state, made.node(), None, 0, Identity("op", Role.OPERATOR), 0).jobs == 1


def test_with_many_attempts_live_nothing_is_placed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world()
    monkeypatch.setattr(ahead, "LIVE_MAX", 1)
    assert [job.state for job in line(made, 2)] == [JobState.STARTING] * 2
    assert [job.state for job in line(made, 1)] == [JobState.PENDING]


def test_so_many_wait_in_all_however_many_passes_are_made() -> None:
    made = World(ahead=64)
    made.backend.connect(FACTS)
    for _ in range(ahead.SHORT_ENDS_MIN):
        job = made.submit()
        made.cycle()
        run(made, job)
    for _ in range(80):
        made.submit()
    for _ in range(3):
        made.cycle()
    assert len(made.state.behind) == ahead.WAITING_MAX


def test_behind_one_that_is_being_stopped_or_has_been_there_for_long_nothing_is_placed() -> None:
    made = world()
    (first,) = line(made, 1)
    made.engine.commit([StopRequested(attempt(first).id, EndCause.CANCELLED, 0, "")], "ann")
    assert line(made, 1)[0].state is JobState.PENDING
    made = world()
    line(made, 1)
    made.clock.advance(ahead.SHORT_US + 1)
    assert line(made, 1)[0].state is JobState.PENDING


def test_doctor_sees_a_share_that_is_promised_to_nobody_or_to_another() -> None:
    for spoil in ("promise", "share", "end"):
        made = world()
        first, second = line(made, 2)
        if spoil == "promise":
            made.state.behind.clear()
        elif spoil == "share":
            alloc = attempt(second).members[0].alloc
            attempt(second).members[0].alloc = msgspec.structs.replace(alloc, cpu_milli=1)
        else:
            attempt(second).after = "att_gone"
        bad = [finding.message for finding in check_state(made.state) if finding.check == "attempts (J4)"]
        assert f"R1: {attempt(second).id} waits for the share of" in bad[0], spoil
        assert first.attempt is not None


def test_a_share_cannot_be_promised_twice_or_to_another_request() -> None:
    made = world()
    first, second = line(made, 2)
    third = made.submit(options=WHOLE)
    placed = [event for event in made.events if isinstance(event, AttemptPlaced)][-1]
    wrong = msgspec.structs.replace(placed, attempt_id="att_x", job_id=third.id)
    for event, text in (
        (wrong, "is promised to"),
        (
            msgspec.structs.replace(
                wrong,
                after=attempt(second).id,
                members=(msgspec.structs.replace(wrong.members[0], cpu_milli=1),),
            ),
            "cannot have the share",
        ),
    ):
        with pytest.raises(InvariantViolation, match=text):
            made.state.apply(event, 0, Applied())
    assert attempt(first).after == ""


@pytest.mark.parametrize(
    ("begins_h", "whose", "waits"), [(900, "eve", True), (2, "eve", False), (2, "ann", True)]
)
def test_no_job_waits_at_a_node_that_others_have_reserved_before_the_last_of_a_line_has_ended(
    begins_h: float, whose: str, waits: bool
) -> None:
    """Their limit is an hour; `ann` submits them, also those before that were short."""
    made = world(short=0)
    at = format_instant(Instant(made.engine.now() + int(begins_h * 3600) * SECOND))
    made.apply(
        "kind: Reservation\nname: r\nspec:\n  nodes: [n-1]\n  duration: 4h\n"
        f"  start: {at}\n  for: {{users: [{whose}]}}\n"
    )
    for _ in range(ahead.SHORT_ENDS_MIN):
        one = made.submit(options=WHOLE)
        made.cycle()
        run(made, one)
    jobs = line(made, 2)
    assert [job.attempt is not None for job in jobs] == [True, waits]


def test_what_waits_in_a_line_counts_for_a_reservation_by_the_end_of_all_before_it() -> None:
    made = world()
    jobs = line(made, 2)
    assert attempt(jobs[1]).after
    at = format_instant(Instant(made.engine.now() + 90 * 60 * SECOND))
    with pytest.raises(WrongState, match=f"1 job may run past its start, .*: {jobs[1].number};"):
        made.apply(
            "kind: Reservation\nname: r\nspec:\n  nodes: [n-1]\n  duration: 4h\n"
            f"  start: {at}\n  maintenance: true\n"
        )
