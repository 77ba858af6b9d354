"""Logarithms in integers: the same on every machine.

Why     run times and sizes differ by factors of a million. What is worth comparing is how often one is twice
        the other, and no floating point may decide who comes first.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from bursar_policies.rankers.api import Ints

UNIT = 1_000_000
"""One doubling."""
_STEPS_BITS = 8
_STEPS = 1 << _STEPS_BITS
"""Between two powers of two: numbers that differ by less than a 256th may count as equal."""
_POWERS: Ints = np.array([1 << bit for bit in range(63)], dtype=np.int64)


def doublings(values: Ints) -> Ints:
    """How often 1 is doubled to get each value (n), in millionths; 0 for what is below 1. Never falls."""
    values = np.maximum(values, 1)
    exponent: Ints = np.searchsorted(_POWERS, values, side="right").astype(np.int64) - 1
    up = np.maximum(_STEPS_BITS - exponent, 0)
    down = np.maximum(exponent - _STEPS_BITS, 0)
    step = ((values << up) >> down) - _STEPS
    found: Ints = exponent * UNIT + _parts()[step]
    return found


@cache
def _parts() -> Ints:
    """Millionths of a doubling from 256 to each of 256..511, by squaring: a bit at a time."""
    found = []
    for step in range(_STEPS, 2 * _STEPS):
        value, one, parts = step << 56, _STEPS << 56, 0
        for _ in range(24):
            value = value * value // one
            parts *= 2
            if value >= 2 * one:
                value //= 2
                parts += 1
        found.append((parts * UNIT) >> 24)
    return np.array(found, dtype=np.int64)
