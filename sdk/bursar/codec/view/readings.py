"""What nodes, GPUs and running jobs told of themselves, as it is shown."""

from __future__ import annotations

from typing import Any

from bursar.codec.view.scalars import View, instant, seconds
from bursar.model import clock_reasons, is_idle
from bursar.v1 import types_pb2


def progress(wire: types_pb2.Progress) -> View:
    """What a job told last. What it did not tell, or is not known, is None."""
    speed = wire.steps_per_second if wire.HasField("steps_per_second") else None
    left = max(wire.total - wire.step, 0) if wire.total else None
    useful_us = wire.compute_us + wire.communication_us
    spans = {f"{name}_s": getattr(wire, f"{name}_us") / 1_000_000 for name in _SPANS}
    return {
        "step": wire.step,
        "total": wire.total or None,
        "samples": wire.samples or None,
        "tokens": wire.tokens or None,
        "steps_per_second": speed,
        "samples_per_second": known(wire, "samples_per_second"),
        "tokens_per_second": known(wire, "tokens_per_second"),
        "left_s": round(left / speed, 3) if left is not None and speed else None,
        **(spans if wire.elapsed_us else dict.fromkeys(spans)),
        "goodput_ratio": min(useful_us / wire.elapsed_us, 1.0) if useful_us and wire.elapsed_us else None,
        "mfu_ratio": wire.mfu_ppm / 1_000_000 if wire.mfu_ppm else None,
    }


_SPANS = ("elapsed", "data_wait", "compute", "communication", "checkpoint")


def sample(wire: types_pb2.Sample) -> View:
    """One live reading; no money depends on it."""
    return {
        "at": instant(wire.at),
        "cpu_utilization_ratio": wire.cpu_utilization_ratio,
        "memory_used_bytes": wire.memory_used_bytes,
        "power_watts": wire.power_watts or None,
        "gpus": [gpu_sample(gpu) for gpu in wire.gpus],
        "attempts": [attempt_sample(each) for each in wire.attempts],
    }


def attempt_sample(wire: types_pb2.AttemptSample) -> View:
    """What one attempt used on its node at one moment."""
    return {
        "attempt_id": wire.attempt_id,
        "rank": wire.rank,
        "cpu_utilization_ratio": wire.cpu_utilization_ratio,
        "memory_used_bytes": wire.memory_used_bytes,
        "processes": wire.processes,
        "gpu_memory_used_bytes": known(wire, "gpu_memory_used_bytes"),
        "gpu_sm_ratio": _ratio(wire, "gpu_sm_ratio"),
        "gpu_energy_joules": joules(wire.gpu_energy_millijoules, wire.gpu_energy_source),
        "gpu_energy_source": wire.gpu_energy_source or None,
        "progress": progress(wire.progress) if wire.HasField("progress") else None,
        "progress_problem": wire.progress_problem or None,
    }


def gpu_sample(wire: types_pb2.GpuSample) -> View:
    """One device. What is not known is None, never 0."""
    idle = is_idle(known(wire, "sm_ratio"), known(wire, "utilization_ratio"))
    return {
        "index": wire.index,
        "utilization_ratio": known(wire, "utilization_ratio"),
        "memory_used_bytes": known(wire, "memory_used_bytes"),
        "power_watts": known(wire, "power_watts"),
        "temperature_celsius": known(wire, "temperature_celsius"),
        "sm_clock_mhz": known(wire, "sm_clock_mhz"),
        "clocks_low_because": clock_reasons(wire.clock_reasons),
        "idle": idle,
        **{name: _ratio(wire, name) for name in _GPU_RATIOS},
        **{name: known(wire, name) for name in ("ecc_corrected", "ecc_uncorrected", "remapped_rows", "xid")},
        "summary": _gpu_summary(wire.summary) if wire.HasField("summary") else None,
        "simulated": wire.simulated,
    }


_GPU_RATIOS = (
    "sm_ratio",
    "sm_occupancy_ratio",
    "tensor_ratio",
    "dram_ratio",
    "fp64_ratio",
    "fp32_ratio",
    "fp16_ratio",
)


def _gpu_summary(wire: types_pb2.GpuSummary) -> View:
    names = ("utilization_ratio", "memory_used_bytes", "power_watts", "temperature_celsius", "sm_clock_mhz")
    return {"window_s": seconds(wire.window_us), **{name: _stat(wire, name) for name in names}}


def _stat(wire: types_pb2.GpuSummary, name: str) -> View | None:
    if not wire.HasField(name):  # type: ignore[arg-type]
        return None
    figures = getattr(wire, name)
    return {each: _short(getattr(figures, each)) for each in ("mean", "p50", "p95", "max")}


def known(wire: Any, name: str) -> Any:
    """An optional field; None where nobody measured it."""
    return getattr(wire, name) if wire.HasField(name) else None


def _ratio(wire: Any, name: str) -> float | None:
    value = known(wire, name)
    return None if value is None else _short(value)


def _short(value: float) -> float:
    """What travelled as a 32 bit float has seven digits; the others are noise."""
    return float(f"{value:.7g}")


def joules(millijoules: int, source: str) -> float | None:
    """Energy; None where it has no source."""
    return millijoules / 1000 if source else None
