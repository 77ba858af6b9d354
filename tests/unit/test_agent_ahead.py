"""The agent's core with assignments that wait for the share of another: told as lists of events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.model import EndCause, Exit
from bursar_agent import stimuli as s
from bursar_agent.agent import WAITING_MAX, Agent

BOOT = "boot-1"
A, B, C, D = ("att_a", 0), ("att_b", 0), ("att_c", 0), ("att_d", 0)


def connected() -> Agent:
    core = Agent(BOOT)
    welcome(core)
    return core


def welcome(core: Agent) -> list[s.Instruction]:
    return [
        *core.handle(s.Connected(0)),
        *core.handle(s.Welcomed(now_boot_us=0, epoch=1)),
    ]


def assign(core: Agent, key: s.Key, after: str = "", epoch: int = 1) -> list[s.Instruction]:
    one = s.Assignment(attempt_id=key[0], rank=key[1], boot_id=BOOT, after=after)
    return core.handle(s.Assigned(epoch, (one,)))


def started(core: Agent, key: s.Key) -> list[s.Instruction]:
    return core.handle(s.MemberStarted(attempt_id=key[0], rank=key[1], pid=7, boot_us=10))


def ended(core: Agent, key: s.Key) -> list[s.Instruction]:
    return core.handle(s.MemberEnded(*key, Exit(cause=EndCause.COMPLETED, exit_code=0, held_us=5)))


def stop(core: Agent, key: s.Key, cause: str = "preempted", **more: bool) -> list[s.Instruction]:
    return core.handle(s.StopAsked(epoch=1, attempt_id=key[0], rank=key[1], cause=cause, **more))


def starts(instructions: Sequence[s.Instruction]) -> list[s.Key]:
    return [one.key for each in instructions if isinstance(each, s.StartMembers) for one in each.assignments]


def told(instructions: Sequence[s.Instruction]) -> list[tuple[str, EndCause, bool]]:
    return [
        (each.attempt_id, each.exit.cause, each.exit.started)
        for each in instructions
        if isinstance(each, s.SendExited)
    ]


def line() -> Agent:
    """A runs; B waits for its place, and C for B's."""
    core = connected()
    assert starts(assign(core, A)) == [A]
    started(core, A)
    assert assign(core, B, A[0]) == assign(core, C, B[0]) == []
    return core


def test_what_waits_starts_with_the_end_of_what_it_waits_for_and_after_that_was_told() -> None:
    core = line()
    instructions = ended(core, A)
    assert [type(each) for each in instructions] == [s.SendExited, s.StartMembers]
    assert starts(instructions) == [B]
    started(core, B)
    assert starts(ended(core, B)) == [C]
    assert starts(ended(core, C)) == []


def test_it_waits_also_for_one_that_is_only_starting() -> None:
    core = connected()
    assign(core, A)
    assert assign(core, B, A[0]) == []
    never = s.MemberEnded(*A, Exit(cause=EndCause.START_FAILED, started=False))
    assert starts(core.handle(never)) == [B]


@pytest.mark.parametrize("forgotten", [False, True])
def test_behind_one_that_has_ended_or_is_not_known_it_starts_at_once(forgotten: bool) -> None:
    core = connected()
    assign(core, A)
    ended(core, A)
    if forgotten:
        core.handle(s.ForgetReceived(*A))
    assert starts(assign(core, B, A[0])) == [B]
    assert starts(assign(core, C, "att_unknown")) == [C]


def test_an_order_given_twice_waits_once() -> None:
    core = line()
    assert assign(core, B, A[0]) == []
    assert starts(ended(core, A)) == [B]
    assert assign(core, B, A[0]) == []


def test_an_order_of_a_later_epoch_is_obeyed_before_it_waits() -> None:
    core = connected()
    assign(core, A)
    assert assign(core, B, A[0], epoch=5) == [s.PersistEpoch(5, 0)]
    assert starts(ended(core, A)) == [B]


def test_one_that_is_stopped_never_starts_and_the_line_closes_up() -> None:
    core = line()
    assert told(stop(core, B, "cancelled")) == [("att_b", EndCause.PREEMPTED, False)]
    assert starts(ended(core, A)) == [C]
    assert told(assign(core, B)) == [("att_b", EndCause.PREEMPTED, False)]


@pytest.mark.parametrize(("left", "next_one"), [((C,), B), ((C, B), D), ((B, C), D)])
def test_behind_one_that_has_left_the_line_it_waits_for_who_has_the_share(
    left: Sequence[s.Key], next_one: s.Key
) -> None:
    """Its order was on its way while what it was placed behind went back: the share is not free for that."""
    core = line()
    for key in left:
        assert stop(core, key, only_waiting=True) != []
    assert assign(core, D, C[0]) == []
    assert starts(ended(core, A)) == [next_one]
    if next_one is B:
        started(core, B)
        assert starts(ended(core, B)) == [D]


def test_behind_one_that_went_back_at_once_it_waits_too() -> None:
    core = connected()
    assign(core, A)
    for number in range(WAITING_MAX):
        assert assign(core, (f"att_{number}", 0), f"att_{number - 1}" if number else A[0]) == []
    assert told(assign(core, B, f"att_{WAITING_MAX - 1}")) == [("att_b", EndCause.PREEMPTED, False)]
    stop(core, (f"att_{WAITING_MAX - 1}", 0), only_waiting=True)
    assert assign(core, C, B[0]) == []


def test_the_last_of_a_line_is_taken_back_alone() -> None:
    core = line()
    assert told(stop(core, C, only_waiting=True)) == [("att_c", EndCause.PREEMPTED, False)]
    assert starts(ended(core, A)) == [B]
    started(core, B)
    assert starts(ended(core, B)) == []


def test_what_has_its_turn_or_is_not_there_is_not_taken_back() -> None:
    core = line()
    ended(core, A)
    assert stop(core, B, only_waiting=True) == []
    started(core, B)
    assert stop(core, B, only_waiting=True) == []
    assert stop(core, ("att_other", 0), only_waiting=True) == []
    assert starts(assign(core, ("att_other", 0))) == [("att_other", 0)]


def test_with_the_connection_goes_what_waits_and_it_can_be_given_again() -> None:
    core = line()
    core.handle(s.Disconnected())
    assert [(truth.attempt_id, truth.running) for truth in core.truths()] == [("att_a", True)]
    assert starts(ended(core, A)) == []
    welcome(core)
    assert starts(assign(core, B)) == [B]
    assert assign(core, C, B[0]) == []
    assert starts(ended(core, B)) == [C]


def test_with_the_connection_goes_also_what_was_given_back_and_not_yet_heard() -> None:
    """1. B is taken back, and its word is lost with the connection; then A ends, so that B has its share.
    2. B is no failure: it is given again.
    """
    core = line()
    stop(core, B, only_waiting=True)
    core.handle(s.Disconnected())
    ended(core, A)
    assert [truth.attempt_id for truth in core.truths()] == ["att_a"]
    assert told(welcome(core)) == [("att_a", EndCause.COMPLETED, True)]
    assert starts(assign(core, B)) == [B]


def test_what_was_given_back_and_heard_is_forgotten_once() -> None:
    core = line()
    stop(core, B, only_waiting=True)
    core.handle(s.ForgetReceived(*B))
    core.handle(s.Disconnected())
    welcome(core)
    assert told(assign(core, B)) == [("att_b", EndCause.PREEMPTED, False)]


def test_a_node_holds_so_many_and_gives_back_what_is_more() -> None:
    core = connected()
    assign(core, A)
    before = A[0]
    for number in range(WAITING_MAX):
        assert assign(core, (f"att_{number}", 0), before) == []
        before = f"att_{number}"
    assert told(assign(core, B, before)) == [("att_b", EndCause.PREEMPTED, False)]
    assert told(assign(core, C, A[0])) == [("att_c", EndCause.PREEMPTED, False)], "the place is promised"
    assert starts(ended(core, A)) == [("att_0", 0)]


def test_nothing_that_waits_starts_once_nobody_charges_for_it() -> None:
    core = connected()
    core.handle(s.Welcomed(now_boot_us=0, epoch=1, spend_lease_us=1_000))
    assign(core, A)
    started(core, A)
    assign(core, B, A[0])
    core.handle(s.MeterRead(500, {}))
    out = core.handle(s.Tick(2_000))
    assert told(out) == [("att_b", EndCause.PREEMPTED, False)]
    assert starts(ended(core, A)) == []


def test_what_waits_makes_a_node_busy() -> None:
    core = line()
    for number in range(4):
        assign(core, (f"att_{number}", 0))
    assert not core.busy
    assign(core, ("att_last", 0))
    assert core.busy


def test_an_end_says_how_many_wait_yet_and_nothing_of_them_where_its_share_is_free() -> None:
    """B gets the place of A, and C waits; where nobody follows, others that wait do not matter."""
    core = line()
    assign(core, ("att_x", 0))
    assert [each.line for each in ended(core, A) if isinstance(each, s.SendExited)] == [1]
    assert [each.line for each in ended(core, ("att_x", 0)) if isinstance(each, s.SendExited)] == [0]
    assert [each.line for each in ended(core, B) if isinstance(each, s.SendExited)] == [0]
    assert starts(assign(core, A)) == []


LINES, DEPTH = 2, 4


@given(st.lists(st.tuples(st.sampled_from("esxdw"), st.integers(0, LINES * DEPTH - 1)), max_size=40))
def test_one_place_is_never_held_by_two_and_nothing_starts_twice(steps: list[tuple[str, int]]) -> None:
    """e: what has the place ends. s: one is stopped. x: one is taken back. d: the connection is lost and the
    orders are given again, behind what is left of the line. w: orders are said again.
    """
    core = connected()
    keys = [(f"att_{place}_{number}", 0) for place in range(LINES) for number in range(DEPTH)]
    alive: set[s.Key] = set()
    ran: list[s.Key] = []
    over: set[s.Key] = set()

    def see(instructions: Sequence[s.Instruction]) -> None:
        for key in starts(instructions):
            alive.add(key)
            ran.append(key)
            started(core, key)
        over.update((each.attempt_id, 0) for each in instructions if isinstance(each, s.SendExited))
        over.difference_update(alive)

    def give() -> None:
        for place in range(LINES):
            left = [key for key in keys[place * DEPTH :][:DEPTH] if key not in over]
            for before, key in zip([("", 0), *left], left, strict=False):
                see(assign(core, key, before[0]))

    give()
    for step, number in steps:
        key = keys[number]
        if step == "e" and key in alive:
            alive.discard(key)
            see(ended(core, key))
        elif step == "s" and key not in alive:
            see(stop(core, key, "cancelled"))
        elif step == "x":
            see(stop(core, key, only_waiting=True))
        elif step == "d":
            core.handle(s.Disconnected())
            see(welcome(core))
            give()
        elif step == "w":
            give()
        for place in range(LINES):
            assert len(alive & set(keys[place * DEPTH :][:DEPTH])) <= 1
        assert len(ran) == len(set(ran))
    for key in keys:
        if key not in over and key not in alive:
            assert alive & set(keys[keys.index(key) // DEPTH * DEPTH :][:DEPTH]), "its line goes on"


def test_what_gave_up_its_turn_and_was_forgotten_leaves_nothing_behind() -> None:
    """1. It is forgotten like any end. 2. A stream that goes looks for it no more."""
    core = line()
    stop(core, B, only_waiting=True)
    assert core._gave_back == {B: A}
    (forgotten,) = core.handle(s.ForgetReceived(*B))
    assert isinstance(forgotten, s.ForgetMember)
    assert core._gave_back == {}
    assert core.handle(s.Disconnected()) == []
