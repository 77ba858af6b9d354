"""How many jobs have not ended, by project, state and what they wait for.

Why     whoever watches a site asks every few seconds. What this costs grows with the jobs that have not
        ended, never with those that have; between its parts others get their turn; why a queue waits is
        asked once for all of it; and what was counted for one is told to all for a while.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from bursar.model import JobState
from bursar.v1 import events_pb2 as pb
from bursar_policies.decision import QueueKey
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.cycle import Cycle, reason_of
from bursard.engine import Engine
from bursard.state import JobRecord, State
from bursard.state.arrays import beyond_wanted
from bursard.state.fold.jobs import waits_next
from bursard.turns import for_all

PART = 500
"""Jobs that are looked at before others get their turn: a millisecond or two."""
TIMES: Final = 5
"""What was counted holds for so many times as long as counting took: whoever asks all the time, and how many
they are, makes a sixth of the loop at most. Of a small site, that is well below a millisecond.
"""

Counts = dict[tuple[str, str, str, str], int]
"""By project, user, state and reason."""


class Census:
    """What was counted last, for all who ask."""

    def __init__(self, engine: Engine, cycle: Cycle) -> None:
        self._engine = engine
        self._cycle = cycle
        self._counting: asyncio.Task[None] | None = None
        self._counts: Counts = {}
        self._until_us = 0

    async def seen_by(self, identity: Identity) -> list[pb.JobCount]:
        """Counts by project, state and reason, in this order, of what `identity` may see."""
        if self._engine.clock.boot_us() >= self._until_us:
            # On nobody's account, and whoever asked first may leave: all who wait are answered at once.
            if self._counting is None:
                self._counting = asyncio.create_task(for_all(self._count()), name="census")
            await asyncio.shield(self._counting)
        counts = self._counts
        found: Counter[tuple[str, str, str]] = Counter()
        seen: dict[tuple[str, str], bool] = {}
        for (project, user, name, reason), jobs in counts.items():
            whose = (project, user)
            if whose not in seen:
                seen[whose] = allowed(identity, Action.SEE_JOBS, *whose)
            if seen[whose]:
                found[project, name, reason] += jobs
        return [
            pb.JobCount(project=project, state=name, reason=reason, jobs=jobs)
            for (project, name, reason), jobs in sorted(found.items())
        ]

    async def _count(self) -> None:
        try:
            self._counts = await self._counted()
        finally:
            self._counting = None

    async def _counted(self) -> Counts:
        state, clock, now = self._engine.state, self._engine.clock, self._engine.now()
        found: Counter[tuple[str, str, str, str]] = Counter()
        reasons: dict[int, tuple[QueueKey, str]] = {}
        took_us, began_us = 0, clock.boot_us()
        jobs = [job for job in state.jobs.values() if not job.state.terminal and not job.parent_id]
        for start in range(0, len(jobs), PART):
            for job in jobs[start : start + PART]:
                project, user = job.spec.project, job.user
                for name, count in _states(job):
                    why = _reason(state, self._cycle, job, now, reasons) if name == JobState.PENDING else ""
                    found[project, user, name, why] += count
            took_us += clock.boot_us() - began_us  # without the turns of others
            await asyncio.sleep(0)
            began_us = clock.boot_us()
        self._until_us = began_us + TIMES * took_us
        return found


def _states(job: JobRecord) -> list[tuple[str, int]]:
    """In which states it is, how often: an array's tasks count, whether they are records already or not, and
    a service's places as far as a replica is wanted for them.
    """
    if job.array is None:
        return [(job.state.value, 1)]
    counts = dict(job.array.counts)
    if beyond := beyond_wanted(job):
        counts[JobState.PENDING.value] -= beyond
    return [(name, count) for name, count in counts.items() if count and not JobState(name).terminal]


def _reason(
    state: State, cycle: Cycle, job: JobRecord, now: int, known: dict[int, tuple[QueueKey, str]]
) -> str:
    """Of a waiting job, the code of the first of its queue that was looked at; of tasks, their array's.

    `known` goes by which object a key is, since to hash one costs more than all else here; it keeps the key,
    so that no other can come to stand where it stood.
    """
    if job.array is not None and job.state is not JobState.PENDING:
        job = waits_next(state, job) or job  # the rest of it waits, and itself it runs
    key = state.pending.key_of(job.id)
    if key is not None and (found := known.get(id(key))) is not None:
        return found[1]
    why = reason_of(state, cycle, job, now)
    code = why.code.value if why is not None else ""
    if key is not None:
        known[id(key)] = (key, code)
    return code
