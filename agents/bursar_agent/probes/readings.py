"""Readings of one moment, and what every probe of devices offers.

Owns    the values that travel from probes to telemetry. Lossy: no money depends on them.
Why     real, absent and simulated devices answer the same questions, so nobody asks which it is.

`None` is what a device does not tell: not supported, not found, or not asked yet. It is never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from bursar.model import Device, Progress
from bursar.steps.records import Told


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What a device did between two looks some seconds apart, each a share of what it could: 0 to 1.

    Attributes:
        sm_ratio: multiprocessors that had work. The honest sign of use: utilization says only that some
            kernel ran.
        sm_occupancy_ratio: warps that were there, of those there could be.
        tensor_ratio, fp64_ratio, fp32_ratio, fp16_ratio: time in which these units worked.
        dram_ratio: bandwidth of the device's memory.
    """

    sm_ratio: float | None = None
    sm_occupancy_ratio: float | None = None
    tensor_ratio: float | None = None
    dram_ratio: float | None = None
    fp64_ratio: float | None = None
    fp32_ratio: float | None = None
    fp16_ratio: float | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Faults of a device. Errors and rows count over its life, as the driver counts them.

    Attributes:
        ecc_corrected, ecc_uncorrected: errors of its memory.
        remapped_rows: rows of memory that were replaced, for either kind of error.
        xid: the last critical event since the agent started, by NVIDIA's number; 0: none came.
    """

    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    xid: int | None = None


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment.

    Attributes:
        utilization_ratio: 0 to 1, the share of the driver's last window in which a kernel ran.
        memory_used_bytes: without what the driver keeps for itself.
        power_watts: of the board, averaged by the driver over about a second: it lags.
        sm_clock_mhz, clock_reasons: how fast it runs, and NVML's mask of why not faster.
        activity, health: as of the last slow look; None before it and where nothing is told.
    """

    index: int
    utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    sm_clock_mhz: int | None = None
    clock_reasons: int | None = None
    activity: Activity | None = None
    health: Health | None = None
    summary: Summary | None = None
    simulated: bool = False


class Stat(msgspec.Struct, frozen=True):
    """One figure over a window: the mean, the median, the 95th percentile, the largest."""

    mean: float
    p50: float
    p95: float
    max: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A device over a window of about ten seconds, from the readings of each second."""

    window_us: int
    utilization_ratio: Stat | None = None
    memory_used_bytes: Stat | None = None
    power_watts: Stat | None = None
    temperature_celsius: Stat | None = None
    sm_clock_mhz: Stat | None = None


class ProgressRates(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a member's counts grow."""

    steps_per_second: float
    samples_per_second: float
    tokens_per_second: float


class StepsNow(NamedTuple):
    """What a member has started so far, by its own word. `told`: by number; one without an end runs."""

    total: int
    failed: int
    told: tuple[Told, ...]


class AttemptReading(msgspec.Struct, frozen=True, kw_only=True):
    """One member's processes at one moment; a CPU ratio of 1.0 is one core.

    Attributes:
        gpu_memory_used_bytes: of its processes on all its devices; None: not told, or it holds none.
        gpu_sm_ratio: of its devices' multiprocessors, what worked for it: by process where they are shared.
        gpu_energy_millijoules, gpu_energy_source: so far (`bursar.model.Energy`); source empty: not known.
        progress, progress_rates: that it tells, and how fast it grows; None: not told, or not known yet.
        progress_problem: why what it tells cannot be.
        steps: that it has started; None: none, or not known.
    """

    attempt_id: str
    rank: int
    cpu_utilization_ratio: float = 0.0
    memory_used_bytes: int = 0
    processes: int = 0
    gpu_memory_used_bytes: int | None = None
    gpu_sm_ratio: float | None = None
    gpu_energy_millijoules: int = 0
    gpu_energy_source: str = ""
    progress: Progress | None = None
    progress_rates: ProgressRates | None = None
    progress_problem: str = ""
    steps: StepsNow | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One node at one moment. `power_watts` 0: not readable."""

    at: int
    cpu_utilization_ratio: float = 0.0
    memory_used_bytes: int = 0
    power_watts: float = 0.0
    gpus: tuple[GpuReading, ...] = ()
    attempts: tuple[AttemptReading, ...] = ()


class GpuProbe(Protocol):
    """Devices of this machine. One thread asks; the driver may take its time, or never answer."""

    def devices(self) -> tuple[Device, ...]:
        """What is there, by index. Does not change while the agent runs."""
        ...

    def read(self, now: int, loads: Mapping[int, float]) -> tuple[GpuReading, ...]:
        """All devices at the instant `now`: what is cheap to ask every second.

        Args:
            loads: by device, how busy the CPUs of its holders are, 0 to 1; absent: nobody holds it. Only
                devices that do not exist go by it.
        """
        ...

    def look(self) -> Mapping[int, tuple[Activity, Health]]:
        """What is dear, of every device: activity since the last look, and faults."""
        ...

    def energy_millijoules(self, index: int) -> int | None:
        """The device's counter of energy, which only grows while its driver stays loaded. Dear: 4 ms."""
        ...

    def process_memory(self, index: int) -> Mapping[int, int | None] | None:
        """Bytes of each process on the device, by pid; a None is a process whose memory is not told."""
        ...

    def process_activity(self, index: int) -> Mapping[int, float] | None:
        """Share of the multiprocessors' time of each pid since this was asked last. Dear: 3 ms."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class NoGpus:
    """A machine without devices."""

    def devices(self) -> tuple[Device, ...]:
        """None."""
        return ()

    def read(self, now: int, loads: Mapping[int, float]) -> tuple[GpuReading, ...]:
        """None."""
        return ()

    def look(self) -> Mapping[int, tuple[Activity, Health]]:
        """None."""
        return {}

    def energy_millijoules(self, index: int) -> int | None:
        """There is no counter."""
        return None

    def process_memory(self, index: int) -> Mapping[int, int | None] | None:
        """Nothing is told."""
        return None

    def process_activity(self, index: int) -> Mapping[int, float] | None:
        """Nothing is told."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def stat(values: Sequence[float]) -> Stat | None:
    """The figures of some values (nearest rank, so each was really read); None of none."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    return Stat(
        mean=sum(ordered) / len(ordered),
        p50=ordered[(len(ordered) - 1) // 2],
        p95=ordered[min(-(-len(ordered) * 95 // 100) - 1, last)],
        max=ordered[last],
    )
