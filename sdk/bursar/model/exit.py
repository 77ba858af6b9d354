"""How a member ended: one value from its supervisor to the ledger.

Why     the end used to be copied through seven shapes, each with its own word for the same number.
"""

from __future__ import annotations

import msgspec

from bursar.model.job import EndCause


class Exit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The end of one member. Durations are boot-time microseconds, counters cumulative.

    Attributes:
        exit_code: -1 when a signal ended it, or nothing is known.
        signal: that ended it; 0: none.
        started: False when no process of it ever existed.
        started_boot_us: CLOCK_BOOTTIME of its start, in its node's boot; 0: not known.
        held_us: from the start until the last process was gone: what the devices were held.
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
