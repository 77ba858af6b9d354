"""A stand-in for `pynvml` that answers with what real devices said, and takes as long: for tests and benches.

Owns    recorded loads (one NVIDIA H200, driver 580.159.04; an H100 of the same driver beside it in
        docs/metering.md) and costs of questions, the dearer of both devices.
Why     few machines have a device, and none can be told to fail. With this, everything above the library runs
        as it is: what the agent asks, how often, and what it makes of the answers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESERVED_BYTES = 644_939_776
TOTAL_BYTES = 150_754_820_096

COST_US = {
    "nvmlDeviceGetUtilizationRates": 1,
    "nvmlDeviceGetTemperature": 1,
    "nvmlDeviceGetClockInfo": 1,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
    "nvmlDeviceGetPowerUsage": 2,
    "nvmlDeviceGetTotalEccErrors": 3,
    "nvmlDeviceGetRemappedRows": 3,
    "nvmlDeviceGetMemoryInfo": 10,
    "nvmlDeviceGetComputeRunningProcesses": 12,
    "nvmlDeviceGetTotalEnergyConsumption": 4457,
    "nvmlGpmSampleGet": 330,
    "nvmlDeviceGetProcessUtilization": 2877,
    "nvmlDeviceGetPcieThroughput": 20899,
}
"""Microseconds of a call on a real device. What is not here was not worth measuring."""


EVENT_WAIT_MS = 20
"""So long is waited for an event here, however long was asked for: whoever waits ends soon."""


@dataclass(frozen=True)
class Load:
    """What a device said under one load: percent, watts by the counter, MHz, NVML's mask."""

    utilization: int = 0
    sm: float = 0.0
    occupancy: float = 0.0
    tensor: float = 0.0
    dram: float = 0.0
    fp32: float = 0.0
    watts: int = 83
    clock_mhz: int = 345
    reasons: int = 0x1


IDLE = Load()
HELD = Load(watts=131, clock_mhz=1980, reasons=0)
BF16_PRODUCT = Load(99, 95.9, 14.2, 93.1, 16.1, 0.0, 719, 1470, 0x4)
FP32_PRODUCT = Load(100, 96.4, 12.1, 0.0, 2.8, 76.8, 477, 1980, 0)
MEMORY_BOUND = Load(99, 98.6, 84.4, 0.0, 86.0, 1.6, 367, 1980, 0)
TINY_KERNELS = Load(18, 0.03, 0.0, 0.0, 0.0, 0.0, 130, 1980, 0)
SHARED = Load(100, 88.1, 39.3, 46.5, 40.8, 0.6, 691, 1830, 0x4)


class RecordedError(Exception):
    """As NVMLError: `value` is NVML's number."""

    def __init__(self, value: int) -> None:
        super().__init__({3: "Not Supported", 6: "Not Found", 10: "Timeout"}.get(value, "Unknown Error"))
        self.value = value


@dataclass
class RecordedDevice:
    """One device: change `load`, `processes` and `broken`, and let time pass with `RecordedNvml.advance`.

    Attributes:
        processes: bytes by pid; None where the driver does not tell. sm: percent by pid.
        clients: likewise, of processes that use the device through an MPS server.
        broken: names of questions that are not supported here.
    """

    uuid: str
    load: Load = IDLE
    processes: dict[int, int | None] = field(default_factory=dict)
    clients: dict[int, int | None] = field(default_factory=dict)
    sm: dict[int, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    millijoules: int = 1_000_000
    ecc: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)


class RecordedNvml:
    """`NvmlGpus(lambda: RecordedNvml(...))`. `asked` counts questions, `spent_us` adds up their cost.

    Args:
        devices: how many. spend: what to do with the microseconds of a question; nothing: only add them up.
    """

    nvmlMemory_v2 = 0x02000028
    nvmlEventTypeXidCriticalError = 0x8
    NVML_GPM_METRICS_GET_VERSION = 1

    def __init__(self, devices: int = 1, spend: Callable[[int], None] = lambda _: None) -> None:
        self.devices = [RecordedDevice(f"GPU-{index}") for index in range(devices)]
        self.asked: Counter[str] = Counter()
        self.spent_us = 0
        self.now_us = 1_000_000
        self.events: list[tuple[int, int]] = []
        self.waited: Callable[[], None] = lambda: None
        self._never = threading.Event()
        self._spend = spend

    def advance(self, passed_us: int) -> None:
        """Time passes: counters count."""
        self.now_us += passed_us
        for device in self.devices:
            device.millijoules += device.load.watts * passed_us // 1000

    def _ask(self, question: str, index: int) -> RecordedDevice:
        self.asked[question] += 1
        cost_us = COST_US.get(question, 0)
        self.spent_us += cost_us
        self._spend(cost_us)
        device = self.devices[index]
        if question in device.broken:
            raise RecordedError(3)
        return device

    # --- the library's own names ----------------------------------------------------------------

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetCount(self) -> int:
        """All."""
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """The index."""
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        """Made up."""
        return self.devices[handle].uuid

    def nvmlDeviceGetName(self, handle: int) -> str:
        """As the recorded one."""
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        """Version 1 counts the driver's reserve as used."""
        device = self._ask("nvmlDeviceGetMemoryInfo", handle)
        used = sum(size or 0 for size in (*device.processes.values(), *device.clients.values()))
        if version is None:
            return SimpleNamespace(total=TOTAL_BYTES, used=used + RESERVED_BYTES)
        return SimpleNamespace(total=TOTAL_BYTES, used=used, reserved=RESERVED_BYTES)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        """Of the load."""
        return SimpleNamespace(gpu=self._ask("nvmlDeviceGetUtilizationRates", handle).load.utilization)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        """Milliwatts."""
        return self._ask("nvmlDeviceGetPowerUsage", handle).load.watts * 1000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        """Always the same."""
        self._ask("nvmlDeviceGetTemperature", handle)
        return 40

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        """Of the load."""
        return self._ask("nvmlDeviceGetClockInfo", handle).load.clock_mhz

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        """Of the load."""
        return self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle).load.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        """The counter."""
        return self._ask("nvmlDeviceGetTotalEnergyConsumption", handle).millijoules

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        """Corrected, uncorrected."""
        return self._ask("nvmlDeviceGetTotalEccErrors", handle).ecc[kind]

    def nvmlDeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:
        """Corrected, uncorrected, pending, failed."""
        return (*self._ask("nvmlDeviceGetRemappedRows", handle).rows, 0, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        """Of each process its memory."""
        device = self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in device.processes.items()]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: int) -> list[Any]:
        """Of each client its memory."""
        device = self._ask("nvmlDeviceGetMPSComputeRunningProcesses", handle)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in device.clients.items()]

    def nvmlDeviceGetProcessUtilization(self, handle: int, since_us: int) -> list[Any]:
        """One sample of each process that did something; an idle device finds nobody."""
        device = self._ask("nvmlDeviceGetProcessUtilization", handle)
        if not device.sm:
            raise RecordedError(6)
        return [SimpleNamespace(pid=pid, smUtil=sm, timeStamp=self.now_us) for pid, sm in device.sm.items()]

    # --- events

    def nvmlEventSetCreate(self) -> object:
        """There is one."""
        return self

    def nvmlDeviceGetSupportedEventTypes(self, handle: int) -> int:
        """As recorded."""
        return 0xFF9F if "events" not in self.devices[handle].broken else 0

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:
        """Taken."""
        self.asked["nvmlDeviceRegisterEvents"] += 1

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        """The next of `events`, (device, Xid); else a timeout, after `waited`."""
        if not self.events:
            self.waited()
            self._never.wait(min(timeout_ms, EVENT_WAIT_MS) / 1000)
            raise RecordedError(10)
        device, xid = self.events.pop(0)
        return SimpleNamespace(device=device, eventType=8, eventData=xid)

    # --- GPM

    def nvmlGpmQueryDeviceSupport(self, handle: int) -> Any:
        """Since Hopper."""
        return SimpleNamespace(isSupportedDevice=int("gpm" not in self.devices[handle].broken))

    def nvmlGpmSampleAlloc(self) -> Any:
        """Room for a sample."""
        self.asked["nvmlGpmSampleAlloc"] += 1
        return SimpleNamespace(load=None, broken=set())

    def nvmlGpmSampleGet(self, handle: int, sample: Any) -> Any:
        """Take one."""
        device = self._ask("nvmlGpmSampleGet", handle)
        sample.load, sample.broken = device.load, device.broken
        return sample

    def c_nvmlGpmMetricsGet_t(self) -> Any:
        """The library's structure."""
        return SimpleNamespace(metrics=[SimpleNamespace(nvmlReturn=0, value=0.0) for _ in range(16)])

    def nvmlGpmMetricsGet(self, wanted: Any) -> Any:
        """The figures of the later sample's load; `gpm:13` in `broken` is a figure that is not supported."""
        load, broken = wanted.sample2.load, wanted.sample2.broken
        figures = {2: load.sm, 3: load.occupancy, 5: load.tensor, 10: load.dram, 12: load.fp32}
        for metric in wanted.metrics[: wanted.numMetrics]:
            metric.nvmlReturn = 3 if f"gpm:{metric.metricId}" in broken else 0
            metric.value = figures.get(metric.metricId, 0.0)
        return wanted


def install(folder: Path, devices: int = 1) -> None:
    """A module `pynvml` in this folder, for agents as processes: idle devices, whatever runs there."""
    (folder / "pynvml.py").write_text(
        "from bursar_agent.probes.recorded import RecordedNvml\n"
        f"_one = RecordedNvml({devices})\n"
        "_names = [name for name in dir(_one) if name[:4] in ('nvml', 'NVML')]\n"
        "globals().update({name: getattr(_one, name) for name in _names})\n"
    )
