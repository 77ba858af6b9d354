"""How often a node may say hello: each one costs events, and nothing else keeps an agent from flapping.

Why     a refused hello writes nothing. How many were refused is told with the next that is taken, so the log
        holds one line for so many seconds, whatever an agent does.
"""

from __future__ import annotations

from bursar.clock import SECOND_US
from bursar.errors import RateLimited

BURST = 20
"""So many at once: a node whose agent or network is being mended."""
EVERY_US = 10 * SECOND_US
"""And one more in so long."""
NAMES_MAX = 1_000
"""Names remembered before those that may say hello at will are forgotten."""


class _Known:
    """What one name has left, and when that was counted. `refused`: since the last that was taken."""

    __slots__ = ("counted_us", "left_us", "refused")

    def __init__(self, now_us: int) -> None:
        self.counted_us = now_us
        self.left_us = BURST * EVERY_US
        self.refused = 0

    def count(self, now_us: int) -> None:
        self.left_us = min(self.left_us + now_us - self.counted_us, BURST * EVERY_US)
        self.counted_us = now_us


class Hellos:
    """By the name of a node, whose right to it was proven before."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def take(self, name: str, now_us: int) -> int:
        """One more hello. Returns how many of this node were refused since the last.

        Args:
            now_us: the daemon's boot clock.

        Raises:
            RateLimited: with when to come again.
        """
        if len(self._known) >= NAMES_MAX and name not in self._known:
            self._forget(now_us)
        known = self._known.setdefault(name, _Known(now_us))
        known.count(now_us)
        if known.left_us < EVERY_US:
            known.refused += 1
            wait_s = -(-(EVERY_US - known.left_us) // SECOND_US)
            raise RateLimited(
                f"node {name} said hello more than {BURST} times in a short time: come again in {wait_s} s;"
                f" `bursar events --node {name}` and its agent's log say why its streams break",
                {"retry_after_s": str(wait_s)},
            )
        known.left_us -= EVERY_US
        refused, known.refused = known.refused, 0
        return refused

    def _forget(self, now_us: int) -> None:
        for known in self._known.values():
            known.count(now_us)
        self._known = {
            name: one for name, one in self._known.items() if one.left_us < BURST * EVERY_US or one.refused
        }
