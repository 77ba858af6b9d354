"""What time the nodes take it for: witnesses of a daemon whose own clock is wrong, or of nodes whose are.

Why     nothing is dated by it (ADR-0005): it is told, for somebody to set the clock that is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from bursar.clock import SECOND_US, format_duration
from bursard.events import Event, NodeRemoved, NodeSilent
from bursard.state import NodeRecord

log = logging.getLogger(__name__)

TOLERANCE_US = 600 * SECOND_US
"""Certificates, tokens and begin times bear so much."""


class Clocks:
    """How far the wall clock of each node in contact is ahead of the daemon's time."""

    def __init__(self) -> None:
        self._ahead: dict[str, int] = {}

    def heard(self, node: NodeRecord, wall_at: int, now: int) -> None:
        """A node said what time it is; 0: it did not."""
        if not wall_at:
            return
        ahead_us = wall_at - now
        before = self._ahead.get(node.id, 0)
        self._ahead[node.id] = ahead_us
        if abs(ahead_us) > TOLERANCE_US >= abs(before):
            log.warning(
                "the clock of a node is not the daemon's",
                extra={"node": node.facts.name, "off": off(ahead_us)},
            )

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Who is out of contact says nothing any more."""
        if isinstance(event, NodeSilent | NodeRemoved):
            self._ahead.pop(event.node_id, None)

    def problems(self, nodes: Mapping[str, NodeRecord]) -> list[str]:
        """Those that are off by more than is tolerated; one sentence where all of several are."""
        wrong = {key: us for key, us in self._ahead.items() if key in nodes and abs(us) > TOLERANCE_US}
        if len(wrong) > 1 and len(wrong) == len(self._ahead):
            middle = sorted(wrong.values())[len(wrong) // 2]
            return [
                f"the clocks of all {len(wrong)} nodes in contact are {off(middle)} the daemon's time: the"
                " one of the daemon's machine is probably wrong"
            ]
        return [
            f"the clock of {nodes[key].facts.name} is {off(us)} the daemon's time"
            for key, us in wrong.items()
        ]

    def agreeing(self, ahead_us: int) -> tuple[int, int]:
        """How many nodes say that it is so much later than the daemon's time, and how many said anything."""
        same = sum(abs(us - ahead_us) <= TOLERANCE_US for us in self._ahead.values())
        return same, len(self._ahead)


def off(us: int) -> str:
    """`1d02h ahead of`, `12m00s behind`."""
    return f"{format_duration(abs(us))} {'ahead of' if us > 0 else 'behind'}"
