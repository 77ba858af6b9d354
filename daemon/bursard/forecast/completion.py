"""How long a job goes on: by runs like it, by its time limit, and by how far it says it has come. PURE.

Why     a time limit says what a job may cost, and runs like it what they cost; a job that counts its steps
        knows better. What it says itself is believed where it is shown alone, and nothing is decided on it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SECOND_US: Final = 1_000_000
_PART: Final = 1_000_000
"""Steps a second are told in whole millionths."""


class Left(NamedTuple):
    """How long an attempt goes on, in microseconds: as expected, and at most."""

    likely_us: int
    most_us: int


def left(ran_us: int, limit_us: int, usual_us: int) -> Left:
    """Of an attempt that has run for `ran_us`.

    Args:
        limit_us: its time limit. usual_us: how long runs like it take in all; 0: not known.
    """
    most = max(limit_us - ran_us, 0)
    return Left(min(usual_us - ran_us, most) if usual_us > ran_us else most, most)


def steps_left_us(step: int, total: int, millionths_per_second: int) -> int | None:
    """How long a job takes for its other steps at its pace; None where what it told does not say."""
    if not 0 < step <= total or millionths_per_second <= 0:
        return None
    return (total - step) * _PART * SECOND_US // millionths_per_second
