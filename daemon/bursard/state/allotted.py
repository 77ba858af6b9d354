"""What an allocator gave jobs, until it is asked again.

Why     no event says so: who runs how is asked anew every round, and a daemon that starts asks at once.
"""

from __future__ import annotations

import msgspec

from bursar_policies.allocators import Size


class Allotments(msgspec.Struct):
    """Kept by `bursard.rounds`; `Tables` reads it.

    Attributes:
        given: by job, how it is to run, or runs.
        moves: by live attempt that is to end since its job runs otherwise from now on, what it is told.
        next_at: when the allocator is asked again; 0: at once.
        absent: no package brings the allocator any more: nobody waits for it.
    """

    given: dict[str, Size] = {}
    moves: dict[str, str] = {}
    next_at: int = 0
    absent: bool = False

    def clear(self) -> None:
        """Nothing was given: another allocator is in force, or none."""
        self.given, self.moves, self.next_at = {}, {}, 0
