"""Devices that do not exist, for machines without any: clearly marked, the same on every run.

Owns    their memory sizes and made-up readings. Input: node name, type, count.
Why     scheduling, budgets and reports can be tried on a laptop; nobody may take them for silicon.
"""

from __future__ import annotations

import zlib

from bursar.clock import SECOND_US
from bursar.model import Device
from bursar_agent.probes.readings import GpuReading

_GB = 1_000_000_000
_MEMORY_GB = {
    "H200": 141, "H100": 80, "GH200": 96, "B200": 192, "GB200": 192, "A100": 40, "A100-80GB": 80,
    "A10": 24, "A10G": 24, "A30": 24, "A40": 48, "L4": 24, "L40": 48, "L40S": 48, "T4": 16,
    "V100": 16, "V100-32GB": 32, "P100": 16, "RTX4090": 24, "RTX6000": 48, "MI300X": 192,
}  # fmt: skip
_MEMORY_GB_OTHERWISE = 16
_IDLE_WATTS, _BUSY_WATTS = 60.0, 640.0


class SimulatedGpus:
    """`count` devices of one type. Readings depend on node, device and second alone."""

    def __init__(self, node: str, kind: str, count: int) -> None:
        self._node = node
        memory_bytes = _MEMORY_GB.get(kind, _MEMORY_GB_OTHERWISE) * _GB
        self._devices = tuple(
            Device(
                index=index,
                uuid=f"SIM-{node}-{index}",
                type=kind,
                memory_bytes=memory_bytes,
                simulated=True,
            )
            for index in range(count)
        )

    def devices(self) -> tuple[Device, ...]:
        """All, marked as simulated."""
        return self._devices

    def read(self, now: int) -> tuple[GpuReading, ...]:
        """Utilisation between 0.6 and 1.0, with power and memory to match."""
        second = now // SECOND_US
        readings = []
        for device in self._devices:
            noise = zlib.crc32(f"{device.uuid}/{second}".encode()) % 1000
            utilization = 0.6 + 0.4 * noise / 1000
            readings.append(
                GpuReading(
                    index=device.index,
                    utilization_ratio=utilization,
                    memory_used_bytes=device.memory_bytes * 7 // 10,
                    power_watts=_IDLE_WATTS + (_BUSY_WATTS - _IDLE_WATTS) * utilization,
                    temperature_celsius=40.0 + 30.0 * utilization,
                    simulated=True,
                )
            )
        return tuple(readings)
