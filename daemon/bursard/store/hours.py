"""Do the charge rows follow from the log? A second book of open hours, kept from the events alone.

Owns    `OpenHours`: what each owner was charged in each hour and is not yet a row, and the comparison with
        the rows that one event closed.
Why     rows stand for whole hours, so no row can be compared with one event. The fold adds up what it is
        told, and so does this, another way and without the state: an edited, lost or doubled row of any
        event leaves a difference here. Its contents can be kept, so that a check may begin anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any

import msgspec

from bursar.clock import HOUR_US
from bursard.events import (
    AttemptPlaced,
    Charge,
    ChargesCorrected,
    Event,
    MachineGone,
    MachineJoined,
    MemberEnded,
    MemberStarted,
    NodeBooted,
    NodeMetered,
    NodeRedated,
    NodeRemoved,
    PeriodClosed,
    Piece,
    Used,
)
from bursard.ledger import PAID
from bursard.store.base import ChargeRow
from bursard.store.corrections import correction_rows


class Member(msgspec.Struct, array_like=True):
    """What the log has said of a live member."""

    job_id: str
    node_id: str
    price_id: str
    started_at: int = 0
    held_us: int = 0


class Sum(msgspec.Struct, array_like=True):
    """Pieces of one owner in one hour, at one price.

    `booked_at`, `closed_by`: of a month that was closed when the first was told, the instant that they count
    in and the event that closed it; else 0.
    """

    job_id: str
    start: int
    end: int
    held_us: int = 0
    nanos: int = 0
    gpu: int = 0
    cpu: int = 0
    memory: int = 0
    booked_at: int = 0
    closed_by: int = 0

    @property
    def counts_from(self) -> int:
        """The instant by which it is of a period."""
        return self.booked_at or self.start

    def add(self, start: int, end: int, held_us: int, amounts: Charge | ChargeRow) -> None:
        """Take in a piece, or a row."""
        self.start, self.end = min(self.start, start), max(self.end, end)
        self.held_us += held_us
        self.nanos += amounts.nanos
        self.gpu += amounts.gpu
        self.cpu += amounts.cpu
        self.memory += amounts.memory


Key = tuple[str, str, str, int, int, str]
"""kind, node, attempt, rank, hour, price."""

Owner = tuple[str, int]
"""(attempt, rank) of a member; (node, -1) of a node's own time."""


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """`OpenHours` as data: what is open after some event."""

    members: tuple[tuple[Owner, Member], ...] = ()
    sums: tuple[tuple[Key, Sum], ...] = ()
    closed: tuple[tuple[int, int], ...] = ()
    """(until, event) of closed months, oldest first."""


class OpenHours:
    """Fold events in log order, and after each compare with its rows."""

    def __init__(self, kept: Kept | None = None) -> None:
        self._members: dict[Owner, Member] = {}
        self._open: dict[Owner, dict[Key, Sum]] = {}
        self._closed = list(kept.closed) if kept is not None else []
        if kept is not None:
            self._members.update((owner, copy(member)) for owner, member in kept.members)
            for key, one in kept.sums:
                self._open.setdefault(_owner(key), {})[key] = copy(one)

    def kept(self) -> Kept:
        """What is open now, to go on from later."""
        return Kept(
            tuple((owner, copy(member)) for owner, member in self._members.items()),
            tuple((key, copy(one)) for hours in self._open.values() for key, one in hours.items()),
            tuple(self._closed),
        )

    def check(
        self, seq: int, event: Event | None, rows: Iterable[tuple[Any, ...]], at: int = 0
    ) -> Iterator[str]:
        """Problems of one event: rows it should not have closed, and hours it should have.

        `event`: None for one that carries no charges, or cannot be read. `at`: when it was recorded.
        """
        if isinstance(event, ChargesCorrected):
            yield from _corrected(seq, event, rows)
            return
        for piece in self._pieces(event):
            key = _key(piece.kind, piece.node_id, piece.attempt_id, piece.rank, piece.start, piece.price_id)
            hours = self._open.setdefault(_owner(key), {})
            if key not in hours:
                hours[key] = Sum(piece.job_id, piece.start, piece.end, 0, 0, 0, 0, 0, *self._late(piece, at))
            one = hours[key]
            one.add(piece.start, piece.end, piece.end - piece.start, piece)
        for key, kept in _closed(rows).items():
            expected = self._open.get(_owner(key), {}).pop(key, None)
            if kept != expected:
                said = f"{expected.nanos} nanos" if expected is not None else "nothing"
                yield (
                    f"charges of event {seq}: {kept.nanos} nanos are kept for {_named(key)}, "
                    f"the log says {said}"
                )
        if isinstance(event, PeriodClosed):
            self._closed.append((event.until, seq))
        for key, lost in self._overdue(event):
            yield f"charges of event {seq}: {lost.nanos} nanos of {_named(key)} are not kept"

    def _late(self, piece: Charge, at: int) -> tuple[int, int]:
        """In which instant it counts, and by which event its month was closed; zeros where that is open."""
        closed_by = next((seq for until, seq in self._closed if piece.start < until), 0)
        return (max(at, self._closed[-1][0]), closed_by) if closed_by else (0, 0)

    def _pieces(self, event: Event | None) -> Iterator[Charge]:
        if isinstance(event, AttemptPlaced):
            for alloc in event.members:
                self._members[event.attempt_id, alloc.rank] = Member(
                    event.job_id, alloc.node_id, alloc.price_id
                )
        elif isinstance(event, MemberStarted):
            self._member(event.attempt_id, event.rank).started_at = event.at
        elif isinstance(event, NodeBooted | NodeRedated) or (
            isinstance(event, MachineJoined) and not event.pending
        ):
            yield from event.charges
        elif isinstance(event, MachineGone):
            yield from event.refund
        elif isinstance(event, MemberEnded):
            for piece in event.pieces:
                yield self._usage(event.attempt_id, event.rank, piece)
        elif isinstance(event, NodeMetered):
            yield from self._metered(event)

    def _metered(self, event: NodeMetered) -> Iterator[Charge]:
        for used in event.used:
            yield self._usage(used.attempt_id, used.rank, used)
        for rest in event.rest:
            yield Charge(
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

    def _usage(self, attempt_id: str, rank: int, piece: Piece | Used) -> Charge:
        """A piece of a member's time, from the counter before to its own."""
        member = self._member(attempt_id, rank)
        since, member.held_us = member.held_us, piece.held_us
        return Charge(
            kind="usage",
            node_id=member.node_id,
            start=member.started_at + since,
            end=member.started_at + piece.held_us,
            nanos=piece.gpu + piece.cpu + piece.memory,
            price_id=member.price_id,
            attempt_id=attempt_id,
            job_id=member.job_id,
            rank=rank,
            gpu=piece.gpu,
            cpu=piece.cpu,
            memory=piece.memory,
        )

    def _member(self, attempt_id: str, rank: int) -> Member:
        # Of a log that was changed there may be usage of a member that never was: its rows tell.
        return self._members.setdefault((attempt_id, rank), Member("", "", ""))

    def _overdue(self, event: Event | None) -> list[tuple[Key, Sum]]:
        """What must be a row by now, taken out: all of a member that ended, and hours that are over."""
        found: list[tuple[Key, Sum]] = []
        if isinstance(event, MemberEnded):
            self._members.pop((event.attempt_id, event.rank), None)
            found += self._open.pop((event.attempt_id, event.rank), {}).items()
        elif isinstance(event, MachineJoined):
            found += self._open.pop((event.machine_id, 0), {}).items()
            for piece in () if event.pending else event.charges:
                owner = (piece.attempt_id, 0) if piece.job_id else (event.node_id, -1)
                found += self._open.pop(owner, {}).items()
        elif isinstance(event, PeriodClosed):
            for hours in self._open.values():
                due = [key for key, one in hours.items() if one.counts_from < event.until]
                found += [(key, hours.pop(key)) for key in due]
        elif isinstance(event, NodeRedated):
            found += self._redated(event)
        elif isinstance(event, NodeBooted | NodeRemoved):
            found += self._open.pop((event.node_id, -1), {}).items()
        elif isinstance(event, NodeMetered):
            for used in event.used:
                hours = self._open.get((used.attempt_id, used.rank), {})
                until = max((key[4] for key in hours), default=0)
                found += self._taken(hours, until + event.posted)
            hours = self._open.get((event.node_id, -1), {})
            until = event.through if event.posted else event.through - event.through % HOUR_US
            found += self._taken(hours, until)
        return found

    def _redated(self, event: NodeRedated) -> list[tuple[Key, Sum]]:
        """All that is open of a node, whose members go on behind another instant."""
        found = list(self._open.pop((event.node_id, -1), {}).items())
        for owner, member in self._members.items():
            if member.node_id == event.node_id:
                found += self._open.pop(owner, {}).items()
                member.started_at += event.to_at - event.from_at if member.started_at else 0
        return found

    def _taken(self, hours: dict[Key, Sum], until: int) -> list[tuple[Key, Sum]]:
        return [(key, hours.pop(key)) for key in list(hours) if key[4] < until]


def _corrected(seq: int, event: ChargesCorrected, rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Its rows say all that it does: who, what for, and both amounts. When it was posted the row does not."""
    made = [row._replace(posted_at=0) for row in correction_rows(seq, event, 0)]
    kept = [ChargeRow._make(values)._replace(posted_at=0) for values in rows]
    if made != kept:
        lost, more = (sum(row.nanos for row in one) for one in (made, kept))
        yield (
            f"charges of event {seq}: {len(kept)} rows of its correction of {event.attempt_id} are kept, with"
            f" {more} nanos; the log says {len(made)}, with {lost}, or what they are about is another"
        )


def _closed(rows: Iterable[tuple[Any, ...]]) -> dict[Key, Sum]:
    """The rows of one event by owner and hour; of before there were hours, there may be several."""
    closed: dict[Key, Sum] = {}
    for values in rows:
        row = ChargeRow._make(values)
        start, end = row.used_from, row.used_until
        key = _key(row.kind, row.node_id, row.attempt_id, row.rank, start, row.price_id)
        late = (row.start_at, row.corrects) if row.corrects else (0, 0)
        one = closed.setdefault(key, Sum(row.job_id, start, end, 0, 0, 0, 0, 0, *late))
        one.add(start, end, row.held_us, row)
    return closed


def _key(kind: str, node_id: str, attempt_id: str, rank: int, start: int, price_id: str) -> Key:
    return kind, node_id, attempt_id, rank, start - start % HOUR_US, price_id


def _owner(key: Key) -> Owner:
    kind, node_id, attempt_id, rank, _, _ = key
    return (attempt_id, rank) if kind in PAID else (node_id, -1)


def _named(key: Key) -> str:
    kind, node_id, attempt_id, _, _, _ = key
    return f"{kind} of {attempt_id or node_id}"
