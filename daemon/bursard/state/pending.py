"""The queue of jobs that could start now, grouped by class and priority, as columns.

Owns    membership and order. A job is here exactly while it is PENDING, not held, past its begin time,
        with its dependencies met and its array slot open.
Why     the cycle must not walk 100,000 jobs, nor have them listed for it: it walks the queues, each of which
        holds what asks for the same thing, whatever the time limit. A snapshot shares the columns of a queue
        that nothing happened to, and those of one that only grew: rows are written once.
        What a plan costs grows with the queues that it is shown, and a user can make as many as jobs. So the
        first of each user are shown to every plan, and what is beyond stands in a `Crowd` (ADR 0024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar_policies.decision import JobClass, JobColumns, PendingQueue, QueueKey
from bursard.state.crowd import FIRST, IN_TURN, Crowd, Rank
from bursard.state.projects import ProjectNumbers

_ROWS_MIN = 4
OWN_MAX = 512
"""Queues that one user may have opened and that every plan looks at, whoever else has jobs in them."""


class _Row(NamedTuple):
    """What columns say of a job, in the order of `JobColumns`."""

    order: int
    limit_us: int
    since_us: int = 0
    project: int = 0
    deadline_us: int = 0
    user: int = 0


_NUMBERS = len(_Row._fields)


class _Queue:
    """One queue: rows `start` to `stop` of arrays that only grow, less those that have left since the last
    look, and with those that came back out of order.
    """

    def __init__(self, key: QueueKey, maker: str) -> None:
        self.key = key
        self.maker = maker
        """Who opened it, among whose queues it counts."""
        self.rank: Rank | None = None
        """Its place among the crowd of its owner; None while every plan looks at it."""
        self.size = 0
        self.start = self.stop = 0
        self.left: list[int] = []
        """Orders of rows that are to be dropped."""
        self.back: dict[int, tuple[str, _Row]] = {}
        """By order, what came back to a place before the last."""
        self.frozen: PendingQueue | None = None
        self._room(_ROWS_MIN)

    numbers: NDArray[np.int64]
    """(fields of `_Row` without the id, rows)."""
    ids: NDArray[np.object_]

    def _room(self, rows: int) -> None:
        """Fresh arrays; whoever holds the old ones keeps them."""
        start, stop = self.start, self.stop
        numbers = np.empty((_NUMBERS, rows), dtype=np.int64)
        ids = np.empty(rows, dtype=np.object_)
        if stop > start:
            numbers[:, : stop - start] = self.numbers[:, start:stop]
            ids[: stop - start] = self.ids[start:stop]
        self.numbers, self.ids = numbers, ids
        self.start, self.stop = 0, stop - start

    def add(self, job_id: str, row: _Row) -> None:
        self.size += 1
        self.frozen = None
        if self.stop > self.start and row.order <= self.numbers[0, self.stop - 1]:
            self.back[row.order] = (job_id, row)
            return
        if self.stop == len(self.ids):
            self._room(max(2 * (self.stop - self.start), _ROWS_MIN))
        self.numbers[:, self.stop] = row
        self.ids[self.stop] = job_id
        self.stop += 1

    def remove(self, order: int) -> None:
        self.size -= 1
        self.frozen = None
        if self.back.pop(order, None) is None:
            if not self.left and self.numbers[0, self.start] == order:
                self.start += 1
            else:
                self.left.append(order)

    def look(self) -> PendingQueue:
        """The columns as they are now, for good."""
        if self.frozen is None:
            if self.left or self.back:
                self._settle()
            rows = slice(self.start, self.stop)
            numbers, ids = self.numbers[:, rows], self.ids[rows]
            numbers.flags.writeable = ids.flags.writeable = False
            orders, limits_us, since_us, projects, deadlines_us, users = numbers
            columns = JobColumns(orders, limits_us, since_us, projects, deadlines_us, users, ids)
            job_class, priority, owner = self.key
            self.frozen = PendingQueue(job_class, priority, columns, owner)
        return self.frozen

    def _settle(self) -> None:
        """Drop what left and put in what came back."""
        rows = slice(self.start, self.stop)
        numbers, ids = self.numbers[:, rows], self.ids[rows]
        if self.left:
            stay = np.ones(len(ids), dtype=np.bool_)
            stay[numbers[0].searchsorted(self.left)] = False
            numbers, ids = numbers.compress(stay, axis=1), ids.compress(stay)
        if self.back:
            came = [self.back[order] for order in sorted(self.back)]
            at = np.searchsorted(numbers[0], np.array([row.order for _, row in came], dtype=np.int64))
            more = np.array([row for _, row in came], dtype=np.int64)
            numbers = np.insert(numbers, at, more.T, axis=1)
            ids = np.insert(ids, at, [job_id for job_id, _ in came])
        self.numbers, self.ids = np.ascontiguousarray(numbers), ids
        self.start, self.stop = 0, len(ids)
        self.left, self.back = [], {}


class _Place(NamedTuple):
    queue: _Queue
    row: _Row


class Turn(NamedTuple):
    """How a queue that not every plan looks at comes to its turn.

    Attributes:
        kinds: queues of its owner, those that every plan looks at among them.
        plans: after so many more it was looked at at the latest; 0: the next one looks at it.
    """

    kinds: int
    plans: int


class PendingIndex:
    """Ordered queues by (class without its limit, priority). A change costs the same in a queue of any
    length; the first look at one after somebody left its middle, or came back to it, copies it once.
    """

    def __init__(self, own_max: int = OWN_MAX, first: int = FIRST, in_turn: int = IN_TURN) -> None:
        self._own_max = own_max
        self._crowd_sizes = first, in_turn
        self._queues: dict[QueueKey, _Queue] = {}
        self._open: dict[QueueKey, _Queue] = {}
        """Those that every plan looks at."""
        self._opened: Counter[str] = Counter()
        """How many of them each user has made."""
        self._crowds: dict[str, Crowd[_Queue]] = {}
        self._where: dict[str, _Place] = {}
        self.aside: dict[str, None] = {}
        """Jobs that could start and are in no queue: an allocator has given them nothing."""
        self._projects, self._users = ProjectNumbers(), ProjectNumbers()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._where

    def add(
        self,
        job_id: str,
        job_class: JobClass,
        priority: int,
        order: int,
        user: str = "",
        *,
        since_us: int = 0,
        project: str = "",
        deadline_us: int = 0,
    ) -> None:
        """Put a job in its place; a job that came back keeps its old order.

        Args:
            user: whose it is; the queues of nobody are not counted.
            since_us: the instant from which it waits. deadline_us: by when it is to have ended; 0: none.
        """
        self.remove(job_id)
        queue = self._queue_for(job_class.without_limit(), priority, order, user)
        numbers = self._projects.join(project), deadline_us, self._users.join(user)
        row = _Row(order, job_class.time_limit_us, since_us, *numbers)
        queue.add(job_id, row)
        self._where[job_id] = _Place(queue, row)

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        self.aside.pop(job_id, None)
        place = self._where.pop(job_id, None)
        if place is not None:
            self._projects.leave(place.row.project)
            self._users.leave(place.row.user)
            place.queue.remove(place.row.order)
            self._drop_if_empty(place.queue)

    def set_aside(self, job_id: str) -> None:
        """A job that could start is in no queue until an allocator gives it something."""
        self.remove(job_id)
        self.aside[job_id] = None

    def move(self, job_ids: Sequence[str], job_class: JobClass, old: QueueKey) -> None:
        """Jobs of one queue are of another class from now on, and keep their order and limits. One look-up
        for all: to hash a class costs more than all else that is done to a job here. What every plan looked
        at, every plan looks at.
        """
        queue, key = self._queues[old], QueueKey(job_class, old.priority, old.owner)
        job_ids = sorted(job_ids, key=lambda job_id: self._where[job_id].row.order)
        target = self._queues.get(key) or self._open_queue(
            key, queue.maker, self._where[job_ids[0]].row.order
        )
        for job_id in job_ids:
            row = self._where[job_id].row
            queue.remove(row.order)
            target.add(job_id, row)
            self._where[job_id] = _Place(target, row)
        self._drop_if_empty(queue)

    def _queue_for(self, job_class: JobClass, priority: int, order: int, user: str) -> _Queue:
        """The queue that a job of this user joins, or opens."""
        key = QueueKey(job_class, priority)
        queue = self._queues.get(key)
        if queue is not None:
            return queue
        own = QueueKey(job_class, priority, user)
        if user and user in self._crowds and own in self._queues:
            return self._queues[own]
        full = bool(user) and self._opened[user] >= self._own_max
        return self._open_queue(own if full else key, user, order)

    def _open_queue(self, key: QueueKey, maker: str, order: int) -> _Queue:
        queue = self._queues[key] = _Queue(key, maker)
        if key.owner:
            crowd = self._crowds.get(key.owner)
            if crowd is None:
                crowd = self._crowds[key.owner] = Crowd(*self._crowd_sizes)
            queue.rank = crowd.add(key.priority, order, queue)
        else:
            self._open[key] = queue
            self._opened[maker] += 1
        return queue

    def _drop_if_empty(self, queue: _Queue) -> None:
        if queue.size:
            return
        del self._queues[queue.key]
        if queue.rank is not None:
            self._leave_crowd(queue, queue.rank)
            return
        del self._open[queue.key]
        self._opened[queue.maker] -= 1
        if not self._opened[queue.maker]:
            del self._opened[queue.maker]
        if queue.maker in self._crowds and self._opened[queue.maker] < self._own_max:
            self._promote(queue.maker)

    def _leave_crowd(self, queue: _Queue, rank: Rank) -> None:
        crowd = self._crowds[queue.maker]
        crowd.remove(rank)
        if not len(crowd):
            del self._crowds[queue.maker]

    def _promote(self, user: str) -> None:
        """A place among those that every plan looks at is free again: the first of the crowd that has no
        namesake there gets it.
        """
        for rank, queue in self._crowds[user].first():
            key = queue.key._replace(owner="")
            if key not in self._queues:
                del self._queues[queue.key]
                self._leave_crowd(queue, rank)
                queue.key, queue.rank, queue.frozen = key, None, None
                self._queues[key] = self._open[key] = queue
                self._opened[user] += 1
                return

    def key_of(self, job_id: str) -> QueueKey | None:
        """What a queued job is under; one object for all of a queue."""
        place = self._where.get(job_id)
        return place.queue.key if place is not None else None

    def limit_of(self, job_id: str) -> int:
        """The time limit of a queued job."""
        return self._where[job_id].row.limit_us

    def queues(self, *asked: str) -> tuple[PendingQueue, ...]:
        """The queues that the next plan looks at, frozen: highest priority first, then oldest head.

        Args:
            asked: queued jobs whose queues are to be among them in any case.
        """
        found = [queue.look() for queue in self._open.values()]
        for crowd in self._crowds.values():
            found += [queue.look() for queue in crowd.shown()]
        if self._crowds:  # else every plan looks at all
            there = (self._where[job].queue for job in asked if job and not self.shows(job))
            found += [queue.look() for queue in {id(one): one for one in there}.values()]
        found.sort(key=_first)
        return tuple(found)

    def indices(self, job_ids: Iterable[str], queues: Sequence[PendingQueue]) -> list[int]:
        """Where the queue of each job stands among these, which `queues` has just shown; -1 for none."""
        at, where = {id(queue): index for index, queue in enumerate(queues)}, self._where
        places = [where.get(job_id) for job_id in job_ids]
        return [-1 if place is None else at.get(id(place.queue.frozen), -1) for place in places]

    def projects(self) -> tuple[str, ...]:
        """What `JobColumns.projects` counts."""
        return self._projects.names()

    def users(self) -> tuple[str, ...]:
        """What `JobColumns.users` counts."""
        return self._users.names()

    def turn(self) -> None:
        """A plan was made of what was shown: others of each crowd come to their turn."""
        for crowd in self._crowds.values():
            crowd.turn()

    def shows(self, job_id: str) -> bool:
        """Does the next plan look at this queued job?"""
        queue = self._where[job_id].queue
        return queue.rank is None or self._crowds[queue.maker].plans_until(queue.rank) == 0

    def turn_of(self, job_id: str) -> Turn | None:
        """When a job is looked at that is queued and that not every plan looks at."""
        place = self._where.get(job_id)
        queue = place.queue if place is not None else None
        if queue is None or queue.rank is None:
            return None
        return self._turn(queue.maker, self._crowds[queue.maker].plans_until(queue.rank))

    def turn_if(self, user: str, job_class: JobClass, priority: int, order: int) -> Turn | None:
        """The same of a job that this user does not have yet."""
        key = QueueKey(job_class.without_limit(), priority)
        if key in self._queues or self._opened[user] < self._own_max:
            return None
        crowd = self._crowds.get(user) or Crowd(*self._crowd_sizes)
        own = self._queues.get(key._replace(owner=user))
        rank = own.rank if own is not None else None
        return self._turn(user, crowd.plans_until(rank or crowd.rank_of(priority, order)))

    def _turn(self, user: str, plans: int) -> Turn:
        return Turn(self._opened[user] + len(self._crowds.get(user, ())), plans)

    @property
    def crowded(self) -> bool:
        """Are there queues that not every plan looks at?"""
        return bool(self._crowds)

    @property
    def plans_for_all(self) -> int:
        """After so many plans in which nothing changes, each queue was looked at; 0: by each of them."""
        return max((crowd.plans_for_all for crowd in self._crowds.values()), default=0)


def _first(queue: PendingQueue) -> tuple[int, int]:
    return -queue.priority, queue.jobs.orders.item(0)
