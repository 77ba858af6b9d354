"""No question to the store is asked on the event loop: while one waits for the disk, other calls go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from slow_daemon import Daemon, scenario

from bursar.codec.spec import spec_to_wire
from bursar.errors import BursarError, NotFound
from bursar.model import JobSpec
from bursar.v1 import events_pb2, jobs_pb2, money_pb2


async def _all(stream: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in stream]


def test_while_a_read_waits_for_the_disk_other_calls_go_on() -> None:
    async def play(daemon: Daemon) -> None:
        old = await daemon.ended()
        daemon.store.gate.clear()
        waiting = asyncio.create_task(daemon.get("1"))
        assert await asyncio.to_thread(daemon.store.began.acquire, timeout=120)
        new = await daemon.submit()
        assert await daemon.get(new) == await daemon.get("2") == await daemon.get("last") == new
        assert not waiting.done()
        daemon.store.gate.set()
        assert await waiting == old

    scenario(play)


def test_no_call_asks_the_store_on_the_event_loop() -> None:
    async def play(daemon: Daemon) -> None:
        job_id = await daemon.ended(key="k")
        await daemon.submit(key="k2", name="alive")
        calls: list[Awaitable[Any]] = [
            *(daemon.get(ref) for ref in (job_id, "1", "old", f"{job_id}[3]", "no-such-job")),
            daemon.submit(key="k", name="old"),
            daemon.jobs.List(jobs_pb2.ListJobsRequest(states=["all"]), None),
            daemon.jobs.List(jobs_pb2.ListJobsRequest(tasks_of=job_id), None),
            daemon.jobs.Cancel(jobs_pb2.CancelRequest(jobs=[job_id]), None),
            daemon.jobs.Hold(jobs_pb2.JobsRequest(jobs=[job_id]), None),
            daemon.jobs.Plan(
                jobs_pb2.PlanRequest(spec=spec_to_wire(JobSpec(name="old", command=("true",)))), None
            ),
            daemon.jobs.Explain(jobs_pb2.ExplainRequest(job=job_id), None),
            _all(daemon.jobs.Watch(jobs_pb2.WatchJobsRequest(jobs=[job_id], until_terminal=True), None)),
            _all(daemon.jobs.Logs(jobs_pb2.LogsRequest(job=job_id), None)),
            _all(daemon.events.List(events_pb2.ListEventsRequest(job=job_id), None)),
            _all(daemon.events.List(events_pb2.ListEventsRequest(kinds=["job-ended"], tail=3), None)),
            daemon.events.Server(events_pb2.ServerRequest(), None),
            daemon.events.Doctor(events_pb2.DoctorRequest(full=True), None),
            daemon.money.Cost(money_pb2.CostRequest(by=["project"], job=job_id), None),
            daemon.money.Budgets(money_pb2.BudgetsRequest(), None),
            _all(daemon.money.Report(money_pb2.ReportRequest(kind="focus", period="2026-11"), None)),
            _all(daemon.money.Report(money_pb2.ReportRequest(kind="statement", period="2026-11"), None)),
            daemon.policies.List(money_pb2.ListPoliciesRequest(), None),
        ]
        for call in calls:
            with contextlib.suppress(BursarError):
                await call
        assert len(daemon.store.readers) > 1
        assert threading.get_ident() not in daemon.store.readers

    scenario(play)


def test_one_key_makes_one_job_however_many_ask_at_once() -> None:
    async def play(daemon: Daemon) -> None:
        daemon.store.gate.clear()
        twice = [asyncio.create_task(daemon.submit(key="k")) for _ in range(3)]
        assert await asyncio.to_thread(daemon.store.began.acquire, timeout=120)
        daemon.store.gate.set()
        first, *others = await asyncio.gather(*twice)
        assert others == [first, first]
        assert list(daemon.engine.state.jobs) == [first]

    scenario(play)


def test_a_key_whose_job_has_ended_answers_with_that_job() -> None:
    async def play(daemon: Daemon) -> None:
        job_id = await daemon.ended(key="k")
        assert await daemon.submit(key="k", name="old") == job_id
        with pytest.raises(NotFound):
            await daemon.get("no-such-job")

    scenario(play)


def test_many_submits_look_their_keys_up_together() -> None:
    async def play(daemon: Daemon) -> None:
        daemon.learn_no_keys()
        await daemon.ended(key="k3", name="n")
        asked: list[list[str]] = []
        keys = daemon.store.keys
        daemon.store.keys = lambda user, names: (asked.append(list(names)), keys(user, names))[1]  # type: ignore[method-assign,assignment]

        async def requests() -> AsyncIterator[jobs_pb2.SubmitRequest]:
            for number in range(6):
                spec = spec_to_wire(JobSpec(name="n", command=("true",)))
                yield jobs_pb2.SubmitRequest(spec=spec, idempotency_key=f"k{number}")
            yield jobs_pb2.SubmitRequest(spec=spec, idempotency_key="k0")

        answers = await _all(daemon.jobs.SubmitMany(requests(), None))
        assert [answer.existed for answer in answers] == [False] * 3 + [True] + [False] * 2 + [True]
        assert answers[6].job.id == answers[0].job.id
        assert [one for batch in asked for one in batch] == ["k0", "k1", "k2", "k3", "k4", "k5"]
        assert len(asked) == 1

    scenario(play)
