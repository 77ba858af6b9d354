"""An array that changes while some of its tasks run: what ran keeps what it ran with."""

from __future__ import annotations

from bursar.model import ArraySpec, EndCause, JobState, RetrySpec
from bursard.fleet.testing import FACTS, World
from bursard.state import Limits, image
from bursard.state.decide import jobs


def test_a_task_that_ran_keeps_its_project_until_the_next_change_that_finds_it_waiting() -> None:
    """1. One task runs while the array moves to another project; it fails, and waits to be tried again.
    2. It is of the old project as before, the others of the new one, also as an image knows them.
    3. A later change of another field finds it waiting: it is of the new project too.
    """
    world = World()
    world.backend.connect(FACTS)
    array = world.submit(array=ArraySpec(((0, 3, 1),), 1), retry=RetrySpec(("failed",), 2))
    world.cycle()
    task = world.state.tasks[array.id][0]
    world.engine.commit(jobs.update(world.state, array, {"project": "q"}), "ann")
    assert (array.spec.project, task.spec.project) == ("q", "p")
    assert task.attempt is not None
    world.exited_of(task.attempt, EndCause.FAILED, exit_code=1)
    assert (task.state, task.spec.project) == (JobState.PENDING, "p")
    again = image.decode(image.encode(world.state, world.engine.now()), Limits())
    assert (again.jobs[task.id].spec.project, again.jobs[array.id].spec.project) == ("p", "q")
    world.engine.commit(jobs.update(world.state, array, {"priority": 7}), "ann")
    assert (task.spec, task.id in world.state.pending) == (array.spec, True)
    assert task.spec.project == "q"
