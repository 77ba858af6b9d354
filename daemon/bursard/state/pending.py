"""The queue of jobs that could start now, grouped by class and priority.

Owns    membership and order. A job is here exactly while it is PENDING, not held, past its begin time,
        with its dependencies met and its array slot open.
Why     the cycle must not walk 10,000 jobs: it walks the classes, and takes a window of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from bursar_policies.decision import JobClass, PendingQueue

WINDOW = 512
"""Jobs of one class shown to one cycle; the next cycle sees the next ones."""
_COMPACT_MIN = 1024

Key = tuple[JobClass, int]


class PendingIndex:
    """Ordered queues by (class, priority). All operations are O(1) but for re-queued jobs."""

    def __init__(self) -> None:
        self._queues: dict[Key, dict[str, int]] = {}
        self._keys: dict[Key, Key] = {}
        """The one object that stands for each key: jobs of one class share it."""
        self._where: dict[str, Key] = {}
        self._peak: dict[Key, int] = {}
        self._windows: dict[Key, PendingQueue] = {}
        """What the last snapshot showed of a queue, less what left its head and with the size of now: a start
        costs a window nothing. Gone once anything else happened to the queue."""
        self._unsorted: set[Key] = set()
        """Queues in which something came back: sorted when next looked at, however many did."""

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._where

    def add(self, job_id: str, job_class: JobClass, priority: int, order: int) -> None:
        """Put a job in its place; a job that came back keeps its old order."""
        self.remove(job_id)
        key = self._one(job_class, priority)
        queue = self._queues.setdefault(key, {})
        last = next(reversed(queue.values())) if queue else -1
        queue[job_id] = order
        if order < last:
            self._unsorted.add(key)
            self._windows.pop(key, None)
        self._where[job_id] = key
        self._peak[key] = max(self._peak.get(key, 0), len(queue))

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        key = self._where.pop(job_id, None)
        if key is None:
            return
        queue = self._queues[key]
        del queue[job_id]
        window = self._windows.pop(key, None)
        if window is not None and len(window.jobs) > 1 and window.jobs[0][1] == job_id:
            self._windows[key] = PendingQueue(key[0], key[1], window.jobs[1:], len(queue))
        if not queue:
            self._drop(key)
        elif self._peak[key] > _COMPACT_MIN and len(queue) * 2 < self._peak[key]:
            # A dict keeps tombstones at its front; copying it now and then keeps windows O(window).
            self._queues[key] = dict(queue)
            self._peak[key] = len(queue)

    def move(self, job_ids: Sequence[str], job_class: JobClass, old: Key) -> None:
        """Jobs of one queue are of another class from now on, and keep their order. One look-up for all: to
        hash a class costs more than all else that is done to a job here.
        """
        new = self._one(job_class, old[1])
        queue, target = self._queues[old], self._queues.setdefault(new, {})
        last = next(reversed(target.values())) if target else -1
        moving = sorted(job_ids, key=queue.__getitem__)
        if queue[moving[0]] < last:
            self._unsorted.add(new)
        for job_id in moving:
            target[job_id] = queue.pop(job_id)
        self._where.update(dict.fromkeys(job_ids, new))
        self._windows.pop(old, None)
        self._windows.pop(new, None)
        self._peak[new] = max(self._peak.get(new, 0), len(target))
        if queue:
            self._queues[old] = dict(queue)
            self._peak[old] = len(queue)
        else:
            self._drop(old)

    def _one(self, job_class: JobClass, priority: int) -> Key:
        key = (job_class, priority)
        return self._keys.setdefault(key, key)

    def _drop(self, key: Key) -> None:
        del self._queues[key], self._peak[key], self._keys[key]
        self._unsorted.discard(key)

    def key_of(self, job_id: str) -> Key | None:
        """The class and priority a queued job is under."""
        return self._where.get(job_id)

    def queues(self) -> tuple[PendingQueue, ...]:
        """A frozen window of every queue, highest priority first, then oldest head."""
        for key in self._unsorted:
            self._queues[key] = dict(sorted(self._queues[key].items(), key=lambda item: item[1]))
        self._unsorted.clear()
        for key, queue in self._queues.items():
            window, size = self._windows.get(key), len(queue)
            jobs = tuple(window.jobs) if window is not None else ()
            if len(jobs) < min(size, WINDOW):
                jobs += tuple((order, job_id) for job_id, order in islice(queue.items(), len(jobs), WINDOW))
            if window is None or window.jobs is not jobs or window.total != size:
                self._windows[key] = PendingQueue(key[0], key[1], jobs, size)
        return tuple(sorted(self._windows.values(), key=lambda queue: (-queue.priority, queue.jobs[0][0])))
