"""Ids and randomness, from outside. Opaque strings with a prefix: `job_`, `att_`, `node_`, `bud_`.

Shells use `RandomIds`; tests and the simulator use `SequentialIds`, so a seed gives the same bytes.
"""

from __future__ import annotations

import secrets
from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford base 32, lower case: no i, l, o, u to misread."""


class Ids(Protocol):
    """A source of fresh ids."""

    def new(self, prefix: str) -> str:
        """A fresh id such as `job_7h2k…`; never returned before by any source of this cluster."""
        ...


class RandomIds:
    """80 random bits each: two of a billion ids collide with probability below one in a million."""

    def new(self, prefix: str) -> str:
        """`prefix_` and 16 characters."""
        bits = secrets.randbits(80)
        return prefix + "_" + "".join(_ALPHABET[(bits >> shift) & 31] for shift in range(75, -1, -5))


class SequentialIds:
    """Counted ids for tests, replay and the simulator."""

    def __init__(self) -> None:
        self._next = 0

    def new(self, prefix: str) -> str:
        """`prefix_` and a zero-padded count."""
        self._next += 1
        return f"{prefix}_{self._next:010d}"
