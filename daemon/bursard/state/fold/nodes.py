"""How node events change the state: what a node has, whether it may be used, who owns its time."""

from __future__ import annotations

import msgspec

from bursard.events import (
    Charge,
    NodeBooted,
    NodeCalibrated,
    NodeCondition,
    NodeConnected,
    NodeMetered,
    NodeMisbehaved,
    NodePriced,
    NodeQuarantined,
    NodeRedated,
    NodeRegistered,
    NodeRemoved,
    NodeScheduling,
    NodeSilent,
    Rest,
)
from bursard.ledger import PriceInForce
from bursard.state.fold import books
from bursard.state.records import TIMES_KEPT, EndedUsage, NodeRecord
from bursard.state.tables import Applied, Tables


def registered(state: Tables, event: NodeRegistered, at: int, applied: Applied) -> None:
    """A node is new or has changed what it has."""
    node = state.nodes.get(event.node_id)
    if node is None:
        row = state.cluster.add(event.node_id, event.facts)
        node = NodeRecord(id=event.node_id, facts=event.facts, row=row, changed_at=at)
        state.nodes[node.id] = node
        state.node_names[event.facts.name] = node.id
    else:
        if node.facts.devices != event.facts.devices:
            node.calibration = None
        node.facts = event.facts
        state.cluster.describe(node.row, event.facts)


def booted(state: Tables, event: NodeBooted, at: int, applied: Applied) -> None:
    """A new boot: its axis is anchored, and the time without it is owned by `down`."""
    node = state.nodes[event.node_id]
    node.boot_id = event.boot_id
    node.anchor_at, node.anchor_boot_us = event.anchor_at, event.anchor_boot_us
    node.seen_boot_id, node.seen_boot_us, node.seen_at = event.seen_boot_id, event.seen_boot_us, event.seen_at
    if not node.axis_start:
        node.axis_start = event.anchor_at
    if event.anchor_at > node.through:
        node.through = event.anchor_at
        node.ended = _unmetered(node)
        state.reservations.forget(node.facts.name, node.through)
    for piece in event.charges:
        books.book_ownerless(state, node, piece, at, applied)
    books.close_all(node, applied)


def redated(state: Tables, event: NodeRedated, at: int, applied: Applied) -> None:
    """The axis goes on elsewhere. What is open is posted with the dates that it has; what is not metered yet
    moves as a whole, so that every duration and every price stays what it was.
    """
    node, by_us = state.nodes[event.node_id], event.to_at - event.from_at
    for attempt_id, rank in node.live.items():
        member = state.attempts[attempt_id].members[rank]
        books.close_member(node, member, applied)
        member.started_at += by_us if member.started_at else 0
        member.placed_axis += by_us if member.placed_axis else 0
    for piece in event.charges:
        books.book_ownerless(state, node, piece, at, applied)
    books.close_all(node, applied)
    node.anchor_at, node.through = node.anchor_at + by_us, event.to_at
    node.axis_start = min(node.axis_start, node.through)
    node.seen_at += by_us if node.seen_at else 0
    node.prices = [msgspec.structs.replace(one, since=max(one.since + by_us, 0)) for one in node.prices]
    node.ended = [
        msgspec.structs.replace(
            one, start=one.start + by_us, end=one.end + by_us, started_at=one.started_at + by_us
        )
        for one in node.ended
    ]
    state.reservations.forget(node.facts.name, node.through)


def priced(state: Tables, event: NodePriced, at: int, applied: Applied) -> None:
    """The node's own rate from an instant on. What is owned already was valued by what held then."""
    node = state.nodes[event.node_id]
    since = event.since or at
    node.prices = node.prices_with([PriceInForce(since, event.price_id, event.rates, event.cost)])
    node.price_id, node.rates, node.cost = event.price_id, event.rates, event.cost
    state.cluster.set_price(node.row, event.price_id, event.rates)


def connected(state: Tables, event: NodeConnected, at: int, applied: Applied) -> None:
    """Its agent is in contact."""
    node = state.nodes[event.node_id]
    node.connected, node.changed_at = True, at
    refresh(state, node)


def silent(state: Tables, event: NodeSilent, at: int, applied: Applied) -> None:
    """Its agent is not; nothing it holds is given away."""
    node = state.nodes[event.node_id]
    node.connected, node.changed_at = False, at
    refresh(state, node)


def scheduling(state: Tables, event: NodeScheduling, at: int, applied: Applied) -> None:
    """May new work go there?"""
    node = state.nodes[event.node_id]
    # What is said of a node is why it takes no work: why it does again is in the event alone.
    node.mode, node.reason = event.mode, "" if event.mode == "open" else event.reason
    node.misbehaved, node.not_started = {}, []
    refresh(state, node)


def misbehaved(state: Tables, event: NodeMisbehaved, at: int, applied: Applied) -> None:
    """It is remembered, until somebody says how the node is to be used."""
    node = state.nodes[event.node_id]
    if event.job_id:
        node.not_started.append(event.job_id)
    else:
        node.misbehaved[event.how] = [*node.misbehaved.get(event.how, ()), at][-TIMES_KEPT:]
    refresh(state, node)


def calibrated(state: Tables, event: NodeCalibrated, at: int, applied: Applied) -> None:
    """What it delivers is known anew."""
    state.nodes[event.node_id].calibration = event.found


def quarantined(state: Tables, event: NodeQuarantined, at: int, applied: Applied) -> None:
    """It said what cannot be."""
    node = state.nodes[event.node_id]
    node.mode, node.reason = "quarantine", event.reason
    refresh(state, node)


def condition(state: Tables, event: NodeCondition, at: int, applied: Applied) -> None:
    """It cannot start anything, or can again."""
    node = state.nodes[event.node_id]
    node.trouble = event.trouble
    refresh(state, node)


def removed(state: Tables, event: NodeRemoved, at: int, applied: Applied) -> None:
    """It is gone for good. The last row of the columns takes its place, so that they stay short."""
    node = state.nodes.pop(event.node_id)
    books.close_all(node, applied)
    state.node_names.pop(node.facts.name, None)
    state.reservations.forget(node.facts.name)
    state.node_tokens = {key: t for key, t in state.node_tokens.items() if t.name != node.facts.name}
    moved = state.cluster.remove(node.row)
    if moved:
        state.members.follow(state.nodes[moved].row, node.row)
        state.nodes[moved].row = node.row


def metered(state: Tables, event: NodeMetered, at: int, applied: Applied) -> None:
    """All time up to `through` is owned by somebody."""
    node = state.nodes[event.node_id]
    node.through = event.through
    node.ended = _unmetered(node)
    state.reservations.forget(node.facts.name, node.through)
    for used in event.used:
        attempt = state.attempts[used.attempt_id]
        member = attempt.members[used.rank]
        books.book_piece(state, attempt, member, used, at, applied)
        if event.posted:
            books.close_member(node, member, applied)
    for rest in event.rest:
        books.book_ownerless(state, node, _rest(event, rest), at, applied)
    if event.posted:
        books.close_all(node, applied)
    else:
        books.close_passed(node, applied)


def _rest(event: NodeMetered, rest: Rest) -> Charge:
    return Charge(
        kind=rest.kind,
        node_id=event.node_id,
        start=event.through - rest.from_us,
        end=event.through - rest.to_us,
        nanos=rest.gpu + rest.cpu + rest.memory,
        price_id=event.price_id,
        gpu=rest.gpu,
        cpu=rest.cpu,
        memory=rest.memory,
    )


def _unmetered(node: NodeRecord) -> list[EndedUsage]:
    """What ended members used after `through`; the part before it is owned now."""
    through = node.through
    return [
        usage if usage.start >= through else msgspec.structs.replace(usage, start=through)
        for usage in node.ended
        if usage.end > through
    ]


def refresh(state: Tables, node: NodeRecord) -> None:
    """May new work go there? A doubtful node gets one job, and the next when that one has started."""
    ready = node.connected and node.mode == "open" and not node.trouble and not waits(state, node)
    if ready and node.doubtful:
        ready = all(state.attempts[key].members[rank].started_at for key, rank in node.live.items())
    state.cluster.set_ready(node.row, ready)


def waits(state: Tables, node: NodeRecord) -> bool:
    """Does it wait for other machines of the job that it was rented for?"""
    machine = state.machines.get(state.rented.get(node.facts.name, ""))
    return machine is not None and machine.waits
