"""A world in memory whose daemon makes passes as it does by itself: rounds, plans, what becomes of them."""

from __future__ import annotations

from bursard.cycle import Cycle
from bursard.fleet.testing import World

MINUTE_US = 60_000_000


class Turning(World):
    """One pass at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = Cycle(self.engine)

    def turn(self, minutes: int = 0) -> None:
        """Time passes, a pass is made, and nodes say what became of it."""
        self.clock.advance(minutes * MINUTE_US)
        self.passes.once()
        self.writer.flush()
        self.backend.report()
        self.writer.flush()
