"""NVIDIA devices through NVML, where library and driver are there.

Owns    the only use of `pynvml` (package nvidia-ml-py, extra `nvml`), imported at the first question.
Why     an agent must start on a machine without a GPU, without the driver, and without the extra.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from typing import Any

from bursar.model import Device
from bursar_agent.probes.readings import GpuReading

log = logging.getLogger(__name__)

_NOISE = re.compile(r"NVIDIA|Tesla|GeForce|Quadro|Graphics Device")
_MODEL = re.compile(r"(GB|GH|RTX\s?|GTX\s?|[ABHLPTV])\s?(\d{1,4}[A-Z]?)\b")


class NvmlGpus:
    """All devices NVML shows; none when there is no NVML."""

    def __init__(self, load: Callable[[], Any] | None = None) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
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

    def devices(self) -> tuple[Device, ...]:
        """By index, which is PCI bus order; jobs get CUDA_DEVICE_ORDER to count the same way."""
        return tuple(self._device(index, handle) for index, handle in enumerate(self._handles))

    def read(self, now: int) -> tuple[GpuReading, ...]:
        """Each device that answers. What a device does not support reads as 0."""
        return tuple(self._reading(index, handle) for index, handle in enumerate(self._handles))

    def _device(self, index: int, handle: Any) -> Device:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return Device(
            index=index,
            uuid=_text(self._ask("nvmlDeviceGetUUID", handle) or f"GPU-{index}"),
            type=canonical_type(_text(self._ask("nvmlDeviceGetName", handle) or "GPU")),
            memory_bytes=int(memory.total) if memory else 0,
        )

    def _reading(self, index: int, handle: Any) -> GpuReading:
        utilization = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return GpuReading(
            index=index,
            utilization_ratio=utilization.gpu / 100 if utilization else 0.0,
            memory_used_bytes=int(memory.used) if memory else 0,
            power_watts=(self._ask("nvmlDeviceGetPowerUsage", handle) or 0) / 1000,
            temperature_celsius=float(self._ask("nvmlDeviceGetTemperature", handle, 0) or 0),
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
