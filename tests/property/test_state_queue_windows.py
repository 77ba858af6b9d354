"""A queue's window is kept between passes, and must be to the byte what one made anew would be."""

from __future__ import annotations

from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass, PendingQueue
from bursard.state import pending
from bursard.state.pending import PendingIndex

CLASSES = tuple(
    JobClass(1, (ResourceRequest(cpu_milli=cpu),), False, (), "never", 1_000_000, 2_000_000, ())
    for cpu in (100, 200)
)
PRIORITIES = (10, 50)

MOVES = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "come back", "start", "cancel", "look", "move")),
        st.integers(0, 1),
        st.integers(0, 1),
        st.integers(0, 30),
    ),
    max_size=60,
)


def made_anew(jobs: dict[str, tuple[JobClass, int, int]]) -> tuple[PendingQueue, ...]:
    found: dict[tuple[JobClass, int], list[tuple[int, str]]] = {}
    for job_id, (job_class, priority, order) in jobs.items():
        found.setdefault((job_class, priority), []).append((order, job_id))
    queues = [
        PendingQueue(job_class, priority, tuple(sorted(members)[: pending.WINDOW]), len(members))
        for (job_class, priority), members in found.items()
    ]
    return tuple(sorted(queues, key=lambda queue: (-queue.priority, queue.jobs[0][0])))


@settings(max_examples=60, deadline=None)
@given(MOVES, st.sampled_from((0, 1, pending._LATE_PART)))
def test_windows_that_are_kept_are_those_made_anew(
    moves: list[tuple[str, int, int, int]], late_part: int
) -> None:
    """`late_part` 0: what came back is never sorted in."""
    index, jobs, made = PendingIndex(), {}, 0
    with mock.patch.object(pending, "WINDOW", 5), mock.patch.object(pending, "_LATE_PART", late_part):
        for kind, which, level, pick in moves:
            job_class, priority = CLASSES[which], PRIORITIES[level]
            mine = [j for j, (c, p, _) in jobs.items() if (c, p) == (job_class, priority)]
            if kind in ("add", "come back"):
                made += 1
                order = made if kind == "add" else -made
                jobs[f"job_{made}"] = (job_class, priority, order)
                index.add(f"job_{made}", job_class, priority, order)
            elif kind == "look":
                assert index.queues() == made_anew(jobs)
            elif kind == "move" and mine:
                some = mine[: pick + 1]
                index.move(some, CLASSES[1 - which], (job_class, priority))
                jobs |= {job_id: (CLASSES[1 - which], priority, jobs[job_id][2]) for job_id in some}
            elif mine:
                first = min(mine, key=lambda job_id: jobs[job_id][2])
                gone = first if kind == "start" else mine[pick % len(mine)]
                del jobs[gone]
                index.remove(gone)
        assert index.queues() == made_anew(jobs)


def test_a_window_from_whose_head_jobs_started_is_filled_up_from_behind() -> None:
    index = PendingIndex()
    with mock.patch.object(pending, "WINDOW", 3):
        for order in range(5):
            index.add(f"job_{order}", CLASSES[0], 50, order)
        (before,) = index.queues()
        index.remove("job_0")
        (after,) = index.queues()
    assert before.jobs == ((0, "job_0"), (1, "job_1"), (2, "job_2"))
    assert after.jobs == ((1, "job_1"), (2, "job_2"), (3, "job_3"))
    assert (before.total, after.total) == (5, 4)
