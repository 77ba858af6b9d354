"""The queue of jobs that could start now, grouped by class and priority.

Owns    membership and order. A job is here exactly while it is PENDING, not held, past its begin time,
        with its dependencies met and its array slot open.
Why     the cycle must not walk 10,000 jobs: it walks the classes, and takes a window of each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice

from bursar_policies.decision import JobClass, PendingQueue

WINDOW = 512
"""Jobs of one class shown to one cycle; the next cycle sees the next ones."""
_COMPACT_MIN = 1024
_LATE_PART = 4
"""Jobs that came back wait beside their queue until they are so large a part of it: to sort them in costs as
much as the queue is long, and so it is done a few times however many come."""

Key = tuple[JobClass, int]


class _Queue:
    """Jobs of one class and priority, id -> order: `jobs` is sorted; `late` came back to before its end.

    `window`: what the last snapshot showed, less what left its head: a start costs a window nothing. None
    once anything else happened to its part of the queue.
    """

    __slots__ = ("jobs", "key", "last", "late", "peak", "window")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.jobs: dict[str, int] = {}
        self.late: dict[str, int] = {}
        self.last = -1
        self.peak = 0
        self.window: PendingQueue | None = None

    def __len__(self) -> int:
        return len(self.jobs) + len(self.late)

    def put(self, job_id: str, order: int) -> None:
        if self.jobs and order < self.last:
            self.late[job_id] = order
            self.window = None
            return
        self.jobs[job_id] = self.last = order
        self.peak = max(self.peak, len(self.jobs))

    def pop(self, job_id: str) -> int:
        order = self.late.pop(job_id, None)
        if order is None:
            order = self.jobs.pop(job_id)
        window, self.window = self.window, None
        if window is not None and len(window.jobs) > 1 and window.jobs[0][1] == job_id:
            self.window = PendingQueue(*self.key, window.jobs[1:], len(self))
        if self.peak > _COMPACT_MIN and len(self.jobs) * 2 < self.peak:
            # A dict keeps tombstones at its front; copying it now and then keeps windows O(window).
            self.jobs = dict(self.jobs)
            self.peak = len(self.jobs)
        return order

    def show(self) -> PendingQueue:
        """A frozen window."""
        if len(self.late) * _LATE_PART >= len(self.jobs) and self.late:
            self._sort_in()
        window, size = self.window, len(self)
        jobs = tuple(window.jobs) if window is not None else ()
        if len(jobs) < min(size, WINDOW):
            if self.late:
                jobs = self._mixed()
            else:
                more = islice(self.jobs.items(), len(jobs), WINDOW)
                jobs += tuple((order, job_id) for job_id, order in more)
        if window is None or window.jobs is not jobs or window.total != size:
            self.window = window = PendingQueue(*self.key, jobs, size)
        return window

    def _mixed(self) -> tuple[tuple[int, str], ...]:
        late = heapq.nsmallest(WINDOW, ((order, job_id) for job_id, order in self.late.items()))
        head = ((order, job_id) for job_id, order in islice(self.jobs.items(), WINDOW))
        return tuple(islice(heapq.merge(head, late), WINDOW))

    def _sort_in(self) -> None:
        self.jobs = dict(sorted((self.jobs | self.late).items(), key=lambda item: item[1]))
        self.late = {}
        self.last = next(reversed(self.jobs.values()))
        self.peak = len(self.jobs)


class PendingIndex:
    """Ordered queues by (class, priority). All operations are O(1) but for re-queued jobs."""

    def __init__(self) -> None:
        self._queues: dict[Key, _Queue] = {}
        self._where: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._where

    def add(self, job_id: str, job_class: JobClass, priority: int, order: int) -> None:
        """Put a job in its place; a job that came back keeps its old order."""
        self.remove(job_id)
        queue = self._queue(job_class, priority)
        queue.put(job_id, order)
        self._where[job_id] = queue

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        queue = self._where.pop(job_id, None)
        if queue is not None:
            queue.pop(job_id)
            self._drop_empty(queue)

    def move(self, job_ids: Sequence[str], job_class: JobClass, old: Key) -> None:
        """Jobs of one queue are of another class from now on, and keep their order. One look-up for all: to
        hash a class costs more than all else that is done to a job here.
        """
        source, target = self._queues[old], self._queue(job_class, old[1])
        for order, job_id in sorted((source.pop(job_id), job_id) for job_id in job_ids):
            target.put(job_id, order)
        self._where.update(dict.fromkeys(job_ids, target))
        self._drop_empty(source)

    def _queue(self, job_class: JobClass, priority: int) -> _Queue:
        key = (job_class, priority)
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = _Queue(key)
        return found

    def _drop_empty(self, queue: _Queue) -> None:
        if not len(queue):
            del self._queues[queue.key]

    def key_of(self, job_id: str) -> Key | None:
        """The class and priority a queued job is under."""
        queue = self._where.get(job_id)
        return queue.key if queue is not None else None

    def queues(self) -> tuple[PendingQueue, ...]:
        """A frozen window of every queue, highest priority first, then oldest head."""
        windows = (queue.show() for queue in self._queues.values())
        return tuple(sorted(windows, key=lambda queue: (-queue.priority, queue.jobs[0][0])))
