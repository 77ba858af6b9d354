"""The life of a rented machine: every step in every state, and what late or doubled answers lead to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.errors import NotFound, WrongState
from bursar.ids import SequentialIds
from bursar.model import NodeFacts
from bursar_policies.compile import PriceTable
from bursard.events import Event, MachineGone, NodeRegistered, NodeSilent, decode, encode
from bursard.events.subject import head_of
from bursard.state import Applied, MachineState, State, image
from bursard.state.decide import machines as decide
from bursard.state.decide import nodes

MACHINE, NODE = "mach_0000000001", "node_1"
INTENDED, LAUNCHING, UP, ENDING, GONE = MachineState


def apply(state: State, events: list[Event], at: int = 5) -> None:
    for event in events:
        state.apply(decode(encode(event)), at, Applied())


def intended() -> State:
    state = State()
    apply(state, [NodeRegistered(NODE, NodeFacts(name="n", cpu_milli=1, memory_bytes=1))])
    events = decide.intend(
        state, SequentialIds(), provider="aws", region="us-east-1", zone="a", instance_type="p5.48xlarge",
        market="spot", why="job 12", lease_until=99,
    )  # fmt: skip
    apply(state, events)
    return state


STEPS: dict[str, Callable[[State], list[Event]]] = {
    "launched": lambda state: decide.launched(state, MACHINE, "i-1"),
    "up": lambda state: decide.up(state, MACHINE, 10),
    "joined": lambda state: decide.joined(state, MACHINE, NODE),
    "ending": lambda state: decide.ending(state, MACHINE, "idle"),
    "gone": lambda state: decide.gone(state, MACHINE, 20, "ended"),
}
WAYS = {INTENDED: "", LAUNCHING: "launched", UP: "launched up", ENDING: "launched up ending", GONE: "gone"}
"""How to get into each state."""
REFUSED, NOTHING = "refused", "nothing"
EXPECTED: dict[tuple[str, MachineState], MachineState | str] = {
    ("launched", INTENDED): LAUNCHING,
    ("launched", LAUNCHING): NOTHING,
    ("launched", UP): NOTHING,
    ("launched", ENDING): NOTHING,
    ("launched", GONE): REFUSED,
    ("up", INTENDED): REFUSED,
    ("up", LAUNCHING): UP,
    ("up", UP): NOTHING,
    ("up", ENDING): NOTHING,
    ("up", GONE): REFUSED,
    ("joined", INTENDED): REFUSED,
    ("joined", LAUNCHING): LAUNCHING,
    ("joined", UP): UP,
    ("joined", ENDING): REFUSED,
    ("joined", GONE): REFUSED,
    ("ending", INTENDED): ENDING,
    ("ending", LAUNCHING): ENDING,
    ("ending", UP): ENDING,
    ("ending", ENDING): NOTHING,
    ("ending", GONE): NOTHING,
    ("gone", INTENDED): GONE,
    ("gone", LAUNCHING): GONE,
    ("gone", UP): GONE,
    ("gone", ENDING): GONE,
    ("gone", GONE): NOTHING,
}


def state_of(state: State) -> MachineState:
    machine = state.machines.get(MACHINE)
    return machine.state if machine is not None else GONE


def brought_to(wanted: MachineState) -> State:
    state = intended()
    for step in WAYS[wanted].split():
        apply(state, STEPS[step](state))
    assert state_of(state) is wanted
    return state


def test_the_table_is_whole() -> None:
    assert set(EXPECTED) == set(product(STEPS, MachineState))


@pytest.mark.parametrize(("step", "before"), EXPECTED, ids=str)
def test_every_step_in_every_state(step: str, before: MachineState) -> None:
    state, expected = brought_to(before), EXPECTED[step, before]
    if expected == REFUSED:
        with pytest.raises(WrongState, match=f"is {before.value}, so it cannot be {step}"):
            STEPS[step](state)
        return
    events = STEPS[step](state)
    assert len(events) == (0 if expected == NOTHING else 1)
    apply(state, events)
    assert state_of(state) is (before if expected == NOTHING else expected)
    assert STEPS[step](state) == [], "what is known already is no event"


def test_an_answer_that_comes_after_the_end_was_wanted_leaves_its_name_to_be_ended() -> None:
    """The call succeeded, its answer came late: the machine exists, and must not be forgotten (C1)."""
    state = intended()
    apply(state, decide.ending(state, MACHINE, "the job was cancelled"))
    apply(state, decide.launched(state, MACHINE, "i-1"))
    machine = state.machines[MACHINE]
    assert (machine.state, machine.provider_id, machine.reason) == (ENDING, "i-1", "the job was cancelled")


def test_a_machine_that_is_to_end_before_it_runs_is_paid_for_all_the_same() -> None:
    state = brought_to(LAUNCHING)
    apply(state, decide.ending(state, MACHINE, "cancelled"))
    apply(state, decide.up(state, MACHINE, 10))
    assert (state.machines[MACHINE].state, state.machines[MACHINE].billed_from) == (ENDING, 10)
    assert decide.up(state, MACHINE, 11) == []
    assert decide.gone(state, MACHINE, 7, "ended") == [MachineGone(MACHINE, 10, "ended")]


def test_one_intent_is_one_machine() -> None:
    state = brought_to(LAUNCHING)
    with pytest.raises(WrongState, match="i-1 at its provider, not i-2"):
        decide.launched(state, MACHINE, "i-2")


def test_one_machine_is_one_node_and_one_that_is_there() -> None:
    state = brought_to(UP)
    with pytest.raises(NotFound, match="node_9"):
        decide.joined(state, MACHINE, "node_9")
    apply(state, decide.joined(state, MACHINE, NODE))
    apply(state, [NodeRegistered("node_2", NodeFacts(name="m", cpu_milli=1, memory_bytes=1))])
    with pytest.raises(WrongState, match="is node node_1 already, not node_2"):
        decide.joined(state, MACHINE, "node_2")


def test_a_bill_never_ends_before_it_began() -> None:
    state = brought_to(UP)
    assert decide.gone(state, MACHINE, 3, "clock") == [MachineGone(MACHINE, 10, "clock")]
    assert decide.gone(state, MACHINE, 30, "ended") == [MachineGone(MACHINE, 30, "ended")]


def test_a_node_whose_machine_is_still_paid_for_is_not_removed() -> None:
    state = brought_to(UP)
    apply(state, decide.joined(state, MACHINE, NODE))
    apply(state, [NodeSilent(NODE)])
    with pytest.raises(WrongState, match=r"machine mach_0000000001 \(aws i-1\) is up"):
        nodes.remove(state, PriceTable(), state.nodes[NODE], 0)
    apply(state, decide.gone(state, MACHINE, 20, "ended"))
    assert nodes.remove(state, PriceTable(), state.nodes[NODE], 0)


@pytest.mark.parametrize("wanted", [INTENDED, LAUNCHING, UP, ENDING])
def test_an_image_keeps_every_machine_that_may_exist(wanted: MachineState) -> None:
    state = brought_to(wanted)
    assert image.decode(image.encode(state, 1)).machines == state.machines


def test_events_of_a_machine_are_found_by_it() -> None:
    state = brought_to(LAUNCHING)
    (event,) = decide.up(state, MACHINE, 10)
    assert head_of(encode(event)) == ("machine-up", MACHINE)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=20))
def test_no_order_of_answers_brings_back_what_is_gone_or_forgets_what_may_exist(steps: list[str]) -> None:
    state, was_gone = intended(), False
    for step in steps:
        try:
            events = STEPS[step](state)
        except WrongState:
            continue
        apply(state, events)
        was_gone |= any(isinstance(event, MachineGone) for event in events)
        assert (MACHINE not in state.machines) == was_gone
