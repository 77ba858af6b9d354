"""How a member ended: one value from its supervisor to the ledger.

Why     the end used to be copied through seven shapes, each with its own word for the same number.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bursar.model.deviceuse import DeviceUse
from bursar.model.job import EndCause
from bursar.model.progress import Progress
from bursar.model.steps import Steps

EnergySource = Literal["", "measured", "modelled", "simulated"]
"""Measured: all of it by counters of the devices, shared out by what was measured; modelled: some of it was
not. Empty: not known."""


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices of one member drew for it, cumulative."""

    millijoules: int
    source: EnergySource


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one member. Durations are boot-time microseconds, counters cumulative.

    Attributes:
        exit_code: -1 when a signal ended it, or nothing is known.
        signal: that ended it; 0: none.
        started: False when no process of it ever existed.
        started_boot_us: CLOCK_BOOTTIME of its start, in its node's boot; 0: not known.
        held_us: from the start until the last process was gone: what the devices were held.
        gpu_energy_millijoules, gpu_energy_source: of its devices; source empty: it held none, or it is
            not known.
        ran_us: from the start until its own process was gone, whatever that left behind; 0: not known.
        stopped: it had been told to end before it did.
        progress: that it told last; None: nothing that can be.
        device_use: what it made of its devices; None: nothing was heard of them.
        steps: that it started; None: none.
        image_digest: of the image that its container was of. pull_us: until that was there.
    """

    cause: EndCause
    exit_code: int = -1
    signal: int = 0
    message: str = ""
    held_us: int = 0
    cpu_us: int = 0
    max_rss_bytes: int = 0
    log_bytes: int = 0
    started: bool = True
    started_boot_us: int = 0
    gpu_energy_millijoules: int = 0
    gpu_energy_source: EnergySource = ""
    ran_us: int = 0
    stopped: bool = False
    progress: Progress | None = None
    device_use: DeviceUse | None = None
    steps: Steps | None = None
    image_digest: str = ""
    pull_us: int = 0
