"""The events about the daemon's own clock."""

from __future__ import annotations

import msgspec


class ClockStepped(msgspec.Struct, frozen=True, tag="clock-stepped", omit_defaults=True):
    """A jump of the wall clock was believed: times before and after are of two readings of it.

    `was`: what time it was until then; `became`: what time it is since; `why`: who or what proved it.
    `redates`: what is not over, and is dated behind `became`, is dated by `was - became` before it from here
    on; not so in what earlier versions wrote.
    """

    was: int
    became: int
    why: str
    redates: bool = False


class ClockDoubted(msgspec.Struct, frozen=True, tag="clock-doubted"):
    """The wall clock has jumped, and is not believed: it says `wall`, and `going_by` is gone by."""

    wall: int
    going_by: int
