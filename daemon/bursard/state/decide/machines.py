"""The life of a machine that is rented: intended → launching → up → ending → gone.

Owns    which step may follow which, and what each costs to get wrong. A machine is not a node: it is paid for
        from the provider's word, before its agent says hello and after that has fallen silent.
Why     a call to a cloud may succeed without its answer ever coming back. So the intent is an event before
        the call (C1), every answer is an event, and an answer that comes late, twice or out of order must
        lead to the same end: nothing that may still exist is forgotten, nothing that is gone comes back.

Steps that say what is known already are no events. A machine that is gone leaves the state, so a step about
one that is not there is a step about one that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bursar.errors import NotFound, WrongState
from bursar.ids import Ids
from bursard.events import (
    Event,
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
)
from bursard.state.core import State
from bursard.state.records import MachineRecord, MachineState

NOTHING = "nothing"
"""What is said is known, or makes no difference any more."""
REFUSED = "refused"
"""It cannot be: acting on it would lose or double a machine."""

_I, _L, _U, _E, _G = MachineState

STEPS: Final[Mapping[str, Mapping[MachineState, MachineState | str]]] = {
    # The provider took the call and named the machine.
    "launched": {_I: _L, _L: NOTHING, _U: NOTHING, _E: _E, _G: REFUSED},
    # The provider says that it runs, and bills it.
    "up": {_I: REFUSED, _L: _U, _U: NOTHING, _E: _E, _G: REFUSED},
    # Its agent said hello.
    "joined": {_I: REFUSED, _L: _L, _U: _U, _E: REFUSED, _G: REFUSED},
    # It is not wanted any more. An intent ends this way too: the call may have succeeded unheard.
    "ending": {_I: _E, _L: _E, _U: _E, _E: NOTHING, _G: NOTHING},
    # The provider lists it as gone, or has proved that it never was.
    "gone": {_I: _G, _L: _G, _U: _G, _E: _G, _G: NOTHING},
}
"""By step, then by the state it meets: the state that follows."""


def _step(state: State, machine_id: str, step: str) -> MachineRecord | None:
    """The machine if the step changes something. Raises `WrongState` where it cannot be."""
    machine = state.machines.get(machine_id)
    now = machine.state if machine is not None else MachineState.GONE
    after = STEPS[step][now]
    if after == REFUSED:
        raise WrongState(f"machine {machine_id} is {now.value}, so it cannot be {step}", {"step": step})
    return None if after == NOTHING else machine


def intend(
    state: State,
    ids: Ids,
    *,
    provider: str,
    region: str,
    zone: str,
    instance_type: str,
    market: str,
    why: str,
    lease_until: int,
) -> list[Event]:
    """A machine is to be rented: durable before anybody calls the provider, who is given this id."""
    return [
        MachineIntended(
            machine_id=ids.new("mach"),
            provider=provider,
            region=region,
            zone=zone,
            instance_type=instance_type,
            market=market,
            why=why,
            lease_until=lease_until,
        )
    ]


def launched(state: State, machine_id: str, provider_id: str) -> list[Event]:
    """The provider named it. Raises `WrongState` for a second name: one intent would be two machines (C1)."""
    known = state.machines.get(machine_id)
    if known is not None and known.provider_id:
        if known.provider_id != provider_id:
            raise WrongState(
                f"machine {machine_id} is {known.provider_id} at its provider, not {provider_id};"
                " one of them must be ended"
            )
        return []
    machine = _step(state, machine_id, "launched")
    return [MachineLaunched(machine_id, provider_id)] if machine is not None else []


def up(state: State, machine_id: str, billed_from: int) -> list[Event]:
    """The provider says that it runs. `billed_from`: since when it is paid for, by the provider's clock. One
    that is to end already stays so, and is paid for all the same.
    """
    known = state.machines.get(machine_id)
    if known is not None and known.billed_from:
        return []
    machine = _step(state, machine_id, "up")
    return [MachineUp(machine_id, billed_from)] if machine is not None else []


def joined(state: State, machine_id: str, node_id: str) -> list[Event]:
    """Its agent is this node, and stays it. Raises `NotFound`, or `WrongState` for another node."""
    machine = _step(state, machine_id, "joined")
    if node_id not in state.nodes:
        raise NotFound(f"there is no node {node_id}")
    if machine is None or machine.node_id == node_id:
        return []
    if machine.node_id:
        raise WrongState(f"machine {machine_id} is node {machine.node_id} already, not {node_id}")
    return [MachineJoined(machine_id, node_id)]


def ending(state: State, machine_id: str, reason: str) -> list[Event]:
    """It is not wanted any more: to be ended until its provider lists it as gone, however long that takes."""
    machine = _step(state, machine_id, "ending")
    return [MachineEnding(machine_id, reason)] if machine is not None else []


def gone(state: State, machine_id: str, billed_until: int, reason: str) -> list[Event]:
    """The provider lists it as gone: only now does it cost nothing any more (C4)."""
    machine = _step(state, machine_id, "gone")
    if machine is None:
        return []
    return [MachineGone(machine_id, max(billed_until, machine.billed_from), reason)]
