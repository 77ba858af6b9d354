"""A job says of each budget what the budget counted of it, whenever the budget came."""

from __future__ import annotations

import msgspec
import pytest
from money_daemon import ANN, BUDGET, COST_MODEL, Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.model import ArraySpec, EndCause
from bursar.v1 import money_pb2 as pb
from bursar.v1 import types_pb2
from bursard.events import ExitReport
from bursard.place import one_pass
from bursard.services.views import job_view, record_of
from bursard.state import Limits, image
from bursard.state.compare import differences
from bursard.state.decide import attempts, jobs
from bursard.store import JobFilter

DAY_US = 24 * HOUR_US
LATER = BUDGET.replace("name: vision", "name: later")
COUNTS = "  counts_from: {}\n"


def shown(daemon: Daemon, job_id: str) -> types_pb2.Job:
    state, now = daemon.engine.state, daemon.engine.now()
    job = state.jobs.get(job_id)
    if job is None:
        [row] = (row for row in daemon.store.jobs(JobFilter()).rows if row.id == job_id)
        job = record_of(row)
    return job_view(state, job, seen_by=ANN, now=now)


def settled(daemon: Daemon, job_id: str) -> dict[str, int]:
    return {one.budget: one.settled_nanos for one in shown(daemon, job_id).budgets}


def counted(daemon: Daemon) -> dict[str, int]:
    """What each budget has settled in its period; nothing else runs here than one job."""
    state = daemon.engine.state
    return {
        name: state.ledger.settled(name, record.period_start)
        for name, record in state.budgets.records.items()
    }


def run(daemon: Daemon, hours: int) -> None:
    for _ in range(hours):
        daemon.clock.advance(HOUR_US)
        daemon.meter()


def start(daemon: Daemon) -> None:
    """What waits starts."""
    state, engine = daemon.engine.state, daemon.engine
    one_pass(state, engine.ids, engine.now(), lambda _, events: bool(engine.commit(events, "bursard")))
    for attempt in state.live_attempts():
        for member in attempt.members:
            if not member.started_at:
                node = state.nodes[member.alloc.node_id]
                boot_us = daemon.clock.boot_us()
                engine.commit(
                    attempts.started(state, node, attempt.id, member.alloc.rank, boot_us, 1), "node"
                )


def requeue(daemon: Daemon, job_id: str) -> None:
    """An operator's: its attempt is stopped, ends and is followed by another."""
    state, engine = daemon.engine.state, daemon.engine
    job = state.jobs[job_id]
    engine.commit(jobs.requeue(state, job), "ann")
    attempt = job.attempt
    assert attempt is not None
    for member in attempt.members:
        node = state.nodes[member.alloc.node_id]
        held = node.axis(daemon.clock.boot_us()) - member.started_at
        report = ExitReport(cause=EndCause.CANCELLED, exit_code=143, held_us=held)
        engine.commit(attempts.exited(state, node, attempt.id, member.alloc.rank, report, 0), "node")
    start(daemon)


async def correct(daemon: Daemon, amount: int) -> None:
    request = pb.CorrectRequest(job="1", currency="USD", reason="throttled")
    request.amount.nanos = str(amount)
    await daemon.money.Correct(request, None)


async def two_tries(daemon: Daemon, *documents: str) -> str:
    """A job whose second try is two hours old; documents are applied in it."""
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    job_id = daemon.submit(project="research/vision")
    run(daemon, 2)
    requeue(daemon, job_id)
    run(daemon, 1)
    await daemon.apply(*documents)
    run(daemon, 1)
    return job_id


def test_a_budget_applied_in_a_second_try_counts_the_first_one_and_its_correction() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await two_tries(daemon, LATER)
        whole = shown(daemon, job_id).settled_nanos
        assert settled(daemon, job_id) == counted(daemon) == {"later": whole}
        daemon.finish(job_id)
        await daemon.engine.durable()
        assert settled(daemon, job_id) == counted(daemon) == {"later": whole}
        most = shown(daemon, job_id).estimate_max_nanos
        await correct(daemon, 7)
        assert settled(daemon, job_id) == counted(daemon) == {"later": 7}
        assert shown(daemon, job_id).estimate_max_nanos == most, "what it could cost no correction changes"
        await correct(daemon, most + 1)
        assert shown(daemon, job_id).estimate_max_nanos == most + 1, "no less than it has cost"

    in_a_daemon(story)


@pytest.mark.parametrize("since_h", [-1, 1, 2, 3])
def test_a_budget_that_counts_from_an_instant_says_what_came_after_it(since_h: int) -> None:
    async def story(daemon: Daemon) -> None:
        at = f"2026-11-01T{1 + since_h:02}:00:00Z"
        job_id = await two_tries(daemon, LATER + COUNTS.format(at))
        assert settled(daemon, job_id) == counted(daemon)
        daemon.finish(job_id)
        await daemon.engine.durable()
        assert settled(daemon, job_id) == counted(daemon)

    in_a_daemon(story)


def test_what_was_spent_before_the_period_in_which_a_budget_came_is_not_its_own() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(30 * DAY_US - 3 * HOUR_US)
        job_id = await two_tries(daemon, LATER, BUDGET)
        assert settled(daemon, job_id) == counted(daemon)
        assert 0 < settled(daemon, job_id)["later"] < shown(daemon, job_id).settled_nanos

    in_a_daemon(story)


def test_of_an_array_each_budget_says_what_it_counted_of_the_tasks() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        array = daemon.submit(project="research/vision", array=ArraySpec(((0, 2, 1),)))
        run(daemon, 2)
        at = COUNTS.format("2026-11-01T02:00:00Z")
        await daemon.apply(LATER + at, BUDGET)
        run(daemon, 1)
        first, second = daemon.engine.state.tasks[array].values()
        assert settled(daemon, array) == counted(daemon)
        daemon.finish(first.id)
        assert settled(daemon, array) == counted(daemon)
        daemon.finish(second.id)
        await daemon.engine.durable()
        assert settled(daemon, array) == counted(daemon)
        found = settled(daemon, array)
        assert 0 < found["later"] < found["vision"] == shown(daemon, array).settled_nanos

    in_a_daemon(story)


def test_an_image_keeps_it_and_one_of_before_is_no_finding() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await two_tries(daemon, LATER)
        daemon.finish(job_id)
        await daemon.engine.durable()
        await correct(daemon, 7)
        state = daemon.engine.state
        written = image.encode(state, daemon.engine.now())
        [row] = (row for row in daemon.store.jobs(JobFilter()).rows if row.id == job_id)
        more = 7 - record_of(row).settled_nanos
        assert image.decode(written, Limits()).shifted == {job_id: {"later": more}}
        document = msgspec.json.decode(written)
        del document["shifted"], document["counted_whole"]
        old = msgspec.json.encode(document)
        assert differences(old, state) == []
        again = image.decode(old, Limits())
        assert again.shifted_in(job_id, "later") == state.shifted_in(job_id, "later")
        assert differences(image.encode(again, daemon.engine.now()), state) == []

    in_a_daemon(story)
