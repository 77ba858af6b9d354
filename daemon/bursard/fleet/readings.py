"""What may be shown of a well-formed reading: what its node can have, at an instant near the daemon's. PURE.

Owns    the cut of telemetry to the node's facts and the daemon's now.
Input   a sample that passed the door, by its attributes. Output: the same sample, cut in place.
Why     no books rest on telemetry, so nobody is put into quarantine for it; but what is on the screen of
        every user must be something that can be.
"""

from __future__ import annotations

from typing import Any, Final

from bursar.clock import HOUR_US
from bursar.model import NodeFacts

AHEAD_US_MAX: Final = HOUR_US
"""So far may a node's wall clock be from the daemon's, either way; beyond it a reading is of its arrival."""
_ROUNDING: Final = 1e-6
"""A mean of single precision may come out above its own maximum by so much of it."""


def cut(sample: Any, facts: NodeFacts, now: int) -> None:
    """Leave of one reading what can be.

    Args:
        now: the daemon's instant, microseconds.
    """
    if abs(sample.at - now) > AHEAD_US_MAX:
        sample.at = now
    sizes = [device.memory_bytes for device in facts.devices]
    own = [gpu for gpu in sample.gpus if gpu.index < len(sizes)]
    if len(own) < len(sample.gpus):
        del sample.gpus[:]
        sample.gpus.extend(own)
    for gpu in sample.gpus:
        _device(gpu, sizes[gpu.index])
    if all(sizes):
        for attempt in sample.attempts:
            attempt.gpu_memory_used_bytes = min(attempt.gpu_memory_used_bytes, sum(sizes))
    if not sizes:
        for attempt in sample.attempts:
            attempt.gpu_energy_millijoules, attempt.gpu_energy_source = 0, ""


def _device(gpu: Any, size_bytes: int) -> None:
    """One device; `size_bytes` 0: its memory is not known."""
    if size_bytes:
        gpu.memory_used_bytes = min(gpu.memory_used_bytes, size_bytes)
    if not gpu.HasField("summary"):
        return
    summary = gpu.summary
    ordered = all(
        _ordered(getattr(summary, field.name))
        for field, _ in summary.ListFields()
        if field.message_type is not None
    )
    if not ordered or (size_bytes and summary.memory_used_bytes.max > size_bytes):
        gpu.ClearField("summary")


def _ordered(figures: Any) -> bool:
    """No mean and no percentile is above the largest."""
    most = figures.max + abs(figures.max) * _ROUNDING
    return bool(figures.mean <= most and figures.p50 <= figures.p95 <= most)
