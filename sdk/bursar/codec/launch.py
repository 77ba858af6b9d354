"""`Launch` and `Exit`, each to and from what travels.

Why     a Launch is JSON, because the process that opens it (a supervisor, `bursar_agent.runner`) has nothing
        but the standard library loaded. An Exit is a message of its own, for whoever reads the stream.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from bursar.codec.progress import (
    device_use_from_wire,
    device_use_to_wire,
    progress_from_wire,
    progress_to_wire,
)
from bursar.codec.steps import steps_from_wire, steps_to_wire
from bursar.errors import InvalidRequest
from bursar.model import EndCause, EnergySource, Exit, Launch
from bursar.v1 import agents_pb2 as pb

MESSAGE_CHARS_MAX = 2000
"""Of a text for people; a longer one is cut."""

_CAUSES = {cause.value: cause for cause in EndCause}
_SOURCES: dict[str, EnergySource] = {source: source for source in get_args(EnergySource)}
_LAUNCH = msgspec.json.Decoder(Launch)
_ENCODER = msgspec.json.Encoder()


def launch_to_bytes(launch: Launch) -> bytes:
    """For the wire. What has its default is left out."""
    return _ENCODER.encode(launch)


def launch_from_bytes(data: bytes) -> Launch:
    """The way back. Raises `InvalidRequest` for what is not a Launch."""
    try:
        return _LAUNCH.decode(data)
    except msgspec.DecodeError as problem:
        raise InvalidRequest(f"launch: {problem}", {"field": "launch"}) from None


def exit_to_wire(attempt_id: str, rank: int, exit: Exit) -> pb.Exited:
    """The end of one member as a message."""
    wire = pb.Exited(
        attempt_id=attempt_id,
        rank=rank,
        cause=exit.cause.value,
        signal=exit.signal,
        message=exit.message[:MESSAGE_CHARS_MAX],
        started_boot_us=exit.started_boot_us,
        held_us=exit.held_us,
        cpu_us=exit.cpu_us,
        max_rss_bytes=exit.max_rss_bytes,
        log_bytes=exit.log_bytes,
        started=exit.started,
        gpu_energy_millijoules=exit.gpu_energy_millijoules,
        gpu_energy_source=exit.gpu_energy_source,
        ran_us=exit.ran_us,
        stopped=exit.stopped,
        progress=None if exit.progress is None else progress_to_wire(exit.progress),
        device_use=None if exit.device_use is None else device_use_to_wire(exit.device_use),
        steps=None if exit.steps is None else steps_to_wire(exit.steps),
        image_digest=exit.image_digest,
        pull_us=exit.pull_us,
    )
    if exit.exit_code >= 0:
        wire.exit_code = exit.exit_code
    return wire


def exit_from_wire(wire: pb.Exited) -> Exit:
    """The end that a message tells. Raises `InvalidRequest` for a cause that is none."""
    cause = _CAUSES.get(wire.cause)
    if cause is None:
        raise InvalidRequest(
            f"exited.cause: one of {', '.join(_CAUSES)}; not {wire.cause[:40]!r}", {"field": "exited.cause"}
        )
    source = _SOURCES.get(wire.gpu_energy_source)
    if source is None:
        raise InvalidRequest(
            "exited.gpu_energy_source: measured, modelled, simulated or empty; not "
            f"{wire.gpu_energy_source[:40]!r}",
            {"field": "exited.gpu_energy_source"},
        )
    return Exit(
        cause=cause,
        exit_code=wire.exit_code if wire.HasField("exit_code") else -1,
        signal=wire.signal,
        message=wire.message,
        held_us=wire.held_us,
        cpu_us=wire.cpu_us,
        max_rss_bytes=wire.max_rss_bytes,
        log_bytes=wire.log_bytes,
        started=wire.started,
        started_boot_us=wire.started_boot_us,
        gpu_energy_millijoules=wire.gpu_energy_millijoules,
        gpu_energy_source=source,
        ran_us=wire.ran_us,
        stopped=wire.stopped,
        image_digest=wire.image_digest,
        pull_us=wire.pull_us,
        progress=progress_from_wire(wire.progress) if wire.HasField("progress") else None,
        device_use=device_use_from_wire(wire.device_use) if wire.HasField("device_use") else None,
        steps=steps_from_wire(wire.steps) if wire.HasField("steps") else None,
    )
