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
from bursard.state.records import MachineRecord, MachineState
from bursard.state.tables import Applied, Tables


def intended(state: Tables, event: MachineIntended, at: int, applied: Applied) -> None:
    """It is to be rented; from here on it may exist."""
    state.machines[event.machine_id] = MachineRecord(
        id=event.machine_id,
        provider=event.provider,
        region=event.region,
        zone=event.zone,
        instance_type=event.instance_type,
        market=event.market,
        why=event.why,
        lease_until=event.lease_until,
        intended_at=at,
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
    """Its agent is a node."""
    state.machines[event.machine_id].node_id = event.node_id


def ending(state: Tables, event: MachineEnding, at: int, applied: Applied) -> None:
    """It is to be ended."""
    machine = state.machines[event.machine_id]
    machine.state, machine.reason = MachineState.ENDING, event.reason


def gone(state: Tables, event: MachineGone, at: int, applied: Applied) -> None:
    """It is no more: the log remembers it."""
    del state.machines[event.machine_id]
