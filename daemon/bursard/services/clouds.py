"""Rented machines as messages, and their end when somebody asks for it.

Why     a machine is paid for before it is a node and after it was one, so it has a list of its own.
"""

from __future__ import annotations

from bursar.clock import format_duration
from bursar.codec.amounts import put_amounts, saturated
from bursar.errors import NotFound, WrongState
from bursar.v1 import nodes_pb2 as pb
from bursar_policies.specs import CloudPoolSpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.engine import Engine
from bursard.events import NodeScheduling
from bursard.ledger import node_account
from bursard.machines.giving_back import bound_us
from bursard.machines.renting import Renting
from bursard.services.machine_past import past
from bursard.state import JobRecord, MachineRecord, MachineState, State
from bursard.state.decide import launches, nodes
from bursard.state.decide import machines as decide
from bursard.state.decide.launches import RELEASED
from bursard.state.decide.machines import Decision


def machine_view(state: State, machine: MachineRecord, seen_by: Identity, now: int) -> pb.Machine:
    """One machine, as the caller may see it."""
    job = state.jobs.get(machine.job_id)
    sees = job is not None and allowed(seen_by, Action.SEE_JOBS, job.spec.project)
    document = state.policies.get(("CloudPool", machine.pool))
    spec = document.spec if document is not None else None
    wire = pb.Machine(
        id=machine.id,
        name=machine.name,
        pool=machine.pool,
        provider=machine.provider,
        provider_id=machine.provider_id,
        region=machine.region,
        zone=machine.zone,
        instance_type=machine.instance_type,
        market=machine.market,
        state=_state(state, machine),
        job=job.display if job is not None and sees and not machine.node_id else "",
        reason=machine.reason
        or _drained_for(state, machine)
        or _waits_for(machine, spec, job if sees else None),
        why=machine.why if sees or not machine.job_id else "",
        attempt=_attempt(state, machine, seen_by),
        intended_at=machine.intended_at,
        billed_from=machine.billed_from,
        ends_at=machine.intended_at + spec.max_lifetime_us if isinstance(spec, CloudPoolSpec) else 0,
        rate_nanos_per_hour=saturated(_rate(state, machine, now)),
        currency=state.currency,
    )
    put_amounts(wire, cost_nanos=_cost(state, machine, now))
    return wire


def _rate(state: State, machine: MachineRecord, now: int) -> int:
    """What its node costs now; before and after it is one, what was asked when it was rented."""
    node = decide.node_of(state, machine)
    return node.cost_at(now).total if node is not None and node.axis_start else machine.rate


def _cost(state: State, machine: MachineRecord, now: int) -> int:
    """What the books have of its node, and what that costs since they heard of it last, at its prices."""
    node = decide.node_of(state, machine)
    if node is None:
        return 0
    booked = -state.ledger.balances.get(node_account(node.id), 0)
    unheard = sum(one.nanos for one in nodes.unheard(node, max(now, node.through)))
    return booked + launches.cost(machine) + unheard


async def past_view(engine: Engine, name: str, seen_by: Identity) -> pb.Machine:
    """One that is gone, by its name or id. Raises `NotFound`."""
    books = await engine.books()
    found = await engine.read(lambda views: past(views, name, books))
    if found is None:
        raise no_such(name)
    machine, state = found.machine, engine.state
    billed = machine.billed_from > 0
    wire = machine_view(state, machine, seen_by, engine.now())
    wire.state, wire.ends_at = "gone", 0
    wire.billed_until = found.billed_until if billed else 0
    put_amounts(wire, cost_nanos=found.nanos)
    return wire


def _attempt(state: State, machine: MachineRecord, seen_by: Identity) -> str:
    """What runs there."""
    node = decide.node_of(state, machine)
    for attempt_id in sorted(node.live) if node is not None else ():
        job = state.jobs[state.attempts[attempt_id].job_id]
        if allowed(seen_by, Action.SEE_JOBS, job.spec.project):
            return attempt_id
    return ""


def _drained_for(state: State, machine: MachineRecord) -> str:
    node = decide.node_of(state, machine)
    return node.reason if node is not None and node.mode == "drain" else ""


def _waits_for(machine: MachineRecord, spec: object, job: JobRecord | None) -> str:
    """Why nothing runs on one that is here."""
    if not machine.waits or not isinstance(spec, CloudPoolSpec):
        return ""
    whose = f"job {job.display}" if job is not None else "a job"
    if machine.moves:
        return f"{whose} is about to go on here"
    return f"waits for the other machines of {whose}, for {format_duration(bound_us(spec))} at most"


def _state(state: State, machine: MachineRecord) -> str:
    node = decide.node_of(state, machine)
    drained = node is not None and node.mode == "drain" and machine.state is MachineState.UP
    return "draining" if drained else machine.state.value


def find(state: State, name: str) -> MachineRecord:
    """A machine by its name or id. Raises `NotFound`."""
    found = state.machines.get(name) or next((m for m in state.machines.values() if m.name == name), None)
    if found is None:
        raise no_such(name)
    return found


def no_such(name: str) -> NotFound:
    """The refusal of a name that no machine has."""
    return NotFound(f"there is no machine {name[:63]!r}; `bursar cloud ls` lists them")


def release(state: State, machine: MachineRecord, why: str) -> list[Decision]:
    """No new work there; it is given back once nothing runs. Raises `WrongState` for one that is to end
    already, and for one that is not a node yet: that comes up for a job.
    """
    refuse_ending(machine)
    node = decide.node_of(state, machine)
    if node is None or not machine.node_id:
        name = machine.name or machine.id
        raise WrongState(
            f"machine {name} comes up for a job; `bursar cloud terminate {name}` ends it at once"
        )
    return [lambda: [NodeScheduling(node.id, "drain", f"{RELEASED}: {why}")]]


def refuse_ending(machine: MachineRecord) -> None:
    """Raises `WrongState` for one that is to end already."""
    if machine.state is MachineState.ENDING:
        raise WrongState(f"machine {machine.name or machine.id} is to end already: {machine.reason}")


def end(state: State, machine: MachineRecord, why: str) -> list[Decision]:
    """No new work there, and its end. Raises `WrongState` for one that is to end already."""
    refuse_ending(machine)
    node = decide.node_of(state, machine)
    steps: list[Decision] = []
    if node is not None and node.mode == "open":
        steps.append(lambda: [NodeScheduling(node.id, "drain", why)])
    return [*steps, lambda: decide.ending(state, machine.id, why)]


async def checks(rents: Renting | None) -> pb.CheckCloudsResponse:
    """What must be right before machines can be rented."""
    if rents is None:
        remedy = "start bursard with --local-cloud FILE, and apply a CloudPool"
        none = pb.CloudCheck(name="provider", says="this daemon rents no machines", remedy=remedy)
        return pb.CheckCloudsResponse(checks=[none])
    return pb.CheckCloudsResponse(
        checks=[
            pb.CloudCheck(name=one.name, good=one.good, says=one.says, remedy=one.remedy)
            for one in await rents.check()
        ]
    )
