"""The queue of jobs that could start now, grouped by class and priority, as columns.

Owns    membership and order. A job is here exactly while it is PENDING, not held, past its begin time,
        with its dependencies met and its array slot open.
Why     the cycle must not walk 100,000 jobs, nor have them listed for it: it walks the queues, each of which
        holds what asks for the same thing, whatever the time limit. A snapshot shares the columns of a queue
        that nothing happened to, and those of one that only grew: rows are written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar_policies.decision import JobClass, JobColumns, PendingQueue

_ROWS_MIN = 4

Key = tuple[JobClass, int]


class _Queue:
    """One queue: rows `start` to `stop` of arrays that only grow, less those that have left since the last
    look, and with those that came back out of order.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.size = 0
        self.start = self.stop = 0
        self.left: list[int] = []
        """Orders of rows that are to be dropped."""
        self.back: dict[int, tuple[str, int]] = {}
        """By order, what came back to a place before the last."""
        self.frozen: PendingQueue | None = None
        self._room(_ROWS_MIN)

    orders: NDArray[np.int64]
    limits_us: NDArray[np.int64]
    ids: NDArray[np.object_]

    def _room(self, rows: int) -> None:
        """Fresh arrays; whoever holds the old ones keeps them."""
        start, stop = self.start, self.stop
        orders, limits_us = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
        ids = np.empty(rows, dtype=np.object_)
        if stop > start:
            orders[: stop - start] = self.orders[start:stop]
            limits_us[: stop - start] = self.limits_us[start:stop]
            ids[: stop - start] = self.ids[start:stop]
        self.orders, self.limits_us, self.ids = orders, limits_us, ids
        self.start, self.stop = 0, stop - start

    def add(self, order: int, job_id: str, limit_us: int) -> None:
        self.size += 1
        self.frozen = None
        if self.stop > self.start and order <= self.orders[self.stop - 1]:
            self.back[order] = (job_id, limit_us)
            return
        if self.stop == len(self.orders):
            self._room(max(2 * (self.stop - self.start), _ROWS_MIN))
        row = self.stop
        self.orders[row], self.limits_us[row], self.ids[row] = order, limit_us, job_id
        self.stop += 1

    def remove(self, order: int) -> None:
        self.size -= 1
        self.frozen = None
        if self.back.pop(order, None) is None:
            if not self.left and self.orders[self.start] == order:
                self.start += 1
            else:
                self.left.append(order)

    def look(self) -> PendingQueue:
        """The columns as they are now, for good."""
        if self.frozen is None:
            if self.left or self.back:
                self._settle()
            columns = JobColumns(self._view(self.orders), self._view(self.limits_us), self._ids())
            self.frozen = PendingQueue(self.key[0], self.key[1], columns)
        return self.frozen

    def _settle(self) -> None:
        """Drop what left and put in what came back."""
        rows = slice(self.start, self.stop)
        orders, limits_us, ids = self.orders[rows], self.limits_us[rows], self.ids[rows]
        if self.left:
            gone = np.searchsorted(orders, np.array(self.left, dtype=np.int64))
            orders, limits_us, ids = np.delete(orders, gone), np.delete(limits_us, gone), np.delete(ids, gone)
        if self.back:
            came = sorted(self.back)
            at = np.searchsorted(orders, np.array(came, dtype=np.int64))
            orders = np.insert(orders, at, came)
            limits_us = np.insert(limits_us, at, [self.back[order][1] for order in came])
            ids = np.insert(ids, at, [self.back[order][0] for order in came])
        self.orders, self.limits_us, self.ids = orders, limits_us, ids
        self.start, self.stop = 0, len(orders)
        self.left, self.back = [], {}

    def _view(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        found = column[self.start : self.stop]
        found.flags.writeable = False
        return found

    def _ids(self) -> NDArray[np.object_]:
        found = self.ids[self.start : self.stop]
        found.flags.writeable = False
        return found


class _Place(NamedTuple):
    queue: _Queue
    order: int
    limit_us: int


class PendingIndex:
    """Ordered queues by (class without its limit, priority). A change costs the same in a queue of any
    length; the first look at one after somebody left its middle, or came back to it, copies it once.
    """

    def __init__(self) -> None:
        self._queues: dict[Key, _Queue] = {}
        self._where: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._where

    def add(self, job_id: str, job_class: JobClass, priority: int, order: int) -> None:
        """Put a job in its place; a job that came back keeps its old order."""
        self.remove(job_id)
        queue = self._queue(job_class.without_limit(), priority)
        queue.add(order, job_id, job_class.time_limit_us)
        self._where[job_id] = _Place(queue, order, job_class.time_limit_us)

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        place = self._where.pop(job_id, None)
        if place is not None:
            place.queue.remove(place.order)
            self._drop_if_empty(place.queue)

    def move(self, job_ids: Sequence[str], job_class: JobClass, old: Key) -> None:
        """Jobs of one queue are of another class from now on, and keep their order and limits. One look-up
        for all: to hash a class costs more than all else that is done to a job here.
        """
        queue, target = self._queues[old], self._queue(job_class, old[1])
        for job_id in sorted(job_ids, key=lambda job_id: self._where[job_id].order):
            _, order, limit_us = self._where[job_id]
            queue.remove(order)
            target.add(order, job_id, limit_us)
            self._where[job_id] = _Place(target, order, limit_us)
        self._drop_if_empty(queue)

    def _queue(self, job_class: JobClass, priority: int) -> _Queue:
        key = (job_class, priority)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(key)
        return queue

    def _drop_if_empty(self, queue: _Queue) -> None:
        if not queue.size:
            del self._queues[queue.key]

    def key_of(self, job_id: str) -> Key | None:
        """The class, without its limit, and priority that a queued job is under; one object for all of a
        queue.
        """
        place = self._where.get(job_id)
        return place.queue.key if place is not None else None

    def limit_of(self, job_id: str) -> int:
        """The time limit of a queued job."""
        return self._where[job_id].limit_us

    def queues(self) -> tuple[PendingQueue, ...]:
        """Every queue, frozen: highest priority first, then oldest head."""
        found = [queue.look() for queue in self._queues.values()]
        found.sort(key=_first)
        return tuple(found)


def _first(queue: PendingQueue) -> tuple[int, int]:
    return -queue.priority, int(queue.jobs.orders[0])
