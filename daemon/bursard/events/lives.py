"""The event about the life of the log itself."""

from __future__ import annotations

import msgspec


class LogResumed(msgspec.Struct, frozen=True, tag="log-resumed"):
    """The log goes on from an earlier point of its life: what had followed there is lost.

    Attributes:
        cause: `restored` (from a backup) or `accepted` (an operator gave lost events up).
        through: the last event that both lives share.
        known_seq: the highest event known of the life before; 0 when nobody knows.
        epoch: of the first start of the new life. What obeyed a lower one may know of the life before.
        next_number: jobs of the life before may have had numbers up to here; they are not given out again.
        by: who decided it.
    """

    cause: str
    through: int
    known_seq: int
    epoch: int
    next_number: int
    by: str
