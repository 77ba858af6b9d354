"""How many jobs have not ended, by project, state and what they wait for.

Why     whoever watches a site asks every few seconds. What this costs grows with the jobs that have not
        ended, never with those that have; between its parts others get their turn; and why a queue waits is
        asked once for all of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from bursar.model import JobState
from bursar.v1 import events_pb2 as pb
from bursar_policies.decision import QueueKey
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.cycle import Cycle, reason_of
from bursard.state import JobRecord, State
from bursard.state.arrays import beyond_wanted

PART = 2_000
"""Jobs that are looked at before others get their turn: a few milliseconds."""


async def census(state: State, cycle: Cycle, now: int, seen_by: Identity) -> list[pb.JobCount]:
    """Counts by project, state and reason, in this order, of what `seen_by` may see."""
    found: Counter[tuple[str, str, str]] = Counter()
    reasons: dict[int, tuple[QueueKey, str]] = {}
    seen: dict[tuple[str, str], bool] = {}
    jobs = [job for job in state.jobs.values() if not job.state.terminal and not job.parent_id]
    for start in range(0, len(jobs), PART):
        for job in jobs[start : start + PART]:
            project = job.spec.project
            whose = (project, job.user)
            if whose not in seen:
                seen[whose] = allowed(seen_by, Action.SEE_JOBS, *whose)
            if not seen[whose]:
                continue
            for name, count in _states(job):
                why = _reason(state, cycle, job, now, reasons) if name == JobState.PENDING else ""
                found[project, name, why] += count
        await asyncio.sleep(0)
    return [
        pb.JobCount(project=project, state=name, reason=reason, jobs=jobs)
        for (project, name, reason), jobs in sorted(found.items())
    ]


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
    key = state.pending.key_of(job.id)
    if key is not None and (found := known.get(id(key))) is not None:
        return found[1]
    why = reason_of(state, cycle, job, now)
    code = why.code.value if why is not None else ""
    if key is not None:
        known[id(key)] = (key, code)
    return code
