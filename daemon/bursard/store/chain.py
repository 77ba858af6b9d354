"""The hash chain over the log: change, drop or swap one event and every later hash is wrong (L4).

Why     triggers stop accidents inside SQLite; the chain shows what was done around it. A cut tail
        is shown by the head that each commit writes, and by copies of it kept elsewhere.
"""

from __future__ import annotations

import hashlib
import struct

GENESIS = bytes(32)
"""What the first event is chained to."""

_FRAME = struct.Struct(">qqI").pack
"""seq, at, and the length of the actor: without it `ab`+`c` and `a`+`bc` would hash alike."""


def chain_hash(previous: bytes, seq: int, at: int, actor: str, payload: bytes) -> bytes:
    """SHA-256 of the previous hash and everything this event says; 32 bytes."""
    name = actor.encode()
    return hashlib.sha256(previous + _FRAME(seq, at, len(name)) + name + payload).digest()
