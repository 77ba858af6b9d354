"""Devices that do not exist, for machines without any: clearly marked, and as busy as what holds them.

Owns    their memory sizes and made-up readings. Input: node name, type, count, and the load of each.
Why     scheduling, budgets and reports can be tried on a laptop; nobody may take them for silicon. One that
        nobody holds is idle, and so is one held without work: whoever looks for idle time must see both.
"""

from __future__ import annotations

from collections.abc import Mapping

from bursar.clock import Clock
from bursar.model import Device
from bursar_agent.probes.readings import Activity, GpuReading, Health

_GB = 1_000_000_000
_MEMORY_GB = {
    "H200": 141, "H100": 80, "GH200": 96, "B200": 192, "GB200": 192, "A100": 40, "A100-80GB": 80,
    "A10": 24, "A10G": 24, "A30": 24, "A40": 48, "L4": 24, "L40": 48, "L40S": 48, "T4": 16,
    "V100": 16, "V100-32GB": 32, "P100": 16, "RTX4090": 24, "RTX6000": 48, "MI300X": 192,
}  # fmt: skip
_MEMORY_GB_OTHERWISE = 16
_IDLE_WATTS, _HELD_WATTS, _BUSY_WATTS = 60.0, 110.0, 640.0
_IDLE_CLOCK_MHZ, _HELD_CLOCK_MHZ = 345, 1980
_GPU_IDLE = 0x1


class SimulatedGpus:
    """`count` devices of one type. What they read follows from their loads and the time alone."""

    def __init__(self, node: str, kind: str, count: int, clock: Clock) -> None:
        self._clock = clock
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
        self._loads: dict[int, float] = {}
        self._counters = dict.fromkeys(range(count), 0.0)
        self._counted_us = clock.boot_us()

    def devices(self) -> tuple[Device, ...]:
        """All, marked as simulated."""
        return self._devices

    def read(self, now: int, loads: Mapping[int, float]) -> tuple[GpuReading, ...]:
        """Idle where nobody holds it; else utilization is the load, with power and memory to match."""
        self._count()
        self._loads = {index: min(max(load, 0.0), 1.0) for index, load in loads.items()}
        return tuple(self._reading(device) for device in self._devices)

    def look(self) -> Mapping[int, tuple[Activity, Health]]:
        """Their multiprocessors work as much as the load says; what is not there has no faults."""
        health = Health(ecc_corrected=0, ecc_uncorrected=0, remapped_rows=0, xid=0)
        return {
            device.index: (Activity(sm_ratio=self._loads.get(device.index, 0.0)), health)
            for device in self._devices
        }

    def energy_millijoules(self, index: int) -> int | None:
        """Its power, added up: here power is what it is made of."""
        self._count()
        return int(self._counters[index])

    def process_memory(self, index: int) -> Mapping[int, int | None] | None:
        """Nothing is told: no process is really there."""
        return None

    def process_activity(self, index: int) -> Mapping[int, float] | None:
        """Nothing is told, likewise."""
        return None

    def close(self) -> None:
        """Nothing was started."""

    def _reading(self, device: Device) -> GpuReading:
        load = self._loads.get(device.index)
        held = load is not None
        share = load or 0.0
        return GpuReading(
            index=device.index,
            utilization_ratio=share,
            memory_used_bytes=round(device.memory_bytes * 7 / 10 * share),
            power_watts=self._watts(device.index),
            temperature_celsius=30.0 + 40.0 * share,
            sm_clock_mhz=_HELD_CLOCK_MHZ if held else _IDLE_CLOCK_MHZ,
            clock_reasons=0 if held else _GPU_IDLE,
            simulated=True,
        )

    def _watts(self, index: int) -> float:
        load = self._loads.get(index)
        return _IDLE_WATTS if load is None else _HELD_WATTS + (_BUSY_WATTS - _HELD_WATTS) * load

    def _count(self) -> None:
        now_us = self._clock.boot_us()
        passed_us, self._counted_us = now_us - self._counted_us, now_us
        for index in self._counters:
            self._counters[index] += self._watts(index) * passed_us / 1000
