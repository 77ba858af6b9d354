"""The one writer: many commands, one fsync, and nobody hears of anything before it is on disk.

Owns    the queue between the event loop and the store, and the thread that commits.
Input   batches in log order. Output: `durable(seq)` returns, and `after_commit` callbacks run, once
        the commit that holds event `seq` is durable. Replies and agent assignments wait for that.
Why     an fsync takes as long as hundreds of commands. A lone command is committed at once; those
        that arrive meanwhile share the next commit, so batches grow with load, never by waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

import msgspec

from bursard.store import Batch, CommitUnknown, Log, merge

log = logging.getLogger(__name__)

_STARVED_S = 0.004
"""A commit longer in flight than this may be waiting for the interpreter, not for the disk."""
_STILL_STARVED_S = 0.001
"""And then it is looked at this often."""

_LEND_S = 0.0005
"""How long the loop then stands aside at most: a commit's own work, and a fast disk's sync.

A loop with always something to do lets the interpreter lock go for a microsecond at a time and takes
it back before another thread wakes; the switch interval never runs out, since each release restarts
it. Measured: commits of 4 to 12 s beside a saturated loop, milliseconds with this."""


class WriterStats(msgspec.Struct):
    """What the commits cost so far. Read it from the loop; the thread writes it."""

    commits: int = 0
    batches: int = 0
    rows: int = 0
    last_commit_us: int = 0
    longest_commit_us: int = 0
    most_batches: int = 0


class _Snapshot(msgspec.Struct):
    seq: int
    data: bytes
    done: asyncio.Future[None]


class Writer:
    """Group commit for one event loop. `enqueue` and the waiting belong to the loop's thread."""

    def __init__(
        self,
        store: Log,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        on_fault: Callable[[BaseException], None] | None = None,
        queue_max: int = 4096,
    ) -> None:
        """Start the thread.

        Args:
            store: written by this thread alone from now on; reads stay free.
            loop: the running one when left out.
            on_fault: called once, in the writer's thread, when a commit failed. The memory of this
                process is then ahead of the disk: end it (exit 70), do not repair it.
            queue_max: batches waiting before `room` holds callers back.
        """
        self._store = store
        self._loop = loop or asyncio.get_running_loop()
        self._on_fault = on_fault
        self._queue_max = queue_max
        self._wake = threading.Condition()
        self._gathered: list[Batch] = []
        self._queue: list[Batch] = []
        self._snapshot: _Snapshot | None = None
        self._closing = False
        self._committing = False
        self._fault: BaseException | None = None
        self._durable_seq = self._enqueued_seq = store.last_seq
        self._waiting = 0
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()
        self._commit_waiters: list[asyncio.Future[None]] = []
        self._watching = False
        self._released = 0
        self._done = threading.Event()
        self.stats = WriterStats()
        self.after_commit: list[Callable[[int], None]] = []
        """Called in the loop with the new `durable_seq`, once per commit."""
        self._thread = threading.Thread(target=self._run, name="bursard-writer", daemon=True)
        self._thread.start()

    # -------------------------------------------------------------- the loop's side

    @property
    def durable_seq(self) -> int:
        """Everything up to this event is on disk."""
        return self._durable_seq

    @property
    def waiting(self) -> int:
        """Batches not yet durable."""
        return self._waiting

    def enqueue(self, batch: Batch) -> None:
        """Hand over a batch; when no commit is in flight it starts with the loop's next turn.

        One turn, because what is decided in it belongs together: a job's end and the start of the next
        one in its place then share a commit. Never refuses for length: its events are already true in
        memory. Ask `room` before deciding. Raises what the store raised once a commit has failed.
        """
        if self._fault is not None:
            raise CommitUnknown(str(self._fault)) from self._fault
        if self._closing:
            raise RuntimeError("the writer is closed")
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(batch)
        self._waiting += 1
        if batch.events:
            self._enqueued_seq = batch.events[-1].seq
        if not self._watching:
            self._watching = True
            self._loop.call_later(_STARVED_S, self._watch, self._released)

    def _hand_over(self) -> None:
        if not self._gathered:
            return
        with self._wake:
            self._queue += self._gathered
            self._wake.notify()
        self._gathered.clear()

    async def room(self) -> None:
        """Wait until the queue is short: the push-back on commands, before they are decided."""
        while self._waiting >= self._queue_max:
            self._raise_fault()
            turn = self._loop.create_future()
            self._commit_waiters.append(turn)
            await turn

    async def durable(self, seq: int) -> None:
        """Return once event `seq` is on disk. Raises `CommitUnknown` if that cannot be known."""
        if seq <= self._durable_seq:
            return
        self._raise_fault()
        waiter = self._loop.create_future()
        heapq.heappush(self._waiters, (seq, next(self._tickets), waiter))
        await waiter

    async def wait_durable(self) -> None:
        """Return once everything handed over so far is on disk."""
        await self.durable(self._enqueued_seq)

    def drain(self) -> None:
        """Stand still until everything handed over is on disk, the loop with it. Nobody is released here:
        that happens in the loop's next turns. Raises `CommitUnknown` if a commit failed.
        """
        self._hand_over()
        with self._wake:
            while (self._queue or self._committing) and self._fault is None:
                self._wake.wait()
        self._raise_fault()

    async def save_snapshot(self, seq: int, data: bytes) -> None:
        """Keep a snapshot of a durable or queued event, after the commits queued before it."""
        await self.durable(seq)
        done = self._loop.create_future()
        with self._wake:
            if self._closing or self._snapshot is not None:
                raise RuntimeError("one snapshot at a time, and none while closing")
            self._snapshot = _Snapshot(seq, data, done)
            self._wake.notify()
        await done

    async def close(self) -> None:
        """Commit what is queued and stop the thread. The store stays open. Twice is allowed."""
        self._hand_over()
        with self._wake:
            self._closing = True
            self._wake.notify()
        await self._loop.run_in_executor(None, self._thread.join)
        await asyncio.sleep(0)  # the thread's last call into the loop was scheduled before this

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise CommitUnknown(str(self._fault)) from self._fault

    def _watch(self, released: int) -> None:
        """In the loop, while anything waits: stand aside for a thread that makes no progress."""
        if not self._waiting or self._fault is not None:
            self._watching = False
            return
        if self._released == released:
            self._done.clear()
            self._done.wait(_LEND_S)
        self._loop.call_later(_STILL_STARVED_S, self._watch, self._released)

    def _committed(self, seq: int, batches: int) -> None:
        """In the loop: outputs first, then those who wait."""
        self._released += 1
        self._durable_seq = seq
        self._waiting -= batches
        for callback in self.after_commit:
            try:
                callback(seq)
            except Exception:
                log.exception("a callback after the commit failed", extra={"seq": seq})
        while self._waiters and self._waiters[0][0] <= seq:
            _finish(heapq.heappop(self._waiters)[2])
        turns, self._commit_waiters = self._commit_waiters, []
        for turn in turns:
            _finish(turn)

    def _failed(self, fault: BaseException) -> None:
        """In the loop: nobody is told yes, nobody is told no."""
        waiters = [waiter for _, _, waiter in self._waiters] + self._commit_waiters
        self._waiters, self._commit_waiters = [], []
        for waiter in waiters:
            _finish(waiter, CommitUnknown(str(fault)))

    # -------------------------------------------------------------- the thread's side

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            # Any failure here, ours included, leaves memory ahead of the disk.
            with self._wake:
                self._fault = error
                self._wake.notify_all()
            log.critical("commit failed", extra={"error": str(error)})
            self._call(self._failed, error)
            if self._on_fault is not None:
                self._on_fault(error)

    def _turn(self) -> bool:
        """One commit of all that is queued; False when closed and empty."""
        with self._wake:
            while not self._queue and self._snapshot is None and not self._closing:
                self._wake.wait()
            batches, self._queue = self._queue, []
            snapshot, self._snapshot = self._snapshot, None
            if not batches and snapshot is None:
                return False
            self._committing = bool(batches)
        if batches:
            self._commit(batches)
            with self._wake:
                self._committing = False
                self._wake.notify_all()
        if snapshot is not None:
            self._store.save_snapshot(snapshot.seq, snapshot.data)
            self._call(_finish, snapshot.done)
        if any(batch.charges for batch in batches):
            self._store.sum_days()
        return True

    def _commit(self, batches: list[Batch]) -> None:
        batch = merge(batches)
        began = time.perf_counter_ns()
        self._store.append(batch)
        self._done.set()
        took_us = (time.perf_counter_ns() - began) // 1000
        stats = self.stats
        stats.commits += 1
        stats.batches += len(batches)
        stats.rows += batch.rows
        stats.last_commit_us = took_us
        stats.longest_commit_us = max(stats.longest_commit_us, took_us)
        stats.most_batches = max(stats.most_batches, len(batches))
        self._call(self._committed, self._store.last_seq, len(batches))

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)


def _finish(waiter: asyncio.Future[None], error: BaseException | None = None) -> None:
    if waiter.done():
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)
