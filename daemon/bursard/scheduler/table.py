"""One table per ask: which nodes may serve it, at what price, and which of them is best right now.

Owns    the sort key of a node for an ask: price first, then packing cost, then the node's name.
        The name is the declared tie break: two nodes are never equal, so the order in which nodes
        registered decides nothing.
Why     what a node scores for an ask takes microseconds, and most nodes are never the best. So a key begins
        as the least it can be (price, and a bound that packing keeps per node), and becomes exact when it is
        the least of all. The least exact key below every bound is the best node: the answer is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bursar.model import DeviceShare, ShareRates
from bursar.words import plural
from bursar_policies.decision import NodeColumns
from bursar_policies.filters import Ask
from bursar_policies.scorers import NodeState, NodeStates
from bursard.scheduler import devices
from bursard.scheduler.candidates import Candidates
from bursard.scheduler.fits import Fits
from bursard.scheduler.free import Rows
from bursard.scheduler.kinds import Kinds
from bursard.scheduler.packing import Packing, key_of_cost, keys_of_costs
from bursard.scheduler.pricing import share_rates
from bursard.scheduler.windows import Windows

NO = int(np.iinfo(np.int64).max)
"""The key of a node that cannot take a member now."""
PRICES_MAX = (1 << 15) - 2
"""So many prices are told apart."""
HELD_MAX = 256
"""Sets of free devices of which it is kept which a member gets; states of nodes of which what it costs is."""
FEW_MAX = 64
"""Up to so many nodes that fit are compared without keys of all the others."""
ONE_BY_ONE_MAX = 6
"""Up to so many nodes the plain form of the scorers is faster than numpy's (measured: they meet at 6-8)."""


class _Taken(NamedTuple):
    """What a member gets of a node's devices, what is left of them, and that in rising order."""

    shares: tuple[DeviceShare, ...]
    left: list[int]
    in_order: tuple[int, ...]


class Table(Candidates):
    """Keys of every node for one ask; `NO` where it does not fit."""

    def __init__(
        self, ask: Ask, nodes: NodeColumns, kinds: Kinds, place: NDArray[np.int64], fits: Fits
    ) -> None:
        super().__init__(ask, nodes)
        self._fits = fits
        self.number = fits.add(self)
        kind_rates = np.array(kinds.member_rates(ask.request), dtype=np.int64)
        self.rates: NDArray[np.int64] = kind_rates[kinds.of]
        self._base: NDArray[np.int64] = _prices(kind_rates)[kinds.of] | place
        self._keys: NDArray[np.int64] = np.full(len(nodes.ids), NO, dtype=np.int64)
        self._exact = np.zeros(len(nodes.ids), dtype=np.bool_)
        self._seen = -1
        self._cheapest: dict[int, int] = {}
        self.served = f"{self.usable_count} of {plural(len(nodes.ids), 'node')} could serve it"
        """What a start says of where it might have gone."""
        self._kinds = kinds
        self._shares: dict[int, ShareRates] = {}
        self._held: dict[tuple[int, ...], _Taken] = {}
        self._costs: dict[int, int] = {}
        """By state of a node, what a member costs there but for which node it is."""
        self._costs_of: object = None
        """What numbers of states mean there."""
        self._best: list[tuple[int, int]] = []
        self._best_at = -1
        """The best of few, and when it was."""

    def beside(self, ask: Ask, windows: Windows) -> Table:
        """The same ask without nodes that are reserved. What rests on facts alone is shared."""
        made = copy(self)
        made.ask, made.usable = ask, windows.left(ask, self.usable)
        made.usable_count = made.most(made.usable)
        made.number = self._fits.add(made)
        made._keys, made._exact, made._seen = np.full_like(self._keys, NO), np.zeros_like(self._exact), -1
        made._best_at = -1
        made.served = f"{made.usable_count} of {plural(len(self._keys), 'node')} could serve it"
        return made

    def best(self, packing: Packing, count: int) -> list[int]:
        """The best `count` nodes that can take a member now, best first; fewer when fewer can. Where members
        must be together: of one such place, or none.
        """
        if self.domain is not None:
            return self._best_together(packing, count)
        if count == 1 and self._fits.count(self.number) <= FEW_MAX:
            if self._best_at != packing.free.now:
                self._best, self._best_at = self._few(packing), packing.free.now
            return [row for _, row in self._best]
        self._refresh(packing)
        return self._least(packing, count)

    def best_but(
        self, packing: Packing, count: int, others: Collection[int], states: Sequence[NodeState]
    ) -> list[int]:
        """The same when of the nodes `others` only those in `states` may be used, and only so much of them as
        is said there: enough for a member, and no more than is free.
        """
        if self.domain is not None:
            return self._best_together(packing, count, others, states)
        first = self.best(packing, 1) if count == 1 else []
        if first and first[0] not in others:
            if not states:
                return first
            found = [(self._key(packing, first[0]), first[0])]
        elif count == 1 and self._fits.count(self.number) <= FEW_MAX:
            found = self._few(packing, others)
        else:
            self._refresh(packing)
            left_aside = np.array(list(others), dtype=np.intp)
            kept = self._keys[left_aside]
            self._keys[left_aside] = NO
            found = [(int(self._keys[row]), row) for row in self._least(packing, count)]
            self._keys[left_aside] = kept
        if states:
            fit = self._fits.on(self.number, np.array([state.row for state in states], dtype=np.intp))
            for state in compress(states, fit.tolist()):
                bound = self._base.item(state.row) | packing.leasts[state.row]
                if count > 1 or not found or bound <= found[0][0]:
                    found = sorted([*found, (self._key_in(packing, state), state.row)])[:count]
        return [row for _, row in found]

    def _best_together(
        self, packing: Packing, count: int, but: Collection[int] = (), states: Sequence[NodeState] = ()
    ) -> list[int]:
        """The best of one place: of the cheapest that has so many, where fewest others have room."""
        rows = self._fits.rows(self.number)
        if but:
            rows = rows[~np.isin(rows, np.array(list(but), dtype=np.intp))]
        later = [state for state in states if self._fits.on(self.number, np.array([state.row]))[0]]
        beside = {state.row: self._key_in(packing, state) for state in later}
        every = np.concatenate([rows, np.array(list(beside), dtype=np.intp)])
        groups = self.groups(every, count)
        if not groups:
            return []
        self._refresh(packing)
        wanted = np.concatenate(groups)
        unsure = wanted[~self._exact[wanted] & ~np.isin(wanted, list(beside))]
        if len(unsure):
            self._make_sure(packing, unsure)
        found = []
        for group in groups:
            keyed = sorted((beside.get(row, self._keys.item(row)), row) for row in group.tolist())[:count]
            rates = self.rates[[row for _, row in keyed]]
            rate = -1 if rates.min() < 0 else sum(rates.tolist())
            found.append((rate < 0, rate, len(group), keyed))
        return [row for _, row in min(found)[3]]

    def _few(self, packing: Packing, but: Collection[int] = ()) -> list[tuple[int, int]]:
        """Key and row of the best one of the few that fit, these left out; nothing when there is none. Keys
        of all the other nodes need not be right.
        """
        base, leasts = self._base.item, packing.leasts
        best, found = NO, -1
        for bound, row in sorted([(base(row) | leasts[row], row) for row in self._fits.listed(self.number)]):
            if bound > best:
                break
            if row in but:
                continue
            key = self._key(packing, row)
            if key < best:
                best, found = key, row
        return [(best, found)] if found >= 0 else []

    def _key(self, packing: Packing, row: int) -> int:
        """The key of a node that has room."""
        cost = self._cost(packing, row) + packing.by_row.item(row)
        return self._base.item(row) | key_of_cost(cost)

    def _cost(self, packing: Packing, row: int) -> int:
        """What a member costs on a node that has room, but for which node it is."""
        if self._costs_of is not packing.known or len(self._costs) >= HELD_MAX:
            self._costs, self._costs_of = {}, packing.known
        state = packing.state.item(row)
        found = self._costs.get(state)
        if found is None:
            found = self._costs[state] = self._cost_by_state(packing, packing.free.state(row))
        return found

    def _key_in(self, packing: Packing, state: NodeState) -> int:
        """The same of a node in a state that need not be its own."""
        cost = self._cost_by_state(packing, state) + packing.by_row.item(state.row)
        return self._base.item(state.row) | key_of_cost(cost)

    def _cost_by_state(self, packing: Packing, state: NodeState) -> int:
        row, cpu, memory, gpus = state
        request, (_, left, in_order) = self.request, self._take(gpus)
        after = NodeState(row, cpu - request.cpu_milli, memory - request.memory_bytes, left)
        return packing.cost(after, in_order)

    def fits(self, packing: Packing, row: int) -> bool:
        """Can this node take a member now?"""
        self._refresh(packing)
        return bool(self._keys[row] != NO)

    def _least(self, packing: Packing, count: int) -> list[int]:
        if count == 1:
            return self._least_one(packing)
        keys = self._keys
        while True:
            many = min(count, len(keys))
            rows = np.argpartition(keys, many - 1)[:many] if many < len(keys) else np.arange(many)
            unsure = rows[~self._exact[rows] & (keys[rows] != NO)]
            if not len(unsure):
                rows = rows[keys[rows] != NO]
                found: list[int] = rows[np.argsort(keys[rows])].tolist()
                return found
            self._make_sure(packing, unsure)

    def _least_one(self, packing: Packing) -> list[int]:
        keys, exact = self._keys, self._exact
        while len(keys):
            row = int(keys.argmin())
            if keys.item(row) == NO:
                break
            if exact.item(row):
                return [row]
            self._make_one_exact(packing, row)
        return []

    def _make_sure(self, packing: Packing, rows: Rows) -> None:
        """As few scores as make these exact: of a few states one each, and with it all that are alike."""
        states, first = np.unique(packing.state[rows], return_index=True)
        if len(states) > ONE_BY_ONE_MAX:
            self._make_exact(packing, rows)
            return
        for row in rows[first].tolist():
            self._make_one_exact(packing, row)

    def _make_one_exact(self, packing: Packing, row: int) -> None:
        """And with it all that are in the same state: what they cost differs by which node they are alone."""
        cost = self._cost(packing, row)
        alike = packing.alike(row)
        if alike is None:
            self._keys[row] = self._base.item(row) | key_of_cost(cost + packing.by_row.item(row))
            self._exact[row] = True
            return
        alike = alike[(self._keys[alike] != NO) & ~self._exact[alike]]
        self._keys[alike] = self._key_of(alike, packing.by_row[alike] + cost)
        self._exact[alike] = True

    def _make_exact(self, packing: Packing, rows: Rows) -> None:
        if len(rows) <= ONE_BY_ONE_MAX:
            for row in rows.tolist():
                self._keys[row] = self._key(packing, row)
        else:
            request, free = self.request, packing.free
            gpus = free.gpus[rows]
            if request.gpus is not None:
                _, gpus = devices.take_many(gpus, request.gpus)
            cpu, memory = free.cpu[rows] - request.cpu_milli, free.memory[rows] - request.memory_bytes
            self._keys[rows] = self._key_of(rows, packing.costs(NodeStates(rows, cpu, memory, gpus)))
        self._exact[rows] = True

    def _key_of(self, rows: Rows, cost: NDArray[np.int64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._base[rows] | keys_of_costs(cost)
        return found

    def _refresh(self, packing: Packing) -> None:
        """Bring the keys of nodes that were written since back to what they can be at least."""
        free, fits = packing.free, self._fits
        if self._seen == free.now or self.usable_count == 0:
            return
        rows = free.since(self._seen)
        self._seen = free.now
        if len(rows) > fits.count(self.number):
            self._keys.fill(NO)
            self._exact.fill(False)
            rows = fits.rows(self.number)
            self._keys[rows] = self._bound(packing, rows)
        else:
            self._keys[rows] = np.where(fits.on(self.number, rows), self._bound(packing, rows), NO)
            self._exact[rows] = False

    def _bound(self, packing: Packing, rows: Rows) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._base[rows] | packing.least_key[rows]
        return found

    def cheapest_rate(self, nodes: int) -> int:
        """The least a gang can cost per hour on nodes that could hold it; -1 when unknown."""
        found = self._cheapest.get(nodes)
        if found is None:
            known = np.sort(self.rates[self.capable & (self.rates >= 0)])
            found = sum(known[:nodes].tolist()) if len(known) >= nodes else -1
            self._cheapest[nodes] = found
        return found

    def devices_of(self, free: Sequence[int]) -> tuple[DeviceShare, ...]:
        """Which devices a member gets of a node that has room for it, and how much of each."""
        return self._take(free).shares

    def _take(self, free: Sequence[int]) -> _Taken:
        """What a member takes of these devices. Many nodes have the same free."""
        key = tuple(free)
        found = self._held.get(key)
        if found is None:
            gpus, left = self.request.gpus, list(free)
            indices = devices.choose(free, gpus) if gpus is not None else ()
            assert indices is not None, "a node that was chosen has room for the devices"
            shares = devices.shares(indices, gpus) if gpus is not None else ()
            for share in shares:
                left[share.index] -= share.milli
            if len(self._held) >= HELD_MAX:
                self._held.clear()
            found = self._held[key] = _Taken(shares, left, tuple(sorted(left)))
        return found

    def share_rates(self, nodes: NodeColumns, row: int, held: Sequence[DeviceShare]) -> ShareRates:
        """What a member costs on a node: the same on all of its kind."""
        kind = self._kinds.of.item(row)
        found = self._shares.get(kind)
        if found is None:
            request = self.request
            found = share_rates(nodes, row, held, request.cpu_milli, request.memory_bytes)
            self._shares[kind] = found
        return found


def _prices(rates: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of a key that a price makes: its rank among these, unknown ones last."""
    order = np.unique(rates[rates >= 0])
    rank = np.where(rates >= 0, np.searchsorted(order, rates), len(order))
    found: NDArray[np.int64] = np.minimum(rank, PRICES_MAX) << 48
    return found
