"""How often a node may say another thing of its condition: each becomes an event.

Why     a text that changes with every word, or a trouble that comes and goes, would fill the log as fast as
        the agent can speak. Within the allowance all is told at once; beyond it the last word is, later.
"""

from __future__ import annotations

from bursar.clock import SECOND_US

BURST = 12
"""So many at once: six troubles that came and went are what quarantines a node."""
EVERY_US = 10 * SECOND_US
"""And one more in so long."""


class _Said:
    """Of one node: what it may still say as of when, and the last word that waits; None: nothing does."""

    __slots__ = ("counted_us", "left_us", "waits")

    def __init__(self, now_us: int) -> None:
        self.counted_us = now_us
        self.left_us = BURST * EVERY_US
        self.waits: str | None = None

    def may(self, now_us: int) -> bool:
        """Could it say something now?"""
        self.left_us = min(self.left_us + now_us - self.counted_us, BURST * EVERY_US)
        self.counted_us = now_us
        return self.left_us >= EVERY_US


class Conditions:
    """By node. `now_us`: the daemon's boot clock."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}

    def take(self, node_id: str, word: str, now_us: int) -> bool:
        """One more word. False: it waits, in place of what waited before."""
        said = self._said.setdefault(node_id, _Said(now_us))
        if not said.may(now_us):
            said.waits = word
            return False
        said.left_us -= EVERY_US
        said.waits = None
        return True

    def known(self, node_id: str) -> None:
        """It says what is told already: nothing waits any more."""
        if node_id in self._said:
            self._said[node_id].waits = None

    def due(self, now_us: int) -> list[tuple[str, str]]:
        """Nodes whose last word can be taken now, with it."""
        return [
            (node_id, said.waits)
            for node_id, said in self._said.items()
            if said.waits is not None and said.may(now_us)
        ]

    def forget(self, node_id: str) -> None:
        """The node is gone."""
        self._said.pop(node_id, None)
