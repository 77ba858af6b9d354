"""Promises that are kept open: of jobs that were told they end by their deadlines.

Owns    which jobs those are, by node where places are kept for them, and what is set aside of each budget.
Why     a place and its money are nobody else's until the job begins; plans, budgets, limits and nodes all
        look here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bursar.model import JobState
from bursar_policies.decision import Promised
from bursard.state.records import JobRecord


class Seen(NamedTuple):
    """What a snapshot said of a promise, and of what that was made; `made`: None where a node is gone."""

    facts: int
    queue: int
    made: Promised | None


class PromiseTable:
    """By job. `promised`: nanos by budget, which budgets count as held."""

    def __init__(self, promised: Counter[str]) -> None:
        self.given: dict[str, JobRecord] = {}
        """Those that are not broken, of jobs that have not ended, in the order in which they were made."""
        self.on_node: dict[str, dict[str, None]] = {}
        """By node, the jobs that a place is kept for there."""
        self.seen: dict[str, Seen] = {}
        """By job, what the last snapshot said of it; a promise that is put again is looked at anew."""
        self.shown: tuple[Promised, ...] = ()
        """All that it said."""
        self.changes = 0
        """Whatever is kept, and for whom, is the same while this is."""
        self._promised = promised
        self._aside: dict[str, tuple[tuple[str, ...], int]] = {}
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._users: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.given)

    def put(self, job: JobRecord) -> None:
        """What is promised to a job is what its record says now."""
        self._drop_place(job.id)
        self.changes += 1
        promise = job.promise
        if promise is None or promise.broken_at or job.state.terminal:
            if self.given.pop(job.id, None) is not None:
                self._users[job.user] -= 1
            return
        if job.id not in self.given:
            self.given[job.id] = job
            self._users[job.user] += 1
        if job.state is not JobState.PENDING or not promise.members:
            return
        self._aside[job.id] = job.budgets, promise.nanos
        for budget in job.budgets:
            self._promised[budget] += promise.nanos
        self._nodes[job.id] = tuple(member.node_id for member in promise.members)
        for member in promise.members:
            self.on_node.setdefault(member.node_id, {})[job.id] = None

    def waiting_ids(self) -> Iterable[str]:
        """The jobs for which a place is kept."""
        return self._aside.keys()

    def waiting(self) -> Iterator[JobRecord]:
        """The same."""
        return (self.given[job_id] for job_id in self._aside)

    def budgets_of(self, job_id: str) -> tuple[str, ...]:
        """Where money is set aside for a job."""
        return self._aside[job_id][0] if job_id in self._aside else ()

    def of_user(self, user: str) -> int:
        """How many a user has."""
        return self._users[user]

    def _drop_place(self, job_id: str) -> None:
        self.seen.pop(job_id, None)
        budgets, nanos = self._aside.pop(job_id, ((), 0))
        for budget in budgets:
            self._promised[budget] -= nanos
            if not self._promised[budget]:
                del self._promised[budget]
        for node_id in self._nodes.pop(job_id, ()):
            there = self.on_node[node_id]
            there.pop(job_id, None)
            if not there:
                del self.on_node[node_id]
