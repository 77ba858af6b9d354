"""Group commit: nobody hears before the disk has it, and nobody waits longer than they must."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bursard.events import JobHeld, encode
from bursard.store import Batch, CommitUnknown, EventRow, ScratchStore
from bursard.writer import Writer

PAYLOAD = encode(JobHeld(job_id="job_1"))


class GatedStore(ScratchStore):
    """A store whose commits wait for the test, and whose disk can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.commits: list[list[int]] = []
        self.failing = False

    def append(self, batch: Batch) -> None:
        self.began.release()
        assert self.gate.acquire(timeout=120)
        if self.failing:
            raise CommitUnknown("the disk is full")
        super().append(batch)
        self.commits.append([event.seq for event in batch.events])


def batch(seq: int) -> Batch:
    return Batch(events=[EventRow(seq, seq, "ann", PAYLOAD)])


def scenario(play: Callable[[Writer, Any], Awaitable[None]], store: Any, **options: Any) -> None:
    async def whole() -> None:
        writer = Writer(store, **options)
        try:
            await asyncio.wait_for(play(writer, store), 120)
        finally:
            await writer.close()

    asyncio.run(whole())


async def began(store: GatedStore) -> None:
    assert await asyncio.to_thread(store.began.acquire, timeout=120)


def test_a_lone_command_is_committed_at_once() -> None:
    async def play(writer: Writer, store: ScratchStore) -> None:
        writer.enqueue(batch(1))
        await writer.durable(1)
        assert store.last_seq == writer.durable_seq == 1
        assert (writer.stats.commits, writer.stats.rows, writer.waiting) == (1, 1, 0)
        await writer.durable(1)
        await writer.wait_durable()

    scenario(play, ScratchStore())


def test_what_arrives_during_a_commit_shares_the_next_one() -> None:
    async def play(writer: Writer, store: GatedStore) -> None:
        writer.enqueue(batch(1))
        await began(store)
        for seq in (2, 3, 4):
            writer.enqueue(batch(seq))
        store.gate.release(2)
        await writer.wait_durable()
        assert store.commits == [[1], [2, 3, 4]]
        assert (writer.stats.batches, writer.stats.most_batches) == (4, 3)

    scenario(play, GatedStore())


def test_nobody_is_released_before_the_commit_that_holds_their_event() -> None:
    async def play(writer: Writer, store: GatedStore) -> None:
        released: list[int] = []
        writer.after_commit.append(released.append)
        writer.enqueue(batch(1))
        await began(store)
        writer.enqueue(batch(2))
        first, second = (asyncio.ensure_future(writer.durable(seq)) for seq in (1, 2))
        await asyncio.sleep(0)
        assert (first.done(), released, writer.durable_seq) == (False, [], 0)
        store.gate.release()
        await first
        assert (second.done(), released, writer.durable_seq) == (False, [1], 1)
        store.gate.release()
        await second
        assert released == [1, 2]

    scenario(play, GatedStore())


def test_those_who_wait_may_ask_in_any_order_and_give_up() -> None:
    async def play(writer: Writer, store: GatedStore) -> None:
        for seq in (1, 2, 3):
            writer.enqueue(batch(seq))
        waits = [asyncio.ensure_future(writer.durable(seq)) for seq in (3, 1, 2, 3)]
        await asyncio.sleep(0)
        waits[2].cancel()
        store.gate.release(3)
        done = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(result) for result in done].count(asyncio.CancelledError) == 1

    scenario(play, GatedStore())


def test_room_holds_callers_back_until_a_commit_makes_some() -> None:
    async def play(writer: Writer, store: GatedStore) -> None:
        for seq in (1, 2):
            await writer.room()
            writer.enqueue(batch(seq))
        await began(store)
        third = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0)
        assert not third.done()
        store.gate.release(2)
        await third
        assert writer.waiting < 2

    scenario(play, GatedStore(), queue_max=2)


def test_a_failed_commit_says_neither_yes_nor_no_and_ends_the_daemon() -> None:
    """1. a commit is in flight; 2. the disk fails; 3. every wait, old and new, is *unknown*."""
    faults: list[BaseException] = []

    async def play(writer: Writer, store: GatedStore) -> None:
        writer.enqueue(batch(1))
        await began(store)
        writer.enqueue(batch(2))
        waits = [asyncio.ensure_future(writer.durable(seq)) for seq in (1, 2)]
        room = asyncio.ensure_future(writer.room())
        await asyncio.sleep(0)
        store.failing = True
        store.gate.release()
        results = await asyncio.gather(*waits, room, return_exceptions=True)
        assert all(isinstance(result, CommitUnknown) for result in results)
        with pytest.raises(CommitUnknown, match="disk is full"):
            writer.enqueue(batch(3))
        with pytest.raises(CommitUnknown):
            await writer.durable(2)
        assert writer.durable_seq == 0

    scenario(play, GatedStore(), on_fault=faults.append, queue_max=2)
    assert [str(fault) for fault in faults] == ["the disk is full"]


def test_a_defect_in_the_batch_is_a_fault_too() -> None:
    faults: list[BaseException] = []

    async def play(writer: Writer, store: ScratchStore) -> None:
        writer.enqueue(batch(7))
        with pytest.raises(CommitUnknown, match="does not follow"):
            await writer.durable(7)

    scenario(play, ScratchStore(), on_fault=faults.append)
    assert len(faults) == 1


def test_close_commits_what_is_queued() -> None:
    async def play() -> GatedStore:
        store = GatedStore()
        writer = Writer(store)
        for seq in range(1, 6):
            writer.enqueue(batch(seq))
        store.gate.release(5)
        await writer.close()
        await writer.close()
        assert (store.last_seq, writer.durable_seq) == (5, 5)
        with pytest.raises(RuntimeError, match="closed"):
            writer.enqueue(batch(6))
        return store

    assert asyncio.run(play()).verify() == []


def test_a_snapshot_is_kept_after_the_events_it_covers() -> None:
    async def play(writer: Writer, store: ScratchStore) -> None:
        for seq in (1, 2, 3):
            writer.enqueue(batch(seq))
        await writer.save_snapshot(2, b"state")
        loaded = store.load()
        assert list(loaded.images) == [(2, b"state")]
        assert [event.seq for event in loaded.events(2)] == [3]

    scenario(play, ScratchStore())


def test_a_callback_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def play(writer: Writer, store: ScratchStore) -> None:
        seen: list[int] = []
        writer.after_commit += [lambda seq: 1 // 0, seen.append]  # type: ignore[list-item]
        writer.enqueue(batch(1))
        await writer.durable(1)
        assert seen == [1]

    scenario(play, ScratchStore())
    assert "callback after the commit failed" in caplog.text
