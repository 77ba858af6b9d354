"""Until when it is sure that a node would have told an end, had there been one.

Why     an end is told at once, over the stream that stands, so silence says that an attempt ran. Not so where
        the node's disk takes nothing: how a job ended is written there first, and waits for room. That such
        an end is late is no lie, however soon after the disk is well again it is told.
"""

from __future__ import annotations

from bursard.fleet.believe import TOLD_US


class Beats:
    """By node, in readings of its boot clock."""

    def __init__(self) -> None:
        self._heard: dict[str, int] = {}
        self._troubled: dict[str, int] = {}

    def opened(self, node_id: str) -> None:
        """Another stream: nothing was heard over it."""
        self._heard.pop(node_id, None)
        self._troubled.pop(node_id, None)

    def heard(self, node_id: str, boot_us: int, trouble: str) -> None:
        """A beat. `trouble`: what keeps the node from starting anything."""
        if trouble:
            self.troubled(node_id, boot_us)
        elif boot_us - self._troubled.get(node_id, -TOLD_US) >= TOLD_US:
            self._heard[node_id] = boot_us

    def troubled(self, node_id: str, boot_us: int) -> None:
        """It cannot write now, or could not a moment ago."""
        self._heard.pop(node_id, None)
        self._troubled[node_id] = boot_us

    def sure(self, node_id: str) -> int:
        """When it was heard last, and had had time to tell whatever had ended; 0: not over this stream."""
        return self._heard.get(node_id, 0)
