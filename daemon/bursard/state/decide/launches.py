"""Who pays for the coming up of a rented machine: the job that it was rented for, once that runs there.

Owns    the rule, and what follows from it for what is held, and for what others may start there meanwhile.
Why     a machine may be lost, or taken by another job, before the one that it was rented for runs on it, and
        nobody pays for a machine that none of its attempts ever ran on. So what it cost until its agent said
        hello stays with the machine: the job pays it with the start of its first member there, and in every
        other case the pool does, as idle time.

        Two jobs that wait for a machine each may get each other's. Then each pays for the one that it runs
        on, from what it holds, and the other machine is the other job's from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from bursar.model import EndCause
from bursard.events import Charge, Event, MachineJoined, NodeScheduling, StopRequested
from bursard.state.core import State
from bursard.state.records import AttemptRecord, MachineRecord, MachineState, NodeRecord

RELEASED: Final = "released"
"""How the reason of a drain begins that lasts until nothing runs there, and then gives the machine back."""


def others_come(state: State, machine: MachineRecord) -> bool:
    """Do other machines come up for the job that this one is for?"""
    return bool(machine.job_id) and any(
        one.job_id == machine.job_id and not one.node_id and one.state is not MachineState.ENDING
        for one in state.machines.values()
        if one.id != machine.id
    )


def came_up(
    state: State, machine: MachineRecord, node_id: str, through: int, launch: Sequence[Charge]
) -> list[MachineJoined]:
    """Its agent said hello, and these are of its launch. It waits while others come for its job, and nothing
    else starts there; with the last of them all are open at once.
    """
    waits = others_come(state, machine) or moving(state, machine) is not None
    joined = MachineJoined(machine.id, node_id, through, tuple(launch), pending=True, waits=waits)
    return [joined] if waits else [joined, *_all_open(state, machine)]


def _all_open(state: State, last: MachineRecord) -> list[MachineJoined]:
    own = (one for one in state.machines.values() if one.job_id == last.job_id and one.id != last.id)
    return [event for machine in own for event in opened(machine)]


def opened(machine: MachineRecord) -> list[MachineJoined]:
    """It waits for others no more: whatever is planned may start there, and of what it holds for its job
    stays what its launch cost.
    """
    return [MachineJoined(machine.id, machine.node_id, pending=True)] if machine.waits else []


def kept(machine: MachineRecord) -> list[MachineJoined]:
    """Others come for its job once more: until they are there, nothing else starts there."""
    if machine.waits or not machine.node_id or machine.state is MachineState.ENDING:
        return []
    return [MachineJoined(machine.id, machine.node_id, pending=True, waits=True)]


def ran(state: State, attempt: AttemptRecord, node: NodeRecord) -> list[MachineJoined]:
    """A member of an attempt has started on a node: the launch of its machine, if that is open, is paid."""
    machine = state.machines.get(state.rented.get(node.facts.name, ""))
    if machine is None or not machine.holding or not machine.node_id:
        return []
    payer = machine if machine.job_id == attempt.job_id else _other(state, machine, attempt)
    if payer is None or not _bears(state, payer.payer, cost(machine)):
        return by_pool(machine)
    charges = tuple(
        replace(one, kind="startup", attempt_id=payer.payer, job_id=attempt.job_id) for one in machine.launch
    )
    return [MachineJoined(machine.id, machine.node_id, charges=charges)]


def _other(state: State, machine: MachineRecord, attempt: AttemptRecord) -> MachineRecord | None:
    """A machine of the attempt's own job that it does not run on, and whose launch nobody has paid yet."""
    nodes = {member.alloc.node_id for member in attempt.members}
    own = (
        one
        for one in state.machines.values()
        if one.job_id == attempt.job_id
        and one.holding
        and one.state is not MachineState.ENDING
        and one.node_id not in nodes
    )
    return min(own, key=lambda one: (bool(one.node_id), one.intended_at, one.id), default=None)


def _bears(state: State, holder: str, nanos: int) -> bool:
    """Is so much held, or do the hard budgets have room for what is not?"""
    for hold in state.ledger.open_holds(holder):
        record = state.budgets.records.get(hold.budget)
        if record is None or not record.hard or nanos <= hold.nanos:
            continue
        if state.budgets.room(record, state.ledger).room_nanos < nanos - hold.nanos:
            return False
    return True


def by_pool(machine: MachineRecord) -> list[MachineJoined]:
    """Its launch is nobody's, and nothing is held for it any more."""
    if not machine.launch and not machine.holding:
        return []
    charges = tuple(replace(one, kind="idle") for one in machine.launch)
    return [MachineJoined(machine.id, machine.node_id, charges=charges)]


def left_over(state: State, machine: MachineRecord) -> bool:
    """Does its job run by now, and not there, nor is to move there?"""
    attempt = _live(state, machine.job_id)
    if (
        attempt is None
        or moving(state, machine) is not None
        or not all(member.started_at for member in attempt.members)
    ):
        return False
    return all(member.alloc.node_id != machine.node_id for member in attempt.members)


def moving(state: State, machine: MachineRecord) -> AttemptRecord | None:
    """What runs elsewhere and is to go on on a machine, on which its job has never run yet."""
    attempt = _live(state, machine.job_id) if machine.moves and machine.holding else None
    if attempt is None or any(member.alloc.node_id == machine.node_id for member in attempt.members):
        return None
    return attempt


def moved(state: State, machine: MachineRecord) -> list[Event]:
    """It is up: its job is stopped where it runs, which takes nothing new, and goes on here."""
    attempt = moving(state, machine)
    if attempt is None or attempt.stop_cause is not None or attempt.state != "RUNNING":
        return []
    node = state.nodes[attempt.members[0].alloc.node_id]
    why = f"{RELEASED}: job {state.jobs[machine.job_id].display} goes on on {machine.name}, which costs less"
    drained = [NodeScheduling(node.id, "drain", why)] if node.mode == "open" else []
    message = f"it goes on on {machine.name}, which costs less"
    stop = StopRequested(attempt.id, EndCause.PREEMPTED, attempt.grace_us, message)
    return [*drained, stop, *opened(machine)]


def waited_for(state: State, machine: MachineRecord) -> bool:
    """Does the job that it was rented for wait in the queue?"""
    return bool(machine.job_id) and state.pending.key_of(machine.job_id) is not None


def _live(state: State, job_id: str) -> AttemptRecord | None:
    job = state.jobs.get(job_id)
    return job.attempt if job is not None else None


def cost(machine: MachineRecord) -> int:
    """What its launch cost that nobody has paid yet."""
    return sum(one.nanos for one in machine.launch)


def pays_run(state: State, machine: MachineRecord) -> bool:
    """Is the run of a member still held for with its launch?"""
    if not machine.holding or not machine.node_id or machine.waits:
        return machine.holding
    return False
