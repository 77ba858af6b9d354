"""What the units of a device did, from NVML's own profiling counters (GPM; Hopper and later).

Owns    two samples of one device, and the figures between them. Needs neither DCGM nor root.
Why     `utilization` of a loop of tiny kernels was 18 % where its multiprocessors had work 0.03 % of the
        time: what a device is paid for shows here alone.
"""

from __future__ import annotations

import logging
from typing import Any

from bursar_agent.probes.readings import Activity

log = logging.getLogger(__name__)

METRICS = {
    "sm_ratio": 2,
    "sm_occupancy_ratio": 3,
    "tensor_ratio": 5,
    "dram_ratio": 10,
    "fp64_ratio": 11,
    "fp32_ratio": 12,
    "fp16_ratio": 13,
}
"""NVML's numbers of the figures we ask for."""


class Gpm:
    """One device. The first `activity` has nothing to compare with and tells nothing."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._samples: list[Any] = []
        self._taken = False
        try:
            self._supported = nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice == 1
        except Exception:  # older devices, drivers and libraries
            self._supported = False

    def activity(self) -> Activity:
        """Since the last call. Nothing where the device does not support it or the driver fails."""
        if not self._supported:
            return Activity()
        try:
            return self._since()
        except Exception as problem:
            # The next look begins anew: figures between samples of two drivers' lives would be made up.
            self._taken = False
            log.debug("no activity", extra={"problem": str(problem)})
            return Activity()

    def _since(self) -> Activity:
        nvml = self._nvml
        while len(self._samples) < 2:
            self._samples.append(nvml.nvmlGpmSampleAlloc())
        before, now = self._samples
        nvml.nvmlGpmSampleGet(self._handle, now)
        self._samples.reverse()
        taken, self._taken = self._taken, True
        if not taken:
            return Activity()
        wanted = nvml.c_nvmlGpmMetricsGet_t()
        wanted.version = nvml.NVML_GPM_METRICS_GET_VERSION
        wanted.sample1, wanted.sample2 = before, now
        wanted.numMetrics = len(METRICS)
        for place, number in enumerate(METRICS.values()):
            wanted.metrics[place].metricId = number
        nvml.nvmlGpmMetricsGet(wanted)
        return Activity(**{name: _ratio(wanted.metrics[place]) for place, name in enumerate(METRICS)})


def _ratio(metric: Any) -> float | None:
    """Each figure has an answer of its own; rounding may carry it a little past its bounds."""
    value = float(metric.value)
    if metric.nvmlReturn != 0 or value != value:
        return None
    return min(max(value / 100, 0.0), 1.0)
