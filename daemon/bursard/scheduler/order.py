"""Order: what a PriorityPolicy makes of all that waits.

Owns    the columns that rankers read, the score of every job, what it is made of, and how each queue is
        walked by it.
Why     the best job of each queue is found by one pass over all columns. A queue is sorted when, and if, a
        plan goes on behind its best: most queues of a full site are stopped there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import BudgetRoom, JobClass, NodeColumns, PendingQueue, Snapshot
from bursar_policies.rankers import ONE, SHARE_ONE, Term, Waiting, points, scores, standings, terms
from bursar_policies.specs import PriorityPolicySpec
from bursard.scheduler.pricing import spared_us

Ints = NDArray[np.int64]


class Sizes:
    """What part of the cluster a job takes. Facts of nodes do not change between plans of one world."""

    def __init__(self, nodes: NodeColumns) -> None:
        columns = (nodes.cpu_total, nodes.memory_total, nodes.gpu_total)
        cpu, memory, gpus = (sum(column.tolist()) for column in columns)
        self._totals = (cpu, memory, gpus * MILLI)
        self._known: dict[int, tuple[JobClass, int]] = {}

    def of(self, job_class: JobClass) -> int:
        """The largest share of CPUs, memory or GPUs, of `SHARE_ONE`, by its smallest alternative."""
        known = self._known.get(id(job_class))
        if known is None or known[0] is not job_class:
            found = min(self._of(option, job_class.nodes) for option in job_class.options)
            known = self._known[id(job_class)] = (job_class, found)
        return known[1]

    def _of(self, request: ResourceRequest, nodes: int) -> int:
        gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
        asked = (request.cpu_milli, request.memory_bytes, gpus)
        pairs = [(nodes * part, total) for part, total in zip(asked, self._totals, strict=True) if part]
        shares = [-(-SHARE_ONE * part // total) if total else SHARE_ONE for part, total in pairs]
        return min(max(shares, default=1), SHARE_ONE)


class Order:
    """The scores of everything that waits, queue after queue."""

    def __init__(self, snapshot: Snapshot, rules: PriorityPolicySpec, sizes: Sizes, now: int) -> None:
        self._rules = rules
        self.waiting = waiting_of(snapshot, rules, sizes, now)
        self.scores = scores(rules, self.waiting)
        lengths = [len(queue.jobs) for queue in snapshot.queues]
        self._ends = np.cumsum(lengths, dtype=np.int64).tolist() if lengths else []
        self._lengths = lengths

    def of_queue(self, index: int) -> Ints:
        """Scores of one queue, oldest job first."""
        end = self._ends[index]
        found: Ints = self.scores[end - self._lengths[index] : end]
        return found

    def best(self) -> tuple[Ints, Ints]:
        """Of each queue where the job with the highest score stands, the oldest of equal ones, and its score;
        both of no meaning for an empty one.
        """
        lengths = np.array(self._lengths, dtype=np.int64)
        filled = np.flatnonzero(lengths)
        rows, highest = np.zeros(len(lengths), dtype=np.int64), np.zeros(len(lengths), dtype=np.int64)
        if len(filled):
            starts = np.cumsum(lengths[filled]) - lengths[filled]
            highest[filled] = np.maximum.reduceat(self.scores, starts)
            at = np.flatnonzero(self.scores == np.repeat(highest, lengths))
            found, first = np.unique(self.waiting.queue[at], return_index=True)
            rows[found] = at[first]
            rows[filled] -= starts
        return rows, highest

    def terms_of(self, index: int) -> tuple[Term, ...]:
        """What the score of the oldest job of a queue is made of."""
        return terms(self._rules, self.waiting, self._ends[index] - self._lengths[index])

    def points(self, score: int, priority: int) -> int | None:
        """The points in a score, millionths; None of what has waited for too long."""
        return points(score, priority, self._rules)

    @property
    def priority_first(self) -> bool:
        """Whether priority stands above all points."""
        return "qos" not in dict(self._rules.weights)


def waiting_of(snapshot: Snapshot, rules: PriorityPolicySpec, sizes: Sizes, now: int) -> Waiting:
    """The columns that rankers read."""
    queues = snapshot.queues
    lengths = [len(queue.jobs) for queue in queues]
    rows = np.repeat(np.arange(len(queues), dtype=np.intp), lengths)
    weighed = {factor for factor, _ in rules.weights}
    standing: list[int] = []
    if "fair_share" in weighed:
        standing = standings(snapshot.projects, snapshot.spent, rules.shares)
    return Waiting(
        now=now,
        age_full_us=rules.age_full_us,
        age_power=rules.age_power,
        queue=rows,
        limits_us=_joined([queue.jobs.limits_us for queue in queues]),
        since_us=_joined([queue.jobs.since_us for queue in queues]),
        projects=_joined([queue.jobs.projects for queue in queues]),
        deadlines_us=_joined([queue.jobs.deadlines_us for queue in queues]),
        graces_us=_ints(_long_grace_us(queue.job_class) for queue in queues),
        sizes=_ints([sizes.of(queue.job_class) for queue in queues] if "size" in weighed else []),
        priorities=_ints([queue.priority for queue in queues]),
        rooms=_ints(_rooms(queues, snapshot.budgets) if "budget" in weighed else []),
        standings=_ints(standing or repeat(ONE, max(len(snapshot.projects), 1))),
    )


def _rooms(queues: Sequence[PendingQueue], budgets: Mapping[str, BudgetRoom]) -> list[int]:
    """Of each queue, what is left of the scarcest of its budgets, of `ONE`."""
    left = {
        name: min(max(room.room_nanos, 0) * ONE // max(room.limit_nanos, 1), ONE)
        for name, room in budgets.items()
    }
    return [min((left.get(name, 0) for name in one.job_class.budgets), default=ONE) for one in queues]


def _long_grace_us(job_class: JobClass) -> int:
    """For how long past its time limit it may hold its place, beyond what all jobs may."""
    overhead_us = job_class.hold_us - job_class.time_limit_us
    return overhead_us - spared_us(overhead_us)


def _joined(columns: Sequence[Ints]) -> Ints:
    return np.concatenate(columns) if columns else _ints([])


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)
