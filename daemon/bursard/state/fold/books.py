"""How charges enter the books: balances with every piece, one row and one posting for each hour."""

from __future__ import annotations

import msgspec

from bursar.clock import HOUR_US
from bursar.model.allocation import FREE, ShareRates
from bursard.events import Charge, Piece, Used
from bursard.ledger import HourCharge
from bursard.state.records import AttemptRecord, MemberRecord, NodeRecord
from bursard.state.tables import Applied, Tables, still_to_cost


def book_piece(
    state: Tables,
    attempt: AttemptRecord,
    member: MemberRecord,
    piece: Piece | Used,
    at: int,
    applied: Applied,
) -> None:
    """One piece of what a member holds, told at `at`. A piece of a later hour closes the hour before."""
    charge = usage_charge(attempt, member, member.charged_us, piece)
    member.charged_us = piece.held_us
    job = state.jobs[attempt.job_id]
    if job.parent_id:
        money, held = state.array_money[job.parent_id], still_to_cost(attempt)
        money.settled_nanos += charge.nanos
        money.held_nanos -= min(held, charge.nanos)
    attempt.settled_nanos += charge.nanos
    job.settled_nanos += charge.nanos
    state.costs.add(charge.end, job.spec.project, charge.nanos)
    member.open = _book(state, state.nodes[charge.node_id], member.open, charge, at, applied)


def usage_charge(attempt: AttemptRecord, member: MemberRecord, since_us: int, piece: Piece | Used) -> Charge:
    """A piece of a member's time as a charge. `since_us`: its cumulative counter where the piece begins."""
    alloc = member.alloc
    return Charge(
        kind="usage",
        node_id=alloc.node_id,
        start=member.started_at + since_us,
        end=member.started_at + piece.held_us,
        nanos=piece.gpu + piece.cpu + piece.memory,
        price_id=alloc.price_id,
        attempt_id=attempt.id,
        job_id=attempt.job_id,
        rank=alloc.rank,
        gpu=piece.gpu,
        cpu=piece.cpu,
        memory=piece.memory,
    )


def book_ownerless(state: Tables, node: NodeRecord, piece: Charge, at: int, applied: Applied) -> None:
    """One piece of what nobody holds of a node. `at`: when it is told."""
    node.open[piece.kind] = _book(
        state, node, node.open.get(piece.kind), piece, at, applied, node.cost_at(piece.start)
    )


def book_launch(state: Tables, node: NodeRecord, piece: Charge, at: int, applied: Applied) -> None:
    """One piece of what it cost until a rented node was there: its job pays, and it is posted at once."""
    job = state.jobs[piece.job_id]
    if job.parent_id:
        state.array_money[job.parent_id].settled_nanos += piece.nanos
    job.settled_nanos += piece.nanos
    state.costs.add(piece.end, job.spec.project, piece.nanos)
    _close(node, _book(state, node, None, piece, at, applied, node.cost_at(piece.start)), applied)


def close_member(node: NodeRecord, member: MemberRecord, applied: Applied) -> None:
    """Post what is open of a member: it has ended."""
    if member.open is not None:
        _close(node, member.open, applied)
        member.open = None


def close_passed(node: NodeRecord, applied: Applied) -> None:
    """Post the hours that the node's own time has left behind."""
    for kind, hour in list(node.open.items()):
        if hour.hour + HOUR_US <= node.through:
            _close(node, node.open.pop(kind), applied)


def close_before(node: NodeRecord, until: int, applied: Applied) -> None:
    """Post what is open of a node's own time and counts before an instant."""
    for kind, hour in list(node.open.items()):
        if hour.counts_from < until:
            _close(node, node.open.pop(kind), applied)


def close_all(node: NodeRecord, applied: Applied) -> None:
    """Post everything that is open of a node's own time."""
    for hour in node.open.values():
        _close(node, hour, applied)
    node.open = {}


def _book(
    state: Tables,
    node: NodeRecord,
    hour: HourCharge | None,
    piece: Charge,
    at: int,
    applied: Applied,
    rates: ShareRates = FREE,
) -> HourCharge:
    if hour is not None and not hour.takes(piece):
        _close(node, hour, applied)
        hour = None
    hour = hour or HourCharge.of(piece, rates, state.closed.booked_at(piece.start, at))
    booked = piece
    if hour.booked_at:  # of a closed month: it counts, and settles, where the books are open
        booked = msgspec.structs.replace(piece, start=hour.booked_at, end=hour.booked_at)
    hour.add(piece, state.ledger.charge((booked,)))
    applied.charges.append(booked)
    return hour


def _close(node: NodeRecord, hour: HourCharge, applied: Applied) -> None:
    applied.closed.append((hour, node))
    posting = hour.posting()
    if posting is not None:
        applied.transactions.append(posting)
