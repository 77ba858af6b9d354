"""What readings of a device mean: whether it is idle, and why its clock is low.

Why     `utilization` says that some kernel ran: it was 18 % where the multiprocessors had work 0.03 % of the
        time. So a device is judged by its multiprocessors wherever they are told.
"""

from __future__ import annotations

IDLE_RATIO = 0.05
"""Below this share of work a device is idle, also while it is held and its memory is full."""

_CLOCK_REASONS = (
    (0x1, "idle"),
    (0x2, "clocks were set"),
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "software thermal"),
    (0x40, "hardware thermal"),
    (0x80, "power brake"),
    (0x100, "display clocks"),
)


def is_idle(sm_ratio: float | None, utilization_ratio: float | None) -> bool | None:
    """By its multiprocessors; by utilization where they are not told; None where nothing is."""
    ratio = utilization_ratio if sm_ratio is None else sm_ratio
    return None if ratio is None else ratio < IDLE_RATIO


def clock_reasons(mask: int) -> list[str]:
    """NVML's mask of why a clock is not higher, in words; bits without one by their number."""
    words = [word for bit, word in _CLOCK_REASONS if mask & bit]
    rest = mask & ~sum(bit for bit, _ in _CLOCK_REASONS)
    return words + [f"reason {1 << place:#x}" for place in range(rest.bit_length()) if rest >> place & 1]
