"""How the events of a machine's life change the state: one record beside the node, until it is gone."""

from __future__ import annotations

from bursard.events import (
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
)
from bursard.ledger import Transaction
from bursard.state.fold import books
from bursard.state.records import MachineRecord, MachineState
from bursard.state.tables import Applied, Tables


def intended(state: Tables, event: MachineIntended, at: int, applied: Applied) -> None:
    """It is to be rented; from here on it may exist."""
    state.machines[event.machine_id] = as_intended(event, at)
    if event.name:
        state.rented[event.name] = event.machine_id
    if event.job_id:
        _moved(applied, state.ledger.place(event.machine_id, event.job_id, event.holds))


def as_intended(event: MachineIntended, at: int) -> MachineRecord:
    """A machine as its intent has it."""
    return MachineRecord(
        id=event.machine_id,
        provider=event.provider,
        region=event.region,
        zone=event.zone,
        instance_type=event.instance_type,
        market=event.market,
        why=event.why,
        lease_until=event.lease_until,
        intended_at=at,
        name=event.name,
        pool=event.pool,
        job_id=event.job_id,
        holding=bool(event.job_id),
        facts=event.facts,
        rate=event.rate,
    )


def launched(state: Tables, event: MachineLaunched, at: int, applied: Applied) -> None:
    """It has a name at its provider; one that is to end stays so."""
    machine = state.machines[event.machine_id]
    machine.provider_id = event.provider_id
    if machine.state is MachineState.INTENDED:
        machine.state = MachineState.LAUNCHING


def up(state: Tables, event: MachineUp, at: int, applied: Applied) -> None:
    """It runs and is paid for."""
    machine = state.machines[event.machine_id]
    machine.billed_from = event.billed_from
    if machine.state is not MachineState.ENDING:
        machine.state = MachineState.UP


def joined(state: Tables, event: MachineJoined, at: int, applied: Applied) -> None:
    """Its agent is a node, and its launch is over: paid for, and nothing is held for it any more, unless the
    run of its job has to wait for other machines.
    """
    machine = state.machines[event.machine_id]
    machine.node_id = event.node_id
    if event.through:
        node = state.nodes[event.node_id]
        for piece in event.charges:
            books.book_launch(state, node, piece, at, applied)
        node.through = event.through
    if not event.keeps:
        let_go(state, machine, applied)


def ending(state: Tables, event: MachineEnding, at: int, applied: Applied) -> None:
    """It is to be ended."""
    machine = state.machines[event.machine_id]
    machine.state, machine.reason = MachineState.ENDING, event.reason


def gone(state: Tables, event: MachineGone, at: int, applied: Applied) -> None:
    """It is no more: the log remembers it. What its provider does not bill goes back to its node."""
    machine = state.machines.pop(event.machine_id)
    if machine.name:
        del state.rented[machine.name]
    for piece in event.refund:
        books.book_ownerless(state, state.nodes[piece.node_id], piece, at, applied)
    let_go(state, machine, applied)


def let_go(state: Tables, machine: MachineRecord, applied: Applied) -> None:
    """What is left of what was set aside for its launch goes back."""
    if machine.holding:
        machine.holding = False
        _moved(applied, state.ledger.release(machine.id))


def job_ended(state: Tables, job_id: str, applied: Applied) -> None:
    """Machines that come up for a job that is over are nobody's any more."""
    for machine in state.machines.values():
        if machine.job_id == job_id:
            machine.job_id = ""
            let_go(state, machine, applied)


def _moved(applied: Applied, transaction: Transaction | None) -> None:
    if transaction is not None:
        applied.transactions.append(transaction)
