"""Many jobs in a message: what a client packs, and what the daemon answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from slow_daemon import Daemon, scenario

from bursar.client import AsyncWireClient, WireClient, calls
from bursar.client.fake import FakeServer
from bursar.codec.spec import spec_to_wire
from bursar.errors import InvalidRequest
from bursar.model import JobSpec
from bursar.v1 import jobs_pb2, types_pb2
from bursard.services import jobs as service


def request(name: str = "n", key: str = "", priority: int = 50) -> jobs_pb2.SubmitRequest:
    spec = spec_to_wire(JobSpec(name=name, command=("true",), priority=priority))
    return jobs_pb2.SubmitRequest(spec=spec, idempotency_key=key, terse=True)


async def answers(daemon: Daemon, *batches: list[jobs_pb2.SubmitRequest]) -> list[Any]:
    async def messages() -> AsyncIterator[jobs_pb2.SubmitBatch]:
        for jobs in batches:
            yield jobs_pb2.SubmitBatch(jobs=jobs)

    stream = daemon.jobs.SubmitBatches(messages(), None)
    return [answer async for message in stream for answer in message.answers]


def test_answers_come_in_order_and_a_refusal_leaves_the_others() -> None:
    async def play(daemon: Daemon) -> None:
        old = await daemon.ended(key="k1", name="n")
        first = [request(f"a{i}") for i in range(40)]
        second = [
            request(key="k1"),
            request(priority=101),
            request(key="k2"),
            request(key="k2"),
            request("z"),
        ]
        found = await answers(daemon, first, [], second, [request("other", key="k1")])
        assert len(found) == 46
        state = daemon.engine.state
        assert [state.jobs[one.job.id].spec.name for one in found[:40]] == [f"a{i}" for i in range(40)]
        assert [one.job.number for one in found[:40]] == list(range(2, 42))
        assert [one.error for one in found[40:]] == ["", "InvalidRequest", "", "", "", "KeyConflict"]
        assert [one.existed for one in found[40:]] == [True, False, False, True, False, False]
        assert found[40].job.id == old
        assert found[42].job.id == found[43].job.id
        assert daemon.engine.writer.durable_seq == state.version

    scenario(play)


def test_keys_of_a_message_are_looked_up_in_a_few_looks() -> None:
    async def play(daemon: Daemon) -> None:
        daemon.learn_no_keys()
        asked: list[int] = []
        keys = daemon.store.keys
        daemon.store.keys = lambda user, names: (asked.append(len(names)), keys(user, names))[1]  # type: ignore[method-assign,assignment]
        await answers(daemon, [request(key=f"k{i}") for i in range(70)])
        assert asked == [32, 32, 6]

    scenario(play)


def test_a_message_of_too_many_is_refused_and_what_came_before_is_answered() -> None:
    async def play(daemon: Daemon) -> None:
        assert len(await answers(daemon, [request() for _ in range(256)])) == 256
        found: list[Any] = []

        async def messages() -> AsyncIterator[jobs_pb2.SubmitBatch]:
            yield jobs_pb2.SubmitBatch(jobs=[request("good")])
            yield jobs_pb2.SubmitBatch(jobs=[request() for _ in range(257)])

        async def take() -> None:
            async for message in daemon.jobs.SubmitBatches(messages(), None):
                found.extend(message.answers)

        with pytest.raises(InvalidRequest, match="jobs: 257 in one message; at most 256"):
            await take()
        assert [one.job.number for one in found] == [257]
        assert len(daemon.engine.state.jobs) == 257

    scenario(play)


def test_answers_that_are_large_go_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [jobs_pb2.SubmitResponse(message="x" * 100) for _ in range(7)]
    monkeypatch.setattr(service, "ROWS_BYTES_MAX", 3 * rows[0].ByteSize())
    messages = list(service._answers(iter(rows)))
    assert [len(message.answers) for message in messages] == [3, 3, 1]
    rows[2].message = "x" * 10_000
    assert [len(message.answers) for message in service._answers(rows)] == [2, 1, 3, 1]


# ------------------------------------------------------------------ the client


def spec(size: int = 10) -> JobSpec:
    return JobSpec(script="#" * size)


def sizes(specs: list[JobSpec]) -> list[int]:
    return [len(message.jobs) for message in calls.submit_batches(specs, True)]


def test_a_message_holds_as_many_jobs_as_fit() -> None:
    assert sizes([]) == []
    assert sizes([spec()] * 64) == [64]
    assert sizes([spec()] * 129) == [64, 64, 1]
    (message,) = calls.submit_batches([(spec(60_000), "k")] * 8, True)
    assert len(message.jobs) == 8
    assert {job.idempotency_key for job in message.jobs} == {"k"}
    assert message.ByteSize() < calls.BATCH_BYTES
    assert sizes([spec(60_000)] * 20) == [8, 8, 4]


def test_a_message_holds_as_many_bytes_as_it_may_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BATCH_BYTES", 2 * calls.submit_request(spec(), "", True).ByteSize())
    assert sizes([spec()] * 5) == [2, 2, 1]
    assert sizes([spec(11), spec(), spec(), spec()]) == [1, 2, 1]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_list_goes_in_batches_and_what_is_made_on_the_way_one_by_one(tmp_path, kind) -> None:
    numbers = iter(range(1000))
    with FakeServer(tmp_path / "run") as fake:
        fake.answers["Jobs/SubmitMany"] = lambda job: jobs_pb2.SubmitResponse(
            job=types_pb2.Job(number=next(numbers), id=job.idempotency_key)
        )
        paths: list[str] = []
        service_of = fake.service

        def noted(details: Any) -> Any:
            paths.append(details.method)
            return service_of(details)

        fake.service = noted  # type: ignore[method-assign]
        listed = [(spec(), f"k{i}") for i in range(100)]
        assert ids(fake, listed, kind) == [f"k{i}" for i in range(100)]
        assert ids(fake, iter(listed[:3]), kind) == ["k0", "k1", "k2"]
        assert paths == ["/bursar.v1.Jobs/SubmitBatches", "/bursar.v1.Jobs/SubmitMany"]
        assert all(job.terse for job in fake.calls("Jobs/SubmitMany"))


def ids(fake: FakeServer, specs: list[tuple[JobSpec, str]] | Iterator[tuple[JobSpec, str]], kind: str) -> Any:
    if kind == "sync":
        with WireClient(fake.url) as client:
            return [answer.job.id for answer in client.submit_many(specs)]

    async def story() -> list[str]:
        async with AsyncWireClient(fake.url) as client:
            return [answer.job.id async for answer in client.submit_many(specs)]

    return asyncio.run(story())
