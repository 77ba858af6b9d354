"""Readings of one moment, and what every probe of devices offers.

Owns    the values that travel from probes to telemetry. Lossy: no money depends on them.
Why     real, absent and simulated devices answer the same questions, so nobody asks which it is.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bursar.model import Device


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment.

    `utilization_ratio` 0 to 1 is the share of the driver's last window in which a kernel ran;
    `power_watts` is board power, with error and window as NVML documents them for the device.
    """

    index: int
    utilization_ratio: float = 0.0
    memory_used_bytes: int = 0
    power_watts: float = 0.0
    temperature_celsius: float = 0.0
    simulated: bool = False


class AttemptReading(msgspec.Struct, frozen=True, kw_only=True):
    """One member's processes at one moment; a CPU ratio of 1.0 is one core."""

    attempt_id: str
    rank: int
    cpu_utilization_ratio: float = 0.0
    memory_used_bytes: int = 0
    processes: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One node at one moment. `power_watts` 0: not readable."""

    at: int
    cpu_utilization_ratio: float = 0.0
    memory_used_bytes: int = 0
    power_watts: float = 0.0
    gpus: tuple[GpuReading, ...] = ()
    attempts: tuple[AttemptReading, ...] = ()


class GpuProbe(Protocol):
    """Devices of this machine."""

    def devices(self) -> tuple[Device, ...]:
        """What is there, by index. Does not change while the agent runs."""
        ...

    def read(self, now: int) -> tuple[GpuReading, ...]:
        """All devices at the instant `now`; a device that cannot be read is left out."""
        ...


class NoGpus:
    """A machine without devices."""

    def devices(self) -> tuple[Device, ...]:
        """None."""
        return ()

    def read(self, now: int) -> tuple[GpuReading, ...]:
        """None."""
        return ()
