"""`Progress` and `DeviceUse` to and from what travels."""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.model import DeviceUse, Progress
from bursar.v1 import types_pb2 as pb

_FIELDS = tuple(field.name for field in msgspec.structs.fields(Progress))


def progress_to_wire(progress: Progress) -> pb.Progress:
    """As a message, without rates."""
    return pb.Progress(**{name: getattr(progress, name) for name in _FIELDS})


def progress_from_wire(wire: pb.Progress) -> Progress:
    """The way back. Ranges are the door's."""
    return Progress(**{name: getattr(wire, name) for name in _FIELDS})


_USE: Final = DeviceUse.__struct_fields__


def device_use_to_wire(use: DeviceUse) -> pb.DeviceUse:
    """What a member made of its devices, as a message."""
    return pb.DeviceUse(**{name: getattr(use, name) for name in _USE})


def device_use_from_wire(wire: pb.DeviceUse) -> DeviceUse:
    """The way back. Ranges are the door's."""
    return DeviceUse(**{name: getattr(wire, name) for name in _USE})
