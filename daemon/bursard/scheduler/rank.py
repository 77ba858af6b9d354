"""Rank: the order in which pending jobs are looked at.

Why     queues are already sorted by submission, so merging their heads with a heap yields the whole
        order (priority, then submission) without ever sorting 100,000 jobs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from bursar_policies.decision import PendingQueue


class Ranking:
    """Pops (queue index, job id) in order; the caller says when a queue may go on."""

    def __init__(self, queues: Sequence[PendingQueue]) -> None:
        self._queues = queues
        self._heap = [(-q.priority, q.jobs[0][0], i, 0) for i, q in enumerate(queues) if q.jobs]
        heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def head(self) -> tuple[int, str]:
        """The next job and its queue; stays until `advance` or `block`."""
        _, _, index, position = self._heap[0]
        return index, self._queues[index].jobs[position][1]

    def advance(self) -> None:
        """The head started: its queue shows its next job."""
        priority, _, index, position = self._heap[0]
        jobs = self._queues[index].jobs
        if position + 1 < len(jobs):
            following = (priority, jobs[position + 1][0], index, position + 1)
            heapq.heapreplace(self._heap, following)
        else:
            heapq.heappop(self._heap)

    def block(self) -> None:
        """The head cannot start: nothing behind it in its queue can either (resources, rooms and
        reservations only shrink within a plan), so the queue is done.
        """
        heapq.heappop(self._heap)
