"""One table per ask: which nodes may serve it, at what price, and how good each is right now.

Owns    the sort key of a node for an ask: price first, then packing cost, then the node's name.
        The name is the declared tie break: two nodes are never equal, so the order in which nodes
        registered decides nothing.
Why     10,000 pending jobs ask for a few hundred different things; a key is computed per ask and
        node, and only again when the node changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import NodeColumns
from bursar_policies.filters import Ask
from bursar_policies.scorers import NodeState, NodeStates
from bursard.scheduler import devices
from bursard.scheduler.candidates import Candidates
from bursard.scheduler.packing import Packing

NO = np.iinfo(np.int64).max
"""The key of a node that cannot take a member now."""
_COST_ZERO = 1 << 31
_COST_MAX = (1 << 32) - 1
_PRICE_MAX = (1 << 15) - 2
ONE_BY_ONE_MAX = 6
"""Up to so many changed nodes the plain form is faster than numpy's (measured: they meet at 6-8)."""


class Table(Candidates):
    """Keys of every node for one ask; `NO` where it does not fit."""

    def __init__(self, ask: Ask, nodes: NodeColumns, place: Sequence[int]) -> None:
        super().__init__(ask, nodes)
        self.rates = member_rates(nodes, ask.request)
        self._base = _price_place(self.rates, place)
        self._base_rows: list[int] = self._base.tolist()
        self.keys: NDArray[np.int64] = np.full(len(nodes.ids), NO, dtype=np.int64)
        self._seen = 0
        self._cheapest: dict[int, int] = {}

    def refresh(self, packing: Packing) -> None:
        """Bring the keys of changed nodes up to date."""
        free = packing.free
        if self._seen == free.clock or self.usable_count == 0:
            return
        rows = np.flatnonzero((free.changed_at > self._seen) & self.usable)
        self._seen = free.clock
        if len(rows) <= ONE_BY_ONE_MAX:
            for row in rows.tolist():
                self.keys[row] = self.key(packing, free.state(row))
        else:
            self._refresh_many(packing, rows)

    def key(self, packing: Packing, state: NodeState) -> int:
        """The key of one node in a given state."""
        request = self.request
        cpu = state.cpu_milli - request.cpu_milli
        memory = state.memory_bytes - request.memory_bytes
        if cpu < 0 or memory < 0:
            return int(NO)
        gpus = list(state.gpus)
        if request.gpus is not None:
            chosen = devices.choose(gpus, request.gpus)
            if chosen is None:
                return int(NO)
            for index in chosen:
                gpus[index] -= request.gpus.milli
        cost = packing.cost(NodeState(state.row, cpu, memory, gpus)) + _COST_ZERO
        return self._base_rows[state.row] | min(max(cost, 0), _COST_MAX) << 16

    def cheapest_rate(self, nodes: int) -> int:
        """The least a gang can cost per hour on nodes that could hold it; -1 when unknown."""
        found = self._cheapest.get(nodes)
        if found is None:
            known = np.sort(self.rates[self.capable & (self.rates >= 0)])
            found = sum(known[:nodes].tolist()) if len(known) >= nodes else -1
            self._cheapest[nodes] = found
        return found

    def _refresh_many(self, packing: Packing, rows: NDArray[np.intp]) -> None:
        request, free = self.request, packing.free
        cpu, memory = free.cpu[rows] - request.cpu_milli, free.memory[rows] - request.memory_bytes
        fits = (cpu >= 0) & (memory >= 0)
        gpus = free.gpus[rows]
        if request.gpus is not None:
            enough, gpus = devices.take_many(gpus, request.gpus)
            fits &= enough
        self.keys[rows] = NO
        if not fits.any():
            return
        rows = rows[fits]
        cost = packing.costs(NodeStates(rows, cpu[fits], memory[fits], gpus[fits])) + _COST_ZERO
        self.keys[rows] = self._base[rows] | np.clip(cost, 0, _COST_MAX) << 16


def member_rates(nodes: NodeColumns, request: ResourceRequest) -> NDArray[np.int64]:
    """Nanos per hour of one member on each node, int64 (n), -1 where the price is unknown or the member is
    larger than the node: it has no share there, and what would be computed has no bound.

    Elsewhere equal to the total of `share_rates`. Products of nanos and bytes pass 64 bits, so nodes that
    are alike are computed once, with Python's integers.
    """
    milli = request.gpus.count * request.gpus.milli if request.gpus else 0
    columns = (nodes.rate, nodes.gpu_rate, nodes.cpu_rate, nodes.memory_rate)
    totals = (nodes.gpu_total, nodes.cpu_total, nodes.memory_total)
    known: dict[tuple[int, ...], int] = {}
    rates = []
    for facts in zip(*(c.tolist() for c in (*columns, *totals)), strict=True):
        rate = known.get(facts)
        if rate is None:
            whole, gpu, cpu, memory, gpu_total, cpu_total, memory_total = facts
            rate = -1
            holds = request.cpu_milli <= cpu_total and request.memory_bytes <= memory_total
            if whole >= 0 and holds and milli <= MILLI * gpu_total:
                rate = gpu * milli // (MILLI * gpu_total) if gpu_total else 0
                rate += cpu * request.cpu_milli // cpu_total if cpu_total else 0
                rate += memory * request.memory_bytes // memory_total if memory_total else 0
            known[facts] = rate
        rates.append(rate)
    return np.array(rates, dtype=np.int64)


def _price_place(rates: NDArray[np.int64], place: Sequence[int]) -> NDArray[np.int64]:
    """The part of a key that never changes: rank of the price (unknown last), place of the node."""
    order = np.unique(rates[rates >= 0])
    rank = np.where(rates >= 0, np.searchsorted(order, rates), len(order))
    return (np.minimum(rank, _PRICE_MAX) << 48) | np.array(place, dtype=np.int64)
