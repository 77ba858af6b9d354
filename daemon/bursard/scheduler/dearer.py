"""For how long nodes that have room could be held beside what is promised, and at which price.

Owns    `Reach`: of one ask, as things are in a plan, what a look for any job of it would find.
Why     most jobs that were promised a place wait for it while dearer nodes are free, and each plan looks at
        all of them. What differs between two that ask for the same is for how long they hold their nodes; so
        when each node would first lack room, worked out once, says of all of them whether there is room, and
        what it costs.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bursard.scheduler.free import Rows
from bursard.scheduler.releases import Ints


class Reach:
    """Nodes that have room for a member now, the cheapest first, unknown rates last.

    Args:
        rows: (k), these nodes. rates: (k), nanos per hour of a member, -1 for unknown.
        bad: (k), when a member that begins now would first lack room there.
    """

    def __init__(self, rows: Rows, rates: Ints, bad: Ints) -> None:
        order = np.lexsort((rates, rates < 0))
        self._rows, self._rates, self._bad = rows[order], rates[order], bad[order]
        self._longest: Ints | None = None
        """Of the first so many, until when the last of them has room."""

    def leave(self, rows: Rows) -> None:
        """These nodes have no room any more."""
        gone = np.isin(self._rows, rows)
        if gone.any():
            self._bad[gone], self._longest = 0, None

    def rate(self, nodes: int, until: int, own: Collection[int] = ()) -> int | None:
        """At which rate so many nodes have room until an instant, -1 for unknown; None: there are fewer.

        Args:
            own: of these nodes it is known that they have.
        """
        if nodes == 1 and not own:
            if self._longest is None:
                self._longest = np.maximum.accumulate(self._bad) if len(self._bad) else self._bad
            at = int(self._longest.searchsorted(until))
            return self._rates.item(at) if at < len(self._rates) else None
        there = self._bad >= until
        if own:
            there |= np.isin(self._rows, list(own))
        found: list[int] = self._rates[there][:nodes].tolist()
        if len(found) < nodes:
            return None
        return -1 if found[-1] < 0 else sum(found)

    def until(self, nodes: int) -> int:
        """So many nodes have room until then; 0 where they have none."""
        if len(self._bad) < nodes:
            return 0
        return int(np.partition(self._bad, len(self._bad) - nodes)[len(self._bad) - nodes])
