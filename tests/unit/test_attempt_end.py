"""The one end of an attempt, from the ends of its members: cause, code, message, and if it runs again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar.clock import SECOND_US
from bursar.model import EndCause, RetrySpec
from bursard.access.identity import Identity, Role
from bursard.events import AttemptEnded, AttemptPlaced, StopRequested
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.services.views import Form, job_view

C = EndCause
END = AttemptEnded("att", C.COMPLETED)


class Gang(World):
    """Two nodes with one job of two members, both running."""

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        for name in ("n-1", "n-2"):
            self.backend.connect(msgspec.structs.replace(FACTS, name=name))
        self.job = self.submit(nodes=2, **spec)
        self.cycle()
        self.backend.report()
        assert self.job.attempt is not None
        self.attempt = self.job.attempt

    def end(self, rank: int, cause: EndCause, code: int = 0, signal: int = 0, message: str = "") -> None:
        node = self.state.nodes[self.attempt.members[rank].alloc.node_id]
        word = Exited(
            attempt_id=self.attempt.id, rank=rank, cause=cause, exit_code=code, signal=signal,
            message=message, held_us=SECOND_US,
        )  # fmt: skip
        self.fleet.exited(node, word)
        self.writer.flush()

    def ended(self) -> AttemptEnded:
        """The one end, with the id left out."""
        (found,) = [event for event in self.events if isinstance(event, AttemptEnded)]
        assert found.attempt_id == self.attempt.id
        return msgspec.structs.replace(found, attempt_id="att")

    def stops(self) -> list[tuple[EndCause, str]]:
        return [(event.cause, event.message) for event in self.events if isinstance(event, StopRequested)]


@pytest.mark.parametrize(
    ("first", "second", "end", "stopped"),
    [
        ((C.COMPLETED, 0), (C.COMPLETED, 0), (C.COMPLETED, 0, ""), 0),
        ((C.FAILED, 3, 0, "one"), (C.CANCELLED, -1, 15), (C.FAILED, 3, "rank 0 ended: failed one"), 1),
        ((C.FAILED, 3), (C.FAILED, 4), (C.FAILED, 3, "rank 0 ended: failed"), 1),
        ((C.COMPLETED, 0), (C.FAILED, 5, 0, "two"), (C.FAILED, 5, "two"), 0),
        ((C.COMPLETED, 0), (C.FAILED, -1, 9), (C.FAILED, 137, ""), 0),
        ((C.COMPLETED, 0), (C.FAILED, -1, 0), (C.FAILED, -1, ""), 0),
        ((C.OUT_OF_MEMORY, -1, 9), (C.FAILED, 1), (C.OUT_OF_MEMORY, 137, "rank 0 ended: out_of_memory"), 1),
        ((C.TIME_LIMIT, -1, 15), (C.TIME_LIMIT, 1), (C.TIME_LIMIT, 143, "rank 0 ended: time_limit"), 1),
    ],
)  # fmt: skip
def test_the_first_member_that_did_not_complete_says_how_the_attempt_ended(
    first: Any, second: Any, end: Any, stopped: int
) -> None:
    world = Gang()
    world.end(0, *first)
    assert len(world.stops()) == stopped
    assert not [event for event in world.events if isinstance(event, AttemptEnded)]
    world.end(1, *second)
    cause, code, message = end
    assert world.ended() == msgspec.structs.replace(
        END, cause=cause, exit_code=code, message=message, counts=False
    )


def test_a_stop_that_was_asked_for_is_the_cause_unless_all_completed() -> None:
    world = Gang()
    world.stop(world.attempt)
    world.end(0, C.COMPLETED)
    world.end(1, C.CANCELLED, -1, 15)
    assert (world.ended().cause, world.ended().exit_code, world.ended().message) == (
        C.CANCELLED,
        143,
        "asked",
    )
    world = Gang()
    world.stop(world.attempt)
    world.end(0, C.COMPLETED)
    world.end(1, C.COMPLETED)
    assert (world.ended().cause, world.ended().exit_code, world.ended().message) == (C.COMPLETED, 0, "")


def test_a_time_limit_that_is_what_the_money_pays_for_ends_as_budget_and_another_as_itself() -> None:
    full = Gang(time_limit_us=3_600 * SECOND_US)
    (placed,) = [event for event in full.events if isinstance(event, AttemptPlaced)]
    assert (placed.time_limit_us, placed.cut_by_budget) == (3_600 * SECOND_US, False)
    worst_nanos = full.attempt.rate * 3_600 * SECOND_US // (3_600 * SECOND_US)
    half = Gang(time_limit_us=3_600 * SECOND_US, max_cost_nanos=worst_nanos // 2, currency="USD")
    (placed,) = [event for event in half.events if isinstance(event, AttemptPlaced)]
    assert placed.cut_by_budget
    assert 1_700 * SECOND_US < placed.time_limit_us <= 1_800 * SECOND_US
    for world, cause, message in (
        (full, C.TIME_LIMIT, "rank 0 ended: time_limit"), (half, C.BUDGET, "budget.max_cost was reached"),
    ):  # fmt: skip
        world.end(0, C.TIME_LIMIT, -1, 15)
        world.end(1, C.TIME_LIMIT, -1, 15)
        assert (world.ended().cause, world.ended().message, world.ended().requeue) == (cause, message, False)


def test_a_failure_of_a_job_that_money_ended_is_a_failure_still() -> None:
    world = Gang(time_limit_us=3_600 * SECOND_US, max_cost_nanos=1_000_000_000, currency="USD")
    world.end(0, C.COMPLETED)
    world.end(1, C.FAILED, 2)
    assert (world.ended().cause, world.ended().exit_code) == (C.FAILED, 2)


@pytest.mark.parametrize(
    ("on", "most", "cause", "again"),
    [
        ((), 0, C.FAILED, (False, False)),
        (("failed",), 2, C.FAILED, (True, True)),
        (("failed",), 0, C.FAILED, (False, False)),
        (("out_of_memory",), 2, C.FAILED, (False, False)),
        (("failed", "time_limit"), 1, C.TIME_LIMIT, (True, True)),
        (("failed",), 2, C.COMPLETED, (False, False)),
    ],
)
def test_an_attempt_is_followed_by_another_for_the_causes_that_were_named_and_no_others(
    on: tuple[str, ...], most: int, cause: EndCause, again: tuple[bool, bool]
) -> None:
    world = Gang(retry=RetrySpec(on, most))
    world.end(0, C.COMPLETED)
    world.end(1, cause, 0 if cause is C.COMPLETED else 1)
    assert (world.ended().requeue, world.ended().counts) == again


QUOTE = "working directory /home/ann/secret-plans: No such file or directory"


def seen_by_a_viewer(gang: Gang) -> Any:
    viewer = Identity("vic", Role.VIEWER)
    return job_view(gang.state, gang.job, None, seen_by=viewer, now=gang.engine.now(), form=Form.WHOLE)


def test_what_a_node_says_of_a_start_is_in_the_end_for_its_owner_and_in_no_order_for_all() -> None:
    gang = Gang()
    gang.end(0, C.START_FAILED, message=QUOTE)
    assert gang.stops() == [(C.START_FAILED, "rank 0 ended: start_failed")]
    gang.end(1, C.CANCELLED, -1, 15)
    assert gang.ended().message == f"rank 0 ended: start_failed {QUOTE}"
    assert "secret-plans" not in str(seen_by_a_viewer(gang))


def test_a_cancelled_job_does_not_quote_to_all_how_a_member_failed_to_start() -> None:
    gang = Gang()
    gang.engine.commit([StopRequested(gang.attempt.id, C.CANCELLED, 0, "")], "ann")
    for rank in (0, 1):
        gang.end(rank, C.START_FAILED, message=QUOTE)
    assert gang.ended().message == QUOTE
    assert "secret-plans" not in str(seen_by_a_viewer(gang))
