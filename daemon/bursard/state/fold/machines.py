"""How the events of a machine's life change the state: one record beside the node, until it is gone."""

from __future__ import annotations

from collections.abc import Sequence

from bursard.events import (
    Charge,
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
)
from bursard.ledger import Transaction
from bursard.state.fold import books, nodes
from bursard.state.records import JobRecord, MachineRecord, MachineState, NodeRecord
from bursard.state.tables import Applied, Tables


def intended(state: Tables, event: MachineIntended, at: int, applied: Applied) -> None:
    """It is to be rented; from here on it may exist."""
    machine = state.machines[event.machine_id] = as_intended(event, at)
    owned_by(machine, state.jobs.get(event.job_id))
    if event.name:
        state.rented[event.name] = event.machine_id
    if event.job_id:
        _moved(applied, state.ledger.place(event.machine_id, event.job_id, event.holds))


def owned_by(machine: MachineRecord, job: JobRecord | None) -> None:
    """Whose it is, for as long as it is there: that of its job, which may end long before."""
    if job is not None:
        machine.user, machine.project = job.user, job.spec.project


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
        moves=event.moves,
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
    """Its agent is a node, and what its launch cost is pending; or that is paid, and what was held for it is
    free.
    """
    machine, node = state.machines[event.machine_id], state.nodes.get(event.node_id)
    machine.node_id = event.node_id
    if event.pending:
        if event.through:
            machine.launch = event.charges
        machine.waits = event.waits
        if not event.waits:
            _hold_no_more(state, machine, applied)
    else:
        if node is not None:
            _pay(state, machine, node, event.charges, at, applied)
        if not event.keeps:
            let_go(state, machine, applied)
    if node is not None:
        node.through = event.through or node.through
        nodes.refresh(state, node)


def _hold_no_more(state: Tables, machine: MachineRecord, applied: Applied) -> None:
    """What is held beyond the cost of its launch goes back: its job's start takes its own."""
    if machine.holding:
        most = sum(one.nanos for one in machine.launch)
        _moved(applied, state.ledger.keep(machine.payer, most))


def _pay(
    state: Tables,
    machine: MachineRecord,
    node: NodeRecord,
    charges: Sequence[Charge],
    at: int,
    applied: Applied,
) -> None:
    """Its launch is somebody's, or nobody's."""
    machine.launch, machine.waits = (), False
    for piece in charges:
        if piece.job_id and piece.attempt_id != machine.payer:
            _exchange(state, machine, piece.attempt_id)
        if piece.job_id:
            books.book_launch(state, node, piece, at, applied)
        else:
            books.book_ownerless(state, node, piece, at, applied)
    if charges and not charges[0].job_id:
        books.close_all(node, applied)


def _exchange(state: Tables, machine: MachineRecord, payer: str) -> None:
    """It is the job's that pays for it, and the one for which that has held money is the other job's."""
    for other in state.machines.values():
        if other.payer == payer:
            other.job_id, machine.job_id = machine.job_id, other.job_id
            other.purse, machine.purse = machine.payer, payer
            other.holding, machine.holding = machine.holding, other.holding
            return


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
        _moved(applied, state.ledger.release(machine.payer))


def job_ended(state: Tables, job_id: str, applied: Applied) -> None:
    """Machines that come up for a job that is over are nobody's any more."""
    for machine in state.machines.values():
        if machine.job_id == job_id:
            machine.job_id = ""
            let_go(state, machine, applied)
            if machine.waits:
                machine.waits = False
                nodes.refresh(state, state.nodes[machine.node_id])


def _moved(applied: Applied, transaction: Transaction | None) -> None:
    if transaction is not None:
        applied.transactions.append(transaction)
