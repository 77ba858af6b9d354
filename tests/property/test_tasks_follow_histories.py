"""Whatever happens to an array and to one that follows it, each task of that waits, may start or is over as
its own there says; and the log, an image and the doctor agree.
"""

from __future__ import annotations

import pytest
from findings import of_jobs
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.errors import InvalidRequest
from bursar.model import ArraySpec, Dependency, JobSpec, JobState
from bursar.resources import ResourceRequest
from bursard.events import JobEnded, JobSubmitted
from bursard.fleet.testing import World
from bursard.state import image
from bursard.state.decide import jobs
from bursard.state.decide.following import Fates

TASKS = 5
INDEX = st.integers(0, TASKS - 1)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["succeed", "fail"]), INDEX),
        st.tuples(st.sampled_from(["cancel", "hold", "release"]), INDEX.map(lambda index: index + 2)),
        st.tuples(st.just("cancel-first"), st.just(0)),
    ),
    min_size=8,
    max_size=20,
)


class History:
    """Two arrays: 0 to 4, and 2 to 6, whose tasks 5 and 6 have none of their own in the first."""

    def __init__(self) -> None:
        self.world = World()
        self.first = self._submit(ArraySpec(((0, TASKS, 1),)), (), {})
        assert self.first is not None
        self.ends: dict[int, JobState] = {}
        self.second: JobSubmitted | None = None
        self.cancelled: set[int] = set()
        self.held: set[int] = set()

    def _submit(
        self, array: ArraySpec, after: tuple[Dependency, ...], fates: dict[str, Fates]
    ) -> JobSubmitted:
        spec = JobSpec(
            command=("true",), array=array, depends_on=after, options=(ResourceRequest(None, 1000, 0),)
        )
        engine = self.world.engine
        [event] = jobs.submit(engine.state, engine.ids, user="ann", spec=spec, fates=fates)
        engine.commit([event], "ann")
        assert isinstance(event, JobSubmitted)
        return event

    def follow(self) -> None:
        final = None
        if len(self.ends) == TASKS:
            final = JobState.SUCCEEDED if self.whole() is JobState.SUCCEEDED else JobState.FAILED
        failed = frozenset(index for index, state in self.ends.items() if state is not JobState.SUCCEEDED)
        fates = {self.first.job_id: Fates("1", ((0, TASKS, 1),), failed, final)}
        after = (Dependency(self.first.job_id, "task-succeeded"),)
        if all(self.own(index) not in (None, JobState.SUCCEEDED) for index in range(2, TASKS + 2)):
            with pytest.raises(InvalidRequest, match="can never come true"):
                self._submit(ArraySpec(((2, TASKS + 2, 1),)), after, fates)
            return
        self.second = self._submit(ArraySpec(((2, TASKS + 2, 1),)), after, fates)

    def whole(self) -> JobState | None:
        """How the first array ended; None: not yet."""
        if len(self.ends) < TASKS:
            return None
        ends = set(self.ends.values())
        return JobState.SUCCEEDED if ends == {JobState.SUCCEEDED} else JobState.FAILED

    def own(self, index: int) -> JobState | None:
        """How what a task of the second waits for has ended."""
        return self.ends.get(index) if index < TASKS else self.whole()

    def over(self, index: int) -> bool:
        return index in self.cancelled or self.own(index) not in (None, JobState.SUCCEEDED)

    def act(self, what: str, index: int) -> None:
        engine, state = self.world.engine, self.world.state
        if what in ("succeed", "fail"):
            if index not in self.ends:
                ended = JobState.SUCCEEDED if what == "succeed" else JobState.FAILED
                self.ends[index] = ended
                engine.commit([JobEnded(f"{self.first.job_id}.{index}", ended)], "n")
        elif what == "cancel-first":
            if (first := state.jobs.get(self.first.job_id)) is not None:
                left = {one: JobState.CANCELLED for one in range(TASKS) if one not in self.ends}
                self.ends |= left
                engine.commit(jobs.cancel(state, first, None), "ann")
        elif self.second is not None and not self.over(index):
            task = state.job(f"{self.second.job_id}.{index}")
            assert task is not None
            if what == "cancel":
                self.cancelled.add(index)
                engine.commit(jobs.cancel(state, task, None), "ann")
            elif (what == "hold") is (index not in self.held):
                self.held ^= {index}
                engine.commit(getattr(jobs, what)(state, task), "ann")

    def agrees(self) -> None:
        state = self.world.state
        assert not state.doomed
        assert of_jobs(state).ok, of_jobs(state)
        if self.second is None:
            return
        second = self.second.job_id
        for index in range(2, TASKS + 2):
            task = state.job(f"{second}.{index}")
            if self.over(index):
                assert task is None or task.state is JobState.CANCELLED
                continue
            assert task is not None
            assert task.state is JobState.PENDING
            may_start = self.own(index) is JobState.SUCCEEDED and index not in self.held
            assert (task.id in state.pending) is may_start, index


@given(st.integers(0, 4), ACTS)
@settings(deadline=None)
def test_each_task_is_where_its_own_in_the_other_array_lets_it_be(
    begins: int, acts: list[tuple[str, int]]
) -> None:
    history = History()
    for turn, (what, index) in enumerate(acts):
        if turn == begins:
            history.follow()
            history.agrees()
        history.act(what, index)
        history.agrees()
    world = history.world
    world.writer.flush()
    for state in (world.killed().state, image.decode(image.encode(world.state, 0), world.state.limits)):
        assert image.encode(state, 0) == image.encode(world.state, 0)
        assert state.followers == world.state.followers
        assert all((job in state.pending) is (job in world.state.pending) for job in state.jobs)
