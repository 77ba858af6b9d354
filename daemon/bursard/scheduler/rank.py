"""Rank: the order in which pending jobs are looked at.

Owns    lanes: one queue as a plan walks it, and the heap that merges them.
Why     a queue holds its jobs in order, so merging the heads of queues yields the whole order (priority, then
        submission) without ever sorting 100,000 jobs. Of a queue that cannot start what holds for an hour,
        the next job that holds for less is found by one look at a column. Under a PriorityPolicy a queue is
        walked by its scores instead (`RankedLane`), and nothing else is different.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar_policies.decision import PendingQueue, Verdict
from bursar_policies.rankers import OVERDUE
from bursard.scheduler.order import Order
from bursard.scheduler.table import Table

NO_BOUND = int(np.iinfo(np.int64).max)
FIRST = 1 << 70
"""Before every score and priority: what is within a guarantee."""
Key = tuple[int, int]
"""Where a job stands among all: the lower comes first."""


First = tuple[int, int, int, int]
"""The first job of a queue: its key (two numbers), the index of the queue, and where it stands there."""


class Lane:
    """One queue as a plan walks it, from its oldest job to its newest, never back. Positions count in that
    order; `row` is where a job stands in the queue.

    Resources, rooms and what a claim leaves only shrink within a plan. So whatever stops a job stops all jobs
    behind it that ask for the same thing for as long or longer.

    Attributes:
        job_class: of the queue, without a limit.
        position: of the job that is looked at; -1 behind the last. limit_us: its time limit.
        below_us: only jobs that hold for less are looked at.
        verdicts: what stopped jobs of it, with falling `from_hold_us`.
        before: by how much it comes before its rank: `FIRST` as long as it is within a guarantee.
    """

    __slots__ = (
        "_limits_us",
        "_orders",
        "before",
        "below_us",
        "index",
        "job_class",
        "limit_us",
        "overhead_us",
        "position",
        "queue",
        "tables",
        "verdicts",
    )

    def __init__(self, index: int, queue: PendingQueue) -> None:
        self.index = index
        self.queue = queue
        job_class = self.job_class = queue.job_class
        self._orders, self._limits_us = queue.jobs.orders, queue.jobs.limits_us
        self.position, self.limit_us = -1, 0
        if self._orders.size:
            self.position, self.limit_us = 0, self._limits_us.item(0)
        self.below_us = NO_BOUND
        self.verdicts: list[Verdict] = []
        self.before = 0
        self.tables: tuple[Table, ...] = ()
        self.overhead_us = job_class.hold_us - job_class.time_limit_us

    def _go_to(self, position: int) -> None:
        self.position = position
        self.limit_us = self._limits_us.item(position) if position >= 0 else 0

    @property
    def hold_us(self) -> int:
        """Of the job that is looked at."""
        return self.limit_us + self.overhead_us

    def go_on(self) -> None:
        """To the next job that may be looked at."""
        if self.below_us > 0:
            self._go_to(self.following(self.position, self.below_us))
        else:
            self.position = -1

    def hold_at(self, position: int) -> int:
        """Of any of its jobs."""
        return self._limits_us.item(position) + self.overhead_us

    @property
    def job_id(self) -> str:
        """The job that is looked at."""
        return str(self.queue.jobs.ids[self.row(self.position)])

    def row(self, position: int) -> int:
        """Where a job stands in its queue."""
        return position

    def overdue(self, position: int) -> bool:
        """Has this job waited past the `max_wait` of a policy?"""
        return False

    def key(self, position: int) -> tuple[int, int]:
        """Where a job stands among all: lower comes first."""
        return -self.queue.priority - self.before, self._orders.item(position)

    def following(self, position: int, below_us: int) -> int:
        """The next job behind a position that holds for less; -1 for none."""
        if below_us <= 0:
            return -1
        if below_us == NO_BOUND:
            return position + 1 if position + 1 < self._limits_us.size else -1
        limits_us = self._limits_us[position + 1 :]
        shorter = limits_us < below_us - self.overhead_us
        found = int(shorter.argmax()) if len(shorter) else 0
        return position + 1 + found if found < len(shorter) and shorter[found] else -1

    def note(self, verdict: Verdict) -> None:
        """What stops the job that is looked at, and those that hold for as long."""
        said = bool(self.verdicts) and self.verdicts[-1].blocked_by == verdict.blocked_by
        if said and verdict.from_hold_us == NO_BOUND:
            return  # it stops no other, and each may be told it
        self.below_us = min(self.below_us, verdict.from_hold_us)
        self.verdicts.append(verdict)

    def verdict(self) -> Verdict | None:
        """What stops what is left of it, as one."""
        if not self.verdicts:
            return None
        found = self.verdicts[-1]
        if found.from_hold_us:
            found = replace(found, from_hold_us=0)
        for one in self.verdicts[-2::-1]:
            found = replace(one, shorter=found)
        return found


class RankedLane(Lane):
    """One queue as a plan walks it by scores: the highest first, of equal ones the oldest."""

    __slots__ = ("_best", "_rows", "_scores")

    def __init__(self, index: int, queue: PendingQueue, scores: NDArray[np.int64]) -> None:
        super().__init__(index, queue)
        self._scores = scores
        self._rows: NDArray[np.intp] | None = None
        """By position, once more than the best is asked for."""
        self._best = int(scores.argmax()) if scores.size else -1
        if self._best >= 0:
            self.limit_us = self._limits_us.item(self._best)

    def _sort(self) -> None:
        if self._rows is None:
            rows = self._rows = np.argsort(-self._scores, kind="stable")
            self._orders, self._limits_us = self._orders[rows], self._limits_us[rows]
            self._scores = self._scores[rows]

    def row(self, position: int) -> int:
        """Where a job stands in its queue."""
        return self._best if self._rows is None else self._rows.item(position)

    def hold_at(self, position: int) -> int:
        """Of any of its jobs."""
        self._sort()
        return super().hold_at(position)

    def overdue(self, position: int) -> bool:
        """Has this job waited past the `max_wait` of the policy?"""
        return self._scores.item(self._best if self._rows is None else position) == OVERDUE

    def key(self, position: int) -> tuple[int, int]:
        """Where a job stands among all: lower comes first."""
        at = self._best if self._rows is None else position
        return -self._scores.item(at) - self.before, self._orders.item(at)

    def following(self, position: int, below_us: int) -> int:
        """The next job behind a position that holds for less; -1 for none."""
        self._sort()
        return super().following(position, below_us)


class Ranking:
    """Shows lanes in the order of their jobs; the caller says how each goes on.

    Args:
        order: the scores of a PriorityPolicy; without them priority and submission decide.
        firsts: the first job of each queue that has one, in the order of keys, when that is known.
        within: is a lane within a guarantee? Those come first, for as long as they are: in a plan that only
            ends, and never begins.
    """

    def __init__(
        self,
        queues: Sequence[PendingQueue],
        order: Order | None = None,
        firsts: Sequence[First] | None = None,
        within: Callable[[Lane], bool] | None = None,
    ) -> None:
        self._queues, self._order, self._within = queues, order, within
        self._lanes: dict[int, Lane] = {}
        self._firsts, self._at = firsts or (), 0
        lanes = [self.lane(index) for index in range(len(queues))] if firsts is None else []
        for lane in lanes if within is not None else ():
            lane.before = FIRST if within is not None and within(lane) else 0
        self._heap = [(*lane.key(0), lane.index) for lane in lanes if lane.position == 0]
        """All others: the key of the next job, and the index."""
        heapq.heapify(self._heap)
        self._is_first = False

    _head: Lane
    """Whose turn it is; `_is_first` when it is that of the first job of its queue."""

    def lane(self, index: int) -> Lane:
        """The lane of a queue."""
        lane = self._lanes.get(index)
        if lane is None:
            queue, order = self._queues[index], self._order
            lane = Lane(index, queue) if order is None else RankedLane(index, queue, order.of_queue(index))
            self._lanes[index] = lane
        return lane

    def lanes(self) -> Iterable[Lane]:
        """Those that anybody has asked for."""
        return self._lanes.values()

    def __bool__(self) -> bool:
        return self._at < len(self._firsts) or bool(self._heap)

    def is_first(self) -> bool:
        """Is it the turn of the first job of a queue?"""
        at, heap = self._at, self._heap
        return at < len(self._firsts) and (not heap or self._firsts[at] < heap[0])

    def pass_over(self, passes: Callable[[int], bool]) -> Sequence[First]:
        """Nothing of these queues is looked at: those whose first jobs come next, as far as they pass."""
        firsts, began, at, end = self._firsts, self._at, self._at, len(self._firsts)
        other = self._heap[0] if self._heap else None
        while at < end and (other is None or firsts[at] < other) and passes(firsts[at][2]):
            at += 1
        self._at = at
        return firsts[began:at]

    def head(self) -> Lane:
        """The lane with the next job; stays until `go_on`."""
        heap = self._heap
        if self.is_first():
            self._is_first, self._head = True, self.lane(self._firsts[self._at][2])
            return self._head
        lane = self.lane(heap[0][2])
        while self._within is not None and lane.before and not self._within(lane):
            lane.before = 0
            heapq.heapreplace(heap, (*lane.key(lane.position), lane.index))
            lane = self.lane(heap[0][2])
        self._is_first, self._head = False, lane
        return lane

    def go_on(self) -> None:
        """To the next job of the lane that may be looked at."""
        lane = self._head
        lane.go_on()
        following = (*lane.key(lane.position), lane.index) if lane.position >= 0 else None
        if self._is_first:
            self._at += 1
            if following is not None:
                heapq.heappush(self._heap, following)
        elif following is not None:
            heapq.heapreplace(self._heap, following)
        else:
            heapq.heappop(self._heap)
