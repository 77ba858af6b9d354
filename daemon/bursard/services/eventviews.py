"""Events as messages."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.v1 import events_pb2 as pb
from bursard.events import Event
from bursard.events.public import public
from bursard.events.subject import head_of


def event_view(
    seq: int, at: int, actor: str, event: Event, names: Mapping[str, str], currency: str
) -> pb.Event:
    """One line of the log, in its public form, with the names of its ids and what its amounts are in."""
    payload = public(event)
    kind, subject = head_of(payload)
    return pb.Event(
        seq=seq,
        at=at,
        actor=actor,
        kind=kind,
        subject=subject,
        json=payload.decode(),
        names=names,
        currency=currency,
    )
