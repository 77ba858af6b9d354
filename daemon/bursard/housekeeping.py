"""Housekeeping: what time alone brings about, looked at before every plan.

Owns    the order of it: begin times come, dependants of what failed end, periods roll,
        prices change, thresholds are announced.
Why     the daemon's cycle and the simulator must do the same at the same instants, or a simulation proves
        nothing about the money.
"""

from __future__ import annotations

from collections.abc import Callable

from bursar.clock import SECOND_US
from bursar_policies.compile import PriceTable
from bursard.place import Commit
from bursard.state import State
from bursard.state.decide import jobs, policies
from bursard.state.decide.nodes import reprice

EVERY_US = SECOND_US
"""Thresholds are looked at this often without any event."""


class Housekeeping:
    """Belongs to one state. `prices` answers the prices in force; `commit` makes events true at once."""

    def __init__(
        self,
        state: State,
        prices: Callable[[], PriceTable],
        commit: Commit,
    ) -> None:
        self._state = state
        self._prices = prices
        self._commit = commit
        self._looked_at: int | None = None
        self._priced: tuple[PriceTable, int, int] | None = None

    def turn(self, now: int) -> None:
        """Bring everything up to `now`."""
        state = self._state
        state.wake(now)
        if state.doomed:
            self._commit("ends of dependants", jobs.doomed(state, jobs.EVENTS_MAX))
        if state.budgets.due(now):
            self._commit("periods", policies.roll_periods(state, now))
        self._reprice(now)
        # A clock that jumped back is looked at as one that went on.
        if self._looked_at is None or abs(now - self._looked_at) >= EVERY_US:
            self._looked_at = now
            self._commit("thresholds", policies.thresholds(state))

    def _reprice(self, now: int) -> None:
        """Look at every node when prices were applied, or one of them begins or ends; not every second."""
        prices = self._prices()
        if self._priced is not None:
            table, since, until = self._priced
            if table is prices and since <= now < until:
                return
        self._priced = (prices, now, prices.next_change(now))
        self._commit("prices", reprice(self._state, prices, now))
