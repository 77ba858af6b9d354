"""What one user's jobs take of the daemon's memory, and how much of it one user may have.

Why     a job that waits is kept whole, however long it waits and whatever its script holds, and a daemon that
        runs out of memory takes everybody's jobs with it. A bound for all alone would let whoever reaches it
        shut out the others. Nobody is exempt: an operator's loop fills it as well.
"""

from __future__ import annotations

import msgspec

from bursar.errors import RateLimited
from bursar.model import JobSpec

RANGE_BYTES = 128
"""What a range of indices takes as objects; its encoded form is a tenth of that."""
_ENCODER = msgspec.json.Encoder()  # MessagePack has no integers past 64 bits, and amounts have


class Share(msgspec.Struct):
    """Of one user: jobs and tasks that are pending, and bytes of all descriptions that are kept."""

    pending: int = 0
    spec_bytes: int = 0


class Shares:
    """By user; who has nothing is not there."""

    def __init__(self) -> None:
        self._by_user: dict[str, Share] = {}

    def of(self, user: str) -> Share:
        """What this user has now; not to be changed."""
        return self._by_user.get(user) or Share()

    def all(self) -> dict[str, Share]:
        """Everybody who has something."""
        return dict(self._by_user)

    def add(self, user: str, pending: int = 0, spec_bytes: int = 0) -> None:
        """So much more, or less."""
        share = self._by_user.setdefault(user, Share())
        share.pending += pending
        share.spec_bytes += spec_bytes
        if not (share.pending or share.spec_bytes):
            del self._by_user[user]


def bytes_of_spec(spec: JobSpec) -> int:
    """What a description takes, of an array once for all its tasks."""
    ranges = len(spec.array.ranges) if spec.array is not None else 0
    return len(_ENCODER.encode(spec)) + ranges * RANGE_BYTES


def refuse_more(share: Share, pending: int, size: int, pending_max: int, bytes_max: int) -> None:
    """Raise `RateLimited` when so much more would be more than one user may have."""
    if pending and share.pending + pending > pending_max:
        raise RateLimited(
            f"{share.pending} of your jobs and tasks are pending, {pending} more would pass the {pending_max}"
            " of one user; wait for some to start, cancel some, or have `user_pending_max` of the daemon"
            " raised",
            {"pending": str(share.pending), "more": str(pending), "pending_max": str(pending_max)},
        )
    if size > 0 and share.spec_bytes + size > bytes_max:
        raise RateLimited(
            f"what your jobs that have not ended say (scripts, environments, arguments) takes"
            f" {share.spec_bytes} bytes, {size} more would pass the {bytes_max} of one user; wait for some to"
            " end, cancel some, put long texts into files, make one array of many alike, or have"
            " `user_texts_max` of the daemon raised",
            {"bytes": str(share.spec_bytes), "more": str(size), "bytes_max": str(bytes_max)},
        )
