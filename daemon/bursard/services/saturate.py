"""Sums and products as a field of 64 bits can hold them.

Why     each term has its bound, a sum of them has none; an answer that says "at least so much" serves its
        reader, and one that fails takes the whole list with it.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 2**63 - 1
"""What a field of the wire holds, of money as of counters."""


def saturated(value: int) -> int:
    """The value, or the nearest that a signed field of 64 bits holds."""
    return min(max(value, -MOST - 1), MOST)
