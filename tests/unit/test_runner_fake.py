"""The fake runner keeps the promises of the real one, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

from bursar.clock import VirtualClock
from bursar.errors import NotFound, WrongState
from bursar_agent.runner.base import Runner
from bursar_agent.runner.fake import Behaviour, FakeRunner
from bursar_agent.runner.model import (
    Ended,
    ExitReport,
    RunnerEvent,
    Started,
    StartRequest,
    StopRequest,
)

SECOND = 1_000_000


class Stage:
    """A fake runner, its clock and what it told."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.clock = VirtualClock()
        self.events: list[RunnerEvent] = []
        self.fake = FakeRunner(self.clock, self.events.append, lambda _: behaviour or Behaviour())
        self.runner: Runner = self.fake

    def start(self, **fields: object) -> str:
        request = StartRequest("att_1", **fields)  # type: ignore[arg-type]
        return asyncio.run(self.runner.start([request]))[0].state

    def stop(self, cause: str, grace_us: int, signal: str | None = None) -> None:
        asyncio.run(self.runner.stop("att_1", 0, StopRequest(cause, grace_us, signal)))

    def pass_time(self, us: int) -> None:
        self.clock.advance(us)
        self.fake.tick()

    def report(self) -> ExitReport | None:
        return next((e.report for e in self.events if isinstance(e, Ended)), None)


def outcome(report: ExitReport | None) -> tuple[str, int | None, int | None, int | None]:
    assert report is not None
    return report.end_cause, report.exit_code, report.signal, report.held_us


def test_job_ends_by_itself_at_its_time() -> None:
    stage = Stage(Behaviour(duration_us=5 * SECOND, exit_code=3))
    assert stage.start() == "starting"
    assert stage.fake.next_due_us() == stage.clock.boot_us() + 5 * SECOND
    stage.pass_time(5 * SECOND - 1)
    assert stage.report() is None
    stage.pass_time(1)
    assert outcome(stage.report()) == ("failed", 3, None, 5 * SECOND)
    assert [type(e) for e in stage.events] == [Started, Ended]


def test_time_limit_ends_a_stubborn_job_after_the_grace_even_when_noticed_late() -> None:
    stage = Stage(Behaviour(ignores_term=True))
    stage.start(time_limit_us=10 * SECOND, grace_us=3 * SECOND)
    stage.pass_time(3600 * SECOND)
    assert outcome(stage.report()) == ("time_limit", None, 9, 13 * SECOND)


def test_checkpoint_ends_before_the_grace() -> None:
    stage = Stage(Behaviour(checkpoint_us=2 * SECOND))
    stage.start()
    stage.stop("preempted", 60 * SECOND, "USR1")
    stage.pass_time(60 * SECOND)
    assert outcome(stage.report()) == ("preempted", 0, None, 2 * SECOND)


def test_later_stop_hastens_and_keeps_the_first_cause() -> None:
    stage = Stage(Behaviour(ignores_term=True))
    stage.start()
    stage.stop("preempted", 3600 * SECOND)
    assert stage.report() is None
    stage.stop("budget", 0)
    assert outcome(stage.report()) == ("preempted", None, 9, 0)


def test_second_start_and_forget_follow_the_contract() -> None:
    stage = Stage()
    assert stage.start() == "starting"
    assert stage.start() == "already"
    with pytest.raises(WrongState):
        stage.runner.forget("att_1", 0)
    stage.fake.finish("att_1")
    assert outcome(stage.report()) == ("completed", 0, None, 0)
    (truth,) = asyncio.run(stage.runner.adopt())
    assert (truth.state, truth.exit) == ("ended", stage.report())
    stage.runner.forget("att_1", 0)
    with pytest.raises(NotFound):
        stage.stop("cancelled", 0)
