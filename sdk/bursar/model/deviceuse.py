"""What a member made of the devices that it held: sums over time, as its agent saw them.

Why     activity is gone with the readings, and whether what was paid for was used is asked afterwards. Sums
        are small, add up over devices, members and attempts, and no price rests on them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.model.activity import IDLE_RATIO

LAUNCH_UTILIZATION: Final = 0.1
"""From this utilization on, one that does nothing is kept from it by launches of tiny kernels."""
PARTIAL_RATIO: Final = 0.5
"""Below this share of its multiprocessors a device that works waits for something much of the time."""
MEMORY_DRAM_RATIO: Final = 0.6
MEMORY_TENSOR_RATIO: Final = 0.1
"""Bound by its memory: from this bandwidth on, with tensor units below that."""
BEYOND_THE_CAP: Final = 0x8 | 0x20 | 0x40 | 0x80
"""Reasons of a low clock that are findings: hardware slowdown, heat, power brake. 0x4, the power cap, is
normal at full load.
"""


class DeviceUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of all devices of a member together, times in microseconds of devices: two in a second are two.

    Attributes:
        heard_us: in which it was known what they did. Of it, each excluding the others:
            empty_us: no process of the member was on the device; idle_us: one was, and nothing ran;
            launch_us: only tiny kernels ran; memory_us: bound by memory, with tensor units at rest;
            partial_us: less than half of the multiprocessors had work.
        busy_us: the multiprocessors had work. throttled_us: of all, its clock was low for a fault or heat.
        sm_us, tensor_us, dram_us: time multiplied by the share at work. units_us: in which the last two are
            known.
        clock_mhz_us: while busy, MHz multiplied by time.
        devices: how many. unused_devices: of them, how many never had work while they were heard.
        memory_bytes: the most that its processes held at once.
        ecc_uncorrected, remapped_rows: that came meanwhile. xid: the last critical event; 0: none.
    """

    heard_us: int = 0
    empty_us: int = 0
    idle_us: int = 0
    launch_us: int = 0
    memory_us: int = 0
    partial_us: int = 0
    busy_us: int = 0
    throttled_us: int = 0
    sm_us: int = 0
    tensor_us: int = 0
    dram_us: int = 0
    units_us: int = 0
    clock_mhz_us: int = 0
    devices: int = 0
    unused_devices: int = 0
    memory_bytes: int = 0
    ecc_uncorrected: int = 0
    remapped_rows: int = 0
    xid: int = 0


KINDS: Final = ("empty", "idle", "launch", "memory", "partial")
"""What `use_of` may say, beside `working`; each has a time in `DeviceUse`."""


def use_of(
    sm_ratio: float | None,
    utilization_ratio: float | None,
    tensor_ratio: float | None = None,
    dram_ratio: float | None = None,
    *,
    present: bool | None = None,
) -> str | None:
    """What a device did in a stretch of time; None: not known.

    Args:
        present: a process of who holds it was there; None: not told.
    """
    ratio = utilization_ratio if sm_ratio is None else sm_ratio
    if ratio is None:
        return None
    if ratio < IDLE_RATIO:
        if present is False:
            return "empty"
        tiny = sm_ratio is not None and utilization_ratio is not None
        return "launch" if tiny and (utilization_ratio or 0) >= LAUNCH_UTILIZATION else "idle"
    if sm_ratio is None:
        return "working"
    moves = dram_ratio is not None and dram_ratio >= MEMORY_DRAM_RATIO
    if moves and tensor_ratio is not None and tensor_ratio < MEMORY_TENSOR_RATIO:
        return "memory"
    return "partial" if sm_ratio < PARTIAL_RATIO else "working"
