"""A job that asks to run again as soon as it has started: it waits longer each time, and then is held."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.model import EndCause, JobState, ReasonCode
from bursard.cycle import reason_of
from bursard.events import AttemptEnded
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.state.decide import jobs as decide
from bursard.state.requeues import FIRST_WAIT_US, ROW_MAX, ROW_US, WAIT_MAX_US, in_a_row


class Looping(World):
    """One job that is requeued by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.backend.connect(msgspec.structs.replace(FACTS, name="n-1"))
        self.job = self.submit()

    def run(
        self, ran_us: int = SECOND_US, *, asks: bool = True, cause: EndCause = EndCause.PREEMPTED
    ) -> None:
        """One attempt that runs so long and asks to run again."""
        self.cycle()
        self.backend.report()
        attempt = self.job.attempt
        assert attempt is not None
        self.clock.advance(ran_us)
        if asks:
            self.engine.commit(decide.requeue(self.state, self.job, self.engine.now()), "ann")
        member = attempt.members[0]
        word = Exited(
            attempt_id=attempt.id, rank=0, cause=cause, exit_code=-1, signal=15, held_us=ran_us, stopped=asks
        )
        self.fleet.exited(self.state.nodes[member.alloc.node_id], word)
        self.writer.flush()

    def wait_us(self) -> int:
        """Until its next try."""
        return max(self.job.retry_at - self.engine.now(), 0)

    def sit_out(self) -> None:
        self.clock.advance(self.wait_us())
        self.state.wake(self.engine.now())


def test_the_first_time_it_starts_at_once_and_then_waits_twice_as_long_each_time() -> None:
    world = Looping()
    waits = []
    for _ in range(10):
        world.run()
        waits.append(world.wait_us())
        world.sit_out()
    assert waits == [0, *(min(FIRST_WAIT_US << at, WAIT_MAX_US) for at in range(9))]
    assert waits[-1] == WAIT_MAX_US
    ends = [event.wait_us for event in world.events if isinstance(event, AttemptEnded)]
    assert ends == waits


def test_while_it_waits_it_says_why_and_until_when() -> None:
    world = Looping()
    for _ in range(3):
        world.sit_out()
        world.run()
    reason = reason_of(world.state, None, world.job, world.engine.now())
    assert reason is not None
    assert reason.code is ReasonCode.BEGIN_TIME
    assert (
        reason.message == "was requeued 3 times in a row, each soon after its start: it is tried again in 4 s"
    )
    assert f"after {ROW_MAX} times it is put on hold" in reason.remedy
    assert dict(reason.facts)["requeues"] == "3"


def test_after_so_many_it_is_held_and_a_release_gives_it_another_try() -> None:
    world = Looping()
    for _ in range(ROW_MAX):
        world.sit_out()
        assert not world.job.held
        world.run()
    assert (world.job.held, world.job.state) == (True, JobState.PENDING)
    world.clock.advance(2 * WAIT_MAX_US)
    world.cycle()
    assert world.job.attempt is None
    reason = reason_of(world.state, None, world.job, world.engine.now())
    assert reason is not None
    assert (reason.code, dict(reason.facts)) == (ReasonCode.HELD, {"requeues": str(ROW_MAX)})
    assert (
        reason.message
        == f"the job is on hold: it was requeued {ROW_MAX} times in a row, each soon after its start"
    )
    assert "SLURM_RESTART_COUNT" in reason.remedy
    world.engine.commit(decide.release(world.state, world.job), "ann")
    world.run(asks=False)
    assert world.job.state.terminal


@pytest.mark.parametrize("ran_us", [ROW_US, 3600 * SECOND_US])
def test_one_that_works_between_two_requests_neither_waits_nor_is_held(ran_us: int) -> None:
    world = Looping()
    for _ in range(ROW_MAX + 2):
        world.run(ran_us)
        assert (world.wait_us(), world.job.held, in_a_row(world.job)) == (0, False, 0)


def test_an_attempt_that_worked_ends_a_row() -> None:
    world = Looping()
    for ran_us, waits in ((1, 0), (1, FIRST_WAIT_US), (ROW_US, 0), (1, 0), (1, FIRST_WAIT_US)):
        world.sit_out()
        world.run(ran_us)
        assert world.wait_us() == waits


def test_a_preempted_attempt_is_none_of_them() -> None:
    world = Looping()
    world.run()
    world.cycle()
    world.backend.report()
    assert world.job.attempt is not None
    world.stop(world.job.attempt, EndCause.PREEMPTED)
    node = world.state.nodes[world.job.attempt.members[0].alloc.node_id]
    word = Exited(attempt_id=world.job.attempt.id, rank=0, cause=EndCause.PREEMPTED, exit_code=-1, signal=15)
    world.fleet.exited(node, word)
    assert (in_a_row(world.job), world.job.state) == (0, JobState.PENDING)


def test_one_that_runs_a_while_each_time_is_held_after_very_many_times_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bursard.state.requeues.ATTEMPTS_MAX", 3)
    world = Looping()
    for turn in range(3):
        assert not world.job.held, turn
        world.run(ROW_US)
    assert (world.job.held, world.job.state) == (True, JobState.PENDING)
    reason = reason_of(world.state, None, world.job, world.engine.now())
    assert reason is not None
    assert reason.message == "the job is on hold: it ran 3 times, and asked to run again"
    assert "for as many times more" in reason.remedy
    world.engine.commit(decide.release(world.state, world.job), "ann")
    for turn in range(3):
        assert not world.job.held, turn
        world.run(ROW_US)
    assert world.job.held
