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

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from bursar.clock import HOUR_US
from bursar.errors import NotFound, ServerUnavailable, WrongState
from bursar.ids import Ids
from bursar.model import Hold, NodeFacts
from bursar_policies.compile import PriceTable
from bursard.events import (
    Charge,
    Event,
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
)
from bursard.ledger import amended, charge_of, node_account
from bursard.state.core import State
from bursard.state.decide import attempts, launches, nodes, ownership
from bursard.state.records import MachineRecord, MachineState, NodeRecord

Decision = Callable[[], Sequence[Event]]
"""Made when those before it are true."""
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


NAME_CHARS: Final = 10
"""Of a machine's id that its node's name ends in."""


class Launch(msgspec.Struct, frozen=True):
    """For whom a machine is rented, and as which node; see `MachineIntended`."""

    pool: str
    job_id: str
    holds: tuple[Hold, ...]
    facts: NodeFacts
    rate: int
    moves: bool = False


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
    launch: Launch | None = None,
) -> list[MachineIntended]:
    """A machine is to be rented: durable before anybody calls the provider, who is given this id."""
    machine_id = ids.new("mach")
    event = MachineIntended(
        machine_id=machine_id,
        provider=provider,
        region=region,
        zone=zone,
        instance_type=instance_type,
        market=market,
        why=why,
        lease_until=lease_until,
    )
    if launch is not None:
        name = f"{launch.pool}-{machine_id.rpartition('_')[2][-NAME_CHARS:]}"
        event = replace(
            event,
            name=name,
            pool=launch.pool,
            job_id=launch.job_id,
            holds=launch.holds,
            facts=replace(launch.facts, name=name),
            rate=launch.rate,
            moves=launch.moves,
        )
    return [event]


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


def rise(
    state: State, ids: Ids, prices: PriceTable, machine_id: str, billed_from: int, now: int
) -> list[Event]:
    """It is `up`, and its node is there since it is paid for: what it costs is somebody's from then on."""
    events = up(state, machine_id, billed_from)
    machine = state.machines.get(machine_id)
    if not events or machine is None or machine.facts is None:
        return events
    return [*events, *nodes.paid_for(ids, prices, machine.facts, billed_from, now)]


def welcome(state: State, prices: PriceTable, name: str, now: int) -> list[Event]:
    """An agent says hello as the node of a rented machine: what that cost until now is its launch's, at the
    prices that were in force, and its job's once that runs there (`launches`). Nothing for a node that is of
    no machine, or that was here before.

    Raises:
        ServerUnavailable: its provider does not list the machine as running yet; again in a moment.
        WrongState: it is to end.
    """
    machine = state.machines.get(state.rented.get(name, ""))
    if machine is None or machine.node_id:
        return []
    if machine.state is MachineState.ENDING:
        raise WrongState(f"machine {name} is to end: {machine.reason}")
    node = state.node_by_name(name)
    if node is None:
        raise ServerUnavailable(f"machine {name} is not listed by {machine.provider} yet; try again")
    through = max(now, node.through)
    kind, kept = "startup" if machine.holding else "idle", nodes.reserved(state, node, through)
    priced = nodes.came(node, prices, through)
    spans = ownership.of(node, through, (), kind, priced, reserved=kept)
    if not machine.holding:
        return [*priced, *nodes.metered(node, spans), MachineJoined(machine.id, node.id)]
    launch = [one for span in spans for one in span.charges]
    return [*priced, *launches.came_up(state, machine, node.id, through, launch)]


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


def node_of(state: State, machine: MachineRecord) -> NodeRecord | None:
    """The node of a machine, from when that is paid for."""
    return state.node_by_name(machine.name) if machine.name else None


def losses(state: State, machine: MachineRecord, node: NodeRecord, reason: str) -> list[Decision]:
    """What ran on a machine that is gone is lost: nothing of it can still be there."""
    message = f"machine {machine.name} is gone: {reason}"
    return [
        partial(attempts.lost, state, node, attempt_id, rank, message)
        for attempt_id, rank in list(node.live.items())
    ]


def referenced(state: State, node: NodeRecord) -> bool:
    """Does an attempt that lives elsewhere still name this node? Then it is not forgotten yet."""
    return any(
        member.alloc.node_id == node.id for attempt in state.live_attempts() for member in attempt.members
    )


def bury(
    state: State, prices: PriceTable, machine_id: str, billed_until: int, reason: str, free: bool = False
) -> list[Decision]:
    """It is `gone`, and its node with it: that was paid for until then, at the prices that were in force, and
    nothing runs there any more.

    `free`: its provider bills nothing for it at all.
    """
    machine = state.machines.get(machine_id)
    node = node_of(state, machine) if machine is not None else None
    if machine is None or node is None:
        return [lambda: gone(state, machine_id, billed_until, reason)]
    until = max(billed_until, machine.billed_from)
    kind = nodes.nobodys(state, node) if machine.node_id else "idle"
    return [
        lambda: launches.by_pool(machine) if machine.node_id else [],
        lambda: nodes.closed(state, prices, node, until, kind),
        lambda: gone(state, machine_id, until, reason, _refund(state, node) if free else ()),
        lambda: nodes.remove(state, prices, node, until, kind),
    ]


def _refund(state: State, node: NodeRecord) -> tuple[Charge, ...]:
    """All that a node has cost, with its sign turned, in the last hour of its time."""
    nanos = -state.ledger.balances.get(node_account(node.id), 0)
    if not nanos:
        return ()
    rates, end = node.cost_rates, node.through
    parts = amended((0, 0, 0), nanos, (rates.gpu, rates.cpu, rates.memory))
    start = max(node.axis_start, (end - 1) - (end - 1) % HOUR_US)
    turned = (-parts[0], -parts[1], -parts[2])
    return (charge_of("refund", node.id, start, end, node.price_id, turned),)


def gone(
    state: State, machine_id: str, billed_until: int, reason: str, refund: tuple[Charge, ...] = ()
) -> list[Event]:
    """The provider lists it as gone: only now does it cost nothing any more (C4)."""
    machine = _step(state, machine_id, "gone")
    if machine is None:
        return []
    return [MachineGone(machine_id, max(billed_until, machine.billed_from), reason, refund)]
