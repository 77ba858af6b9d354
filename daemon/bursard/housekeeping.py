"""Housekeeping: what time alone brings about, looked at before every plan.

Owns    the order of it: begin times come, budgets cover what waits, dependants of what ended go on or end,
        periods roll, prices change, reservations end and have their nodes emptied, leases are renewed,
        thresholds are announced and what they end is stopped, and an allocator is asked; and how much of it
        one turn of the loop does.
Why     the daemon's cycle and the simulator must do the same at the same instants, or a simulation proves
        nothing about the money.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bursar.clock import SECOND_US
from bursar_policies import allocators
from bursar_policies.compile import PriceTable
from bursard.place import Commit
from bursard.promising import Promising
from bursard.rounds import Find, Rounds
from bursard.state import State
from bursard.state.budgets import limit_of
from bursard.state.decide import approving, jobs, leases, policies, reservations, staging
from bursard.state.decide.nodes import reprice
from bursard.state.decide.outlooks import Outlooks
from bursard.state.fold.jobs import MET_MAX, meet_some
from bursard.state.fold.policies import MATCHED_MAX, match_some

EVERY_US = SECOND_US
"""Thresholds are looked at this often without any event."""
FORECAST_EVERY_US = 60 * SECOND_US
"""What budgets are expected to cost is looked at this often, where a threshold goes by it."""
FORECAST_MAX = 16
"""Of so many budgets one turn looks at that; the others come with the next."""
WOKEN_MAX = 1_000
"""Jobs that one turn puts into the queue because their time has come: some ten milliseconds."""
REPRICED_MAX = 1_000
"""Nodes whose prices one turn looks at."""


class Housekeeping:
    """Belongs to one state. `prices` answers the prices in force; `commit` makes events true at once.
    `find`: see `Rounds`.
    """

    def __init__(
        self,
        state: State,
        prices: Callable[[], PriceTable],
        commit: Commit,
        find: Find = allocators.at_hand,
    ) -> None:
        self._state = state
        self._prices = prices
        self._commit = commit
        self._looked_at: int | None = None
        self._outlooks = Outlooks(state)
        self._rounds = Rounds(state, find)
        self.promising = Promising(state)
        self._forecast: dict[str, tuple[int, int]] = {}
        """By budget, when its forecast was looked at last, and under which limit."""
        self._priced: tuple[PriceTable, int, int] | None = None
        self._unpriced: deque[str] = deque()

    @property
    def allocator_wrong(self) -> str:
        """See `Rounds.wrong`."""
        return self._rounds.wrong

    def turn(self, now: int) -> bool:
        """Bring things up to `now`, as much as one turn of the loop can bear. True: something is left."""
        state = self._state
        more = state.wake(now, WOKEN_MAX)
        if state.unmatched:
            more = match_some(state, MATCHED_MAX) or more
        state.told = 0
        if state.met:
            more = meet_some(state, now, MET_MAX) or more
        if state.doomed:
            self._commit("ends of dependants", jobs.doomed(state, jobs.EVENTS_MAX))
        if state.due(now):
            self._commit("periods", policies.roll_periods(state, now))
        self._reprice(now)
        if state.promises:
            self._commit("promises", self.promising.review(now))
        # A clock that jumped back is looked at as one that went on.
        if self._looked_at is None or abs(now - self._looked_at) >= EVERY_US:
            self._looked_at = now
            self._commit("approvals", approving.lapsed(state, now))
            if state.reservations:
                self._commit("reservations", reservations.due(state, now))
            if state.leased:
                self._commit("leases", leases.renewals(state, now))
            self._commit("thresholds", staging.thresholds(state, self._forecasts(now)))
            self._commit("stops of budgets", staging.stops(state))
        self._rounds.turn(now)
        return more or bool(self._unpriced)

    def _forecasts(self, now: int) -> dict[str, int]:
        """What budgets end with whose thresholds go by it: each once a minute, and at once when it is new or
        its limit was changed.
        """
        state, known = self._state, self._forecast
        wanted = staging.forecast_wanted(state)
        limits = {name: limit_of(state.budgets.records[name], state.ledger) for name in wanted}
        due = [
            name
            for name, limit in limits.items()
            if name not in known or known[name][1] != limit or abs(now - known[name][0]) >= FORECAST_EVERY_US
        ][:FORECAST_MAX]
        self._forecast = {name: known[name] for name in wanted if name in known}
        if not due:
            return {}
        self._forecast.update({name: (now, limits[name]) for name in due})
        found = self._outlooks.of(due, now)
        return {name: what.peak.p50 for name, (what, _) in found.items() if what.peak.p50 is not None}

    def _reprice(self, now: int) -> None:
        """Look at every node when prices were applied, or one of them begins or ends; not every second."""
        prices, nodes = self._prices(), self._state.nodes
        table, since, until = self._priced or (None, 0, 0)
        if table is not prices or not since <= now < until:
            self._priced = (prices, now, prices.next_change(now))
            self._unpriced = deque(nodes)
        if self._unpriced:
            some = [self._unpriced.popleft() for _ in range(min(REPRICED_MAX, len(self._unpriced)))]
            here = [nodes[node_id] for node_id in some if node_id in nodes]
            self._commit("prices", reprice(self._state, prices, now, here))
