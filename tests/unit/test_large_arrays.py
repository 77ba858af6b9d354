"""An array costs what its tasks do, never what its indices are many: bytes, events, records, rows."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
from typing import Any

import msgspec
import pytest

from bursar.errors import NotFound, RateLimited
from bursar.model import ArraySpec, Dependency, JobSpec
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar_policies.document import parse_documents
from bursard.engine import spec_bytes
from bursard.events import StopRequested
from bursard.replay import restore
from bursard.services import joblist
from bursard.services.jobs import JobsService
from bursard.state import Limits, arrays, image
from bursard.state.arrays import QUEUED_MAX
from bursard.state.decide import nodes, policies
from bursard.state.decide.jobs import EVENTS_MAX

SMALL = (ResourceRequest(None, 1, 1 << 20),)
SCRIPT = "x" * 10_000


def every(count: int, parallel: int = 0) -> ArraySpec:
    return ArraySpec(((0, count, 1),), parallel)


async def get(desk: Any, ref: str) -> Any:
    return await desk.service.Get(pb.GetJobRequest(job=ref), None)


async def task_list(desk: Any, ref: str, *states: str, size: int = 1000) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    token = ""
    while True:
        request = pb.ListJobsRequest(tasks_of=ref, states=states, page_size=size, page_token=token)
        answer = await desk.service.List(request, None)
        found += [(job.array_index, job.state) for job in answer.jobs]
        token = answer.next_page_token
        if not token:
            return found


async def run_all(desk: Any) -> None:
    while desk.state.counts.get("PENDING"):
        desk.plan()
        desk.start_all()
    desk.end_all()
    await desk.settled()


async def bytes_per_task(desk: Any, count: int) -> float:
    before = desk.state.version
    ref = await desk.submit(array=every(count), options=SMALL, script=SCRIPT, command=())
    parent = desk.job(ref).id
    await run_all(desk)
    rows = [desk.store.find_job(f"{parent}.{index}") for index in range(count)]
    events = sum(len(row.payload) for row in desk.store.load().events(before) if row.seq > before)
    return (events + sum(len(row.document) for row in rows) - len(SCRIPT)) / count


def test_each_task_costs_the_same_few_bytes_however_many_there_are(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        few, many = await bytes_per_task(desk, 50), await bytes_per_task(desk, 1_500)
        assert many < 950
        assert many < few * 1.05

    at_a_desk(story)


def pages_of(desk: Any) -> tuple[int, int]:
    """Bytes of the database itself, once its log is folded in: all, and unused."""
    with contextlib.closing(sqlite3.connect(desk.store.path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)").fetchall()
        size, count, free = (
            connection.execute(f"pragma {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
    connection.close()
    return size * count, size * free


def test_a_task_that_ran_takes_less_than_two_kilobytes_of_disk(at_a_desk: Any) -> None:
    tasks = 600

    async def story(desk: Any) -> None:
        before, _ = pages_of(desk)
        await desk.submit(array=every(tasks), options=SMALL, project="research/vision")
        await run_all(desk)
        after, unused = pages_of(desk)
        assert desk.store.path.stat().st_size == after
        assert unused == 0
        assert (after - before) / tasks < 1_950
        assert len(list(desk.store.charges())) == tasks
        assert desk.store.verify() == []

    at_a_desk(story)


PRICED = """kind: CostModel
name: m
spec: {pool: p, node_capex: 400003 USD, useful_life: 5y}
---
kind: Budget
name: vision
spec: {scope: {project: research/vision}, limit: 9000 USD, period: month}
"""


def test_a_priced_task_under_a_budget_takes_less_than_two_kilobytes_of_disk(at_a_desk: Any) -> None:
    tasks = 1_200

    async def story(desk: Any) -> None:
        engine = desk.engine
        documents = parse_documents(PRICED, "test")
        engine.commit(policies.apply_documents(desk.state, documents, engine.now()), "ann")
        engine.commit(nodes.reprice(desk.state, engine.prices, engine.now()), "bursard")
        before, _ = pages_of(desk)
        await desk.submit(array=every(tasks), options=SMALL, project="research/vision")
        await run_all(desk)
        after, _ = pages_of(desk)
        assert (after - before) / tasks < 1_950
        postings = desk.store._rows("select kind, count(*) from postings group by kind order by kind")
        assert postings == [("hold", tasks), ("release", tasks), ("usage", tasks)]
        assert len(list(desk.store.entries())) == 8 * tasks
        assert desk.store.verify() == []

    at_a_desk(story)


def test_what_the_log_leaves_out_follows_from_it(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(20), options=SMALL)
        desk.plan()
        desk.start_all()
        await desk.settled()
        again = restore(desk.store, desk.state.limits)
        assert image.encode(again, 0) == image.encode(desk.state, 0)
        for attempt in desk.state.live_attempts():
            (member,) = attempt.members
            assert (member.boot_id, member.alloc.rank) == ("b", 0)
        await run_all(desk)
        again = restore(desk.store, desk.state.limits)
        assert image.encode(again, 0) == image.encode(desk.state, 0)
        assert (await get(desk, ref)).array.counts == {"SUCCEEDED": 20}

    at_a_desk(story)


def test_a_hundred_thousand_pending_tasks_are_a_thousand_records_and_end_with_one_event(
    at_a_desk: Any,
) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(100_000), script=SCRIPT, command=())
        parent = desk.job(ref)
        assert len(desk.state.jobs) == 1 + QUEUED_MAX
        assert desk.state.counts["PENDING"] == 100_000
        assert (await get(desk, ref)).array.counts == {"PENDING": 100_000}
        assert (await get(desk, f"{ref}[77777]")).state == "PENDING"
        assert len(image.encode(desk.state, 0)) < 500 * QUEUED_MAX
        before, log = desk.state.version, desk.store.load
        assert await desk.verb("cancel", ref) == [f"TasksEnded {ref}"]
        assert sum(len(row.payload) for row in log().events(before)) < 200
        assert not desk.state.jobs
        assert desk.state.counts["PENDING"] == 0
        assert len(desk.store.find_job(parent.id).document) < 1_000 + len(SCRIPT)
        for index in (0, QUEUED_MAX, 77_777, 99_999):
            task = await get(desk, f"{ref}[{index}]")
            assert (task.state, task.spec.script) == ("CANCELLED", SCRIPT)
            assert (await get(desk, f"{parent.id}.{index}")).array_index == index
        for unknown in (f"{ref}[100000]", f"{parent.id}.100000"):
            with pytest.raises(NotFound):
                await get(desk, unknown)

    at_a_desk(story)


def test_lists_of_tasks_have_each_task_once_whatever_it_is_kept_as(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        count = QUEUED_MAX + 500
        ref = await desk.submit(array=every(count, 10), options=SMALL)
        desk.plan()
        desk.start_all()
        desk.end_all()
        await desk.verb("hold", f"{ref}[100]")
        await desk.verb("cancel", f"{ref}[200]")
        states = dict.fromkeys(range(count), "PENDING")
        states |= dict.fromkeys(range(10), "SUCCEEDED") | {200: "CANCELLED"}
        expected = sorted(states.items())
        await desk.settled()
        assert await task_list(desk, ref, size=300) == expected
        assert await task_list(desk, ref, "cancelled") == [(200, "CANCELLED")]
        assert await task_list(desk, ref, "pending") == [row for row in expected if row[1] == "PENDING"]
        await desk.verb("cancel", ref)
        await desk.settled()
        ended = [(index, "CANCELLED" if state == "PENDING" else state) for index, state in expected]
        assert await task_list(desk, ref, size=300) == ended
        assert await task_list(desk, ref, "pending") == []

    at_a_desk(story)


def test_the_queue_is_refilled_and_every_task_runs_once_in_order(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        count = QUEUED_MAX + 700
        ref = await desk.submit(array=every(count), options=SMALL)
        last = await desk.submit(options=SMALL)
        most = 0
        while desk.state.counts["PENDING"]:
            desk.plan()
            most = max(most, len(desk.state.pending))
            if desk.job(last).state.value == "PENDING":
                assert desk.state.pending.queues()[0].jobs[0][0] < desk.job(last).order
        assert most <= QUEUED_MAX + 1
        desk.start_all()
        desk.end_all()
        await desk.settled()
        assert (await get(desk, ref)).array.counts == {"SUCCEEDED": count}
        assert len(await task_list(desk, ref, "succeeded")) == count

    at_a_desk(story)


def test_cancel_of_many_running_tasks_goes_in_pieces_and_stops_each_once(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        count = 2 * EVENTS_MAX + 100
        ref = await desk.submit(array=every(count), options=SMALL)
        while desk.state.counts["PENDING"]:
            desk.plan()
        sizes: list[int] = []
        enqueue = desk.engine.writer.enqueue
        desk.engine.writer.enqueue = lambda batch: (sizes.append(len(batch.events)), enqueue(batch))
        before = desk.state.version
        _, other = await asyncio.gather(desk.verb("cancel", ref), desk.submit())
        assert max(sizes) == EVENTS_MAX
        assert sizes.index(1) < len(sizes) - 1, "another call had its turn in between"
        stopped = [event.attempt_id for event, _ in desk.log(before) if isinstance(event, StopRequested)]
        assert len(stopped) == len(set(stopped)) == count
        assert desk.job(other).state.value == "PENDING"

    at_a_desk(story)


def test_a_held_task_gives_its_turn_away_and_waits_for_one_when_released(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(4, 1))
        await desk.verb("hold", f"{ref}[0]")
        desk.plan()
        assert desk.job(f"{ref}[1]").state.value == "STARTING"
        await desk.verb("release", f"{ref}[0]")
        assert (await get(desk, f"{ref}[0]")).reason.code == "WaitingForQuota"
        desk.start_all()
        desk.end_all()
        desk.plan()
        assert desk.job(f"{ref}[0]").state.value == "STARTING"
        assert (await get(desk, f"{ref}[2]")).state == "PENDING"
        assert f"{desk.job(ref).id}.2" not in desk.state.jobs

    at_a_desk(story)


def test_a_change_reaches_tasks_that_wait_and_no_others(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(3, 1), priority=10)
        desk.plan()
        desk.start_all()
        await desk.verb("update", ref)
        await desk.settled()
        desk.end_all()
        desk.plan()
        desk.start_all()
        desk.end_all()
        await desk.settled()
        assert [(await get(desk, f"{ref}[{i}]")).spec.priority for i in range(3)] == [10, 99, 99]

    at_a_desk(story)


def test_a_job_that_waits_for_one_task_ends_with_it(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(QUEUED_MAX + 10))
        fails = await desk.submit(depends_on=(Dependency(f"{ref}[{QUEUED_MAX + 5}]", "succeeded"),))
        goes_on = await desk.submit(depends_on=(Dependency(f"{ref}[{QUEUED_MAX + 6}]", "finished"),))
        assert await desk.verb("cancel", ref) == [f"TasksEnded {ref}", f"JobEnded {fails}"]
        assert not desk.job(goes_on).waiting_on
        assert desk.job(goes_on).id in desk.state.pending

    at_a_desk(story)


def test_who_watches_a_task_that_is_no_record_hears_of_its_end(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=every(QUEUED_MAX + 10))
        service: JobsService = desk.service
        request = pb.WatchJobsRequest(jobs=[f"{ref}[{QUEUED_MAX + 5}]"], until_terminal=True)
        states: list[str] = []

        async def watch() -> None:
            states.extend([job.state async for job in service.Watch(request, None)])

        watching = asyncio.create_task(watch())
        for _ in range(100):
            await asyncio.sleep(0)  # until it waits
        await desk.verb("cancel", ref)
        await asyncio.wait_for(watching, 120)
        assert states[-1] == "CANCELLED"

    at_a_desk(story)


def test_the_limit_of_pending_jobs_counts_tasks(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        await desk.submit(array=every(8))
        with pytest.raises(RateLimited, match="8 jobs and tasks are pending, 3 more would pass"):
            await desk.submit(array=every(3))
        await desk.submit(array=every(2))
        with pytest.raises(RateLimited):
            await desk.submit()

    at_a_desk(story, Limits(pending_max=10))


def test_a_key_still_belongs_to_an_array_that_was_submitted_before_ranges() -> None:
    spec = JobSpec(project="p", array=ArraySpec((0, 1, 2, 5), 2))
    plain = msgspec.json.encode(spec).replace(b"[[0,3,1],[5,6,1]]", b"[0,1,2,5]")
    assert b"[0,1,2,5]" in plain
    assert spec_bytes(spec) == hashlib.sha256(plain).digest()


def test_a_list_of_tasks_makes_as_many_as_it_shows_however_many_ranges_there_are(
    at_a_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 ranges of ten: a filter that nothing matches looks at one task, a page makes its own."""
    made: list[int] = []
    real = arrays.task_record

    def counted(parent: Any, index: int) -> Any:
        made.append(index)
        return real(parent, index)

    async def story(desk: Any) -> None:
        ranges = tuple((start, start + 10, 1) for start in range(0, 200_000, 20))
        ref = await desk.submit(options=SMALL, array=ArraySpec(ranges), held=True)
        monkeypatch.setattr(arrays, "task_record", counted)
        nobodys = pb.ListJobsRequest(tasks_of=ref, user="nobody", states=("all",))
        assert not (await desk.service.List(nobodys, None)).jobs
        assert len(made) <= 2
        made.clear()
        tail = pb.ListJobsRequest(tasks_of=ref, states=("pending",), page_size=5, page_token=f"{ref}.199899")
        answer = await desk.service.List(tail, None)
        assert [job.array_index for job in answer.jobs] == [199_900, 199_901, 199_902, 199_903, 199_904]
        assert len(made) <= 8

    at_a_desk(story)


def test_a_long_list_lets_others_have_their_turn(at_a_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblist, "_LOOKS_AT_ONCE", 3)

    async def story(desk: Any) -> None:
        for _ in range(10):
            await desk.submit(options=SMALL)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(count())
        assert not (
            await desk.service.List(pb.ListJobsRequest(user="nobody", states=("pending",)), None)
        ).jobs
        others.cancel()
        assert turns >= 4, "ten jobs, three at a time"

    at_a_desk(story)
