"""The columns of a queue are kept between looks, and must be to the byte what ones made anew would be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass, JobColumns, PendingQueue, QueueKey
from bursard.state.pending import PendingIndex

LIMITS_US = (1_000_000, 7_000_000)
OVERHEAD_US = 2_000_000
CLASSES = tuple(
    JobClass(1, (ResourceRequest(cpu_milli=cpu),), False, (), "never", 0, OVERHEAD_US, ())
    for cpu in (100, 200)
)
PRIORITIES = (10, 50)

MOVES = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "come back", "start", "cancel", "look", "move", "again")),
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(0, 30),
    ),
    max_size=60,
)
Jobs = dict[str, tuple[JobClass, int, int]]


def made_anew(jobs: Jobs) -> tuple[PendingQueue, ...]:
    found: dict[tuple[JobClass, int], list[tuple[int, str, int]]] = {}
    for job_id, (job_class, priority, order) in jobs.items():
        row = (order, job_id, job_class.time_limit_us)
        found.setdefault((job_class.without_limit(), priority), []).append(row)
    queues = [PendingQueue(*key, JobColumns.of(members)) for key, members in found.items()]
    return tuple(sorted(queues, key=lambda queue: (-queue.priority, queue.jobs[0][0])))


def put(index: PendingIndex, jobs: Jobs, job_id: str, job_class: JobClass, priority: int, order: int) -> None:
    jobs[job_id] = (job_class, priority, order)
    index.add(job_id, job_class, priority, order)


@settings(max_examples=80, deadline=None)
@given(MOVES)
def test_columns_that_are_kept_are_those_made_anew(moves: list[tuple[str, int, int, int]]) -> None:
    index, jobs, made = PendingIndex(), Jobs(), 0
    looks: list[tuple[tuple[PendingQueue, ...], tuple[PendingQueue, ...]]] = []
    for kind, which, level, pick in moves:
        wanted, priority = CLASSES[which].limited(LIMITS_US[pick % 2]), PRIORITIES[level]
        mine = [j for j, (c, p, _) in jobs.items() if (c.without_limit(), p) == (CLASSES[which], priority)]
        if kind in ("add", "come back"):
            made += 1
            put(index, jobs, f"job_{made}", wanted, priority, made if kind == "add" else -made)
        elif kind == "look":
            looks.append((index.queues(), made_anew(jobs)))
        elif mine and kind == "again":
            job_id = mine[pick % len(mine)]
            put(index, jobs, job_id, wanted, priority, jobs[job_id][2])
        elif mine and kind == "move":
            other = CLASSES[1 - which]
            index.move(mine[pick % len(mine) :], other, QueueKey(CLASSES[which], priority))
            for job_id in mine[pick % len(mine) :]:
                job_class, _, order = jobs[job_id]
                jobs[job_id] = (other.limited(job_class.time_limit_us), priority, order)
        elif mine:
            gone = (
                min(mine, key=lambda job_id: jobs[job_id][2]) if kind == "start" else mine[pick % len(mine)]
            )
            del jobs[gone]
            index.remove(gone)
    looks.append((index.queues(), made_anew(jobs)))
    # All are compared at the end: what was handed out must not have moved since.
    for kept, fresh in looks:
        assert kept == fresh
    for job_id, (job_class, priority, _) in jobs.items():
        assert index.key_of(job_id) == (job_class.without_limit(), priority, "")
        assert index.limit_of(job_id) == job_class.time_limit_us
    assert len(index) == len(jobs)


def test_what_a_look_handed_out_can_be_written_by_nobody() -> None:
    index = PendingIndex()
    index.add("job_0", CLASSES[0].limited(5), 50, 0)
    (queue,) = index.queues()
    for column in (queue.jobs.orders, queue.jobs.limits_us, queue.jobs.ids):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_a_queue_that_nothing_happened_to_is_the_same_object() -> None:
    index = PendingIndex()
    for number, wanted in enumerate(CLASSES):
        index.add(f"job_{number}", wanted.limited(5), 50, number)
    first, second = index.queues()
    index.add("job_2", CLASSES[0].limited(9), 50, 2)
    again = index.queues()
    assert again[1] is second
    assert (again[0].jobs.limits_us.tolist(), first.jobs.limits_us.tolist()) == ([5, 9], [5])
