"""Machines that are gone, as the log has them: nothing else remembers them.

Why     what a machine cost is asked for after it was given back, when its bill comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bursard.events import (
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
    decode,
)
from bursard.state import MachineRecord
from bursard.state.fold.machines import as_intended
from bursard.store import ChargeFilter, Dim, EventFilter, EventRow, Unposted, Views

PAGE: Final = 1000
"""Intents that are looked at at once."""
EVENTS_MAX: Final = 100
"""Of one machine: its life has six."""
NEWEST: Final = 1 << 62
"""Before this come all events."""


class Past(NamedTuple):
    """A machine that is gone. billed_until: 0 where it was never billed. nanos: what its node cost in all."""

    machine: MachineRecord
    billed_until: int
    nanos: int


def past(views: Views, name: str, unposted: Unposted) -> Past | None:
    """By name or id; None of one that never was, or whose events were moved to an archive."""
    for row in _intended(views):
        event = decode(row.payload)
        if isinstance(event, MachineIntended) and name in (event.machine_id, event.name):
            return _retold(views, event, row.at, unposted)
    return None


def _intended(views: Views) -> Iterator[EventRow]:
    """Every intent of a machine, newest first."""
    query, before = EventFilter(kinds=("machine-intended",)), NEWEST
    while rows := views.events_before(before, PAGE, query):
        yield from rows
        before = rows[-1].seq


def _retold(views: Views, intent: MachineIntended, at: int, unposted: Unposted) -> Past | None:
    machine = as_intended(intent, at)
    machine.job_id, machine.holding = "", False  # its launch is over
    for row in views.events(limit=EVENTS_MAX, query=EventFilter(about=intent.machine_id)):
        match decode(row.payload):
            case MachineLaunched(provider_id=provider_id):
                machine.provider_id = provider_id
            case MachineUp(billed_from=billed_from):
                machine.billed_from = billed_from
            case MachineJoined(node_id=node_id):
                machine.node_id = node_id
            case MachineEnding(reason=reason):
                machine.reason = reason
            case MachineGone(billed_until=billed_until, reason=reason):
                machine.reason = machine.reason or reason
                query = ChargeFilter(node=machine.name or machine.id)
                sums = views.charge_sums([Dim.NODE], query, unposted)
                return Past(machine, billed_until, sum(one.nanos for one in sums))
    return None
