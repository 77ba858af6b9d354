"""Ids and randomness, from outside. Opaque strings with a prefix: `job_`, `att_`, `node_`, `bud_`.

Shells use `RandomIds`; tests and the simulator use `SequentialIds`, so a seed gives the same bytes.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford base 32, lower case: no i, l, o, u to misread."""
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_ID_BYTES: Final = 10
_POOL_IDS: Final = 64

_pool: list[bytes] = []
"""Random bytes of ids to come: the kernel is asked once for many. A child starts without its parent's."""
os.register_at_fork(after_in_child=_pool.clear)


class Ids(Protocol):
    """A source of fresh ids."""

    def new(self, prefix: str) -> str:
        """A fresh id such as `job_7h2k…`; never returned before by any source of this cluster."""
        ...


class RandomIds:
    """80 random bits each: two of a billion ids collide with probability below one in a million."""

    def new(self, prefix: str) -> str:
        """`prefix_` and 16 characters."""
        bits = int.from_bytes(_random())
        return f"{prefix}_{''.join([_PAIRS[bits >> shift & 1023] for shift in range(70, -1, -10)])}"


def _random() -> bytes:
    try:
        return _pool.pop()
    except IndexError:
        many = os.urandom(_ID_BYTES * _POOL_IDS)
        _pool.extend(many[at : at + _ID_BYTES] for at in range(_ID_BYTES, len(many), _ID_BYTES))
        return many[:_ID_BYTES]


class SequentialIds:
    """Counted ids for tests, replay and the simulator."""

    def __init__(self) -> None:
        self._next = 0

    def new(self, prefix: str) -> str:
        """`prefix_` and a zero-padded count."""
        self._next += 1
        return f"{prefix}_{self._next:010d}"
