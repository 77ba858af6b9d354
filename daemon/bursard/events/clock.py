"""The event about the daemon's own clock."""

from __future__ import annotations

import msgspec


class ClockStepped(msgspec.Struct, frozen=True, tag="clock-stepped"):
    """A jump of the wall clock was believed: times before and after are of two readings of it.

    `was`: what time it was until then; `became`: what time it is since; `why`: who or what proved it.
    """

    was: int
    became: int
    why: str
