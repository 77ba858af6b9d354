"""Arrays whose tasks follow those of others, as a submission says it."""

from __future__ import annotations

import msgspec

from bursar.model.ranges import Ranges


class Follow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks of an array that follow those of another, one by one, as it was when they were submitted.

    Attributes:
        other: the id of that array. called: as people name it.
        waits: tasks whose own there is still to end. lost: those whose own did not succeed.
    """

    other: str
    called: str
    waits: Ranges = ()
    lost: Ranges = ()
