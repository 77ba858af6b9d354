"""Queues that a plan passes over at their turn: no node has room for them, and money would not stop them.

Owns    `Quiet`: the first job of each queue, in the order of their turns, and whether its queue needs a look.
Why     on a full site nearly no queue does. What a look would find is known beforehand: too few nodes with
        room, which is one number for all that ask for the same, and money enough, as long as each budget has
        what any of these jobs could need at most. The promise that leaves less of a budget has all of its
        queues looked at (`Rooms.watch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bursar_policies.decision import BudgetRoom, PendingQueue, Snapshot
from bursard.scheduler.order import Order
from bursard.scheduler.rank import First
from bursard.scheduler.shapes import ALONE, NO_CAP, Ints, Payers
from bursard.scheduler.world import EMPTY, World

MINUTE_US = 60_000_000
MINUTES_MAX = 1 << 19
"""A year: what holds for longer is looked at, so that no column overflows."""
FEW = 32
"""Up to so many queues are looked at one by one: columns of them cost as much."""


class Quiet:
    """Which queues need no look at their first job while no node has room for it.

    Attributes:
        firsts: of every queue that has a job, in the order of their turns.
    """

    def __init__(self, world: World, snapshot: Snapshot, order: Order | None) -> None:
        self._world = world
        known_of = world.known(snapshot.queues)
        numbers_of = chain.from_iterable([one.numbers for one in known_of])
        columns_of = np.fromiter(numbers_of, dtype=np.int64, count=4 * len(known_of)).reshape(-1, 4)
        indices = np.flatnonzero(columns_of[:, 3] != EMPTY)
        numbers, ranks, orders, limits_us = columns_of[indices].T
        rows = np.zeros(len(indices), dtype=np.int64)
        if order is not None:
            rows, ranks, orders, limits_us = _best(snapshot.queues, indices, order)
        turns = np.lexsort((orders, ranks))
        by_turn = (column[turns].tolist() for column in (ranks, orders, indices, rows))
        self.firsts: list[First] = list(zip(*by_turn, strict=True))
        columns, self._names = world.shapes.columns(numbers), world.shapes.payers()
        most, known = _most(columns.rate, limits_us + columns.overhead_us)
        rooms = np.array([_room(one, snapshot.budgets) for one in self._names], dtype=np.int64)
        fine = known & (numbers != ALONE)
        if fine.any():
            fine &= (most <= columns.cap) & (most <= rooms[columns.payers])
        self._indices = indices[fine]
        self._payers, self._most = columns.payers[fine], most[fine]

        def by_queue(values: Ints, otherwise: int) -> list[int]:
            found = np.full(len(snapshot.queues), otherwise, dtype=np.int64)
            found[self._indices] = values[fine]
            listed: list[int] = found.tolist()
            return listed

        self._asks, self._nodes = by_queue(columns.ask, ALONE), by_queue(columns.nodes, 0)
        self._usable = by_queue(columns.usable, 0)

    def passes(self, index: int) -> bool:
        """May the first job of this queue, whose turn it is, be passed over?"""
        ask = self._asks[index]
        return ask != ALONE and self._world.counts.item(ask) < self._nodes[index]

    def may_claim(self, index: int) -> bool:
        """Would enough nodes have room for this one, if all were free?"""
        return bool(self._usable[index])

    def marks(self) -> dict[str, int]:
        """By budget, what must be left of it for all of this to hold."""
        least = np.zeros(len(self._names), dtype=np.int64)
        np.maximum.at(least, self._payers, self._most)
        found: dict[str, int] = {}
        for number in np.unique(self._payers).tolist():
            for name in self._names[number][0]:
                found[name] = max(found.get(name, 0), least.item(number))
        return found

    def wake(self, budget: str) -> None:
        """Less is left of a budget: whatever it pays for is looked at."""
        paying = [number for number, (budgets, _) in enumerate(self._names) if budget in budgets]
        for index in self._indices[np.isin(self._payers, paying)].tolist():
            self._asks[index] = ALONE


def _best(
    queues: Sequence[PendingQueue], indices: NDArray[np.intp], order: Order
) -> tuple[Ints, Ints, Ints, Ints]:
    """Of the job of each queue that comes first by its score: where it stands there, its key, its limit."""
    best, scores = order.best()
    rows, ranks = best[indices], -scores[indices]
    jobs = [queues[index].jobs for index in indices.tolist()]
    at = list(zip(jobs, rows.tolist(), strict=True))
    orders = np.array([one.orders.item(row) for one, row in at], dtype=np.int64)
    limits_us = np.array([one.limits_us.item(row) for one, row in at], dtype=np.int64)
    return rows, ranks, orders, limits_us


def _most(rate: Ints, hold_us: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """No less than a hold at this rate for so long, counted in whole minutes; and where that is sure."""
    minutes = -(-hold_us // MINUTE_US)
    return -(-rate * minutes // 60), (minutes >= 0) & (minutes <= MINUTES_MAX)


def _room(payers: Payers, budgets: Mapping[str, BudgetRoom]) -> int:
    """What the scarcest of these has, at most `NO_CAP`; below zero where more than that may stop a job."""
    paying, gates = ([budgets.get(name) for name in names] for names in payers)
    known = [one for one in (*paying, *gates) if one is not None]
    if None in paying or any(one.stages or one.ceiling_nanos >= 0 for one in known):
        return -1
    rooms = (one.room_nanos for one in paying if one is not None)
    return max(min([*rooms, NO_CAP]), -1)
