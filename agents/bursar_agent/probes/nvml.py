"""NVIDIA devices through NVML, where library and driver are there.

Owns    the only use of `pynvml` (package nvidia-ml-py, extra `nvml`), imported at the first question.
Why     an agent must start on a machine without a GPU, without the driver, and without the extra.

What a question costs and which answers mislead was measured: docs/metering.md. PCIe throughput is never
asked for: the driver sleeps 20 ms over it. A question that a device does not support stays open (None).
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from bursar.model import Device
from bursar_agent.probes.gpm import Gpm
from bursar_agent.probes.readings import Activity, GpuReading, Health
from bursar_agent.probes.xid import XidWatch

log = logging.getLogger(__name__)

_NOISE = re.compile(r"NVIDIA|Tesla|GeForce|Quadro|Graphics Device")
_MODEL = re.compile(r"(GB|GH|RTX\s?|GTX\s?|[ABHLPTV])\s?(\d{1,4}[A-Z]?)\b")
_TEMPERATURE_GPU = 0
_CLOCK_SM = 1
_ECC_CORRECTED, _ECC_UNCORRECTED, _ECC_EVER = 0, 1, 1
_NOT_FOUND = 6
"""NVML_ERROR_NOT_FOUND: no process has used the device since the time named."""


class NvmlGpus:
    """All devices NVML shows; none when there is no NVML."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._asked_us: dict[int, int] = {}
        try:
            nvml = (load or _load)()
            nvml.nvmlInit()
            self._handles = [
                nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
            ]
            self._nvml = nvml
        except ImportError:
            log.debug("no nvml library; no devices")
        except Exception as problem:  # NVMLError has no base we could name without the library
            log.info("nvml cannot be used; no devices", extra={"problem": str(problem)})
        self._gpm = [Gpm(self._nvml, handle) for handle in self._handles]
        self._xids = XidWatch(self._nvml, self._handles) if self._handles else None

    def devices(self) -> tuple[Device, ...]:
        """By index, which is PCI bus order; jobs get CUDA_DEVICE_ORDER to count the same way."""
        return tuple(self._device(index, handle) for index, handle in enumerate(self._handles))

    def read(self, now: int, loads: Mapping[int, float]) -> tuple[GpuReading, ...]:
        """Each device, by the questions that cost microseconds."""
        return tuple(self._reading(index, handle) for index, handle in enumerate(self._handles))

    def look(self) -> Mapping[int, tuple[Activity, Health]]:
        """Activity since the last look, and faults, of every device."""
        return {
            index: (self._gpm[index].activity(), self._health(index, handle))
            for index, handle in enumerate(self._handles)
        }

    def energy_millijoules(self, index: int) -> int | None:
        """The counter, since the driver was loaded."""
        value = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handles[index])
        return None if value is None else int(value)

    def process_memory(self, index: int) -> Mapping[int, int | None] | None:
        """Of every process with a context on the device."""
        handle = self._handles[index]
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        if found is None:
            return None
        # Clients of an MPS server are told by a question of their own; without a server it finds none.
        clients = self._ask("nvmlDeviceGetMPSComputeRunningProcesses", handle) or ()
        return {int(one.pid): _whole(one.usedGpuMemory) for one in (*found, *clients)}

    def process_activity(self, index: int) -> Mapping[int, float] | None:
        """The mean of each process's samples since the last question. The driver keeps a few seconds."""
        since_us = self._asked_us.get(index, 0)
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handles[index], since_us)
        except Exception as problem:
            # An idle device is not an unknown one: it says that it finds nobody.
            return {} if getattr(problem, "value", None) == _NOT_FOUND else None
        sums: dict[int, list[float]] = {}
        for sample in samples:
            if sample.timeStamp <= since_us:
                continue  # left over of processes that are gone
            sums.setdefault(int(sample.pid), []).append(min(sample.smUtil, 100) / 100)
            self._asked_us[index] = max(self._asked_us.get(index, 0), int(sample.timeStamp))
        return {pid: sum(values) / len(values) for pid, values in sums.items()}

    def close(self) -> None:
        """End the watch for events."""
        if self._xids is not None:
            self._xids.close()

    def _device(self, index: int, handle: Any) -> Device:
        memory = self._memory(handle)
        return Device(
            index=index,
            uuid=_text(self._ask("nvmlDeviceGetUUID", handle) or f"GPU-{index}"),
            type=canonical_type(_text(self._ask("nvmlDeviceGetName", handle) or "GPU")),
            memory_bytes=int(memory.total) if memory else 0,
        )

    def _reading(self, index: int, handle: Any) -> GpuReading:
        utilization = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._memory(handle)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
        celsius = self._ask("nvmlDeviceGetTemperature", handle, _TEMPERATURE_GPU)
        return GpuReading(
            index=index,
            utilization_ratio=None if utilization is None else min(utilization.gpu, 100) / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=None if celsius is None else float(celsius),
            sm_clock_mhz=_whole(self._ask("nvmlDeviceGetClockInfo", handle, _CLOCK_SM)),
            clock_reasons=_whole(self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)),
        )

    def _memory(self, handle: Any) -> Any:
        """By the second version, whose `used` is without the driver's reserve; else by the first."""
        newer = getattr(self._nvml, "nvmlMemory_v2", None)
        found = None if newer is None else self._ask("nvmlDeviceGetMemoryInfo", handle, newer)
        return found or self._ask("nvmlDeviceGetMemoryInfo", handle)

    def _health(self, index: int, handle: Any) -> Health:
        rows = self._ask("nvmlDeviceGetRemappedRows", handle)
        return Health(
            ecc_corrected=_whole(self._ask("nvmlDeviceGetTotalEccErrors", handle, _ECC_CORRECTED, _ECC_EVER)),
            ecc_uncorrected=_whole(
                self._ask("nvmlDeviceGetTotalEccErrors", handle, _ECC_UNCORRECTED, _ECC_EVER)
            ),
            remapped_rows=None if rows is None else int(rows[0]) + int(rows[1]),
            xid=None if self._xids is None else self._xids.last(index),
        )

    def _ask(self, question: str, *args: Any) -> Any:
        try:
            return getattr(self._nvml, question)(*args)
        except Exception:  # not supported, or the device fell off the bus
            return None


def canonical_type(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` to `H100`, `Tesla T4` to `T4`; else the name in capitals, dashed."""
    plain = _NOISE.sub(" ", name).strip()
    match = _MODEL.search(plain)
    if match:
        return (match[1].replace(" ", "") + match[2]).upper()
    return re.sub(r"[^A-Z0-9]+", "-", plain.upper()).strip("-") or "GPU"


def _load() -> Any:
    return importlib.import_module("pynvml")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
