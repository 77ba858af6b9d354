"""`Progress` to and from what travels."""

from __future__ import annotations

import msgspec

from bursar.model import Progress
from bursar.v1 import types_pb2 as pb

_FIELDS = tuple(field.name for field in msgspec.structs.fields(Progress))


def progress_to_wire(progress: Progress) -> pb.Progress:
    """As a message, without rates."""
    return pb.Progress(**{name: getattr(progress, name) for name in _FIELDS})


def progress_from_wire(wire: pb.Progress) -> Progress:
    """The way back. Ranges are the door's."""
    return Progress(**{name: getattr(wire, name) for name in _FIELDS})
